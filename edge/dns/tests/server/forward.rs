//! Upstreams: the cache in front of them, their deaths, truncation, forgeries, loops.

use std::time::Duration;

use domain::base::iana::Rcode;
use edgemesh_resolver::Origin;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::fixture::{
    Manner, PATIENCE, Upstream, WEB, addresses, query, read_frame, settings, start, write_frame,
};

const WWW: &str = "www.example.com";

#[tokio::test]
async fn an_upstream_is_asked_once() {
    let upstream = Upstream::start(Manner::Answers).await;
    let server = start(settings(&[upstream.addr]));
    for _ in 0..3 {
        assert_eq!(addresses(&server.udp(WWW).await), ["192.0.2.1"]);
    }
    assert_eq!(upstream.asked(), 1);
    let counts = server.counters.read();
    assert_eq!((counts.origin(Origin::Upstream), counts.origin(Origin::Cache), counts.asks), (1, 2, 1));
}

#[tokio::test]
async fn truncated_replies_are_fetched_over_tcp() {
    let upstream = Upstream::start(Manner::Truncates).await;
    let server = start(settings(&[upstream.addr]));
    assert_eq!(addresses(&server.udp(WWW).await), ["192.0.2.1"]);
}

#[tokio::test]
async fn a_reply_with_another_id_is_passed_over() {
    let upstream = Upstream::start(Manner::Forges).await;
    let server = start(settings(&[upstream.addr]));
    assert_eq!(addresses(&server.udp(WWW).await), ["192.0.2.1"]);
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn the_second_upstream_stands_in() {
    let (first, second) = (Upstream::start(Manner::Answers).await, Upstream::start(Manner::Answers).await);
    let server = start(settings(&[first.addr, second.addr]));
    first.die().await;
    assert_eq!(addresses(&server.udp(WWW).await), ["192.0.2.1"]);
    assert_eq!(second.asked(), 1);
}

#[tokio::test]
async fn a_dead_upstream_leaves_stale_answers() {
    let upstream = Upstream::start(Manner::Answers).await;
    let mut settings = settings(&[upstream.addr]);
    // Every answer is past its time at once.
    settings.resolver.max_ttl = Duration::ZERO;
    let server = start(settings);
    server.udp(WWW).await;
    upstream.die().await;
    assert_eq!(addresses(&server.udp(WWW).await), ["192.0.2.1"]);
    assert_eq!(server.counters.read().origin(Origin::Stale), 1);
    assert_eq!(server.udp("other.example.com").await.header().rcode(), Rcode::SERVFAIL);
    assert_eq!(addresses(&server.udp(WEB).await), ["10.96.0.1"]);
}

#[tokio::test]
async fn a_silent_upstream_leaves_stale_answers() {
    let upstream = Upstream::start(Manner::Answers).await;
    let mut settings = settings(&[upstream.addr]);
    settings.resolver.max_ttl = Duration::ZERO;
    let server = start(settings);
    server.udp(WWW).await;
    upstream.becomes(Manner::Silent);
    assert_eq!(addresses(&server.udp(WWW).await), ["192.0.2.1"]);
    assert_eq!(server.counters.read().origin(Origin::Stale), 1);
}

#[tokio::test]
async fn our_own_question_coming_back_is_seen() {
    let upstream = Upstream::start(Manner::Silent).await;
    let server = start(settings(&[upstream.addr]));
    upstream.becomes(Manner::Relays(server.addrs[0]));
    assert_eq!(server.udp(WWW).await.header().rcode(), Rcode::SERVFAIL);
    // The probe that proves the loop is still on its way.
    let found = async {
        while server.counters.read().loops == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, found).await.unwrap();
    let asked = upstream.asked();
    assert_eq!(server.udp("other.example.com").await.header().rcode(), Rcode::SERVFAIL);
    assert_eq!(upstream.asked(), asked);
}

#[tokio::test]
async fn many_questions_at_once_leave_nothing_behind() {
    let upstream = Upstream::start(Manner::Answers).await;
    let server = start(settings(&[upstream.addr]));
    let ask = |client: usize| {
        let addr = server.addrs[0];
        async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            for index in 0..100 {
                write_frame(&mut stream, &query(&format!("n{index}.c{client}.example.com"))).await;
            }
            for _ in 0..100 {
                assert_eq!(addresses(&read_frame(&mut stream).await), ["192.0.2.1"]);
            }
        }
    };
    tokio::join!(ask(0), ask(1), ask(2), ask(3));
    let counts = server.counters.read();
    assert_eq!((counts.in_flight, counts.cached, counts.unsent), (0, 400, 0));
    assert_eq!(counts.origin(Origin::Upstream), 400);
}

//! More clients than the proxy takes at a time.

mod common;

use common::*;
use edgemesh_api::Protocol::Tcp;
use edgemesh_proxy::ProxySettings;
use edgemesh_route::{Outcome, RejectReason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Many times as many as a proxy has threads, and far below the kernel's backlog of 4,096.
const WAITING: u8 = 200;

/// Clients that all try at the same time, and how many of them are let in at a time.
const CLIENTS: usize = 16;
const LET_IN: usize = 4;
/// Connections that each client has to bring about.
const EACH: usize = 50;

#[tokio::test]
async fn who_waits_in_the_backlog_is_served_and_nobody_is_reset() {
    let mut bed = Bed::bind(ProxySettings { max_connections: usize::from(WAITING), ..settings() });
    let frontend = bed.service(2, Tcp, &[(tcp_backend(echo).await, None)]);
    let mut clients = Vec::new();
    for number in 0..WAITING {
        let mut client = within("the kernel", TcpStream::connect(frontend)).await.unwrap();
        client.write_all(&[number]).await.unwrap();
        clients.push(client);
    }
    bed.run();
    for (number, client) in (0..WAITING).zip(&mut clients) {
        let mut answer = [0];
        within("an answer", client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer, [number]);
    }
    let came: Vec<String> = clients.iter().map(|it| it.local_addr().unwrap().to_string()).collect();
    for (client, came) in clients.into_iter().zip(came) {
        drop(client);
        let access = bed.observe.next().await;
        assert_eq!((access.outcome, access.client), (Outcome::Closed, came));
    }
    bed.stop().await;
}

#[tokio::test]
async fn under_overload_everybody_gets_through_who_comes_again() {
    let bed = Bed::start(ProxySettings { max_connections: LET_IN, ..settings() });
    let frontend = bed.service(2, Tcp, &[(tcp_backend(echo).await, None)]);
    let client = |number: usize| async move {
        let mut reset = 0;
        let mut served = 0;
        while served < EACH {
            match exchange(frontend, u8::try_from(number).unwrap()).await {
                Ok(()) => served += 1,
                Err(_) => reset += 1,
            }
            tokio::task::yield_now().await;
        }
        reset
    };
    let clients: Vec<_> = (0..CLIENTS).map(|number| tokio::spawn(client(number))).collect();
    let mut reset = 0;
    for client in clients {
        reset += within("every client's connections", client).await.unwrap();
    }
    let mut seen = (0, 0);
    for _ in 0..CLIENTS * EACH + reset {
        match bed.observe.next().await.outcome {
            Outcome::Rejected(RejectReason::Overloaded) => seen.1 += 1,
            outcome => {
                assert_eq!(outcome, Outcome::Closed);
                seen.0 += 1;
            }
        }
    }
    assert_eq!(seen, (CLIENTS * EACH, reset), "served, and reset for overload and nothing else");
    assert!(reset > 0, "there was no overload");
    bed.stop().await;
}

/// One connection: a byte there and back, and an end in order.
async fn exchange(frontend: std::net::SocketAddr, byte: u8) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(frontend).await?;
    stream.write_all(&[byte]).await?;
    let mut answer = [0];
    stream.read_exact(&mut answer).await?;
    assert_eq!(answer, [byte]);
    stream.shutdown().await?;
    stream.read_exact(&mut answer).await.map_or(Ok(()), |_| panic!("more than an answer"))
}

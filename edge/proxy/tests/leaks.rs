//! What was opened is closed. One test at a time, in a process of its own: descriptors are counted.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use common::*;
use edgemesh_api::Protocol::{Tcp, Udp};
use edgemesh_proxy::ProxySettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Sets the soft limit of descriptors.
fn limit(limit: &str) {
    let pid = std::process::id().to_string();
    let set = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:")]).status();
    assert!(set.expect("prlimit is part of util-linux").success());
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

async fn back_to(what: &str, before: usize, count: impl Fn() -> usize) {
    let settled = tokio::time::timeout(PATIENCE, async {
        while count() > before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(settled.await.is_ok(), "{what}: {} instead of {before}", count());
}

async fn two_thousand_connections(bed: &Bed, frontend: SocketAddr) {
    for _ in 0..40 {
        let mut clients = Vec::new();
        for _ in 0..50 {
            clients.push(tokio::spawn(async move {
                let mut client = TcpStream::connect(frontend).await.unwrap();
                client.write_all(b"x").await.unwrap();
                client.read_exact(&mut [0]).await.unwrap();
            }));
        }
        for client in clients {
            within("a client", client).await.unwrap();
        }
    }
    bed.observe.all_ended().await;
}

async fn a_thousand_sessions(bed: &Bed, frontend: SocketAddr) {
    for _ in 0..10 {
        let mut clients = Vec::new();
        for _ in 0..100 {
            let client = udp_client(frontend).await;
            assert_eq!(ask(&client, b"x").await, b"x");
            clients.push(client);
        }
    }
    bed.observe.all_ended().await;
}

async fn exhaustion() {
    let bed = Bed::start(settings());
    let frontend = bed.service(2, Tcp, &[(tcp_backend(echo).await, None)]);
    limit("64");
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    taken.pop();
    let mut client = TcpStream::connect(frontend).await.unwrap();
    within("an accept to fail", async {
        while bed.counters.accept_failed() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    drop(taken);
    limit("4096");
    client.write_all(b"x").await.unwrap();
    within("the connection to be served", client.read_exact(&mut [0])).await.unwrap();
    drop(client);
    bed.stop().await;
}

#[tokio::test]
async fn nothing_is_left_behind() {
    // All sessions are open at the same time, and each outlives the slowest reply of a busy machine.
    limit("4096");
    let settings = ProxySettings { udp_idle: Duration::from_secs(2), ..settings() };
    let bed = Bed::start(settings.clone());
    let (_remote, far) = bed.lead_to_remote(settings);
    let (tcp, udp) = (tcp_backend(echo).await, udp_backend(b"").await);
    for node in [None, Some("there")] {
        let (tcp, udp) = (bed.service(2, Tcp, &[(tcp, node)]), bed.service(2, Udp, &[(udp, node)]));
        // Once through everything, so that what is made on first use is there.
        ask(&udp_client(udp).await, b"x").await;
        bed.observe.all_ended().await;
        far.all_ended().await;
        let (descriptors_before, tasks_before) = (descriptors(), tasks());
        two_thousand_connections(&bed, tcp).await;
        far.all_ended().await;
        back_to("tasks", tasks_before, tasks).await;
        back_to("descriptors", descriptors_before, descriptors).await;
        a_thousand_sessions(&bed, udp).await;
        far.all_ended().await;
        back_to("tasks", tasks_before, tasks).await;
        back_to("descriptors", descriptors_before, descriptors).await;
    }
    bed.stop().await;
    exhaustion().await;
}

#![allow(warnings)]
use edgemesh_net::meet::Connect;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
#[path = "../tests/tunnel/common.rs"]
mod common;
#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let (name, relay, target, extra) =
        (&args[1], &args[2], &args[3], args.get(4).cloned().unwrap_or_default());
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let dir = tempfile::tempdir().unwrap();
    let node = common::start_in(dir, name, |s| {
        s.listen = vec!["[::]:20006".parse().unwrap()];
        s.relay = relay == "-";
        if relay != "-" && relay != "none" {
            s.relays = vec![relay.parse().unwrap()];
        }
        s.mdns = true;
    });
    let start = Instant::now();
    if std::env::var("BULK").is_ok() {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let mut c = node.connect(target, common::ECHO, b"").await.unwrap();
        println!("bulk on {}", c.path);
        let (mut r, mut w) = tokio::io::split(c.stream);
        let reader = tokio::spawn(async move { let mut n = 0usize; let mut b = vec![0; 65536]; while let Ok(k) = r.read(&mut b).await { if k == 0 { break } n += k; } n });
        let t = Instant::now(); let mut sent = 0usize;
        while t.elapsed() < Duration::from_secs(20) { match tokio::time::timeout(Duration::from_secs(20), w.write(&vec![7u8; 65536])).await { Ok(Ok(k)) => sent += k, e => { println!("write {e:?}"); break } } }
        println!("sent {sent} in {:?}; {:?}", t.elapsed(), node.handle.status().peers.iter().map(|p| (p.node.clone(), p.path, p.rtt_ms, p.since_s)).collect::<Vec<_>>());
        let _ = w.shutdown().await;
        println!("back {:?}", tokio::time::timeout(Duration::from_secs(20), reader).await);
    }
    let mut last = String::new();
    let mut lastst = String::new();
    let mut changed = Instant::now();
    loop {
        let st = node.handle.status();
        let s = format!(
            "relays {:?} peers {:?} conf {:?}",
            st.relays.iter().map(|r| (r.state, r.reason)).collect::<Vec<_>>(),
            st.peers
                .iter()
                .map(|p| (p.node.clone(), p.path, p.connections, p.address.clone()))
                .collect::<Vec<_>>(),
            st.conflicts.len()
        );
        if s != lastst {
            println!("{:8.3} {name}: {s}", start.elapsed().as_secs_f64());
            lastst = s;
        }
        if target != "-" {
            let t = Instant::now();
            let r = match node.connect(target, common::SPEAKS_FIRST, b"").await {
                Ok(mut c) => {
                    let mut v = vec![];
                    match tokio::time::timeout(Duration::from_secs(5), c.stream.read_to_end(&mut v)).await {
                        Ok(Ok(_)) => format!("ok {}", String::from_utf8_lossy(&v).trim()),
                        o => format!("read {o:?}"),
                    }
                }
                Err(e) => format!("err {e:?}"),
            };
            if r != last {
                println!(
                    "{:8.3} {name}: -> {target}: {r} (took {:?}, previous lasted {:?})",
                    start.elapsed().as_secs_f64(),
                    t.elapsed(),
                    changed.elapsed()
                );
                last = r;
                changed = Instant::now();
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

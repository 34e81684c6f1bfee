//! A link between a node and its server that can stop.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What still passes of an answer once the link stops: less than an event.
const LAST: usize = 40;

pub(crate) struct Link {
    pub(crate) addr: SocketAddr,
    stops: watch::Sender<u32>,
    _task: JoinSet<()>,
}

impl Link {
    pub(crate) async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound");
        let (stops, stopped) = watch::channel(0);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("accepts");
                let server = TcpStream::connect(server).await.expect("the server listens");
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                connections.spawn(pass(from_client, to_server, None));
                let born = *stopped.borrow();
                connections.spawn(pass(from_server, to_client, Some((born, stopped.clone()))));
            }
        });
        Self { addr, stops, _task: task }
    }

    /// Connections that stand stop in the middle of what comes next; new ones go on.
    pub(crate) fn stop(&self) {
        self.stops.send_modify(|stops| *stops += 1);
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, stops: Option<(u32, watch::Receiver<u32>)>) {
    let mut piece = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        let stopped = stops.as_ref().is_some_and(|(born, stops)| *stops.borrow() != *born);
        let length = if stopped { length.min(LAST) } else { length };
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
        if stopped {
            std::future::pending::<()>().await;
        }
    }
}

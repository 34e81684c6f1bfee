use std::net::SocketAddr;
use std::sync::Arc;

use edgemesh_api::Protocol;
use edgemesh_mesh::{Path, ServiceId};
use edgemesh_route::{Access, Direction, Observe, Outcome};
use tokio::time::Instant;

/// The account of one connection or session. It is told exactly once, also when its task is dropped.
pub(crate) struct Record {
    observe: Arc<dyn Observe>,
    started: Instant,
    access: Option<Box<Access>>,
}

impl Record {
    pub(crate) fn begin(
        observe: Arc<dyn Observe>,
        direction: Direction,
        protocol: Protocol,
        client: String,
        frontend: SocketAddr,
    ) -> Self {
        observe.began(direction, protocol);
        let access = Access {
            direction,
            protocol,
            client,
            frontend,
            service: None,
            backend: None,
            path: None,
            sent: 0,
            received: 0,
            duration: std::time::Duration::ZERO,
            outcome: Outcome::Drained,
        };
        Self { observe, started: Instant::now(), access: Some(Box::new(access)) }
    }

    pub(crate) fn service(&mut self, service: Option<ServiceId>) {
        if let Some(access) = &mut self.access {
            access.service = service;
        }
    }

    pub(crate) fn connected(&mut self, backend: SocketAddr, path: Path) {
        if let Some(access) = &mut self.access {
            access.backend = Some(backend);
            access.path = Some(path);
        }
    }

    pub(crate) fn moved(&mut self, sent: u64, received: u64) {
        if let Some(access) = &mut self.access {
            access.sent += sent;
            access.received += received;
        }
    }

    pub(crate) fn end(mut self, outcome: Outcome) {
        self.tell(outcome);
    }

    fn tell(&mut self, outcome: Outcome) {
        if let Some(mut access) = self.access.take() {
            access.duration = self.started.elapsed();
            access.outcome = outcome;
            self.observe.ended(*access);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.tell(Outcome::Drained);
    }
}

use std::net::SocketAddr;

use edgemesh_api::Protocol;
use edgemesh_mesh::{MeshSnapshot, ServiceId};

use crate::RejectReason;

/// Whether a peer may reach `backend` through this node: only what is a ready endpoint of a Service and runs here.
pub fn admit(
    snapshot: &MeshSnapshot,
    protocol: Protocol,
    backend: SocketAddr,
) -> Result<ServiceId, RejectReason> {
    match protocol {
        Protocol::Tcp | Protocol::Udp => {}
        Protocol::Sctp => return Err(RejectReason::UnsupportedProtocol),
    }
    snapshot.local_backends.get(&(backend, protocol)).cloned().ok_or(RejectReason::NotAnEndpoint)
}

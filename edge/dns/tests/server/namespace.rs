//! The addresses of a real agent, in a namespace of the test's own.

use std::net::SocketAddr;
use std::time::Duration;

use domain::base::Message;
use edgemesh_dns::{ListenAddress, UpstreamSource};
use edgemesh_net::netlink::rt::{Handle, LinkKind, Prefix};
use edgemesh_net::netns::in_fresh_namespaces;
use tokio::time::timeout;

use crate::fixture::{PATIENCE, WEB, addresses, query, settings, start, udp};

const DEVICE: &str = "edgemesh0";
const V4: &str = "169.254.96.16";
const V6: &str = "fe80::a9fe:6010";

#[test]
fn listens_on_our_device() {
    if !in_fresh_namespaces("namespace::listens_on_our_device") {
        return;
    }
    let mut kernel = Handle::open().unwrap();
    let loopback = kernel.link("lo").unwrap().unwrap().index;
    kernel.set_up(loopback, true).unwrap();
    kernel.add_link(DEVICE, LinkKind::Bridge).unwrap();
    let device = kernel.link(DEVICE).unwrap().unwrap().index;
    kernel.set_up(device, true).unwrap();
    kernel.add_address(device, Prefix::host(V4.parse::<std::net::IpAddr>().unwrap()), true).unwrap();
    kernel.add_address(device, Prefix::new(V6.parse::<std::net::IpAddr>().unwrap(), 64), true).unwrap();

    let resolv_conf = tempfile::NamedTempFile::new().unwrap();
    // As on a node whose own resolver we are.
    std::fs::write(resolv_conf.path(), format!("nameserver {V4}\nnameserver {V6}%{DEVICE}\n")).unwrap();
    let listen = |ip: &str| ListenAddress {
        addr: SocketAddr::new(ip.parse().unwrap(), 53),
        device: Some(DEVICE.to_owned()),
    };
    let mut settings = settings(&[]);
    settings.listen = vec![listen(V4), listen(V6)];
    settings.upstreams = UpstreamSource::ResolvConf(resolv_conf.path().to_owned());

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = start(settings);
        for addr in &server.addrs {
            assert_eq!(
                addresses(&timeout(PATIENCE, ask_until_answered(*addr)).await.unwrap()),
                ["10.96.0.1"]
            );
        }
        // There is nobody else to ask, and we do not ask ourselves.
        assert_eq!(server.udp("www.example.com").await.header().rcode(), domain::base::iana::Rcode::SERVFAIL);
        assert_eq!(server.counters.read().asks, 0);
    });
}

/// The kernel puts the route of a new IPv6 address in place some time after it has confirmed the address; until then
/// datagrams to it are lost, so the client asks again as clients do.
async fn ask_until_answered(addr: SocketAddr) -> Message<Vec<u8>> {
    loop {
        if let Ok(reply) = timeout(Duration::from_millis(100), udp(addr, &query(WEB))).await {
            return reply;
        }
    }
}

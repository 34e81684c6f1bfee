//! The whole way of a packet: TPROXY in a namespace of the test's own leads to the transparent sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use common::*;
use edgemesh_api::Protocol::{Tcp, Udp};
use edgemesh_net::netlink::nft::{
    Base, Batch, Chain, ChainKind, Cmp, Expr, Family, Hook, Nft, PayloadBase, Rule, Table,
};
use edgemesh_net::netlink::rt::{Handle, Prefix, Route, RouteKind, Scope, TABLE_LOCAL};
use edgemesh_net::netns::in_fresh_namespaces;
use edgemesh_proxy::ProxySettings;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const TABLE: Table<'static> = Table { family: Family::Inet, name: "probe" };

/// Every packet to one of `vips` goes to the sockets at `port` of the loopback addresses.
fn intercept(vips: &[IpAddr], port: u16) {
    let mut batch = Batch::new();
    batch.replace_table(TABLE);
    let base = Base { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -150, drop: false };
    batch.add_chain(TABLE, Chain { name: "pre", base: Some(base) });
    let mut routes = Handle::open().unwrap();
    let lo = routes.link("lo").unwrap().unwrap().index;
    routes.set_up(lo, true).unwrap();
    for vip in vips {
        let (family, offset, octets, len) = match vip {
            IpAddr::V4(ip) => (Family::Ip, 16, ip.octets().to_vec(), 32),
            IpAddr::V6(ip) => (Family::Ip6, 24, ip.octets().to_vec(), 128),
        };
        let listener = match family {
            Family::Ip => Ipv4Addr::LOCALHOST.octets().to_vec(),
            _ => Ipv6Addr::LOCALHOST.octets().to_vec(),
        };
        for protocol in [6, 17] {
            let rule = Rule::new()
                .nfproto(family)
                .l4proto(Cmp::Eq, protocol)
                .payload(PayloadBase::Network, offset, Cmp::Eq, &octets)
                .expr(Expr::Immediate { reg: 0, data: listener.clone() })
                .expr(Expr::Immediate { reg: 4, data: port.to_be_bytes().to_vec() })
                .expr(Expr::Tproxy { family, addr: 0, port: 4 })
                .accept();
            batch.add_rule(TABLE, "pre", &rule);
        }
        let route = Route {
            table: TABLE_LOCAL,
            kind: RouteKind::Local,
            oif: Some(lo),
            scope: Scope::Host,
            ..Route::unicast(Prefix::new(*vip, len))
        };
        routes.add_route(&route).unwrap();
    }
    Nft::open().unwrap().commit(&batch).unwrap();
}

#[test]
fn clients_of_virtual_addresses_are_served_and_answered_from_them() {
    if !in_fresh_namespaces("clients_of_virtual_addresses_are_served_and_answered_from_them") {
        return;
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(serve_all());
}

async fn serve_all() {
    let vips = [IpAddr::from([10, 96, 0, 1]), IpAddr::from([10, 96, 0, 2]), "fd00:96::1".parse().unwrap()];
    let port = ProxySettings::default().port;
    intercept(&vips, port);
    let bed = Bed::start(ProxySettings::default());
    assert_eq!(bed.port, port);
    let (_remote, _far) = bed.lead_to_remote(ProxySettings::default());
    let (tcp, udp) = (tcp_backend(echo).await, udp_backend(b"").await);
    for (vip, node) in [(vips[0], None), (vips[1], Some("there")), (vips[2], None)] {
        // The port of the listener itself is a port like any other.
        for frontend in [SocketAddr::new(vip, 80), SocketAddr::new(vip, port)] {
            bed.service_at(frontend, Tcp, &[(tcp, node)]);
            let mut client = TcpStream::connect(frontend).await.unwrap();
            assert_eq!(client.peer_addr().unwrap(), frontend);
            client.write_all(b"hello").await.unwrap();
            client.shutdown().await.unwrap();
            assert_eq!(read_all(&mut client).await.unwrap(), b"hello", "{frontend}");
            let access = bed.observe.next().await;
            assert_eq!((access.frontend, access.backend), (frontend, Some(tcp)));

            bed.service_at(frontend, Udp, &[(udp, node)]);
            let clients = [udp_client(frontend).await, udp_client(frontend).await];
            for payload in [&b"x"[..], b"", &[7; 65_507]] {
                for client in &clients {
                    assert!(ask(client, payload).await == payload, "{frontend} {}", payload.len());
                }
            }
        }
    }
    let mut unknown = TcpStream::connect(SocketAddr::new(vips[0], 81)).await.unwrap();
    assert!(read_all(&mut unknown).await.is_err());
    bed.stop().await;
}

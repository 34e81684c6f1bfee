use std::collections::BTreeSet;

use edgemesh_net::netlink::nft::{
    Base, Batch, Chain, ChainKind, Cmp, CtField, Element, Expr, Family, FibAddr, Hook, KeyType, Nat,
    PayloadBase, Rule, Set, Verdict, ct_state, ct_status, prefixes,
};
use edgemesh_net::netlink::rt::Prefix;
use edgemesh_net::netns::in_fresh_namespaces;

use crate::lan::{Lan, NETS, Net, TABLE, UDP, ask, base, commit, ip, octets, send_in_vain};

const PORT: u16 = 53;
const CLOSED: u16 = 54;
const SERVERS: [u16; 2] = [8053, 8054];
/// As many flows as leave a chance of 1 in 2^63 that two equal backends are not both drawn.
const FLOWS: usize = 64;

/// The backends of `PORT` by slot, and a rule in which `draw` puts the slot to the given register.
fn slots(batch: &mut Batch, net: Net, draw: impl FnOnce(u32) -> Vec<Expr>) {
    let name = net.name("backends");
    let key = [net.address(), KeyType::InetProto, KeyType::InetService, KeyType::Mark];
    let data = [net.address(), KeyType::InetService];
    batch.add_set(TABLE, Set { name: &name, key: &key, data: &data });
    let rule = net.load_frontend(net.rule(), 0);
    let rule = draw(net.registers() + 2).into_iter().fold(rule, Rule::expr);
    let rule = rule.expr(Expr::Lookup { set: name.clone(), reg: 0, invert: false, value: Some(8) });
    batch.add_rule(TABLE, "nat", &rule.expr(net.dnat(8)));
    let elements = (0u32..).zip(SERVERS).map(|(slot, port)| {
        let mut element = net.frontend(PORT);
        element.key.extend_from_slice(&slot.to_ne_bytes());
        element.value(net.backend(port))
    });
    batch.add_elements(TABLE, &name, elements);
}

/// Which backends the flows of one client reach under `draw`.
#[track_caller]
fn check(draw: impl Fn(Net, u32) -> Vec<Expr>, expected: impl Fn(&BTreeSet<usize>) -> bool) {
    let lan = Lan::new();
    let mut batch = base(false);
    for net in NETS {
        slots(&mut batch, net, |reg| draw(net, reg));
    }
    commit(&batch);
    for net in NETS {
        let servers = SERVERS.map(|port| lan.server(net, port));
        let flow = |_| ask(&lan.client(net.client, (net.vip, PORT)), &servers, "request");
        let reached = (0..FLOWS).map(flow).collect();
        assert!(expected(&reached), "{net:?}: {reached:?}");
    }
}

#[test]
fn a_slot_drawn_at_random_gives_address_and_port() {
    if in_fresh_namespaces("packets::a_slot_drawn_at_random_gives_address_and_port") {
        check(|_, reg| vec![Expr::Numgen { reg, modulus: 2, random: true }], |reached| reached.len() == 2);
    }
}

fn hash(source: Expr, len: u32, dreg: u32) -> Vec<Expr> {
    vec![source, Expr::Jhash { sreg: 8, len, dreg, modulus: 2, seed: 0xdead_beef }]
}

#[test]
fn a_slot_hashed_from_the_client_address_is_one() {
    if in_fresh_namespaces("packets::a_slot_hashed_from_the_client_address_is_one") {
        check(|net, reg| hash(net.load(false, 8), 4 * net.registers(), reg), |reached| reached.len() == 1);
    }
}

#[test]
fn slots_hashed_from_the_client_port_differ() {
    if in_fresh_namespaces("packets::slots_hashed_from_the_client_port_differ") {
        let port = |reg| Expr::Payload { base: PayloadBase::Transport, offset: 0, len: 2, reg };
        check(|_, reg| hash(port(8), 2, reg), |reached| reached.len() == 2);
    }
}

/// A rule that translates to the server.
fn to_server(net: Net, port: u16) -> Rule {
    net.rule().nat(Nat::Dnat, ip(net.server), Some(port))
}

#[test]
fn a_verdict_map_sends_each_frontend_to_its_chain() {
    if !in_fresh_namespaces("packets::a_verdict_map_sends_each_frontend_to_its_chain") {
        return;
    }
    let lan = Lan::new();
    let mut batch = base(false);
    for net in NETS {
        let (map, goto, jump) = (net.name("frontends"), net.name("goto"), net.name("jump"));
        let key = [net.address(), KeyType::InetProto, KeyType::InetService];
        for name in [&goto, &jump] {
            batch.add_chain(TABLE, Chain { name, base: None });
        }
        batch.add_verdict_map(TABLE, Set { name: &map, key: &key, data: &[] });
        let rule = net.load_frontend(net.rule(), 0).expr(Expr::VerdictMap { set: map.clone(), reg: 0 });
        batch.add_rule(TABLE, "nat", &rule);
        // Only who comes back from a jump, or was in no chain, gets here.
        batch.add_rule(TABLE, "nat", &to_server(net, 8054));
        let elements = [
            net.frontend(PORT).verdict(Verdict::Goto(goto.clone())),
            net.frontend(55).verdict(Verdict::Jump(jump.clone())),
            net.frontend(CLOSED).verdict(Verdict::Drop),
        ];
        batch.add_elements(TABLE, &map, elements);
    }
    commit(&batch);
    for net in NETS {
        let servers = [lan.server(net, 8054)];
        // Goes to its chain and is not translated: nobody has the address.
        send_in_vain(&lan.client(net.client, (net.vip, PORT)));
        send_in_vain(&lan.client(net.client, (net.vip, CLOSED)));
        // Comes back, or is in no chain, and is translated.
        for port in [55, 4711] {
            assert_eq!(ask(&lan.client(net.client, (net.vip, port)), &servers, "jumped"), 0);
        }
    }
}

/// Drops what is forwarded unless `allow` says otherwise, with `PORT` of the virtual address translated to the server.
fn filtered(allow: impl Fn(&mut Batch, Net)) -> Lan {
    let lan = Lan::new();
    let mut batch = base(true);
    for net in NETS {
        let frontend = |port: u16| {
            let offset = if net.family == Family::Ip { 16 } else { 24 };
            let rule = net.rule().payload(PayloadBase::Network, offset, Cmp::Eq, &octets(net.vip));
            rule.payload(PayloadBase::Transport, 2, Cmp::Eq, &port.to_be_bytes())
        };
        for port in [PORT, CLOSED] {
            let rule = frontend(port).nat(Nat::Dnat, ip(net.server), Some(8053));
            batch.add_rule(TABLE, "nat", &rule);
        }
        let established = ct_state::ESTABLISHED;
        batch.add_rule(TABLE, "forward", &Rule::new().nfproto(net.family).ct_state(established).accept());
        allow(&mut batch, net);
    }
    commit(&batch);
    lan
}

#[test]
fn the_connection_knows_what_its_first_packet_had() {
    if !in_fresh_namespaces("packets::the_connection_knows_what_its_first_packet_had") {
        return;
    }
    let lan = filtered(|batch, net| {
        let (source, destination) = match net.family {
            Family::Ip => (CtField::Saddr4, CtField::Daddr4),
            _ => (CtField::Saddr6, CtField::Daddr6),
        };
        let rule = Rule::new()
            .ct_status(ct_status::DST_NAT)
            .ct_original(source, Cmp::Eq, &octets(net.client))
            .ct_original(destination, Cmp::Eq, &octets(net.vip))
            .ct_original(CtField::ProtoSrc, Cmp::Gt, &1023u16.to_be_bytes())
            .ct_original(CtField::ProtoDst, Cmp::Eq, &PORT.to_be_bytes());
        batch.add_rule(TABLE, "forward", &rule.accept());
    });
    for net in NETS {
        let servers = [lan.server(net, 8053)];
        send_in_vain(&lan.client(net.client, (net.server, 8053)));
        send_in_vain(&lan.client(net.client, (net.vip, CLOSED)));
        send_in_vain(&lan.client(net.other_client, (net.vip, PORT)));
        assert_eq!(ask(&lan.client(net.client, (net.vip, PORT)), &servers, "original"), 0);
    }
}

#[test]
fn a_node_port_is_open_on_own_addresses_only() {
    if !in_fresh_namespaces("packets::a_node_port_is_open_on_own_addresses_only") {
        return;
    }
    const NODE_PORT: u16 = 30_053;
    let lan = filtered(|batch, net| {
        let rule = net.rule().local(FibAddr::Daddr);
        let rule = rule.payload(PayloadBase::Transport, 2, Cmp::Eq, &NODE_PORT.to_be_bytes());
        let rule = rule.nat(Nat::Dnat, ip(net.server), Some(8053));
        batch.add_rule(TABLE, "nat", &rule);
        batch.add_rule(TABLE, "forward", &net.rule().ct_status(ct_status::DST_NAT).accept());
    });
    for net in NETS {
        let servers = [lan.server(net, 8053), lan.server(net, NODE_PORT)];
        send_in_vain(&lan.client(net.client, (net.server, NODE_PORT)));
        assert_eq!(ask(&lan.client(net.client, (net.router, NODE_PORT)), &servers, "node port"), 0);
    }
}

#[test]
fn ranges_of_clients_are_let_in() {
    if !in_fresh_namespaces("packets::ranges_of_clients_are_let_in") {
        return;
    }
    let lan = filtered(|batch, net| {
        let set = net.name("sources");
        batch.add_interval_set(TABLE, Set { name: &set, key: &[net.address()], data: &[] });
        let (four, six) = (Prefix::new(ip("10.1.0.0"), 27), Prefix::new(ip("fd00:1::"), 123));
        let inside = if net.family == Family::Ip { four } else { six };
        let elsewhere = Prefix::host(ip(net.vip));
        batch.add_elements(TABLE, &set, prefixes([inside, Prefix::host(ip(net.client)), elsewhere]));
        let rule = net.rule().expr(net.load(false, 0));
        let rule = rule.expr(Expr::Lookup { set, reg: 0, invert: false, value: None });
        batch.add_rule(TABLE, "forward", &rule.accept());
    });
    for net in NETS {
        let servers = [lan.server(net, 8053)];
        send_in_vain(&lan.client(net.other_client, (net.vip, PORT)));
        assert_eq!(ask(&lan.client(net.client, (net.vip, PORT)), &servers, "inside"), 0);
    }
}

#[test]
fn ranges_of_clients_are_let_in_to_their_frontend() {
    if !in_fresh_namespaces("packets::ranges_of_clients_are_let_in_to_their_frontend") {
        return;
    }
    let lan = filtered(|batch, net| {
        // Filtered before the translation, where the frontend is still in the packet.
        let set = net.name("allowed");
        let key = [net.address(), KeyType::InetProto, KeyType::InetService, net.address()];
        batch.add_interval_set(TABLE, Set { name: &set, key: &key, data: &[] });
        let (first, last) = match net.family {
            Family::Ip => ("10.1.0.0", "10.1.0.5"),
            _ => ("fd00:1::", "fd00:1::5"),
        };
        let parts = |last: &str| [octets(net.vip), vec![UDP], PORT.to_be_bytes().to_vec(), octets(last)];
        let (from, to) = (parts(first), parts(last));
        let slices = |parts: &[Vec<u8>; 4]| Element::concat(&parts.each_ref().map(|it| &it[..])).key;
        let element = Element { key: slices(&from), key_end: Some(slices(&to)), ..Element::default() };
        batch.add_elements(TABLE, &set, [element]);
        let chain = net.name("guard");
        let base = Base { kind: ChainKind::Filter, hook: Hook::Prerouting, priority: -150, drop: false };
        batch.add_chain(TABLE, Chain { name: &chain, base: Some(base) });
        // The set's last part follows the port: registers 3 or 6 on.
        let rule = net.load_frontend(net.rule().iifname("client0"), 0);
        let rule = rule.expr(net.load(false, net.registers() + 2));
        let rule = rule.expr(Expr::Lookup { set, reg: 0, invert: true, value: None });
        batch.add_rule(TABLE, &chain, &rule.drop());
        batch.add_rule(TABLE, "forward", &net.rule().accept());
    });
    for net in NETS {
        let servers = [lan.server(net, 8053)];
        send_in_vain(&lan.client(net.other_client, (net.vip, PORT)));
        send_in_vain(&lan.client(net.client, (net.vip, CLOSED)));
        assert_eq!(ask(&lan.client(net.client, (net.vip, PORT)), &servers, "inside"), 0);
    }
}

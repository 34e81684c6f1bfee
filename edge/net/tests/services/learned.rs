use std::time::Duration;

use edgemesh_net::netlink::nft::{
    Batch, Cmp, Data, Element, Expr, Family, KeyType, LearnOp, Learned, Nft, PayloadBase, Rule, Set,
};
use edgemesh_net::netns::in_fresh_namespaces;

use crate::lan::{Lan, NETS, Net, TABLE, ask, base, commit, octets};

const PORT: u16 = 53;
const SERVERS: [u16; 2] = [8053, 8054];
const FLOWS: usize = 32;
/// Long enough to outlive the test, and not the map's own.
const STICKY: Duration = Duration::from_secs(3 * 3600);
const MAP_TIMEOUT: Duration = Duration::from_secs(60);

/// Session affinity: who has a backend keeps it, and whoever has none draws one that is remembered.
fn affinity(batch: &mut Batch, net: Net, size: u32) {
    let name = net.name("affinity");
    let address = net.address();
    let learned = Learned { size, timeout: Some(MAP_TIMEOUT) };
    let set =
        Set { name: &name, key: &[address, KeyType::InetService], data: &[address, KeyType::InetService] };
    batch.add_learned_map(TABLE, set, learned);
    let port = |reg| Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, reg };
    let to_vip = || {
        let offset = if net.family == Family::Ip { 16 } else { 24 };
        let rule = net.rule().payload(PayloadBase::Network, offset, Cmp::Eq, &octets(net.vip));
        rule.expr(net.load(false, 0)).expr(port(net.registers()))
    };
    let find = Expr::Lookup { set: name.clone(), reg: 0, invert: false, value: Some(8) };
    let learn =
        Expr::Learn { op: LearnOp::Update, set: name.clone(), key: 0, value: Some(8), timeout: Some(STICKY) };
    batch.add_rule(TABLE, "nat", &to_vip().expr(find).expr(learn.clone()).expr(net.dnat(8)));
    for slot in [0u32, 1] {
        let draw = Expr::Numgen { reg: 15, modulus: 2, random: true };
        let drawn = Expr::Cmp { op: Cmp::Eq, reg: 15, data: slot.to_ne_bytes().to_vec() };
        let rule = to_vip().expr(draw);
        // The second rule takes what the first one did not.
        let rule = if slot == 0 { rule.expr(drawn) } else { rule };
        let rule = backend(rule, net, SERVERS[slot as usize]);
        batch.add_rule(TABLE, "nat", &rule.expr(learn.clone()).expr(net.dnat(8)));
    }
}

fn backend(rule: Rule, net: Net, port: u16) -> Rule {
    rule.expr(Expr::Immediate { reg: 8, data: octets(net.server) })
        .expr(Expr::Immediate { reg: 8 + net.registers(), data: port.to_be_bytes().to_vec() })
}

#[test]
fn a_client_keeps_the_backend_it_was_given() {
    if !in_fresh_namespaces("learned::a_client_keeps_the_backend_it_was_given") {
        return;
    }
    let lan = Lan::new();
    let mut batch = base(false);
    for net in NETS {
        affinity(&mut batch, net, 100);
    }
    commit(&batch);
    let mut nft = Nft::open().unwrap();
    for net in NETS {
        let servers = SERVERS.map(|port| lan.server(net, port));
        let flow = || ask(&lan.client(net.client, (net.vip, PORT)), &servers, "request");
        let first = flow();
        assert!((1..FLOWS).all(|_| flow() == first), "{net:?}");
        let name = net.name("affinity");
        let [element] = &nft.elements(TABLE, &name).unwrap()[..] else { panic!("{net:?}") };
        assert!(element.is_temporary());
        assert_eq!(element.timeout, Some(STICKY));
        assert!(element.expires.is_some_and(|left| left <= STICKY && left > MAP_TIMEOUT), "{element:?}");
        assert_eq!(element.key, Element::concat(&[&octets(net.client), &PORT.to_be_bytes()]).key);
        assert_eq!(element.data, Some(Data::Value(net.backend(SERVERS[first]))));
        let sets = nft.sets(TABLE).unwrap();
        let set = sets.iter().find(|set| set.name == name).unwrap();
        assert!(set.is_learned());
        assert_eq!((set.size, set.timeout), (Some(100), Some(MAP_TIMEOUT)));
        // The program may take back what packets wrote.
        let mut batch = Batch::new();
        batch.delete_elements(TABLE, &name, [element.clone()]);
        nft.commit(&batch).unwrap();
        assert!(nft.elements(TABLE, &name).unwrap().is_empty());
    }
}

#[test]
fn a_full_map_learns_nothing_more_and_ends_the_rule() {
    if !in_fresh_namespaces("learned::a_full_map_learns_nothing_more_and_ends_the_rule") {
        return;
    }
    let lan = Lan::new();
    let mut batch = base(false);
    for net in NETS {
        affinity(&mut batch, net, 1);
        // Where there is no more room a backend is given and not remembered.
        batch.add_rule(TABLE, "nat", &backend(net.rule(), net, SERVERS[0]).expr(net.dnat(8)));
    }
    commit(&batch);
    for net in NETS {
        let servers = SERVERS.map(|port| lan.server(net, port));
        let flow = |from| ask(&lan.client(from, (net.vip, PORT)), &servers, "request");
        flow(net.client);
        for _ in 0..FLOWS {
            assert_eq!(flow(net.other_client), 0);
        }
        let elements = Nft::open().unwrap().elements(TABLE, &net.name("affinity")).unwrap();
        assert_eq!(elements.len(), 1, "{elements:?}");
    }
}

#[test]
fn a_packet_may_make_a_set_forget() {
    if !in_fresh_namespaces("learned::a_packet_may_make_a_set_forget") {
        return;
    }
    let lan = Lan::new();
    let mut batch = base(false);
    for net in NETS {
        let name = net.name("seen");
        let set = Set { name: &name, key: &[net.address()], data: &[] };
        batch.add_learned_map(TABLE, set, Learned { size: 8, timeout: None });
        for (port, op) in [(1u16, LearnOp::Add), (2, LearnOp::Delete)] {
            let rule = net.rule().payload(PayloadBase::Transport, 2, Cmp::Eq, &port.to_be_bytes());
            let learn = Expr::Learn { op, set: name.clone(), key: 0, value: None, timeout: None };
            batch.add_rule(TABLE, "forward", &rule.expr(net.load(false, 0)).expr(learn));
        }
    }
    commit(&batch);
    let mut nft = Nft::open().unwrap();
    for net in NETS {
        for (port, expected) in [(1, vec![Element::single(&octets(net.client))]), (2, vec![])] {
            let servers = [lan.server(net, port)];
            ask(&lan.client(net.client, (net.server, port)), &servers, "seen");
            assert_eq!(nft.elements(TABLE, &net.name("seen")).unwrap(), expected, "{net:?}");
        }
    }
}

//! The ruleset in nftables' terms.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use edgemesh_api::Protocol;
use edgemesh_mesh::Frontend;
use edgemesh_net::netlink::nft::{
    self, Batch, ChainKind, Cmp, Element, Expr, FibAddr, KeyType, LearnOp, Learned, Nat, PayloadBase, Reject,
    Set, SetOptions, Table, Verdict, ct_state, ct_status,
};
use edgemesh_ruleset::{
    Action, Chain, ChainType, Family, Hook, Key, L4, MAX_SESSIONS, Match, Member, PICKS, Pick, Rule, Ruleset,
    SetKind, Side, TABLE, Update, VIAS, WAYS, masquerade_chain, masquerade_number,
};

/// Our table.
pub(crate) const OURS: Table<'static> = Table { family: nft::Family::Inet, name: TABLE };

/// IANA protocol numbers of the model's protocols.
fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// Key and value of a set; how it is kept.
fn declare(set: SetKind, family: Family) -> (Vec<KeyType>, Vec<KeyType>, SetOptions) {
    let address = match family {
        Family::V4 => KeyType::Ipv4Addr,
        Family::V6 => KeyType::Ipv6Addr,
    };
    let frontend = [address, KeyType::InetProto, KeyType::InetService];
    let with = |more: &[KeyType]| [&frontend, more].concat();
    let end = vec![address, KeyType::InetService];
    let plain = SetOptions::default();
    match set {
        SetKind::Proxied
        | SetKind::Mixed
        | SetKind::Dropped
        | SetKind::Inside
        | SetKind::Rejected
        | SetKind::Restricted => (with(&[]), vec![], plain),
        SetKind::Vips => (vec![address], vec![], plain),
        SetKind::Hairpins => (vec![address, address], vec![], plain),
        SetKind::Live => (with(&[KeyType::Mark]), end, plain),
        SetKind::Numbers => (with(&[KeyType::Mark]), vec![KeyType::Mark], plain),
        SetKind::Own => (with(&[address]), vec![], plain),
        SetKind::Allowed => (with(&[address]), vec![], SetOptions { interval: true, ..plain }),
        SetKind::Services => (with(&[]), vec![KeyType::Mark], plain),
        SetKind::Backends => (with(&[]), vec![KeyType::Mark], plain),
        SetKind::Endpoints => (with(&[KeyType::Mark]), end, plain),
        SetKind::Sessions => {
            // Every session says how long it lasts; the set's own time only makes it one with times.
            let timeout = Some(Duration::from_secs(10_800));
            let learned = Some(Learned { size: MAX_SESSIONS, timeout });
            ([&[address], &frontend[..]].concat(), vec![KeyType::Mark], SetOptions { learned, ..plain })
        }
    }
}

/// Most bytes of a key or value of an element: a frontend and an address. There are a hundred thousand elements in a large
/// cluster, and a vector that grows is allocated twice.
const KEY_LEN: usize = 40;

/// A key's parts stand in registers of four bytes each.
fn frontend(ip: IpAddr, protocol: Protocol, port: u16) -> Vec<u8> {
    let mut key = Vec::with_capacity(KEY_LEN);
    put_address(&mut key, ip);
    key.extend_from_slice(&[protocol_number(protocol), 0, 0, 0]);
    put_port(&mut key, port);
    key
}

fn put_address(key: &mut Vec<u8>, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => key.extend_from_slice(&ip.octets()),
        IpAddr::V6(ip) => key.extend_from_slice(&ip.octets()),
    }
}

fn put_port(key: &mut Vec<u8>, port: u16) {
    let [high, low] = port.to_be_bytes();
    key.extend_from_slice(&[high, low, 0, 0]);
}

/// The element of a set that a member is.
pub(crate) fn element(member: &Member) -> Element {
    let key = |it: &Frontend| frontend(it.ip, it.protocol, it.port);
    let end = |addr: &SocketAddr| {
        let mut key = Vec::with_capacity(KEY_LEN);
        put_address(&mut key, addr.ip());
        put_port(&mut key, addr.port());
        key
    };
    let joined = |mut one: Vec<u8>, other: &[u8]| {
        one.extend_from_slice(other);
        Element { key: one, ..Element::default() }
    };
    match member {
        Member::Proxied(it)
        | Member::Mixed(it)
        | Member::Dropped(it)
        | Member::Inside(it)
        | Member::Rejected(it)
        | Member::Restricted(it) => Element { key: key(it), ..Element::default() },
        Member::Service(it, pick) => {
            Element { key: key(it), ..Element::default() }.value(mark(pick.number()))
        }
        // numgen leaves its number in the host's byte order.
        Member::Endpoint(it, slot, addr) => joined(key(it), &u32::from(*slot).to_ne_bytes()).value(end(addr)),
        Member::Live(it, number, addr) => joined(key(it), &mark(*number)).value(end(addr)),
        Member::Number(it, slot, number) => {
            joined(key(it), &u32::from(*slot).to_ne_bytes()).value(mark(*number))
        }
        Member::Vip(ip) => Element::single(&octets(*ip)),
        Member::Backend(addr, protocol, via) => {
            Element { key: frontend(addr.ip(), *protocol, addr.port()), ..Element::default() }
                .value(mark(masquerade_number(*via)))
        }
        Member::Hairpin(ip) => joined(octets(*ip), &octets(*ip)),
        Member::Own(it, ip) => joined(key(it), &octets(*ip)),
        Member::Allowed(it, range) => Element {
            key_end: Some([key(it), octets(range.broadcast())].concat()),
            ..joined(key(it), &octets(range.network()))
        },
    }
}

/// A number in a map; the priority of a packet has the host's byte order.
fn mark(number: u32) -> Vec<u8> {
    number.to_ne_bytes().to_vec()
}

/// The maps from a number to its chain: name and elements.
fn verdicts(ruleset: &Ruleset) -> [(&'static str, Vec<Element>); 2] {
    let ways = VIAS.into_iter().filter_map(|via| Some((masquerade_number(via), masquerade_chain(via)?)));
    let there = |chain: &str| ruleset.chains.iter().any(|it| it.name == chain);
    let ways =
        ways.filter(|(_, chain)| there(chain)).map(|(number, chain)| verdict(number, chain.to_owned()));
    let mut picks: Vec<Element> = ruleset.picks.keys().map(pick).collect();
    picks.sort();
    [(PICKS, picks), (WAYS, ways.collect())]
}

fn verdict(number: u32, chain: String) -> Element {
    Element { key: mark(number), ..Element::default() }.verdict(Verdict::Goto(chain))
}

fn pick(pick: &Pick) -> Element {
    verdict(pick.number(), pick.chain_name())
}

/// Every set that is not filled by packets, with the elements it should have, sorted.
pub(crate) fn contents(ruleset: &Ruleset) -> Vec<(&'static str, Vec<Element>)> {
    let members = ruleset.members();
    let mut contents: Vec<_> = verdicts(ruleset).into_iter().collect();
    for &family in ruleset.families {
        for set in SetKind::ALL.into_iter().filter(|set| *set != SetKind::Sessions) {
            let own = members.iter().filter(|it| it.set() == set && it.family() == family);
            let mut elements: Vec<Element> = own.map(element).collect();
            elements.sort();
            contents.push((set.name(family), elements));
        }
    }
    contents
}

/// The whole table, in place of whatever there is, with the sessions there were. Elements come last, in an order in which
/// none relies on a later one, for where the batch must be split.
pub(crate) fn replace(
    table: Table<'_>,
    ruleset: &Ruleset,
    sessions: &[(&'static str, Vec<Element>)],
) -> Batch {
    let mut batch = Batch::new();
    batch.replace_table(table);
    for &family in ruleset.families {
        for set in SetKind::ALL {
            let (key, data, options) = declare(set, family);
            batch.add_set_with(table, Set { name: set.name(family), key: &key, data: &data }, options);
        }
    }
    let verdicts = verdicts(ruleset);
    for (name, _) in &verdicts {
        let options = SetOptions { verdicts: true, ..SetOptions::default() };
        batch.add_set_with(table, Set { name, key: &[KeyType::Mark], data: &[] }, options);
    }
    let chains: Vec<_> = ruleset.all_chains().collect();
    for chain in &chains {
        batch.add_chain(table, nft::Chain { name: &chain.name, base: base(chain) });
    }
    for chain in &chains {
        add_rules(&mut batch, table, chain);
    }
    for (name, elements) in verdicts {
        batch.add_elements(table, name, elements);
    }
    for (name, elements) in sessions {
        batch.add_elements(table, name, elements.iter().cloned());
    }
    add(&mut batch, table, &ruleset.members());
    batch
}

/// The names of the maps of sessions.
pub(crate) fn session_maps(ruleset: &Ruleset) -> impl Iterator<Item = &'static str> {
    ruleset.families.iter().map(|family| SetKind::Sessions.name(*family))
}

/// Changes of members and rules. Chains that members lead to are not deleted here ([`delete_picks`]): as long as only
/// elements come last, a batch that is too large for the host can be split.
pub(crate) fn update(families: &[Family], update: &Update) -> Batch {
    let mut batch = Batch::new();
    for pick in &update.add_picks {
        let chain = pick.chain(families);
        batch.add_chain(OURS, nft::Chain { name: &chain.name, base: None });
        add_rules(&mut batch, OURS, &chain);
    }
    for chain in &update.add_chains {
        batch.add_chain(OURS, nft::Chain { name: &chain.name, base: base(chain) });
        add_rules(&mut batch, OURS, chain);
    }
    for name in &update.delete_chains {
        batch.flush_chain(OURS, name);
        batch.delete_chain(OURS, name);
    }
    for chain in &update.rewrite {
        batch.flush_chain(OURS, &chain.name);
        add_rules(&mut batch, OURS, chain);
    }
    batch.add_elements(OURS, PICKS, update.add_picks.iter().map(pick));
    for run in update.delete.chunk_by(same_set) {
        let Some(first) = run.first() else { continue };
        batch.delete_elements(OURS, first.set().name(first.family()), run.iter().map(element));
    }
    add(&mut batch, OURS, &update.add);
    batch
}

/// The chains that nothing leads to any more.
pub(crate) fn delete_picks(update: &Update) -> Batch {
    let mut batch = Batch::new();
    batch.delete_elements(OURS, PICKS, update.delete_picks.iter().map(pick));
    for pick in &update.delete_picks {
        batch.flush_chain(OURS, &pick.chain_name());
        batch.delete_chain(OURS, &pick.chain_name());
    }
    batch
}

fn add(batch: &mut Batch, table: Table<'_>, members: &[Member]) {
    for run in members.chunk_by(same_set) {
        let Some(first) = run.first() else { continue };
        batch.add_elements(table, first.set().name(first.family()), run.iter().map(element));
    }
}

fn same_set(one: &Member, other: &Member) -> bool {
    one.set() == other.set() && one.family() == other.family()
}

fn add_rules(batch: &mut Batch, table: Table<'_>, chain: &Chain) {
    for rule in &chain.rules {
        batch.add_rule(table, &chain.name, &translate(rule));
    }
}

pub(crate) fn hook(hook: Hook) -> nft::Hook {
    match hook {
        Hook::Prerouting => nft::Hook::Prerouting,
        Hook::Input => nft::Hook::Input,
        Hook::Output => nft::Hook::Output,
        Hook::Postrouting => nft::Hook::Postrouting,
    }
}

fn base(chain: &Chain) -> Option<nft::Base> {
    let base = chain.base?;
    let kind = match base.kind {
        ChainType::Filter => ChainKind::Filter,
        ChainType::Nat => ChainKind::Nat,
    };
    Some(nft::Base { kind, hook: hook(base.hook), priority: base.priority, drop: false })
}

/// Loads an address of the IP header (RFC 791, RFC 8200).
fn address(family: Family, side: Side, reg: u32) -> Expr {
    let (offset, len) = match (family, side) {
        (Family::V4, Side::Source) => (12, 4),
        (Family::V4, Side::Destination) => (16, 4),
        (Family::V6, Side::Source) => (8, 16),
        (Family::V6, Side::Destination) => (24, 16),
    };
    Expr::Payload { base: PayloadBase::Network, offset, len, reg }
}

/// Loads a port; TCP, UDP and SCTP have it in the same place.
fn port(side: Side, reg: u32) -> Expr {
    let offset = match side {
        Side::Source => 0,
        Side::Destination => 2,
    };
    Expr::Payload { base: PayloadBase::Transport, offset, len: 2, reg }
}

/// Registers that an address takes.
fn width(family: Family) -> u32 {
    match family {
        Family::V4 => 1,
        Family::V6 => 4,
    }
}

/// Loads a frontend from a register on; returns the register behind it.
fn load_frontend(rule: nft::Rule, family: Family, side: Side, reg: u32) -> (nft::Rule, u32) {
    let next = reg + width(family);
    let rule = rule
        .expr(address(family, side, reg))
        .expr(Expr::Meta { key: nft::Meta::L4proto, reg: next })
        .expr(port(side, next + 1));
    (rule, next + 2)
}

fn load_key(rule: nft::Rule, family: Family, key: Key) -> nft::Rule {
    match key {
        Key::Frontend(side) => load_frontend(rule, family, side, 0).0,
        Key::Destination => rule.expr(address(family, Side::Destination, 0)),
        Key::Hairpin => rule.expr(address(family, Side::Source, 0)).expr(address(
            family,
            Side::Destination,
            width(family),
        )),
        Key::FrontendAndSource => {
            let (rule, next) = load_frontend(rule, family, Side::Destination, 0);
            rule.expr(address(family, Side::Source, next))
        }
    }
}

/// Offset of the flags in the TCP header (RFC 9293) and the bits that tell an opening segment.
const TCP_FLAGS_OFFSET: u32 = 13;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;

/// Index of the loopback in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// The type of a route to the host itself (`linux/rtnetlink.h`).
const RTN_LOCAL: u32 = 2;

/// One rule. The kernel keeps the first match of the family, nft hides it.
pub(crate) fn translate(rule: &Rule) -> nft::Rule {
    let family = match rule.family {
        Family::V4 => nft::Family::Ip,
        Family::V6 => nft::Family::Ip6,
    };
    let mut out = nft::Rule::new().comment(rule.comment).nfproto(family);
    for it in &rule.matches {
        out = matching(out, rule.family, *it);
    }
    act(out, rule.family, family, rule.action)
}

fn matching(out: nft::Rule, family: Family, it: Match) -> nft::Rule {
    match it {
        Match::Is(l4) => out.l4proto(Cmp::Eq, L4::number(l4)),
        Match::IsNot(l4) => out.l4proto(Cmp::Neq, L4::number(l4)),
        Match::FromLoopback => out.meta(nft::Meta::Iif, Cmp::Eq, &LOOPBACK.to_ne_bytes()),
        Match::NotFromLoopback => out.meta(nft::Meta::Iif, Cmp::Neq, &LOOPBACK.to_ne_bytes()),
        Match::In(set, key) => load_key(out, family, key).expr(Expr::Lookup {
            set: set.name(family).to_owned(),
            reg: 0,
            invert: false,
            value: None,
        }),
        Match::NotIn(set, key) => load_key(out, family, key).expr(Expr::Lookup {
            set: set.name(family).to_owned(),
            reg: 0,
            invert: true,
            value: None,
        }),
        Match::Syn => out
            .expr(Expr::Payload { base: PayloadBase::Transport, offset: TCP_FLAGS_OFFSET, len: 1, reg: 0 })
            .expr(Expr::Mask { reg: 0, mask: vec![FIN_SYN_RST_ACK] })
            .expr(Expr::Cmp { op: Cmp::Eq, reg: 0, data: vec![SYN] }),
        Match::Tracked => out.ct_state(ct_state::NEW | ct_state::ESTABLISHED),
        Match::Translated => out.ct_status(ct_status::DST_NAT),
        Match::FromHost => out.expr(Expr::FibType { addr: FibAddr::Saddr, reg: 0 }).expr(Expr::Cmp {
            op: Cmp::Eq,
            reg: 0,
            data: RTN_LOCAL.to_ne_bytes().to_vec(),
        }),
        Match::SourceIn(range) => within(out, family, Side::Source, range),
        Match::DestinationIn(range) => within(out, family, Side::Destination, range),
        // Values compare byte by byte, and numgen leaves its number in the host's byte order.
        Match::Chance(share) => out
            .expr(Expr::Numgen { reg: 0, modulus: 256, random: true })
            .expr(Expr::HtonU16 { reg: 0 })
            .expr(Expr::Cmp { op: Cmp::Lt, reg: 0, data: u16::from(share).to_be_bytes().to_vec() }),
    }
}

fn within(out: nft::Rule, family: Family, side: Side, range: ipnet::IpNet) -> nft::Rule {
    out.expr(address(family, side, 0))
        .expr(Expr::Mask { reg: 0, mask: octets(range.netmask()) })
        .expr(Expr::Cmp { op: Cmp::Eq, reg: 0, data: octets(range.network()) })
}

fn act(out: nft::Rule, family: Family, nft_family: nft::Family, action: Action) -> nft::Rule {
    let dnat = |reg| Expr::Nat {
        kind: Nat::Dnat,
        family: nft_family,
        addr: reg,
        port: Some(reg + width(family)),
        flags: 0,
    };
    let by_number = |out, set: SetKind, verdicts: &str| {
        let number = Expr::Lookup { set: set.name(family).to_owned(), reg: 0, invert: false, value: Some(0) };
        let out: nft::Rule = load_key(out, family, Key::Frontend(Side::Destination));
        passed(out.expr(number), 0).expr(Expr::VerdictMap { set: verdicts.to_owned(), reg: 0 })
    };
    match action {
        Action::Notrack => out.expr(Expr::Notrack),
        Action::Tproxy(listener) => tproxy(out, nft_family, listener),
        Action::Accept => out.accept(),
        Action::Drop => out.drop(),
        Action::TcpReset => out.expr(Expr::Reject(Reject::TcpReset)),
        Action::PortUnreachable => out.expr(Expr::Reject(Reject::PortUnreachable)),
        Action::ByFrontend => by_number(out, SetKind::Services, PICKS),
        Action::ByBackend => by_number(out, SetKind::Backends, WAYS),
        Action::Claim => out
            .expr(address(family, Side::Destination, 0))
            .expr(port(Side::Destination, width(family)))
            .expr(dnat(0)),
        Action::Translate(slots) => {
            let (out, slot) = load_frontend(out, family, Side::Destination, 0);
            draw(out, family, slots, slot).expr(dnat(slot))
        }
        Action::Masquerade => out.masquerade(0),
        Action::Resume(_) | Action::Forget | Action::Begin(..) => session(out, family, dnat, action),
    }
}

/// Draws a slot into the register behind a frontend, and puts its endpoint there.
fn draw(out: nft::Rule, family: Family, slots: u16, slot: u32) -> nft::Rule {
    let key = slot - width(family) - 2;
    out.expr(Expr::Numgen { reg: slot, modulus: u32::from(slots), random: true }).expr(Expr::Lookup {
        set: SetKind::Endpoints.name(family).to_owned(),
        reg: key,
        invert: false,
        value: Some(slot),
    })
}

/// Lets a number that a map gave be asked of another one. nft (1.0.6) ends with an assertion when it lists a key that came
/// from a map, so the number passes by the packet's priority. Nobody has use for that here: before routing it is not set yet
/// (`ip_forward` sets it), and of what the host itself sends this is only the first packet of a connection.
fn passed(rule: nft::Rule, reg: u32) -> nft::Rule {
    let key = nft::Meta::Priority;
    rule.expr(Expr::MetaSet { key, reg }).expr(Expr::Meta { key, reg })
}

/// Sessions: the client's address, the frontend and the number of the endpoint lie in registers one after the other, so that
/// client and frontend are the key of the session, and frontend and number that of the endpoint, if it still is one.
fn session(out: nft::Rule, family: Family, dnat: impl Fn(u32) -> Expr, action: Action) -> nft::Rule {
    let frontend = width(family);
    let out = out.expr(address(family, Side::Source, 0));
    let (out, number) = load_frontend(out, family, Side::Destination, frontend);
    let endpoint = number + 1;
    let learn = |op, seconds: Option<u32>| Expr::Learn {
        op,
        set: SetKind::Sessions.name(family).to_owned(),
        key: 0,
        value: Some(number),
        timeout: seconds.map(|seconds| Duration::from_secs(seconds.into())),
    };
    let find = |set: SetKind, reg, value| Expr::Lookup {
        set: set.name(family).to_owned(),
        reg,
        invert: false,
        value: Some(value),
    };
    match action {
        Action::Resume(seconds) => passed(out.expr(find(SetKind::Sessions, 0, number)), number)
            .expr(find(SetKind::Live, frontend, endpoint))
            .expr(learn(LearnOp::Update, Some(seconds)))
            .expr(dnat(endpoint)),
        Action::Begin(slots, seconds) => {
            let draw = Expr::Numgen { reg: number, modulus: u32::from(slots), random: true };
            passed(out.expr(draw).expr(find(SetKind::Numbers, frontend, number)), number)
                .expr(learn(LearnOp::Update, Some(seconds)))
                .expr(find(SetKind::Live, frontend, endpoint))
                .expr(dnat(endpoint))
        }
        // The kernel wants a value to delete an element of a map, and ends the rule where there is none.
        _ => passed(out.expr(find(SetKind::Sessions, 0, number)), number).expr(learn(LearnOp::Delete, None)),
    }
}

fn tproxy(rule: nft::Rule, family: nft::Family, listener: SocketAddr) -> nft::Rule {
    rule.expr(Expr::Immediate { reg: 0, data: octets(listener.ip()) })
        .expr(Expr::Immediate { reg: 4, data: listener.port().to_be_bytes().to_vec() })
        .expr(Expr::Tproxy { family, addr: 0, port: 4 })
        .accept()
}

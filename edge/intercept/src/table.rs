//! The ruleset in nftables' terms.

use std::net::{IpAddr, SocketAddr};

use edgemesh_mesh::Frontend;
use edgemesh_net::netlink::nft::{
    self, Base, Batch, ChainKind, Cmp, Element, Expr, KeyType, PayloadBase, Reject, Set, Table,
};
use edgemesh_ruleset::{Action, Chain, Family, Hook, L4, Match, Rule, Ruleset, Side, TABLE};

/// Our table.
pub(crate) const OURS: Table<'static> = Table { family: nft::Family::Inet, name: TABLE };

/// IANA protocol numbers of the model's protocols.
fn protocol_number(frontend: &Frontend) -> u8 {
    match frontend.protocol {
        edgemesh_api::Protocol::Tcp => 6,
        edgemesh_api::Protocol::Udp => 17,
        edgemesh_api::Protocol::Sctp => 132,
    }
}

fn address_type(family: Family) -> KeyType {
    match family {
        Family::V4 => KeyType::Ipv4Addr,
        Family::V6 => KeyType::Ipv6Addr,
    }
}

fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// Sets by name with the type of their keys.
pub(crate) fn sets() -> Vec<(&'static str, Vec<KeyType>)> {
    Family::ALL
        .into_iter()
        .flat_map(|family| {
            let address = address_type(family);
            [
                (family.frontends(), vec![address, KeyType::InetProto, KeyType::InetService]),
                (family.vips(), vec![address]),
            ]
        })
        .collect()
}

/// The elements each set should have, sorted.
pub(crate) fn elements(ruleset: &Ruleset, set: &str) -> Vec<Element> {
    let mut elements: Vec<Element> = Family::ALL
        .into_iter()
        .flat_map(|family| {
            let frontends = ruleset.frontends.iter().filter(move |_| family.frontends() == set);
            let vips = ruleset.vips.iter().filter(move |_| family.vips() == set);
            let frontends = frontends.filter(move |it| Family::of(it.ip) == family).map(frontend_element);
            frontends.chain(vips.filter(move |it| Family::of(**it) == family).map(|it| vip_element(*it)))
        })
        .collect();
    elements.sort();
    elements
}

fn frontend_element(frontend: &Frontend) -> Element {
    Element::concat(&[&octets(frontend.ip), &[protocol_number(frontend)], &frontend.port.to_be_bytes()])
}

fn vip_element(vip: IpAddr) -> Element {
    Element::single(&octets(vip))
}

/// The whole table, in place of whatever there is. Elements come last, frontends first among them: where the batch
/// must be split, a frontend is never refused because only its address was there.
pub(crate) fn replace(ruleset: &Ruleset) -> Batch {
    let mut batch = Batch::new();
    batch.replace_table(OURS);
    for (name, key) in sets() {
        batch.add_set(OURS, Set { name, key: &key, data: &[] });
    }
    for chain in &ruleset.chains {
        batch.add_chain(OURS, nft::Chain { name: chain.name, base: Some(base(chain)) });
        for rule in &chain.rules {
            batch.add_rule(OURS, chain.name, &translate(rule));
        }
    }
    add(&mut batch, ruleset.frontends.iter(), ruleset.vips.iter().copied());
    batch
}

/// Adds members.
pub(crate) fn add<'a>(
    batch: &mut Batch,
    frontends: impl Iterator<Item = &'a Frontend> + Clone,
    vips: impl Iterator<Item = IpAddr> + Clone,
) {
    for family in Family::ALL {
        let frontends = frontends.clone().filter(|it| Family::of(it.ip) == family);
        batch.add_elements(OURS, family.frontends(), frontends.map(frontend_element));
    }
    for family in Family::ALL {
        batch.add_elements(
            OURS,
            family.vips(),
            vips.clone().filter(|it| Family::of(*it) == family).map(vip_element),
        );
    }
}

/// Deletes members, which must be there.
pub(crate) fn delete<'a>(
    batch: &mut Batch,
    frontends: impl Iterator<Item = &'a Frontend> + Clone,
    vips: impl Iterator<Item = IpAddr> + Clone,
) {
    for family in Family::ALL {
        let frontends = frontends.clone().filter(|it| Family::of(it.ip) == family);
        batch.delete_elements(OURS, family.frontends(), frontends.map(frontend_element));
        let vips = vips.clone().filter(|it| Family::of(*it) == family);
        batch.delete_elements(OURS, family.vips(), vips.map(vip_element));
    }
}

pub(crate) fn hook(hook: Hook) -> nft::Hook {
    match hook {
        Hook::Prerouting => nft::Hook::Prerouting,
        Hook::Input => nft::Hook::Input,
        Hook::Output => nft::Hook::Output,
    }
}

fn base(chain: &Chain) -> Base {
    Base { kind: ChainKind::Filter, hook: hook(chain.hook), priority: chain.priority, drop: false }
}

/// Offsets of the addresses in the IP header (RFC 791, RFC 8200).
fn address(family: Family, side: Side) -> Expr {
    let (offset, len) = match (family, side) {
        (Family::V4, Side::Source) => (12, 4),
        (Family::V4, Side::Destination) => (16, 4),
        (Family::V6, Side::Source) => (8, 16),
        (Family::V6, Side::Destination) => (24, 16),
    };
    Expr::Payload { base: PayloadBase::Network, offset, len, reg: 0 }
}

/// The key of a frontend: address from register 0 on, protocol and port in the registers after it.
fn frontend(rule: nft::Rule, family: Family, side: Side, invert: bool) -> nft::Rule {
    let next = match family {
        Family::V4 => 1,
        Family::V6 => 4,
    };
    let port = match side {
        Side::Source => 0,
        Side::Destination => 2,
    };
    rule.expr(address(family, side))
        .expr(Expr::Meta { key: nft::Meta::L4proto, reg: next })
        .expr(Expr::Payload { base: PayloadBase::Transport, offset: port, len: 2, reg: next + 1 })
        .expr(Expr::Lookup { set: family.frontends().to_owned(), reg: 0, invert, value: None })
}

/// Offset of the flags in the TCP header (RFC 9293) and the bits that tell an opening segment.
const TCP_FLAGS_OFFSET: u32 = 13;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;

/// Index of the loopback in every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// One rule. The kernel keeps the first match of the family, nft hides it.
pub(crate) fn translate(rule: &Rule) -> nft::Rule {
    let family = match rule.family {
        Family::V4 => nft::Family::Ip,
        Family::V6 => nft::Family::Ip6,
    };
    let mut out = nft::Rule::new().comment(rule.comment).nfproto(family);
    for it in &rule.matches {
        out = match it {
            Match::Is(l4) => out.l4proto(Cmp::Eq, L4::number(*l4)),
            Match::IsNot(l4) => out.l4proto(Cmp::Neq, L4::number(*l4)),
            Match::NotFromLoopback => out.meta(nft::Meta::Iif, Cmp::Neq, &LOOPBACK.to_ne_bytes()),
            Match::ToVip => out.expr(address(rule.family, Side::Destination)).expr(Expr::Lookup {
                set: rule.family.vips().to_owned(),
                reg: 0,
                invert: false,
                value: None,
            }),
            Match::Frontend(side) => frontend(out, rule.family, *side, false),
            Match::NotToFrontend => frontend(out, rule.family, Side::Destination, true),
            Match::Syn => out
                .expr(Expr::Payload {
                    base: PayloadBase::Transport,
                    offset: TCP_FLAGS_OFFSET,
                    len: 1,
                    reg: 0,
                })
                .expr(Expr::Mask { reg: 0, mask: vec![FIN_SYN_RST_ACK] })
                .expr(Expr::Cmp { op: Cmp::Eq, reg: 0, data: vec![SYN] }),
        };
    }
    match rule.action {
        Action::Notrack => out.expr(Expr::Notrack),
        Action::Tproxy(listener) => tproxy(out, family, listener),
        Action::Drop => out.drop(),
        Action::TcpReset => out.expr(Expr::Reject(Reject::TcpReset)),
        Action::PortUnreachable => out.expr(Expr::Reject(Reject::PortUnreachable)),
    }
}

fn tproxy(rule: nft::Rule, family: nft::Family, listener: SocketAddr) -> nft::Rule {
    rule.expr(Expr::Immediate { reg: 0, data: octets(listener.ip()) })
        .expr(Expr::Immediate { reg: 4, data: listener.port().to_be_bytes().to_vec() })
        .expr(Expr::Tproxy { family, addr: 0, port: 4 })
        .accept()
}

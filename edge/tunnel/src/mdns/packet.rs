//! The messages, as far as they are ours.

use std::str::FromStr;

use domain::base::iana::Class;
use domain::base::{Message, MessageBuilder, Name, Rtype, Ttl};
use domain::rdata::{A, Aaaa, Ptr, Srv, Txt};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

/// What is asked for.
const SERVICE: &str = "_edgemesh._udp.local";

/// What Go agents ask for: their default rendezvous, as they spell it, without the underscores of RFC 6763.
const GO_SERVICE: &str = "EDGEMESH_PLAYGOUND.local";

/// Whose agents a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kin {
    Ours,
    Go,
}

impl Kin {
    fn service(self) -> &'static str {
        match self {
            Self::Ours => SERVICE,
            Self::Go => GO_SERVICE,
        }
    }
}

/// How long others may remember an answer; two announcements.
const TTL: Ttl = Ttl::from_secs(120);

/// A character string of a TXT record holds 255 bytes (RFC 1035, section 3.3).
const MAX_TEXT: usize = 255;

/// Addresses told or taken from one message; two families on four interfaces.
const MAX_ADDRESSES: usize = 8;

/// Before each address, as libp2p's own multicast DNS has it.
const PREFIX: &str = "dnsaddr=";

/// What a message said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Somebody asks for our service.
    pub(crate) asked: bool,
    /// A Go agent asks for its kind.
    pub(crate) go_asked: bool,
    /// Peers with addresses.
    pub(crate) peers: Vec<(PeerId, Multiaddr)>,
}

fn name(text: &str) -> Name<Vec<u8>> {
    Name::from_str(text).expect("the service name and identities under it are valid DNS names")
}

/// Asks who is there.
pub(crate) fn query(kin: Kin) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec().question();
    builder.push((name(kin.service()), Rtype::PTR, Class::IN)).expect("one question fits an empty message");
    builder.finish()
}

/// Says who is here.
pub(crate) fn announcement(kin: Kin, own: PeerId, addresses: &[Multiaddr]) -> Vec<u8> {
    let service = kin.service();
    let instance = name(&format!("{own}.{service}"));
    let mut texts = Vec::new();
    for address in addresses.iter().take(MAX_ADDRESSES) {
        let text = format!("{PREFIX}{address}/p2p/{own}");
        if let (Ok(len), true) = (u8::try_from(text.len()), text.len() <= MAX_TEXT) {
            texts.push(len);
            texts.extend_from_slice(text.as_bytes());
        }
    }
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_qr(true);
    builder.header_mut().set_aa(true);
    let mut builder = builder.answer();
    let pointer = (name(service), Class::IN, TTL, Ptr::new(instance.clone()));
    let fits = builder.push(pointer).is_ok();
    if let (true, Ok(texts)) = (fits, Txt::from_octets(texts)) {
        // 8 strings of 256 bytes fit a message that has no bound of its own.
        let _ = builder.push((instance.clone(), Class::IN, TTL, texts));
    }
    if kin == Kin::Go {
        host(&mut builder, own, instance, addresses);
    }
    builder.finish()
}

/// Go agents look at the texts alone, but only of an instance with a host that has an address.
fn host(
    builder: &mut domain::base::message_builder::AnswerBuilder<Vec<u8>>,
    own: PeerId,
    instance: Name<Vec<u8>>,
    addresses: &[Multiaddr],
) {
    /// Must be some port; the texts have the real ones.
    const ANY_PORT: u16 = 4001;
    let host = name(&format!("{own}.local"));
    // Two addresses and a name more fit a message that has no bound of its own.
    let _ = builder.push((instance, Class::IN, TTL, Srv::new(0, 0, ANY_PORT, host.clone())));
    for address in addresses.iter().take(MAX_ADDRESSES) {
        let _ = match address.iter().next() {
            Some(Protocol::Ip4(ip)) => builder.push((&host, Class::IN, TTL, A::from(ip))),
            Some(Protocol::Ip6(ip)) => builder.push((&host, Class::IN, TTL, Aaaa::from(ip))),
            _ => Ok(()),
        };
    }
}

/// Reads a message of whoever uses the group; what is not ours or malformed says nothing.
pub(crate) fn read(bytes: &[u8]) -> Heard {
    parse(bytes).unwrap_or_default()
}

fn parse(bytes: &[u8]) -> Option<Heard> {
    let message = Message::from_octets(bytes).ok()?;
    if !message.header().qr() {
        let asked = |kin: Kin| {
            let service = name(kin.service());
            message.question().take(MAX_ADDRESSES).filter_map(Result::ok).any(|question| {
                question.qname() == &service && matches!(question.qtype(), Rtype::PTR | Rtype::ANY)
            })
        };
        return Some(Heard { asked: asked(Kin::Ours), go_asked: asked(Kin::Go), peers: Vec::new() });
    }
    let services = [Kin::Ours, Kin::Go].map(|kin| kin.service().to_ascii_lowercase());
    let mut peers = Vec::new();
    // Go agents answer a question with the pointer alone and put the texts beside it.
    let more = message.additional().ok().into_iter().flat_map(|more| more.limit_to::<Txt<_>>());
    for record in message.answer().ok()?.limit_to::<Txt<_>>().chain(more).take(MAX_ADDRESSES) {
        let record = record.ok()?;
        let owner = record.owner().to_string().to_ascii_lowercase();
        if !services.iter().any(|service| owner.ends_with(service)) {
            continue;
        }
        for text in record.data().iter().take(MAX_ADDRESSES) {
            peers.extend(address(text));
        }
    }
    peers.truncate(MAX_ADDRESSES);
    Some(Heard { peers, ..Heard::default() })
}

fn address(text: &[u8]) -> Option<(PeerId, Multiaddr)> {
    let text = std::str::from_utf8(text).ok()?.strip_prefix(PREFIX)?;
    let mut address: Multiaddr = text.parse().ok()?;
    let Some(Protocol::P2p(peer)) = address.pop() else { return None };
    let mut parts = address.iter();
    let direct = matches!(
        (parts.next(), parts.next(), parts.next()),
        (Some(Protocol::Ip4(_) | Protocol::Ip6(_)), Some(Protocol::Tcp(_)), None)
    );
    direct.then_some((peer, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_understood() {
        let own = PeerId::random();
        let addresses: Vec<Multiaddr> = ["/ip4/192.168.1.7/tcp/20006", "/ip6/fd00::7/tcp/20006"]
            .iter()
            .map(|a| a.parse().unwrap())
            .collect();
        let expected: Vec<_> = addresses.iter().map(|address| (own, address.clone())).collect();
        for kin in [Kin::Ours, Kin::Go] {
            let heard = read(&announcement(kin, own, &addresses));
            assert_eq!(heard, Heard { peers: expected.clone(), ..Heard::default() }, "{kin:?}");
        }
        assert_eq!(read(&query(Kin::Ours)), Heard { asked: true, ..Heard::default() });
        assert_eq!(read(&query(Kin::Go)), Heard { go_asked: true, ..Heard::default() });
    }

    #[test]
    fn what_is_no_message_says_nothing() {
        let whole = announcement(Kin::Ours, PeerId::random(), &["/ip4/10.0.0.1/tcp/1".parse().unwrap()]);
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]).peers, Vec::new(), "{end}");
        }
        for index in 0..whole.len() {
            let mut bent = whole.clone();
            bent[index] ^= 0xff;
            let _ = read(&bent);
        }
        assert_eq!(read(b"\0\0\x84\0\0\0\xff\xff"), Heard::default());
    }
}

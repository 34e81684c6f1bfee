//! Datagrams of one client and port are one connection to the kernel for as long as they keep coming, and go where the
//! first one went. What leads to an endpoint that is gone, or past one that there is now, has to be forgotten.

use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};

use edgemesh_api::Protocol;
use edgemesh_mesh::Frontend;
use edgemesh_net::netlink::NetlinkError;
use edgemesh_net::netlink::conntrack::{Conntrack, Entry, Family, Wanted};
use edgemesh_ruleset::{Member, Update};

/// `IPPROTO_UDP`.
const UDP: u8 = 17;

/// Up to so many questions the kernel goes through its table once for each and tells of what matters only; for more, it
/// tells of all UDP of a family once. A guess, so that a change of many endpoints is no more than so many walks.
const MAX_QUESTIONS: usize = 16;

/// UDP connections that a change of the rules leaves behind.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Stale {
    /// Those to a frontend that were translated to this endpoint.
    gone: HashSet<(SocketAddr, SocketAddr)>,
    /// Those to a frontend that were not translated, where the kernel translates now; or the other way round.
    turned: HashSet<SocketAddr>,
}

impl Stale {
    pub(crate) fn of(update: &Update) -> Self {
        let is_udp = |frontend: &Frontend| frontend.protocol == Protocol::Udp;
        let endpoints = |members: &[Member]| -> HashSet<(SocketAddr, SocketAddr)> {
            let pairs = members.iter().filter_map(|member| match member {
                Member::Endpoint(frontend, _, addr) if is_udp(frontend) => {
                    Some((frontend.socket_addr(), *addr))
                }
                _ => None,
            });
            pairs.collect()
        };
        let services = |members: &[Member]| -> HashSet<SocketAddr> {
            let frontends = members.iter().filter_map(|member| match member {
                Member::Service(frontend, _) if is_udp(frontend) => Some(frontend.socket_addr()),
                _ => None,
            });
            frontends.collect()
        };
        let added = endpoints(&update.add);
        let (come, left) = (services(&update.add), services(&update.delete));
        Self {
            // One that only got another slot stays.
            gone: endpoints(&update.delete).into_iter().filter(|pair| !added.contains(pair)).collect(),
            turned: come.symmetric_difference(&left).copied().collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.turned.is_empty()
    }

    /// What to ask the kernel for, so that it tells of all of these and of few others: Services that lost an endpoint have
    /// it in common, or endpoints that one Service lost have that.
    fn wanted(&self) -> Vec<Wanted> {
        let by_service: BTreeSet<Wanted> = self.gone.iter().map(|(to, _)| Wanted::To(*to)).collect();
        let by_endpoint: BTreeSet<Wanted> = self.gone.iter().map(|(_, led)| Wanted::LedTo(*led)).collect();
        // An endpoint has the connections of its own, a Service those of all.
        let mut wanted = if by_service.len() < by_endpoint.len() { by_service } else { by_endpoint };
        wanted.extend(self.turned.iter().map(|to| Wanted::To(*to)));
        if wanted.len() <= MAX_QUESTIONS {
            return wanted.into_iter().collect();
        }
        let of = |family| move |(to, _): &(SocketAddr, SocketAddr)| Family::of(to.ip()) == family;
        let concerned = |family: &Family| {
            self.gone.iter().any(of(*family)) || self.turned.iter().any(|to| Family::of(to.ip()) == *family)
        };
        Family::ALL.into_iter().filter(concerned).map(Wanted::All).collect()
    }

    fn has(&self, entry: &Entry) -> bool {
        let to = entry.original.dst;
        // Answers come from the endpoint: the reply's source is what the destination was translated to.
        self.gone.contains(&(to, entry.reply.src)) || self.turned.contains(&to)
    }
}

/// Forgets the connections; returns how many there were. Connections of TCP are left alone: they end by themselves, and
/// one whose endpoint still answers goes on.
pub(crate) fn forget(stale: &Stale) -> Result<usize, NetlinkError> {
    Conntrack::open()?.delete_of(&stale.wanted(), UDP, |entry| stale.has(entry))
}

/// Forgets UDP connections to any of these frontends that lead elsewhere than the rules do: after the rules were written
/// without knowledge of what they were before.
pub(crate) fn forget_strays(
    known: impl Fn(&Frontend) -> Option<HashSet<SocketAddr>>,
) -> Result<usize, NetlinkError> {
    Conntrack::open()?.delete_where(UDP, |entry| {
        let (ip, port): (IpAddr, u16) = (entry.original.dst.ip(), entry.original.dst.port());
        let endpoints = known(&Frontend { ip, port, protocol: Protocol::Udp });
        let led = entry.reply.src;
        endpoints.is_some_and(|endpoints| led != entry.original.dst && !endpoints.contains(&led))
    })
}

#[cfg(test)]
mod tests {
    use edgemesh_ruleset::Pick;

    use super::*;

    fn frontend(protocol: Protocol) -> Frontend {
        Frontend { ip: IpAddr::from([10, 96, 0, 1]), port: 53, protocol }
    }

    fn endpoint(slot: u16, last: u8) -> Member {
        let addr = SocketAddr::from(([10, 1, 0, last], 53));
        Member::Endpoint(frontend(Protocol::Udp), slot, addr)
    }

    #[track_caller]
    fn check(delete: Vec<Member>, add: Vec<Member>, gone: &[u8], turned: bool) {
        let stale = Stale::of(&Update { delete, add, ..Update::default() });
        let mut led: Vec<u8> = stale
            .gone
            .iter()
            .map(|(_, addr)| match addr.ip() {
                IpAddr::V4(ip) => ip.octets()[3],
                IpAddr::V6(_) => 0,
            })
            .collect();
        led.sort_unstable();
        assert_eq!((led.as_slice(), !stale.turned.is_empty()), (gone, turned));
    }

    #[test]
    fn only_endpoints_that_are_gone_are_forgotten() {
        let pick = Pick { slots: 1, proxied: 0, affinity: 0 };
        let service = Member::Service(frontend(Protocol::Udp), pick);
        check(vec![endpoint(0, 1)], vec![endpoint(0, 2)], &[1], false);
        check(vec![endpoint(1, 2), endpoint(0, 1)], vec![endpoint(0, 2)], &[1], false);
        check(vec![], vec![endpoint(1, 2)], &[], false);
        check(vec![], vec![service, endpoint(0, 1)], &[], true);
        check(vec![endpoint(0, 1), service], vec![], &[1], true);
        let other = Member::Service(frontend(Protocol::Udp), Pick { slots: 2, ..pick });
        check(vec![service], vec![other], &[], false);
        let tcp = Member::Service(frontend(Protocol::Tcp), pick);
        check(vec![tcp], vec![], &[], false);
    }

    #[test]
    fn the_kernel_is_asked_for_few_connections_and_few_times() {
        let addr = |net: u8, last: usize| {
            SocketAddr::from(([10, net, 0, u8::try_from(last).expect("a small number")], 53))
        };
        let questions = |gone: Vec<(SocketAddr, SocketAddr)>, turned: &[SocketAddr]| {
            Stale { gone: gone.into_iter().collect(), turned: turned.iter().copied().collect() }.wanted()
        };
        let (vip, pod) = (addr(96, 1), addr(1, 1));
        assert_eq!(questions(vec![(vip, pod)], &[]), [Wanted::LedTo(pod)]);
        assert_eq!(questions(vec![(vip, pod)], &[vip]), [Wanted::To(vip), Wanted::LedTo(pod)]);
        let many = |count| (1..=count).map(|last| (addr(96, last), pod)).collect();
        assert_eq!(questions(many(200), &[]), [Wanted::LedTo(pod)]);
        let all = (1..=MAX_QUESTIONS + 1).map(|last| (vip, addr(1, last))).collect();
        assert_eq!(questions(all, &[]), [Wanted::To(vip)]);
        let both = |count| (1..=count).map(|last| (addr(96, last), addr(1, last))).collect();
        assert_eq!(questions(both(MAX_QUESTIONS), &[]).len(), MAX_QUESTIONS);
        assert_eq!(questions(both(MAX_QUESTIONS + 1), &[]), [Wanted::All(Family::V4)]);
    }
}

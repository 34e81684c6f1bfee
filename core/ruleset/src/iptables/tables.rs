use edgemesh_route::Via;

use super::dispatch::{self, ROOT};
use super::sets::{self, backends, share};
use super::{Chains, Jump, MARK, PREFIX, Rules, Table};
use crate::{Action, Family, Key, L4, Match, Rule, Ruleset, SetKind, Side};

const LISTEN: &str = "EDGEMESH-LISTEN";
const MIXED: &str = "EDGEMESH-MIXED";
const FROM_INSIDE: &str = "EDGEMESH-FROM-INSIDE";
const REFUSE: &str = "EDGEMESH-REFUSE";
/// The ruleset's chain that leads to the listener.
const LISTENER: &str = "prerouting_listener";
const PREROUTING: Jump = ("PREROUTING", "EDGEMESH-PREROUTING");
const INPUT: Jump = ("INPUT", "EDGEMESH-INPUT");
const OUTPUT: Jump = ("OUTPUT", "EDGEMESH-OUTPUT");
const POSTROUTING: Jump = ("POSTROUTING", "EDGEMESH-POSTROUTING");

/// Rules that the ruleset's own chains become, and those that stand for what iptables lacks.
pub(super) fn rules(ruleset: &Ruleset, family: Family) -> Rules {
    let of = Of { ruleset, family };
    let tables = [of.raw(), of.mangle(), of.nat(), of.filter()];
    Rules { family, sets: sets::sets(ruleset, family), tables }
}

struct Of<'a> {
    ruleset: &'a Ruleset,
    family: Family,
}

impl Of<'_> {
    /// The rules of one of the ruleset's chains for this family.
    fn chain(&self, name: &str) -> Vec<&Rule> {
        let rules = self.ruleset.chains.iter().filter(|chain| chain.name == name).flat_map(|it| &it.rules);
        rules.filter(|rule| rule.family == self.family).collect()
    }

    fn has(&self, set: SetKind) -> bool {
        self.ruleset.population.has(set, self.family)
    }

    fn to(&self, set: SetKind) -> String {
        self.matching(&Match::In(set, Key::Frontend(Side::Destination)))
    }

    fn raw(&self) -> Table {
        let plain = |name| self.chain(name).into_iter().map(|rule| self.rule(rule)).collect::<Vec<_>>();
        table([(PREROUTING, plain("prerouting_raw")), (OUTPUT, plain("output_raw"))], Chains::new())
    }

    fn mangle(&self) -> Table {
        let mut rules = Vec::new();
        let mut more = Chains::new();
        for rule in self.chain("prerouting") {
            match rule.action {
                Action::Accept => {
                    let chosen = self.matches(&rule.matches);
                    rules.push(format!("{chosen}-g {FROM_INSIDE}"));
                }
                _ => rules.push(self.rule(rule)),
            }
        }
        if self.has(SetKind::Inside) {
            let translated = "-m conntrack --ctstate DNAT -j RETURN".to_owned();
            more.insert(FROM_INSIDE.to_owned(), vec![translated, format!("-g {LISTEN}")]);
        }
        if self.has(SetKind::Mixed) {
            rules.push(format!("{} -g {MIXED}", self.to(SetKind::Mixed)));
            more.insert(MIXED.to_owned(), self.mixed());
        }
        if self.has(SetKind::Proxied) {
            // What nobody tracks is all that goes there as a whole; this is cheaper than to look each packet up.
            let rest = self.chain(LISTENER).into_iter().filter(|rule| rule.action == Action::Accept);
            rules.extend(rest.map(|rule| self.rule(rule)));
            rules.push(format!("{} -g {LISTEN}", self.to(SetKind::Proxied)));
        }
        let listen = self.listen();
        if !listen.is_empty() {
            more.insert(LISTEN.to_owned(), listen);
        }
        table([(PREROUTING, rules)], more)
    }

    /// What goes to the listener of a mixed frontend: connections that it has already, those of endpoints to themselves
    /// that the kernel would not lead back, its share of new ones, and all where this host does not send packets on. A connection that is new to connection tracking is not confirmed; one
    /// that is confirmed and not translated was the listener's.
    fn mixed(&self) -> Vec<String> {
        let mut rules = vec![
            "-m conntrack --ctstate DNAT -j RETURN".to_owned(),
            format!("-m conntrack --ctstatus CONFIRMED -g {LISTEN}"),
        ];
        if self.dispatches("nat_prerouting") {
            let own = |rule: &&Rule| {
                rule.matches.iter().any(|it| matches!(it, Match::In(SetKind::Own, Key::FrontendAndSource)))
            };
            let own = self.chain("nat_prerouting").into_iter().filter(own);
            rules.extend(own.map(|rule| format!("{}-g {LISTEN}", self.matches(&rule.matches))));
            rules.extend(self.shares().iter().map(|it| format!("{} -g {LISTEN}", self.drawn(*it))));
        } else {
            rules.push(format!("-g {LISTEN}"));
        }
        rules
    }

    /// Whether a chain leads to the frontends' own.
    fn dispatches(&self, chain: &str) -> bool {
        self.chain(chain).iter().any(|rule| rule.action == Action::ByFrontend)
    }

    fn shares(&self) -> Vec<u8> {
        let mut shares: Vec<u8> = self
            .ruleset
            .frontends
            .iter()
            .filter(|(frontend, _)| Family::of(frontend.ip) == self.family)
            .filter_map(|(_, steer)| match steer {
                crate::Steer::Kernel(spread) => Some(spread.proxied),
                _ => None,
            })
            .filter(|share| *share > 0)
            .collect();
        shares.sort_unstable();
        shares.dedup();
        shares
    }

    fn drawn(&self, of_256: u8) -> String {
        let set = share(of_256, self.family);
        format!("-m set --match-set {set} dst,dst {}", chance(of_256))
    }

    /// Where nobody listens, TPROXY drops the packet, and the client tries again.
    fn listen(&self) -> Vec<String> {
        let listener = self.chain(LISTENER).into_iter().find_map(|rule| match rule.action {
            Action::Tproxy(listener) => Some(listener),
            _ => None,
        });
        let Some(listener) = listener else { return Vec::new() };
        let rule = |protocol| {
            let (ip, port) = (listener.ip(), listener.port());
            format!("-p {protocol} -j TPROXY --on-port {port} --on-ip {ip} --tproxy-mark {MARK:#x}/{MARK:#x}")
        };
        vec![rule("tcp"), rule("udp")]
    }

    fn nat(&self) -> Table {
        let leads = format!("{} -j {ROOT}", self.to(SetKind::Services));
        let mut prerouting = Vec::new();
        if self.has(SetKind::Mixed) {
            prerouting.push(format!("-m mark --mark {MARK:#x}/{MARK:#x} -j ACCEPT"));
        }
        if self.dispatches("nat_prerouting") {
            prerouting.push(leads.clone());
        }
        let mut output = Vec::new();
        for rule in self.chain("nat_output").iter().filter(|rule| rule.action == Action::Claim) {
            output.push(format!("{}-j ACCEPT", self.matches(&rule.matches)));
        }
        output.extend(self.shares().iter().map(|it| format!("{} -j ACCEPT", self.drawn(*it))));
        if self.dispatches("nat_output") {
            output.push(leads);
        }
        let mut more = dispatch::chains(self.ruleset, self.family);
        let mut postrouting = Vec::new();
        let masquerades = !self.chain("nat_postrouting").is_empty();
        for via in [Via::Pod, Via::PodRoute, Via::Address].into_iter().filter(|_| masquerades) {
            let Some((set, chain)) = backends(via, self.family) else { continue };
            let rules = self.chain(crate::masquerade_chain(via).unwrap_or_default());
            let to = format!("-m conntrack --ctstate DNAT -m set --match-set {set} dst,dst");
            postrouting.push(format!("{to} -j {chain}"));
            more.insert(chain, rules.into_iter().map(|rule| self.rule(rule)).collect());
        }
        table([(PREROUTING, prerouting), (OUTPUT, output), (POSTROUTING, postrouting)], more)
    }

    fn filter(&self) -> Table {
        let mut rules = Vec::new();
        for rule in self.chain("input").iter().filter(|rule| rule.action == Action::TcpReset) {
            let asked: Vec<Match> = rule
                .matches
                .iter()
                .filter(|it| matches!(it, Match::In(..) | Match::NotIn(..)))
                .copied()
                .collect();
            rules.push(format!("{}-j {REFUSE}", self.matches(&asked)));
        }
        let mut more = Chains::new();
        if !rules.is_empty() {
            let (icmp, unreachable) = match self.family {
                Family::V4 => ("icmp", "icmp-port-unreachable"),
                Family::V6 => ("ipv6-icmp", "icmp6-port-unreachable"),
            };
            let refuse = vec![
                format!("-p {icmp} -j RETURN"),
                format!("{}-j REJECT --reject-with tcp-reset", self.matches(&[Match::Syn])),
                "-p tcp -j RETURN".to_owned(),
                format!("-j REJECT --reject-with {unreachable}"),
            ];
            more.insert(REFUSE.to_owned(), refuse);
        }
        table([(INPUT, rules)], more)
    }

    fn rule(&self, rule: &Rule) -> String {
        let target = match rule.action {
            Action::Notrack => "-j CT --notrack",
            Action::Drop => "-j DROP",
            Action::Masquerade => "-j MASQUERADE",
            Action::TcpReset => "-j REJECT --reject-with tcp-reset",
            // An nftables chain that accepts is followed by those of others, as one here that returns.
            _ => "-j RETURN",
        };
        format!("{}{target}", self.matches(&rule.matches))
    }

    fn matches(&self, matches: &[Match]) -> String {
        matches.iter().fold(String::new(), |text, it| format!("{text}{} ", self.matching(it)))
    }

    fn matching(&self, it: &Match) -> String {
        let set = |set: &SetKind, key: &Key, not: &str| {
            let ends = match key {
                Key::Frontend(Side::Destination) => "dst,dst",
                Key::Frontend(Side::Source) => "src,src",
                Key::Destination => "dst",
                Key::Hairpin | Key::FrontendAndSource => "dst,dst,src",
            };
            format!("-m set {not}--match-set {} {ends}", sets::name(*set, self.family))
        };
        match it {
            Match::Is(l4) => format!("-p {}", protocol(*l4)),
            Match::IsNot(l4) => format!("! -p {}", protocol(*l4)),
            Match::FromLoopback => "-i lo".to_owned(),
            Match::NotFromLoopback => "! -i lo".to_owned(),
            Match::In(kind, key) => set(kind, key, ""),
            Match::NotIn(kind, key) => set(kind, key, "! "),
            Match::Syn => "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN".to_owned(),
            Match::Tracked => "-m conntrack --ctstate NEW,ESTABLISHED".to_owned(),
            Match::Translated => "-m conntrack --ctstate DNAT".to_owned(),
            Match::FromHost => "-m addrtype --src-type LOCAL".to_owned(),
            Match::SourceIn(range) => format!("-s {}", range.trunc()),
            Match::DestinationIn(range) => format!("-d {}", range.trunc()),
            Match::Chance(of_256) => chance(*of_256),
        }
    }
}

fn protocol(l4: L4) -> &'static str {
    match l4 {
        L4::Tcp => "tcp",
        L4::Udp => "udp",
        L4::Icmp => "icmp",
        L4::Icmpv6 => "ipv6-icmp",
    }
}

fn chance(of_256: u8) -> String {
    format!("-m statistic --mode random --probability {:.11}", f64::from(of_256) / 256.0)
}

/// A table whose base chains are called only where they have rules.
fn table<const N: usize>(bases: [(Jump, Vec<String>); N], more: Chains) -> Table {
    let mut table = Table { chains: more, jumps: Vec::new() };
    for (jump, rules) in bases {
        if !rules.is_empty() {
            table.jumps.push(jump);
            table.chains.insert(jump.1.to_owned(), rules);
        }
    }
    debug_assert!(table.chains.keys().all(|name| name.starts_with(PREFIX) && name.len() <= 28));
    table
}

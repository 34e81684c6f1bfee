//! Scripts of picks and feedback. Endpoints are letters: `a` is 10.0.0.1:80, `b/1` has rank 1, `c@n` runs on node
//! `n`; clients are numbers. A pick prints its candidates, `*` for the session's and `!` for an ejected one.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use edgemesh_api::{Name, ObjectKey, Protocol};
use edgemesh_balance::{Ask, Balancer, Eligible, Feedback, MAX_CANDIDATES, PickCtx, PortKey, Recent};
use edgemesh_mesh::Policy;

struct Script {
    balancer: Balancer,
    port: PortKey,
    policy: Policy,
    affinity: Option<Duration>,
    endpoints: Vec<(String, SocketAddr, Option<Name>, u8)>,
    now: Instant,
    draw: u64,
}

impl Script {
    fn new() -> Self {
        let service = ObjectKey::new("default", "web");
        Self {
            balancer: Balancer::new(),
            port: PortKey { service, port: 80, protocol: Protocol::Tcp, ipv6: false },
            policy: Policy::RoundRobin,
            affinity: None,
            endpoints: Vec::new(),
            now: Instant::now(),
            draw: 0,
        }
    }

    fn eligible(&self) -> Vec<Eligible<'_>> {
        self.endpoints
            .iter()
            .map(|(_, addr, node, rank)| Eligible { addr: *addr, node: node.as_ref(), rank: *rank })
            .collect()
    }

    fn set_endpoints(&mut self, words: &[&str]) {
        self.endpoints = words
            .iter()
            .map(|word| {
                let (rest, rank) = word.split_once('/').unwrap_or((word, "0"));
                let (name, node) = match rest.split_once('@') {
                    Some((name, node)) => (name, Some(Name::from(node))),
                    None => (rest, None),
                };
                let last = name.bytes().next().unwrap() - b'a' + 1;
                let addr = SocketAddr::from(([10, 0, 0, last], 80));
                (rest.to_owned(), addr, node, rank.parse().unwrap())
            })
            .collect();
    }

    fn pick(&mut self, client: u32) -> Vec<(String, bool, bool)> {
        self.draw = self.draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let ctx = PickCtx { now: self.now, client: ip(client), draw: self.draw };
        let eligible = self.eligible();
        let ask = Ask { port: &self.port, policy: self.policy, affinity: self.affinity, eligible: &eligible };
        let preview = self.balancer.preview(&ask, &ctx);
        let picks = self.balancer.pick(&ask, &ctx);
        assert_eq!(preview, picks, "a preview is what the pick does");
        picks.iter().map(|pick| (self.endpoints[pick.index].0.clone(), pick.pinned, pick.ejected)).collect()
    }

    fn feedback(&self, name: &str, client: u32, feedback: Feedback) {
        let index = self.endpoints.iter().position(|it| it.0 == name).unwrap();
        self.balancer.feedback(&self.port, ip(client), &self.eligible()[index], feedback, self.now);
    }

    fn run(&mut self, line: &str) -> Option<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["eps", names @ ..] => self.set_endpoints(names),
            ["policy", "rr"] => self.policy = Policy::RoundRobin,
            ["policy", "random"] => self.policy = Policy::Random,
            ["policy", "hash"] => self.policy = Policy::SourceIpHash,
            ["affinity", seconds] => self.affinity = Some(Duration::from_secs(seconds.parse().unwrap())),
            ["wait", seconds] => self.now += Duration::from_secs(seconds.parse().unwrap()),
            ["nopath", name] => self.feedback(name, 0, Feedback::NoPath),
            ["fail", name] => self.feedback(name, 0, Feedback::Failed),
            ["ok", name, client] => self.feedback(name, client.parse().unwrap(), Feedback::Connected),
            ["pick", client] => {
                let picks = self.pick(client.parse().unwrap());
                let shown = picks.iter().map(|(name, pinned, ejected)| {
                    let mark = |flag: &bool, mark| if *flag { mark } else { "" };
                    format!("{name}{}{}", mark(pinned, "*"), mark(ejected, "!"))
                });
                return Some(shown.collect::<Vec<_>>().join(" "));
            }
            [] => {}
            _ => panic!("unknown line: {line}"),
        }
        None
    }

    fn firsts(&mut self, clients: u32) -> BTreeMap<String, u32> {
        let mut firsts = BTreeMap::new();
        for client in 0..clients {
            *firsts.entry(self.pick(client)[0].0.clone()).or_default() += 1;
        }
        firsts
    }
}

fn ip(client: u32) -> IpAddr {
    Ipv4Addr::from(0x0a01_0000 + client).into()
}

fn check(script: &str, expected: &str) {
    let mut run = Script::new();
    let got: Vec<String> = script.lines().filter_map(|line| run.run(line.trim())).collect();
    let expected: Vec<&str> = expected.split(" | ").collect();
    assert_eq!(got, expected, "{script}");
}

#[test]
fn round_robin_takes_turns_and_never_repeats_a_candidate() {
    check(
        "eps a
         pick 1
         eps a b c d
         pick 1
         pick 2
         pick 1
         pick 1
         pick 1",
        "a | b c d | c d a | d a b | a b c | b c d",
    );
    check("pick 1", "");
}

#[test]
fn round_robin_goes_on_where_it_was_when_endpoints_change() {
    check(
        "eps a
         pick 1
         eps a b c
         pick 1
         eps a c d
         pick 1
         eps a b c d e
         pick 1
         eps a
         pick 1",
        "a | b c a | c d a | d e a | a",
    );
}

#[test]
fn lower_ranks_come_first_and_higher_ones_follow() {
    check(
        "eps a
         pick 1
         eps a/2 b/1 c d
         pick 1
         pick 1",
        "a | c d b | d c b",
    );
}

#[test]
fn same_address_on_two_nodes_is_two_endpoints() {
    check(
        "eps a@m a@n
         policy hash
         fail a@m
         pick 1",
        "a@n a@m!",
    );
    check(
        "eps a@m
         pick 1
         eps a@m a@n
         pick 1
         pick 1",
        "a@m | a@n a@m | a@m a@n",
    );
}

#[test]
fn a_failed_endpoint_is_tried_last_and_gets_one_probe_later() {
    check(
        "eps a
         pick 1
         eps a b c
         fail b
         pick 1
         pick 1
         pick 1
         wait 11
         pick 1
         pick 1
         pick 1",
        // After its time one connection probes `b`; the next ones avoid it until that one has spoken.
        "a | c a b! | a c b! | c a b! | a b c | b c a | c a b!",
    );
    check(
        "eps a
         pick 1
         eps a b
         fail b
         ok b 1
         pick 1",
        "a | b a",
    );
}

#[test]
fn further_failures_eject_for_longer() {
    check(
        "eps a/0 b/1
         fail a
         wait 11
         fail a
         wait 11
         pick 1
         wait 10
         pick 1",
        "b a! | a b",
    );
}

#[test]
fn a_missing_path_ejects_for_a_moment_only() {
    check(
        "eps a b/1
         nopath a
         nopath a
         nopath a
         pick 1
         wait 2
         pick 1",
        "b a! | a b",
    );
}

#[test]
fn all_ejected_are_still_tried() {
    check("eps a b/1\nfail a\nfail b\npick 1", "a! b!");
}

#[test]
fn a_session_sticks_and_is_refreshed_by_use() {
    check(
        "eps a
         affinity 10
         pick 1
         eps a b c
         pick 1
         pick 2
         pick 2
         wait 8
         pick 1
         wait 8
         pick 1
         wait 11
         pick 1",
        // The session of 1 lasts while it is used, and is over 11 s after its last use: then it is c's turn.
        "a | a* b c | b c a | b* c a | a* c b | a* c b | c a b",
    );
}

#[test]
fn a_session_moves_when_its_endpoint_is_gone_or_dead() {
    check(
        "eps a
         affinity 100
         pick 1
         eps b c
         pick 1
         eps a b c
         pick 1",
        "a | b c | b* c a",
    );
    check(
        "eps a
         affinity 100
         pick 1
         eps a b
         fail a
         pick 1
         ok b 1
         pick 1",
        "a | a*! b | b* a!",
    );
}

#[test]
fn random_is_uniform() {
    let mut run = Script::new();
    run.run("policy random");
    run.run("eps a b c d e");
    for (name, count) in run.firsts(10_000) {
        assert!((1_850..=2_150).contains(&count), "{name} {count}");
    }
}

#[test]
fn round_robin_is_even() {
    let mut run = Script::new();
    run.run("eps a b c d e");
    assert!(run.firsts(10_000).values().all(|count| *count == 2_000));
}

#[test]
fn source_hash_is_even_sticky_and_moves_few() {
    let mut run = Script::new();
    run.run("policy hash");
    run.run("eps a b c d e");
    let first = |run: &mut Script| (0..10_000).map(|it| run.pick(it)[0].0.clone()).collect::<Vec<_>>();
    let before = first(&mut run);
    assert_eq!(before, first(&mut run), "the same client goes to the same endpoint");
    for (name, count) in run.firsts(10_000) {
        assert!((1_850..=2_150).contains(&count), "{name} {count}");
    }
    run.run("eps a b d e");
    for (before, after) in before.iter().zip(first(&mut run)) {
        assert!(*before == after || before == "c", "only clients of the endpoint that went move");
    }
}

#[test]
fn any_number_of_endpoints_can_be_hashed() {
    let mut run = Script::new();
    run.policy = Policy::SourceIpHash;
    run.endpoints = (0..1_000u32)
        .map(|it| (it.to_string(), SocketAddr::new(Ipv4Addr::from(it).into(), 80), None, 0))
        .collect();
    let picks = run.pick(7);
    assert_eq!(picks.len(), MAX_CANDIDATES);
}

#[test]
fn the_table_forgets_what_was_used_longest_ago() {
    let mut table = Recent::new(2);
    assert_eq!(table.insert(1, "a"), None);
    assert_eq!(table.insert(2, "b"), None);
    assert_eq!(table.get(&1), Some(&mut "a"));
    assert_eq!(table.oldest(), Some((&2, &"b")));
    assert_eq!(table.insert(3, "c"), Some((2, "b")));
    assert_eq!(table.insert(1, "d"), None);
    assert_eq!(table.remove(&3), Some("c"));
    assert_eq!((table.len(), table.pop_oldest(), table.pop_oldest()), (1, Some((1, "d")), None));
    assert!(table.is_empty());
}

//! The tree in which a packet finds the chain of its frontend, and what an update writes.

use std::fmt::Write as _;
use std::net::IpAddr;

use edgemesh_mesh::Frontend;
use edgemesh_ruleset::iptables::{Chains, Present, Rules, TABLES};
use edgemesh_ruleset::{Family, Ruleset, RulesetSettings, SetKind};

use crate::fixture::compile;

const MANGLE: usize = 1;
const NAT: usize = 2;
const ROOT: &str = "EDGEMESH-FRONTENDS";

/// A node with Services of both families and a node port each.
fn services(count: u16) -> Ruleset {
    let mut fixture = String::from(
        "host 192.0.2.5\nhost 2001:db8::5\nroute 10.244.0.0/16 pods\nroute fd00:244::/64 pods\n",
    );
    for n in 0..count {
        let (high, low) = (n >> 8, n & 255);
        writeln!(fixture, "svc s{n} 10.96.{high}.{low},fd00:96::{n:x}\nport 80/tcp {}", 30_000 + n)
            .expect("a string");
        writeln!(fixture, "ep 10.244.{high}.{low}:80 @here\nep [fd00:244::{n:x}]:80 @here")
            .expect("a string");
    }
    compile(&fixture)
}

fn chains(ruleset: &Ruleset, family: Family) -> Chains {
    Rules::of(ruleset, family).tables[NAT].chains.clone()
}

fn within(ip: IpAddr, test: &str) -> bool {
    let (value, mask) = test.split_once('/').expect("a mask");
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let mask = match mask.parse::<u32>() {
        Ok(32) | Ok(128) => u128::MAX,
        Ok(other) => panic!("length {other}"),
        Err(_) => bits(mask.parse().expect("a mask")),
    };
    bits(ip) & mask == bits(value.parse().expect("an address")) & mask
}

/// The chain a packet comes to, and how many rules it met.
fn walk(chains: &Chains, chain: &str, to: &Frontend, met: &mut usize) -> Option<String> {
    for rule in &chains[chain] {
        *met += 1;
        let words: Vec<&str> = rule.split(' ').collect();
        let matches = words.windows(2).all(|pair| match pair {
            ["-d", test] => within(to.ip, test),
            ["-p", protocol] => format!("{to}").ends_with(&format!("/{protocol}")),
            ["--dport", range] => {
                let (low, high) = range.split_once(':').unwrap_or((range, range));
                (low.parse().expect("a port")..=high.parse().expect("a port")).contains(&to.port)
            }
            _ => true,
        });
        let target = words.last().expect("a target");
        if matches {
            return match target.starts_with("EDGEMESH-SVC-") {
                true => Some((*target).to_owned()),
                false => walk(chains, target, to, met),
            };
        }
    }
    None
}

#[test]
fn every_frontend_is_found_and_nothing_else() {
    let ruleset = services(1500);
    for family in Family::ALL {
        let chains = chains(&ruleset, family);
        let mut found = std::collections::BTreeSet::new();
        let (mut most, mut count) = (0, 0);
        for frontend in ruleset.frontends.keys().filter(|it| Family::of(it.ip) == family) {
            let mut met = 0;
            found.extend(walk(&chains, ROOT, frontend, &mut met));
            (most, count) = (most.max(met), count + 1);
            let other = Frontend { port: 1, ..*frontend };
            assert_eq!(walk(&chains, ROOT, &other, &mut 0), None, "{other}");
        }
        assert_eq!((found.len(), count), (3000, 3000), "each has a chain of its own");
        // Nodes branch into 16, and those that tell ports need a rule for each of three protocols.
        assert!(most <= 120, "{most} rules for one of {count} frontends");
        assert!(chains.keys().all(|name| name.len() <= 28), "netfilter's longest name");
    }
}

/// What brings `before`, as it was written, to `after`.
fn update(before: &Ruleset, after: &Ruleset) -> String {
    let before = Rules::of(before, Family::V4);
    let mut present: [Present<'_>; TABLES.len()] = Default::default();
    for (table, present) in before.tables.iter().zip(&mut present) {
        present.chains = table.chains.iter().map(|(name, rules)| (name.as_str(), Some(&rules[..]))).collect();
        for (from, to) in &table.jumps {
            let jump = ((*from).to_owned(), (*to).to_owned());
            present.jumps.insert(jump.clone(), 1);
            present.first.push(jump);
        }
    }
    Rules::of(after, Family::V4).restore(&present)
}

#[test]
fn an_update_writes_the_chains_that_changed() {
    let web = |endpoints: &str| {
        compile(&format!("route 10.244.1.0/24 pods\nsvc web 10.96.0.1\nport 80/tcp\n{endpoints}"))
    };
    let (one, two) = (web("ep 10.244.1.2:80 @here"), web("ep 10.244.1.2:80 @here\nep 10.244.1.3:80 @here"));
    assert_eq!(update(&one, &one), "");
    assert_eq!(
        update(&one, &two),
        "*nat\n:EDGEMESH-SVC-764435612B0B8DB - [0:0]\n\
         -A EDGEMESH-SVC-764435612B0B8DB -m statistic --mode random --probability 0.50000000000 -p tcp -j DNAT --to-destination 10.244.1.2:80\n\
         -A EDGEMESH-SVC-764435612B0B8DB -p tcp -j DNAT --to-destination 10.244.1.3:80\nCOMMIT\n"
    );
    let gone = update(&one, &compile(""));
    for line in ["-X EDGEMESH-SVC-764435612B0B8DB", "-D PREROUTING -j EDGEMESH-PREROUTING"] {
        assert!(gone.lines().any(|it| it == line), "{gone}");
    }
}

#[test]
fn a_range_of_everything_is_two_halves() {
    let ruleset = compile(
        "svc web 10.96.0.1 lb=198.51.100.2 from=0.0.0.0/0,203.0.113.7/32\nport 80/tcp\nep 10.1.0.1:80",
    );
    let sets = Rules::of(&ruleset, Family::V4).sets;
    let allowed: Vec<&String> = sets["EDGEMESH-ALLOWED-4"].elements.iter().collect();
    let expected = ["0.0.0.0/1", "128.0.0.0/1", "203.0.113.7"].map(|it| format!("198.51.100.2,tcp:80,{it}"));
    assert_eq!(allowed, expected.each_ref());
}

/// What a kernel is asked whether it takes has a rule for every set, so that nothing is found out later.
#[test]
fn the_specimen_has_rules_of_every_kind() {
    let specimen = Ruleset::specimen(&RulesetSettings::default());
    for family in Family::ALL {
        let filled = SetKind::ALL.into_iter().filter(|set| specimen.population.has(*set, family));
        let empty = SetKind::ALL.len() - filled.count();
        // Packets fill the sessions.
        assert_eq!(empty, 1, "{family:?}");
    }
    assert!(specimen.all_chains().all(|chain| !chain.rules.is_empty()), "{:?}", specimen.chains);
    assert_eq!(specimen.bridged().chains.len(), 1);
}

/// Rules of the chain that says what the listener gets of a mixed frontend, after those for connections that it has.
#[track_caller]
fn check_mixed(fixture: &str, expected: &[&str]) {
    let ruleset = compile(&format!("{fixture}\nsvc web 10.96.0.1\nport 80/tcp\nep 10.244.1.2:80 @here"));
    let rules = Rules::of(&ruleset, Family::V4);
    assert_eq!(rules.tables[MANGLE].chains["EDGEMESH-MIXED"][2..], *expected);
    // What goes there is nobody else's to translate.
    assert!(
        rules.tables[NAT].chains["EDGEMESH-PREROUTING"][0]
            .ends_with("-m mark --mark 0x1000/0x1000 -j ACCEPT")
    );
}

#[test]
fn what_the_kernel_would_not_lead_back_goes_to_the_listener() {
    let own = "route 10.244.1.0/24 pods filtered oneway";
    check_mixed(own, &["-m set --match-set EDGEMESH-OWN-4 dst,dst,src -g EDGEMESH-LISTEN"]);
    let ruleset = compile(&format!("{own}\nsvc web 10.96.0.1\nport 80/tcp\nep 10.244.1.2:80 @here"));
    let set = &Rules::of(&ruleset, Family::V4).sets["EDGEMESH-OWN-4"];
    assert_eq!(set.kind.as_str(), "hash:ip,port,ip");
    assert_eq!(set.elements, ["10.96.0.1,tcp:80,10.244.1.2".to_owned()].into());
    check_mixed("route 10.244.1.0/24 pods\nnoforward", &["-g EDGEMESH-LISTEN"]);
}

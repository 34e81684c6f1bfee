//! Chains and sets of iptables: what is loaded, what others do to them, and who removes them.

use std::io::Write as _;
use std::process::{Command, Stdio};

use edgemesh_intercept::{Change, Interceptor, cleanup};
use edgemesh_net::netns::in_fresh_namespaces;
use edgemesh_ruleset::{DEVICE, KernelBackend, Ruleset, RulesetSettings};

use crate::kernel::{Setup, assert_same, install, install_on, loopback_up, ruleset, state, tool};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../core/ruleset/tests/ruleset/golden");

fn some() -> Ruleset {
    let frontends = ["10.96.0.1:80/tcp", "[fd00:96::1]:53/udp"];
    ruleset(&RulesetSettings::default(), &frontends, &["10.96.0.2"])
}

fn word(setup: Setup) -> &'static str {
    if setup == Setup::IptablesLegacy { "legacy" } else { "nft" }
}

/// What a tool prints that has to succeed.
fn run(command: &str) -> String {
    tool(command).expect("it is installed")
}

fn feed(command: &str, golden: &str) {
    let text = std::fs::read(format!("{GOLDENS}/{golden}")).expect("the golden");
    let mut words = command.split(' ');
    let mut child = Command::new(words.next().expect("a program"))
        .args(words)
        .stdin(Stdio::piped())
        .spawn()
        .expect("it is installed");
    child.stdin.take().expect("its input").write_all(&text).expect("written");
    assert!(child.wait().expect("its end").success(), "{command} < {golden}");
}

fn goldens_load(setup: Setup) {
    for golden in ["empty", "dual", "kernel"] {
        for (number, program) in [(4, "iptables"), (6, "ip6tables")] {
            let program = format!("{program}-{}-restore", word(setup));
            feed("ipset restore", &format!("{golden}.ipset{number}"));
            feed(&format!("{program} --test --noflush"), &format!("{golden}.iptables{number}"));
            feed(&format!("{program} --noflush"), &format!("{golden}.iptables{number}"));
        }
        let report = cleanup(DEVICE).expect("cleaned");
        assert!(report.iptables, "{report}");
        assert_eq!(run("ipset list -n"), "");
    }
}

/// The rules of others, as `iptables-save` prints them: without times and counters.
fn saved(setup: Setup) -> String {
    let mut lines = Vec::new();
    for program in ["iptables", "ip6tables"] {
        let text = run(&format!("{program}-{}-save", word(setup)));
        let lines_of_rules = text.lines().filter(|line| !line.starts_with('#'));
        lines.extend(lines_of_rules.map(|line| line.split(" [").next().unwrap_or(line).to_owned()));
    }
    lines.push(run("ipset save"));
    lines.join("\n")
}

/// kube-proxy's chains, in all tables, so that the tables themselves are there before us.
fn furnish(setup: Setup) {
    for program in ["iptables", "ip6tables"] {
        for (table, hook) in
            [("raw", "PREROUTING"), ("mangle", "PREROUTING"), ("nat", "PREROUTING"), ("filter", "INPUT")]
        {
            let program = format!("{program}-{}", word(setup));
            run(&format!("{program} -t {table} -N KUBE-SERVICES"));
            run(&format!("{program} -t {table} -A {hook} -j KUBE-SERVICES"));
        }
    }
    run("ipset create KUBE-LOOP-BACK hash:ip,port,ip");
}

fn cleanup_after_a_kill_leaves_the_host_as_it_was(setup: Setup) {
    furnish(setup);
    drop(install_on(setup));
    cleanup(DEVICE).expect("cleaned");
    let (before, rules) = (state(), saved(setup));
    let mut interceptor = install_on(setup);
    interceptor.apply(&some()).expect("applied");
    assert_ne!(saved(setup), rules);
    drop(interceptor);
    let report = cleanup(DEVICE).expect("cleaned");
    assert_eq!((report.routes, report.table, report.iptables, report.device), (3, true, true, true));
    assert_eq!(saved(setup), rules);
    // Hashes of sets, and handles of rules, are drawn anew.
    assert_same(&routes(&state()), &routes(&before));
    assert_eq!(cleanup(DEVICE).expect("cleaned").to_string(), "nothing to remove");
}

fn routes(state: &str) -> String {
    let lines = state.lines().filter(|line| line.starts_with("Route") || line.starts_with("Address"));
    lines.collect::<Vec<_>>().join("\n")
}

fn removing_leaves_the_host_as_it_was(setup: Setup) {
    furnish(setup);
    drop(install_on(setup));
    let rules = saved(setup);
    let mut interceptor = install_on(setup);
    interceptor.apply(&some()).expect("applied");
    interceptor.remove().expect("removed");
    assert_eq!(saved(setup), rules);
}

fn applying_twice_changes_nothing_and_a_difference_only_itself(setup: Setup) {
    let mut interceptor = install_on(setup);
    assert_eq!(interceptor.apply(&some()).expect("applied").change, Change::Replaced);
    let before = saved(setup);
    let again = interceptor.apply(&some()).expect("applied");
    assert_eq!((again.change, again.transactions), (Change::Unchanged, 0));
    assert!(interceptor.verify().expect("verified").is_empty());
    assert_eq!(saved(setup), before);
    let settings = interceptor.settings().clone();
    let more =
        ruleset(&settings, &["10.96.0.1:80/tcp", "10.96.0.3:80/tcp", "[fd00:96::1]:53/udp"], &["10.96.0.2"]);
    let applied = interceptor.apply(&more).expect("applied");
    // Elements of sets, and those of the table for packets from bridges.
    assert_eq!((applied.change, applied.transactions, applied.routes_added), (Change::Updated, 2, 1));
    assert!(run("ipset list EDGEMESH-PROXIED-4").contains("10.96.0.3,tcp:80"));
    interceptor.apply(&some()).expect("applied");
    let sorted = |text: &str| -> Vec<String> {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&saved(setup)), sorted(&before));
}

/// Each is done to freshly applied rules; `verify` must see it and bring everything back.
fn what_others_break_is_restored(setup: Setup) {
    furnish(setup);
    let mut interceptor = install_on(setup);
    interceptor.apply(&some()).expect("applied");
    let iptables = format!("iptables-{}", word(setup));
    for (harm, expected) in [
        (format!("{iptables} -F EDGEMESH-INPUT"), "chain EDGEMESH-INPUT of filter was changed"),
        (format!("{iptables} -t mangle -N EDGEMESH-X"), "chain EDGEMESH-X of mangle is not ours"),
        (
            format!("{iptables} -t raw -D PREROUTING -j EDGEMESH-PREROUTING"),
            "calls of our chains in raw were moved or deleted",
        ),
        // As kube-proxy does when it starts after us.
        (
            format!("{iptables} -t mangle -I PREROUTING -j KUBE-SERVICES"),
            "calls of our chains in mangle were moved or deleted",
        ),
        (
            "ipset del EDGEMESH-PROXIED-4 10.96.0.1,tcp:80".to_owned(),
            "set EDGEMESH-PROXIED-4 lacks 1 elements and has 0 foreign ones",
        ),
        (
            "ipset add EDGEMESH-VIPS-4 10.96.0.77".to_owned(),
            "set EDGEMESH-VIPS-4 lacks 0 elements and has 1 foreign ones",
        ),
    ] {
        run(&harm);
        assert_eq!(interceptor.verify().expect("verified"), [expected], "{harm}");
        assert!(interceptor.verify().expect("verified").is_empty(), "after {harm}");
    }
    let first = run(&format!("{iptables} -t mangle -S PREROUTING 1"));
    assert!(first.contains("-j EDGEMESH-PREROUTING"), "{first}");
    // Everything at once, as an administrator flushes.
    for table in ["raw", "mangle", "filter"] {
        run(&format!("{iptables} -t {table} -F"));
        run(&format!("{iptables} -t {table} -X"));
    }
    run(&format!("{iptables} -t mangle -N KUBE-IPTABLES-HINT"));
    assert!(!interceptor.verify().expect("verified").is_empty());
    assert!(interceptor.verify().expect("verified").is_empty());
    // An update that builds on what is gone.
    for table in ["raw", "mangle"] {
        run(&format!("{iptables} -t {table} -F"));
    }
    let more = ruleset(&RulesetSettings::default(), &["10.96.0.1:80/tcp", "10.96.0.1:81/udp"], &[]);
    let applied = interceptor.apply(&more).expect("applied");
    assert_eq!(applied.change, Change::Replaced);
    assert!(interceptor.verify().expect("verified").is_empty());
}

fn another_backend_takes_over(setup: Setup) {
    furnish(setup);
    let mut first = install();
    first.apply(&some()).expect("applied");
    drop(first);
    let mut second = install_on(setup);
    second.apply(&some()).expect("applied");
    assert!(second.verify().expect("verified").is_empty());
    let listing = run("nft list table inet edgemesh");
    let busy = listing.lines().filter(|line| line.trim().starts_with("chain ")).count();
    assert_eq!(busy, 1, "only the chain for packets from bridges: {listing}");
    drop(second);
    let mut third = install();
    third.apply(&some()).expect("applied");
    assert!(third.verify().expect("verified").is_empty());
    assert!(!saved(setup).contains("EDGEMESH-"), "{}", saved(setup));
}

/// Of chains in nf_tables the kernel tells at once; those of the legacy flavour are found gone by [`Interceptor::verify`].
fn flushed_chains_are_missed(setup: Setup) {
    let mut interceptor = install_on(setup);
    interceptor.apply(&some()).expect("applied");
    // The first look is at what the agent itself wrote last.
    interceptor.changed_by_others().expect("a count");
    assert!(!interceptor.changed_by_others().expect("a count"));
    assert!(!interceptor.is_flushed().expect("a look"));
    run("nft flush ruleset");
    assert!(interceptor.changed_by_others().expect("a count"));
    assert!(interceptor.is_flushed().expect("a look"));
    assert!(!interceptor.verify().expect("verified").is_empty());
    assert!(!interceptor.is_flushed().expect("a look"));
    if setup == Setup::IptablesNft {
        for table in ["raw", "mangle", "nat", "filter"] {
            for family in ["ip", "ip6"] {
                // A table that is not there is as wanted.
                let _ = Command::new("nft").args(["delete", "table", family, table]).output();
            }
        }
        assert!(
            interceptor.is_flushed().expect("a look"),
            "the table for packets from bridges is still there"
        );
    }
}

crate::kernel::on_every_iptables!(iptables:
    flushed_chains_are_missed,
    goldens_load,
    cleanup_after_a_kill_leaves_the_host_as_it_was,
    removing_leaves_the_host_as_it_was,
    applying_twice_changes_nothing_and_a_difference_only_itself,
    what_others_break_is_restored,
    another_backend_takes_over,
);

#[test]
fn another_flavour_takes_over() {
    let both = Setup::IptablesNft.missing().is_none() && Setup::IptablesLegacy.missing().is_none();
    if !both || !in_fresh_namespaces("iptables::another_flavour_takes_over") {
        return;
    }
    let mut first = install_on(Setup::IptablesNft);
    first.apply(&some()).expect("applied");
    drop(first);
    run("iptables-nft -t mangle -X KUBE-IPTABLES-HINT");
    let mut second = install_on(Setup::IptablesLegacy);
    second.apply(&some()).expect("applied");
    assert!(second.verify().expect("verified").is_empty());
    assert!(!run("iptables-nft-save").contains("EDGEMESH-"));
    assert!(run("iptables-legacy-save").contains("EDGEMESH-"));
}

#[test]
fn a_legacy_policy_that_drops_is_seen() {
    if Setup::IptablesLegacy.missing().is_some()
        || !in_fresh_namespaces("iptables::a_legacy_policy_that_drops_is_seen")
    {
        return;
    }
    let mut interceptor = install();
    assert!(!interceptor.facts().expect("facts").forward_drops);
    run("iptables-legacy -P FORWARD DROP");
    assert!(interceptor.facts().expect("facts").forward_drops);
}

/// This kernel takes our rules, as the tests of the other backend show.
#[test]
fn nftables_is_taken_where_the_kernel_has_it() {
    if !in_fresh_namespaces("iptables::nftables_is_taken_where_the_kernel_has_it") {
        return;
    }
    loopback_up();
    let before = state();
    let settings = RulesetSettings { backend: KernelBackend::Auto, ..RulesetSettings::default() };
    let interceptor = Interceptor::install(settings).expect("installed");
    assert_eq!(interceptor.backend(), ("nftables", "the kernel takes every rule"));
    interceptor.remove().expect("removed");
    assert_same(&state(), &before);
}

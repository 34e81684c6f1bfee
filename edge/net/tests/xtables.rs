//! The policy of the legacy flavour's forward chain is read, and nothing is made by reading it.

use std::process::Command;

use edgemesh_net::netns::in_fresh_namespaces;
use edgemesh_net::xtables::{Family, forward_drops, tables};

/// Runs a command of iptables; false where it is not installed, or the kernel has no legacy tables.
fn run(command: &str, arguments: &[&str]) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(command).args(arguments).env("PATH", path).output();
    output.is_ok_and(|output| output.status.success())
}

#[test]
fn the_policy_of_forward_is_read_in_both_families() {
    if !in_fresh_namespaces("the_policy_of_forward_is_read_in_both_families") {
        return;
    }
    for (family, command) in [(Family::V4, "iptables-legacy"), (Family::V6, "ip6tables-legacy")] {
        assert!(!forward_drops(family).expect("no table"), "{family:?}");
        assert!(tables(family).is_empty(), "{family:?}");
        if !run(command, &["-w", "-P", "FORWARD", "DROP"]) {
            continue;
        }
        assert_eq!(tables(family), ["filter"], "{family:?}");
        assert!(forward_drops(family).expect("a table"), "{family:?}");
        // Rules and chains of users move the policies, and a rule's own verdict is none.
        assert!(run(command, &["-w", "-N", "USER"]), "{family:?}");
        assert!(run(command, &["-w", "-A", "FORWARD", "-i", "lo", "-j", "DROP"]), "{family:?}");
        assert!(run(command, &["-w", "-A", "INPUT", "-j", "USER"]), "{family:?}");
        assert!(forward_drops(family).expect("a table"), "{family:?}");
        assert!(run(command, &["-w", "-P", "FORWARD", "ACCEPT"]), "{family:?}");
        assert!(run(command, &["-w", "-P", "INPUT", "DROP"]), "{family:?}");
        assert!(!forward_drops(family).expect("a table"), "{family:?}");
    }
}

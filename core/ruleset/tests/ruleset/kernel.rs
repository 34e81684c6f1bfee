//! Which connections the kernel translates, and whom it masquerades.

use edgemesh_ruleset::{Action, Match, Ruleset, Steer};

use crate::fixture::compile;

/// One line for each frontend, virtual address and refusal.
pub(crate) fn words(ruleset: &Ruleset) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (frontend, steer) in &ruleset.frontends {
        lines.push(match steer {
            Steer::Proxy => format!("proxy {frontend}"),
            Steer::Reject => format!("reject {frontend}"),
            Steer::Drop { inside: false } => format!("drop {frontend}"),
            Steer::Drop { inside: true } => format!("drop {frontend}, from inside to the listener"),
            Steer::Kernel(spread) => {
                let endpoints =
                    spread.endpoints.iter().map(|(addr, via)| format!(" {addr}/{}", via.as_str()));
                let mut line = format!("kernel {frontend} ->{}", endpoints.collect::<String>());
                if spread.proxied > 0 {
                    line += &format!(", {} of 256 to the listener", spread.proxied);
                } else if spread.inside {
                    line += ", from inside to the listener";
                } else if !spread.own.is_empty() {
                    line += &format!(", {} of the endpoints themselves to the listener", spread.own.len());
                } else if spread.caught {
                    line += ", Pods to the listener";
                }
                if let Some(timeout) = spread.affinity {
                    line += &format!(", sessions of {} s", timeout.as_secs());
                }
                line
            }
        });
    }
    lines.extend(ruleset.vips.keys().map(|vip| format!("vip {vip}")));
    lines.extend(ruleset.refused.iter().map(ToString::to_string));
    lines.join("\n")
}

/// The frontends' lines of a Service with these endpoints on a host with these facts.
#[track_caller]
fn check(facts: &str, endpoints: &str, expected: &str) {
    check_service("", facts, endpoints, expected);
}

#[track_caller]
fn check_service(flags: &str, facts: &str, endpoints: &str, expected: &str) {
    let fixture = format!("{facts}\nsvc web 10.96.0.1 {flags}\nport 80/tcp\n{endpoints}");
    let words = words(&compile(&fixture));
    let (frontends, _) = words.split_once("\nvip").unwrap_or((&words, ""));
    assert_eq!(frontends, expected, "{fixture}");
}

const CNI0: &str = "route 10.244.1.0/24 pods filtered\nrange here 10.244.1.0/24\n";
const TUNNEL: &str = "path there relayed\npath far punched\n";
const LAN: &str = "host 192.168.1.5\nroute 192.168.1.0/24\nroute 0.0.0.0/0 gateway\n";

#[test]
fn pods_and_addresses_of_this_node() {
    check(CNI0, "ep 10.244.1.2:8080 @here", "kernel 10.96.0.1:80/tcp -> 10.244.1.2:8080/pod");
    check(LAN, "ep 192.168.1.5:8080 @here", "kernel 10.96.0.1:80/tcp -> 192.168.1.5:8080/host");
    // No device of the node leads to its Pod.
    check(LAN, "ep 10.244.1.2:8080 @here", "proxy 10.96.0.1:80/tcp");
    check("route 10.244.1.2/32 discards", "ep 10.244.1.2:8080 @here", "proxy 10.96.0.1:80/tcp");
}

#[test]
fn endpoints_outside_the_cluster_are_reached_by_any_route() {
    check(LAN, "ep 203.0.113.9:8080", "kernel 10.96.0.1:80/tcp -> 203.0.113.9:8080/address");
    check("", "ep 203.0.113.9:8080", "proxy 10.96.0.1:80/tcp");
}

#[test]
fn a_node_of_the_lan_is_known_by_the_address_at_which_it_proved_itself() {
    let facts = format!("{LAN}path there lan 192.168.1.7\n");
    check(&facts, "ep 192.168.1.7:80 @there", "kernel 10.96.0.1:80/tcp -> 192.168.1.7:80/address");
    check(&facts, "ep 192.168.1.8:80 @there", "proxy 10.96.0.1:80/tcp");
    // Another LAN has the same addresses.
    check(&format!("{LAN}path there relayed"), "ep 192.168.1.7:80 @there", "proxy 10.96.0.1:80/tcp");
    check(&format!("{LAN}path there direct"), "ep 192.168.1.7:80 @there", "proxy 10.96.0.1:80/tcp");
    check(LAN, "ep 192.168.1.7:80 @there", "proxy 10.96.0.1:80/tcp");
    check(&facts, "ep 192.168.1.5:80 @there", "proxy 10.96.0.1:80/tcp");
}

#[test]
fn pod_ranges_of_other_nodes_need_a_node_object_and_a_route() {
    let routed = "route 10.244.2.0/24 gateway\nrange there 10.244.2.0/24\n";
    let kernel = "kernel 10.96.0.1:80/tcp -> 10.244.2.3:80/pod_route";
    let check = |facts: &str, expected: &str| check(facts, "ep 10.244.2.3:80 @there", expected);
    check(routed, kernel);
    check("route 10.244.2.0/24 overlay\nrange there 10.244.2.0/24\n", kernel);
    for path in ["lan 192.168.1.7", "direct", "unreachable"] {
        check(&format!("{routed}path there {path}"), kernel);
    }
    // Packets to pod addresses do not pass NATs, whatever routes an overlay made.
    check(&format!("{routed}path there relayed"), "proxy 10.96.0.1:80/tcp");
    check(&format!("{routed}path there punched"), "proxy 10.96.0.1:80/tcp");
    check("route 10.244.2.0/24 gateway\n", "proxy 10.96.0.1:80/tcp");
    check("route 0.0.0.0/0 gateway\nrange there 10.244.2.0/24\n", "proxy 10.96.0.1:80/tcp");
    check("route 10.244.2.0/24\nrange there 10.244.2.0/24\n", "proxy 10.96.0.1:80/tcp");
}

#[test]
fn duplicate_pod_ranges_never_lead_to_the_wrong_pod() {
    // Every docker0 is 172.17.0.0/16.
    let docker = format!("{LAN}route 172.17.0.0/16 pods\npath there relayed\n");
    check(&docker, "ep 172.17.0.2:80 @there", "proxy 10.96.0.1:80/tcp");
    check(&docker, "ep 172.17.0.2:80 @here", "kernel 10.96.0.1:80/tcp -> 172.17.0.2:80/pod");
    check(
        &docker,
        "ep 172.17.0.2:80 @here\nep 172.17.0.2:80 @there",
        "kernel 10.96.0.1:80/tcp -> 172.17.0.2:80/pod, 128 of 256 to the listener",
    );
    // A Node object may claim the range, and still does not make our bridge its own.
    let claimed = format!("{docker}range there 172.17.0.0/16\npath there lan 172.17.0.2\n");
    check(&claimed, "ep 172.17.0.2:80 @there", "proxy 10.96.0.1:80/tcp");
    let ours = "range here 10.244.1.0/24\nroute 10.244.0.0/16 overlay\nrange there 10.244.1.0/24\n";
    check(ours, "ep 10.244.1.9:80 @there", "proxy 10.96.0.1:80/tcp");
}

#[test]
fn the_listener_gets_the_share_of_what_only_the_tunnel_reaches() {
    check(
        &format!("{CNI0}{TUNNEL}"),
        "ep 10.244.1.2:80 @here\nep 10.244.2.2:80 @there\nep 10.244.3.2:80 @far",
        "kernel 10.96.0.1:80/tcp -> 10.244.1.2:80/pod, 171 of 256 to the listener",
    );
    check_service(
        "affinity",
        &format!("{CNI0}{TUNNEL}"),
        "ep 10.244.1.2:80 @here\nep 10.244.2.2:80 @there",
        "proxy 10.96.0.1:80/tcp",
    );
    check_service(
        "affinity",
        CNI0,
        "ep 10.244.1.2:80 @here",
        "kernel 10.96.0.1:80/tcp -> 10.244.1.2:80/pod, sessions of 10800 s",
    );
}

/// kube-proxy in mode `nftables` refuses the listener's share of what the host sends.
#[test]
fn nothing_is_shared_beside_a_proxy_that_refuses_what_is_not_translated() {
    let facts = format!("{CNI0}{TUNNEL}refused-untranslated");
    check(&facts, "ep 10.244.1.2:80 @here\nep 10.244.2.2:80 @there", "proxy 10.96.0.1:80/tcp");
    check(&facts, "ep 10.244.1.2:80 @here", "kernel 10.96.0.1:80/tcp -> 10.244.1.2:80/pod");
}

#[test]
fn hashing_policies_and_too_many_endpoints_go_through_the_listener() {
    check_service("hash", CNI0, "ep 10.244.1.2:80 @here", "proxy 10.96.0.1:80/tcp");
    let many: String =
        (0..=edgemesh_ruleset::MAX_SLOTS).map(|n| format!("ep 10.244.1.2:{} @here\n", 1000 + n)).collect();
    check(CNI0, &many, "proxy 10.96.0.1:80/tcp");
}

/// A bridge whose ports are not in hairpin mode, as Docker's are.
#[test]
fn a_pod_that_the_kernel_would_not_lead_back_to_itself_is_led_by_the_listener() {
    let endpoint = "ep 10.244.1.2:80 @here";
    let kernel = "kernel 10.96.0.1:80/tcp -> 10.244.1.2:80/pod";
    check(
        "route 10.244.1.0/24 pods filtered oneway",
        endpoint,
        &format!("{kernel}, 1 of the endpoints themselves to the listener"),
    );
    // Without br_netfilter the packet comes to the host first, which sends it back.
    check("route 10.244.1.0/24 pods oneway", endpoint, kernel);
    check("route 10.244.1.0/24 pods filtered", endpoint, kernel);
}

#[test]
fn a_host_that_does_not_forward_serves_itself_only() {
    check(
        &format!("{CNI0}noforward"),
        "ep 10.244.1.2:80 @here",
        "kernel 10.96.0.1:80/tcp -> 10.244.1.2:80/pod, Pods to the listener",
    );
    let ruleset =
        compile(&format!("{CNI0}noforward\nsvc web 10.96.0.1\nport 80/tcp\nep 10.244.1.2:80 @here"));
    let rules = |name| ruleset.chains.iter().find(|it| it.name == name).expect("a chain").rules.len();
    assert_eq!((rules("nat_prerouting"), rules("nat_output")), (1, 1));
    // Docker would translate what goes to a published port of an address that the host takes for its own.
    let claim = &ruleset.chains.iter().find(|it| it.name == "nat_prerouting").expect("a chain").rules[0];
    assert_eq!(claim.action, Action::Claim);
}

#[test]
fn packets_pay_for_no_set_that_is_empty() {
    let count = |fixture: &str| -> usize { compile(fixture).chains.iter().map(|it| it.rules.len()).sum() };
    let kernel = "svc web 10.96.0.1\nport 80/tcp\nep 10.244.1.2:80 @here";
    let chains = compile(&format!("{CNI0}{kernel}")).chains;
    let busy: Vec<&str> = chains
        .iter()
        .filter(|it| it.base.is_some() && !it.rules.is_empty())
        .map(|it| it.name.as_str())
        .collect();
    assert_eq!(busy, ["input", "nat_prerouting", "nat_output", "nat_postrouting"]);
    assert!(count("svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80") > count(""));
}

#[test]
fn sctp_is_carried_where_the_kernel_carries_all_of_it() {
    let fixture = |endpoints: &str| {
        let text = format!("{CNI0}{TUNNEL}svc sig 10.96.0.1\nport 3868/sctp\n{endpoints}");
        words(&compile(&text))
    };
    assert_eq!(
        fixture("ep 10.244.1.2:3868 @here"),
        "kernel 10.96.0.1:3868/sctp -> 10.244.1.2:3868/pod\nvip 10.96.0.1"
    );
    assert_eq!(fixture("ep 10.244.2.2:3868 @there"), "vip 10.96.0.1");
    assert_eq!(
        fixture("ep 10.244.1.2:3868 @here\nep 10.244.2.2:3868 @there"),
        "kernel 10.96.0.1:3868/sctp -> 10.244.1.2:3868/pod\nvip 10.96.0.1"
    );
}

#[test]
fn endpoints_of_the_other_family_are_the_listener_s() {
    let fixture =
        "route fd00:1::/64 pods\nsvc web 10.96.0.1,fd00:96::1\nport 80/tcp\nep [fd00:1::2]:80 @here";
    assert_eq!(
        words(&compile(fixture)),
        "proxy 10.96.0.1:80/tcp\nkernel [fd00:96::1]:80/tcp -> [fd00:1::2]:80/pod\nvip 10.96.0.1\nvip fd00:96::1"
    );
}

/// Prefixes that the chain of a way accepts, and link prefixes whose neighbours it masquerades.
fn masquerading(facts: &str, chain: &str) -> Vec<String> {
    let ruleset = compile(facts);
    let chain = ruleset.chains.iter().find(|it| it.name == chain).expect("a chain");
    let words = chain.rules.iter().filter_map(|rule| match (&rule.matches[..], rule.action) {
        ([Match::SourceIn(prefix)], Action::Accept) => Some(format!("not {prefix}")),
        ([Match::SourceIn(from), Match::DestinationIn(to)], Action::Masquerade) if from == to => {
            Some(format!("within {from}"))
        }
        ([], Action::Masquerade) => Some("all".to_owned()),
        _ => None,
    });
    words.collect()
}

#[test]
fn clients_are_masqueraded_where_answers_would_miss_this_host() {
    let facts = format!("{CNI0}{LAN}route 172.17.0.0/16 pods\nroute 10.244.1.7/32 pods\n");
    // Bridged packets of cni0 pass netfilter, those of docker0 do not.
    assert_eq!(masquerading(&facts, "to_pod"), ["within 172.17.0.0/16", "within 192.168.1.0/24"]);
    assert_eq!(masquerading(&facts, "to_pod_route"), ["not 10.244.1.0/24", "all", "all"]);
    assert_eq!(masquerading(&facts, "to_address"), ["all", "all"]);
}

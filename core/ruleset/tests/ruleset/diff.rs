use edgemesh_ruleset::Patch;

use crate::fixture::{compile, scene};

const ONE: &str = "svc a 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80\n";

#[track_caller]
fn check(installed: &str, wanted: &str, expected: &str) {
    let Patch::Update(update) = compile(wanted).diff(&compile(installed)) else {
        panic!("the static part is the same")
    };
    let mut words = Vec::new();
    words.extend(update.add_picks.iter().map(|it| format!("+{}", it.chain_name())));
    words.extend(update.delete.iter().map(|it| format!("-{it:?}")));
    words.extend(update.add.iter().map(|it| format!("+{it:?}")));
    words.extend(update.delete_picks.iter().map(|it| format!("-{}", it.chain_name())));
    words.extend(update.add_routes.iter().map(|it| format!("+route {}", it.vip)));
    words.extend(update.delete_routes.iter().map(|it| format!("-route {}", it.vip)));
    assert_eq!(words.join(", "), expected);
    assert_eq!(update.is_empty(), expected.is_empty());
}

#[test]
fn members_come_and_go() {
    let a = "10.96.0.1:80/tcp";
    check(ONE, ONE, "");
    check("", ONE, &format!("+Proxied({a}), +Vip(10.96.0.1), +route 10.96.0.1"));
    check(ONE, "", &format!("-Vip(10.96.0.1), -Proxied({a}), -route 10.96.0.1"));
    let two = "svc b 10.96.0.2\nport 53/udp\nep 10.1.0.2:53";
    check(ONE, &format!("{ONE}{two}"), "+Proxied(10.96.0.2:53/udp), +Vip(10.96.0.2), +route 10.96.0.2");
}

#[test]
fn the_last_endpoint_takes_the_frontend_and_leaves_the_address() {
    check(ONE, "svc a 10.96.0.1\nport 80/tcp", "-Proxied(10.96.0.1:80/tcp)");
}

const HOST: &str = "route 10.1.0.0/24 pods\n";

/// The frontend's kernel path with these endpoints.
fn kernel(endpoints: &[&str]) -> String {
    let endpoints: String = endpoints.iter().map(|it| format!("ep {it} @here\n")).collect();
    format!("{HOST}svc a 10.96.0.1\nport 80/tcp\n{endpoints}")
}

#[test]
fn an_endpoint_more_is_one_slot_more() {
    let a = "10.96.0.1:80/tcp";
    check(
        &kernel(&["10.1.0.1:80"]),
        &kernel(&["10.1.0.1:80", "10.1.0.2:80"]),
        &format!(
            "+pick_2, -Service({a}, pick_1), +Endpoint({a}, 1, 10.1.0.2:80), +Backend(10.1.0.2:80, Tcp, Pod), \
             +Hairpin(10.1.0.2), +Service({a}, pick_2), -pick_1"
        ),
    );
}

#[test]
fn another_endpoint_in_a_slot_is_deleted_and_added() {
    let a = "10.96.0.1:80/tcp";
    check(
        &kernel(&["10.1.0.1:80"]),
        &kernel(&["10.1.0.2:80"]),
        &format!(
            "-Hairpin(10.1.0.1), -Backend(10.1.0.1:80, Tcp, Pod), -Endpoint({a}, 0, 10.1.0.1:80), \
             +Endpoint({a}, 0, 10.1.0.2:80), +Backend(10.1.0.2:80, Tcp, Pod), +Hairpin(10.1.0.2)"
        ),
    );
}

#[test]
fn facts_of_the_host_rewrite_chains_and_members() {
    let Patch::Update(update) =
        compile(&format!("noforward\n{HOST}{ONE}")).diff(&compile(&format!("{HOST}{ONE}")))
    else {
        panic!("the same chains")
    };
    let names: Vec<&str> = update.rewrite.iter().map(|chain| chain.name.as_str()).collect();
    // Pods' connections, which were sent on, are led to the listener.
    assert_eq!(names, ["input", "nat_prerouting"]);
    let added: Vec<&str> = update.add_chains.iter().map(|chain| chain.name.as_str()).collect();
    assert_eq!(added, ["prerouting_listener"]);
}

/// A hook costs every packet something, so it is there only while a rule stands in it.
#[test]
fn hooks_come_and_go_with_their_rules() {
    let check = |before: &str, after: &str, [added, deleted]: [&[&str]; 2]| {
        let Patch::Update(update) = compile(after).diff(&compile(before)) else {
            panic!("no base chain alone")
        };
        let names: Vec<&str> = update.add_chains.iter().map(|chain| chain.name.as_str()).collect();
        assert_eq!(
            (&names[..], &update.delete_chains[..]),
            (added, &deleted.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()[..])
        );
        assert!(!update.rules_unchanged() || (added.is_empty() && deleted.is_empty()));
    };
    let kernel = format!("{HOST}{ONE}");
    let proxied = ["prerouting_raw", "output_raw", "prerouting_listener"];
    check(&kernel, &kernel, [&[], &[]]);
    check(HOST, ONE, [&proxied, &[]]);
    check(ONE, HOST, [&[], &proxied]);
    check(ONE, &format!("filtered-bridges\n{ONE}"), [&["prerouting_bridged"], &[]]);
    check(&format!("filtered-bridges\n{ONE}"), ONE, [&[], &["prerouting_bridged"]]);
}

#[test]
fn another_listener_rewrites_its_chains() {
    let fixture = format!("filtered-bridges\n{ONE}");
    let mut other = scene(&fixture);
    other.settings.port = 15_002;
    let Patch::Update(update) = other.compile().diff(&compile(&fixture)) else { panic!("the same chains") };
    let names: Vec<&str> = update.rewrite.iter().map(|chain| chain.name.as_str()).collect();
    assert_eq!(names, ["prerouting_bridged", "prerouting_listener"]);
}

#[test]
fn another_device_replaces_everything() {
    let mut other = scene(ONE);
    other.settings.device.name = "edgemesh1".to_owned();
    assert_eq!(other.compile().diff(&compile(ONE)), Patch::Replace);
}

#[test]
fn without_an_address_nothing_of_it_remains() {
    let two = compile(&format!("{ONE}{HOST}svc b 10.96.0.2\nport 53/udp\nep 10.1.0.2:53"));
    let clash = ["10.96.0.2".parse().expect("an address")].into();
    assert_eq!(two.without(&clash), compile(&format!("{ONE}{HOST}")));
}

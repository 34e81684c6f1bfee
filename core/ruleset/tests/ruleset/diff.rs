use edgemesh_ruleset::{Patch, Ruleset, RulesetSettings};

use crate::fixture::{compile, snapshot};

const ONE: &str = "svc a 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80\n";

#[track_caller]
fn check(installed: &str, wanted: &str, expected: &str) {
    let Patch::Update(update) = compile(wanted).diff(&compile(installed)) else {
        panic!("the static part is the same")
    };
    let mut words = Vec::new();
    words.extend(update.add_frontends.iter().map(|it| format!("+{it}")));
    words.extend(update.delete_frontends.iter().map(|it| format!("-{it}")));
    words.extend(update.add_vips.iter().map(|it| format!("+vip {it}")));
    words.extend(update.delete_vips.iter().map(|it| format!("-vip {it}")));
    words.extend(update.add_routes.iter().map(|it| format!("+route {}", it.vip)));
    words.extend(update.delete_routes.iter().map(|it| format!("-route {}", it.vip)));
    assert_eq!(words.join(", "), expected);
    assert_eq!(update.is_empty(), expected.is_empty());
}

#[test]
fn members_come_and_go() {
    check(ONE, ONE, "");
    check("", ONE, "+10.96.0.1:80/tcp, +vip 10.96.0.1, +route 10.96.0.1");
    check(ONE, "", "-10.96.0.1:80/tcp, -vip 10.96.0.1, -route 10.96.0.1");
    let two = "svc b 10.96.0.2\nport 53/udp\nep 10.1.0.2:53";
    check(ONE, &format!("{ONE}{two}"), "+10.96.0.2:53/udp, +vip 10.96.0.2, +route 10.96.0.2");
}

#[test]
fn the_last_endpoint_takes_the_frontend_and_leaves_the_address() {
    check(ONE, "svc a 10.96.0.1\nport 80/tcp", "-10.96.0.1:80/tcp");
}

#[test]
fn another_listener_replaces_everything() {
    let other = RulesetSettings { port: 15_002, ..RulesetSettings::default() };
    assert_eq!(Ruleset::compile(&snapshot(ONE), &other).diff(&compile(ONE)), Patch::Replace);
}

#[test]
fn without_an_address_nothing_of_it_remains() {
    let two = compile(&format!("{ONE}svc b 10.96.0.2\nport 53/udp\nep 10.1.0.2:53"));
    let clash = ["10.96.0.2".parse().expect("an address")].into();
    assert_eq!(two.without(&clash), compile(ONE));
}

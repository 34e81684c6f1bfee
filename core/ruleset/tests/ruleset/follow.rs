use edgemesh_ruleset::Ruleset;

use crate::fixture::{settings, snapshot};

/// Snapshots that differ in Services, ports, addresses, and in which endpoints serve.
const SNAPSHOTS: [&str; 11] = [
    "",
    "svc web 10.96.0.1\nport 80/tcp",
    "svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80",
    "svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80 notready",
    "svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80\nport 81/tcp\nep 10.1.0.1:81",
    "svc other 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80",
    "svc web 10.96.0.1 local\nport 80/tcp\nep 10.1.0.1:80 @there",
    "svc web 10.96.0.1\nport 80/tcp\nep 10.96.0.2:80\nsvc b 10.96.0.2\nport 80/tcp\nep 10.1.0.1:80",
    "svc web 10.96.0.1\nport 80/tcp\nep 10.96.0.2:80\nsvc b 10.96.0.2\nport 81/tcp\nep 10.1.0.1:80",
    "svc web 127.0.0.1\nport 80/tcp\nep 10.1.0.1:80",
    "svc web 127.0.0.1\nport 80/tcp\nep 10.1.0.1:80 notready",
];

#[test]
fn following_is_compiling_anew() {
    for host in [vec![], vec!["10.96.0.2"]] {
        let settings = settings(&host);
        for (before, after) in SNAPSHOTS.iter().flat_map(|before| SNAPSHOTS.map(|after| (before, after))) {
            let (old, new) = (snapshot(before), snapshot(after));
            let (installed, wanted) = (Ruleset::compile(&old, &settings), Ruleset::compile(&new, &settings));
            let followed = installed.follow(&old, &new, &settings);
            let expected = (wanted != installed).then_some(wanted);
            assert_eq!(followed, expected, "from\n{before}\nto\n{after}\non a host with {host:?}");
        }
    }
}

#[test]
fn an_endpoint_more_is_no_change() {
    let before = snapshot("svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80\nep 10.1.0.2:80 notready");
    let after = snapshot("svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80\nep 10.1.0.2:80");
    let settings = settings(&[]);
    assert_eq!(Ruleset::compile(&before, &settings).follow(&before, &after, &settings), None);
}

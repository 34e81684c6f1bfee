use crate::fixture::scene;

/// Snapshots that differ in Services, ports, addresses, and in which endpoints serve.
const SNAPSHOTS: [&str; 18] = [
    "",
    "svc web 10.96.0.1\nport 80/tcp",
    "svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80",
    "svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80 notready",
    "svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80\nport 81/tcp\nep 10.1.0.1:81",
    "svc other 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80",
    "svc web 10.96.0.1 local\nport 80/tcp\nep 10.1.0.1:80 @there",
    "svc web 10.96.0.1\nport 80/tcp\nep 10.96.0.2:80\nsvc b 10.96.0.2\nport 80/tcp\nep 10.1.0.1:80",
    "svc web 10.96.0.1\nport 80/tcp\nep 10.96.0.2:80\nsvc b 10.96.0.2\nport 81/tcp\nep 10.1.0.1:80",
    "svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80 @here\nep 10.1.0.2:80 @here",
    "svc web 10.96.0.1 affinity\nport 80/tcp\nep 10.1.0.1:80 @here\nport 80/udp\nep 10.1.0.1:80 @here",
    "svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80 @here\nep 10.1.0.1:80 @there",
    "svc web 10.96.0.1 lb=192.0.2.80 from=192.0.2.0/24\nport 80/tcp 30080\nep 10.1.0.1:80 @here",
    "svc web 10.96.0.1 lb=192.0.2.80 outlocal\nport 80/tcp 30080\nep 10.1.0.1:80 @here\nep 10.1.0.2:80 @there",
    "svc web 10.96.0.1 external=10.96.0.2 outlocal\nport 80/tcp 30081\nep 10.1.0.2:80 @there",
    "svc web 10.96.0.1\nport 80/tcp 30080",
    "svc web 127.0.0.1\nport 80/tcp\nep 10.1.0.1:80",
    "svc web 127.0.0.1\nport 80/tcp\nep 10.1.0.1:80 notready",
];

/// Hosts on which endpoints are the kernel's, the listener's, or both's.
const HOSTS: [&str; 4] =
    ["", "host 10.96.0.2", "route 10.1.0.0/24 pods", "noforward\nroute 10.1.0.1/32 pods"];

#[test]
fn following_is_compiling_anew() {
    for host in HOSTS {
        for (before, after) in SNAPSHOTS.iter().flat_map(|before| SNAPSHOTS.map(|after| (before, after))) {
            let (old, new) = (scene(&format!("{host}\n{before}")), scene(&format!("{host}\n{after}")));
            let (installed, wanted) = (old.compile(), new.compile());
            let followed = installed.follow(&old.snapshot, &new.snapshot, &new.paths, &new.settings);
            let expected = (wanted != installed).then_some(wanted);
            assert_eq!(followed, expected, "from\n{before}\nto\n{after}\non a host with {host:?}");
        }
    }
}

#[test]
fn an_endpoint_more_is_no_change_for_the_listener() {
    let before = scene("svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80\nep 10.1.0.2:80 notready");
    let after = scene("svc web 10.96.0.1\nport 80/tcp\nep 10.1.0.1:80\nep 10.1.0.2:80");
    let followed = before.compile().follow(&before.snapshot, &after.snapshot, &after.paths, &after.settings);
    assert_eq!(followed, None);
}

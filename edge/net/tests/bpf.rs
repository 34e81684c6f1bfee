//! Maps and programs in the kernel, where it lets this process have any.

use std::fs::File;

use edgemesh_net::bpf::{Attach, Link, Map, MapKind, cgroup_roots, network_cookie};

/// `r0 = 1; exit`: whatever it is asked, it agrees.
const AGREE: [u8; 16] = [0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn a_program_is_called_and_a_bad_one_refused_with_its_reason() {
    let map = match Map::new("test", MapKind::Hash, 4, 8, 2) {
        Ok(map) => map,
        Err(error) if error.is_permission() => return println!("not tested: {error}"),
        Err(error) => panic!("{error}"),
    };
    map.update(&[([1; 4], [1; 8]), ([2; 4], [2; 8])]).expect("two elements");
    let full = map.update(&[([3; 4], [3; 8])]).expect_err("there is room for two").to_string();
    assert!(full.contains("map test"), "{full}");
    map.delete(&[[1; 4]]).expect("deleted");
    map.delete(&[[1; 4]]).expect("not there, which is as good");
    map.update(&[([3; 4], [3; 8])]).expect("there is room again");
    let Some(root) = cgroup_roots().expect("mounts").pop() else { return println!("there is no cgroup2") };
    let cgroup = File::open(root).expect("a folder");
    // A cgroup that may not be written to takes no program.
    match Link::new(Attach::Connect4, &AGREE, &cgroup) {
        Err(error) if error.is_permission() => return println!("not tested: {error}"),
        agreed => drop(agreed.expect("a program that agrees")),
    }
    let exit_only = &AGREE[8..];
    let refused = Link::new(Attach::Connect4, exit_only, &cgroup).expect_err("r0 is not set").to_string();
    assert!(refused.contains("R0 !read_ok"), "{refused}");
}

#[test]
fn a_network_namespace_keeps_its_cookie() {
    let cookie = match network_cookie() {
        Ok(cookie) => cookie,
        Err(error) => return println!("before Linux 5.14: {error}"),
    };
    assert_ne!(cookie, 0);
    assert_eq!(network_cookie().expect("again"), cookie);
}

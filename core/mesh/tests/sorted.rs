//! `SortedMap` against the map of the standard library.

use std::collections::BTreeMap;

use edgemesh_mesh::SortedMap;

/// Numbers in an order of their own that is always the same (an additive generator with the golden ratio).
fn scattered(count: u64) -> impl Iterator<Item = u64> {
    (1..=count).map(|step| step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40)
}

fn check(map: &SortedMap<u64, u64>, model: &BTreeMap<u64, u64>) {
    assert_eq!(map.len(), model.len());
    assert_eq!(map.is_empty(), model.is_empty());
    assert!(map.iter().eq(model.iter()), "the same entries in the same order");
    assert_eq!(*map, model.iter().map(|(key, value)| (*key, *value)).collect());
}

#[test]
fn it_is_a_map_in_every_order_of_changes() {
    let ascending: Vec<u64> = (0..1_000).collect();
    let descending: Vec<u64> = ascending.iter().rev().copied().collect();
    for keys in [ascending, descending, scattered(1_000).collect(), vec![1, 1, 1], Vec::new()] {
        let (mut map, mut model) = (SortedMap::default(), BTreeMap::new());
        for (round, key) in keys.iter().enumerate() {
            let value = round as u64;
            assert_eq!(map.insert(*key, value), model.insert(*key, value));
            assert_eq!(map.get(key), Some(&value));
        }
        check(&map, &model);
        for key in keys.iter().step_by(3).chain(keys.iter().skip(1).step_by(2)).chain([&u64::MAX]) {
            assert_eq!(map.remove(key), model.remove(key));
            assert!(!map.contains_key(key));
        }
        check(&map, &model);
        for key in &keys {
            assert_eq!(map.get(key), model.get(key));
            assert_eq!(map.remove(key), model.remove(key));
        }
        check(&map, &model);
    }
}

#[test]
fn a_copy_does_not_change() {
    let mut map: SortedMap<u64, u64> = scattered(500).map(|key| (key, key)).collect();
    let (copy, model) = (map.clone(), map.iter().map(|(key, value)| (*key, *value)).collect());
    for key in scattered(700) {
        map.remove(&key);
        map.insert(key + 1, 0);
    }
    check(&copy, &model);
}

#[test]
fn what_is_not_shared_has_every_difference() {
    let old: SortedMap<u64, u64> = scattered(5_000).map(|key| (key, 0)).collect();
    let keys: Vec<u64> = old.keys().copied().collect();
    assert!(old.unshared(&old.clone()).is_empty());
    for changed in [vec![keys[0]], vec![keys[keys.len() - 1]], keys[40..42].to_vec(), keys[100..900].to_vec()]
    {
        let (mut updated, mut shorter, mut longer) = (old.clone(), old.clone(), old.clone());
        for key in &changed {
            updated.insert(*key, 1);
            shorter.remove(key);
            longer.insert(key + 1, 1);
        }
        for new in [&updated, &shorter, &longer] {
            let unshared = new.unshared(&old);
            assert!(unshared.is_sorted());
            for key in old.keys().chain(new.keys()).filter(|key| old.get(key) != new.get(key)) {
                assert!(unshared.binary_search(&key).is_ok(), "{key} differs");
            }
            // A chunk on either side of every change, and the changes themselves.
            assert!(unshared.len() <= 4 * changed.len().max(64), "{} of {}", unshared.len(), old.len());
            assert_eq!(unshared, old.unshared(new));
        }
    }
}

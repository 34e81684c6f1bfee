use edgemesh_net::netlink::nft::{
    Batch, Chain, Element, Family, KeyType, Nft, Rule, Set, Table, Touched, Watch,
};
use edgemesh_net::netns::in_fresh_namespaces;

const OURS: Table<'static> = Table { family: Family::Inet, name: "ours" };
const ITS: Table<'static> = Table { family: Family::Inet, name: "its" };
const NAMESAKE: Table<'static> = Table { family: Family::Ip, name: "ours" };

fn is_ours(touched: &Touched) -> bool {
    touched.family == OURS.family && touched.table == OURS.name
}

fn change(nft: &mut Nft, change: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    change(&mut batch);
    nft.commit(&batch).expect("the transaction is taken");
}

/// A chain, a rule and a set with an element.
fn furnish(batch: &mut Batch, table: Table<'_>) {
    batch.replace_table(table);
    batch.add_chain(table, Chain { name: "chain", base: None });
    batch.add_rule(table, "chain", &Rule::new().drop());
    batch.add_set(table, Set { name: "set", key: &[KeyType::Ipv4Addr], data: &[] });
    batch.add_elements(table, "set", [Element::single(&[10, 0, 0, 1])]);
}

#[test]
fn only_what_others_do_to_our_table_concerns() {
    if !in_fresh_namespaces("watch::only_what_others_do_to_our_table_concerns") {
        return;
    }
    let (mut own, mut other) = (Nft::open().unwrap(), Nft::open().unwrap());
    change(&mut own, |batch| furnish(batch, OURS));
    let mut watch = Watch::open(&mut own, is_ours).unwrap();
    type Change = fn(&mut Batch);
    let harms: [Change; 5] = [
        |batch| batch.add_elements(OURS, "set", [Element::single(&[10, 0, 0, 2])]),
        |batch| batch.add_rule(OURS, "chain", &Rule::new().drop()),
        |batch| batch.flush_chain(OURS, "chain"),
        |batch| batch.add_chain(OURS, Chain { name: "more", base: None }),
        |batch| batch.delete_table(OURS),
    ];
    for harm in harms {
        let mut quiet = |own: &mut Nft| {
            let generation = own.generation().unwrap();
            watch.is_quiet(generation).unwrap()
        };
        change(&mut other, |batch| furnish(batch, ITS));
        change(&mut other, |batch| furnish(batch, NAMESAKE));
        change(&mut own, |batch| batch.add_elements(OURS, "set", [Element::single(&[10, 0, 0, 9])]));
        assert!(quiet(&mut own));
        change(&mut other, harm);
        assert!(!quiet(&mut own));
        change(&mut other, |batch| furnish(batch, ITS));
        assert!(!quiet(&mut own), "what was heard once is not forgotten");
        change(&mut own, |batch| furnish(batch, OURS));
        watch.restart(own.generation().unwrap()).unwrap();
    }
    change(&mut other, harms[0]);
    let generation = own.generation().unwrap();
    assert!(!watch.is_quiet(generation).unwrap());
    watch.restart(generation).unwrap();
    assert!(watch.is_quiet(generation).unwrap());
    assert!(!watch.is_quiet(generation + 1).unwrap(), "a change that was not heard of");
}

#[test]
fn more_changes_than_there_is_room_for_are_a_doubt() {
    if !in_fresh_namespaces("watch::more_changes_than_there_is_room_for_are_a_doubt") {
        return;
    }
    /// More than fit into the socket's 512 KiB, of at least 512 bytes each.
    const CHANGES: usize = 2_000;
    let (mut own, mut other) = (Nft::open().unwrap(), Nft::open().unwrap());
    let mut watch = Watch::open(&mut own, is_ours).unwrap();
    for _ in 0..CHANGES {
        change(&mut other, |batch| batch.replace_table(ITS));
    }
    let generation = own.generation().unwrap();
    assert!(!watch.is_quiet(generation).unwrap());
    watch.restart(generation).unwrap();
    assert!(watch.is_quiet(generation).unwrap());
    change(&mut other, |batch| batch.replace_table(ITS));
    assert!(watch.is_quiet(own.generation().unwrap()).unwrap());
}

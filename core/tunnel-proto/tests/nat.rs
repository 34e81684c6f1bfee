//! The path that every pair of NATs allows.

use edgemesh_mesh::Path;
use edgemesh_tunnel_proto::{NatKind, expected};

fn check(row: NatKind, paths: &str) {
    let seen: String = NatKind::ALL
        .map(|other| {
            assert_eq!(
                expected(row, other),
                expected(other, row),
                "{row:?} and {other:?}: the order of ends"
            );
            match expected(row, other) {
                Path::Direct => 'd',
                Path::Punched => 'p',
                Path::Relayed => 'r',
                other => panic!("{row:?}: {other:?} is no path between LANs"),
            }
        })
        .into_iter()
        .collect();
    assert_eq!(seen, paths, "{row:?}");
}

/// Columns: open, endpoint-independent, address-dependent, address- and port-dependent, carrier-grade, UDP blocked,
/// symmetric, only 443.
#[test]
fn every_pair() {
    check(NatKind::Open, "dddddddr");
    check(NatKind::EndpointIndependent, "dppppppr");
    check(NatKind::AddressDependent, "dppppppr");
    check(NatKind::AddressAndPortDependent, "dppppprr");
    check(NatKind::CarrierGrade, "dppppprr");
    check(NatKind::UdpBlocked, "dppppprr");
    check(NatKind::Symmetric, "dpprrrrr");
    check(NatKind::Port443Only, "rrrrrrrr");
}

#[test]
fn words_are_unique() {
    let mut words = NatKind::ALL.map(NatKind::as_str).to_vec();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), NatKind::ALL.len());
}

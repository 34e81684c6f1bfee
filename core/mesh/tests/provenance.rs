//! How old what is known is.

use std::time::{Duration, Instant};

use edgemesh_mesh::Provenance;

#[test]
fn age_counts_from_the_journal_until_the_source_is_heard() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let provenance = Provenance::new("manifests /m".into(), start, Some(Duration::from_secs(100)));
    assert_eq!(provenance.age(at(5)), Some(Duration::from_secs(105)));
    provenance.hear(at(6));
    assert_eq!(provenance.age(at(6)), Some(Duration::ZERO));
    assert_eq!(provenance.age(at(16)), Some(Duration::from_secs(10)));
    assert_eq!(Provenance::new("x".into(), start, None).age(at(9)), None);
}

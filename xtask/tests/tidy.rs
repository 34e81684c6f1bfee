//! The house checks itself: the rings, file sizes, documents, licences and bans.

#[test]
fn the_house_is_tidy() {
    let findings = xtask::tidy::check(&xtask::root()).expect("the repository can be read");
    assert!(findings.is_empty(), "{} finding(s):\n{}", findings.len(), findings.join("\n"));
}

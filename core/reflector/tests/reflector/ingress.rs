//! Kinds that only a gateway follows: where they are, and what comes of a server that lacks or refuses them.

use edgemesh_api::Kind;
use edgemesh_reflector::{Consistency, Resource};

use crate::driver::{Bench, compare};

const GATEWAY_API: &str = "/apis/gateway.networking.k8s.io";
const ISTIO: &str = "/apis/networking.istio.io";

/// The targets of the first attempts on a server that has none of the versions.
fn asked(kind: Kind, consistency: Consistency) -> Vec<String> {
    let versions = Resource::of(kind).versions.len();
    let text = Bench::new(kind, consistency).play(&"status 404 no\n".repeat(versions));
    text.lines().filter(|line| line.starts_with('/')).take(versions).map(str::to_owned).collect()
}

#[test]
fn every_version_that_was_ever_served_is_asked_for() {
    let istio = |plural: &str| {
        ["v1alpha3", "v1beta1", "v1"].map(|version| format!("{ISTIO}/{version}/{plural}?limit=500")).to_vec()
    };
    let api = |plural: &str, versions: &[&str]| -> Vec<String> {
        versions.iter().map(|version| format!("{GATEWAY_API}/{version}/{plural}?limit=500")).collect()
    };
    for (kind, expected) in [
        (Kind::VirtualService, istio("virtualservices")),
        (Kind::IstioGateway, istio("gateways")),
        (Kind::GatewayClass, api("gatewayclasses", &["v1", "v1beta1"])),
        (Kind::Gateway, api("gateways", &["v1", "v1beta1"])),
        (Kind::HttpRoute, api("httproutes", &["v1", "v1beta1"])),
        (Kind::TcpRoute, api("tcproutes", &["v1alpha2"])),
        (Kind::TlsRoute, api("tlsroutes", &["v1", "v1alpha3", "v1alpha2"])),
    ] {
        for consistency in [Consistency::Consistent, Consistency::Cached] {
            assert_eq!(asked(kind, consistency), expected, "{kind} {consistency:?}");
        }
    }
}

#[test]
fn of_secrets_only_certificates_are_asked_for() {
    let fields = "fieldSelector=type%3Dkubernetes.io%2Ftls";
    let script = "
        list rv=1 continue=t a
        list rv=2 b
        open
        end
    ";
    let text = Bench::new(Kind::Secret, Consistency::Consistent).play(script);
    let targets: Vec<&str> = text.lines().filter(|line| line.starts_with('/')).collect();
    assert_eq!(
        targets[..2],
        [
            format!("/api/v1/secrets?limit=500&{fields}"),
            format!("/api/v1/secrets?limit=500&continue=t&{fields}"),
        ]
    );
    assert!(targets.iter().all(|target| target.ends_with(fields)), "{text}");
    // The metaServer takes the field for empty, and would have none.
    assert_eq!(asked(Kind::Secret, Consistency::Cached), ["/api/v1/secrets?limit=500"]);
}

#[test]
fn a_kind_that_is_missing_is_empty_asked_slowly_and_found_when_installed() {
    let text = Bench::new(Kind::Gateway, Consistency::Consistent).play(
        "
        status 404 no
        status 404 no
        state
        status 404 no
        list rv=1 g
        state
        ",
    );
    compare(
        &text,
        "
        /apis/gateway.networking.k8s.io/v1/gateways?limit=500
        /apis/gateway.networking.k8s.io/v1beta1/gateways?limit=500
        > reset synced
        state absent listed=0 failure: HTTP 404: no (absent)
        wait 2000..4000
        /apis/gateway.networking.k8s.io/v1/gateways?limit=500
        /apis/gateway.networking.k8s.io/v1beta1/gateways?limit=500
        > reset g synced
        state watching listed=1 lists=1
        watch resourceVersion=1
        ",
    );
}

#[test]
fn a_kind_that_is_refused_keeps_what_is_known_and_is_asked_slowly() {
    for kind in Kind::INGRESS {
        let mut bench = Bench::new(kind, Consistency::Consistent);
        let text = bench.play(&"status 403 no\n".repeat(8));
        let waits: Vec<u64> = text
            .lines()
            .filter_map(|line| line.strip_prefix("wait "))
            .map(|wait| wait.parse().expect("ms"))
            .collect();
        assert!(
            waits[7] > 30_000 && waits.iter().all(|wait| (1000..=60_000).contains(wait)),
            "{kind} {waits:?}"
        );
        assert!(!text.contains('>'), "nothing is told: {text}");
        assert!(bench.play("list rv=1 a\nopen\nstate").contains("state watching listed=1 lists=1\n"));
    }
}

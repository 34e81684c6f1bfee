use crate::fixture::check;

#[track_caller]
fn check_rule(rules: &[&str], expected: &str) {
    let web = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1}}";
    let header = "apiVersion: networking.istio.io/v1beta1\nkind: DestinationRule\n";
    let rules: Vec<_> = rules.iter().map(|rule| format!("\n---\n{header}{rule}")).collect();
    check(&format!("{web}{}", rules.concat()), expected);
}

const RANDOM: &str = "trafficPolicy: {loadBalancer: {simple: RANDOM}}";

#[test]
fn hosts_are_resolved_as_istio_and_then_as_go_edgemesh_does() {
    for (namespace, name, host) in [
        ("shop", "r", "web"),
        ("other", "r", "web.shop"),
        ("other", "r", "web.shop.svc"),
        ("other", "r", "web.shop.svc.cluster.local"),
        ("other", "r", "web.shop.svc.edge.example."),
        ("shop", "web", ""),
        ("shop", "web", "no-such-service.example.com"),
    ] {
        check_rule(
            &[&format!(
                "metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{host: {host:?}, {RANDOM}}}"
            )],
            "service shop/web 10.96.0.1 random",
        );
    }
    for host in ["web", "web.nowhere", "web.shop.example.com", "*.shop.svc"] {
        check_rule(
            &[&format!("metadata: {{name: r, namespace: other}}\nspec: {{host: {host:?}, {RANDOM}}}")],
            &format!(
                "service shop/web 10.96.0.1\nfinding DestinationRule other/r: host {host:?} names no known Service: the rule has no effect"
            ),
        );
    }
}

#[test]
fn policies_the_mesh_knows_and_those_it_reports() {
    let rule = |balancer: &str, policy: &str, finding: &str| {
        let finding = match finding {
            "" => String::new(),
            what => format!(
                "\nfinding DestinationRule shop/r: {what} is not supported: Service shop/web uses round robin"
            ),
        };
        check_rule(
            &[&format!(
                "metadata: {{name: r, namespace: shop}}\nspec: {{host: web, trafficPolicy: {{loadBalancer: {balancer}}}}}"
            )],
            &format!("service shop/web 10.96.0.1{policy}{finding}"),
        );
    };
    rule("{simple: ROUND_ROBIN}", "", "");
    rule("{simple: UNSPECIFIED}", "", "");
    rule("{simple: RANDOM}", " random", "");
    rule("{consistentHash: {useSourceIp: true}}", " source-ip-hash", "");
    rule("{simple: PASSTHROUGH}", "", "load balancer PASSTHROUGH");
    rule("{simple: LEAST_CONN}", "", "load balancer LEAST_CONN");
    rule("{consistentHash: {httpHeaderName: User}}", "", "consistentHash by header \"User\"");
    rule("{consistentHash: {httpCookie: {name: c}}}", "", "consistentHash by anything but useSourceIp");
    check_rule(
        &["metadata: {name: r, namespace: shop}\nspec: {host: web, subsets: [{name: v1}]}"],
        "service shop/web 10.96.0.1",
    );
}

#[test]
fn a_rule_by_host_beats_one_by_name_and_the_first_beats_the_second() {
    check_rule(
        &[
            "metadata: {name: web, namespace: shop}\nspec: {host: elsewhere, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}",
            "metadata: {name: zz, namespace: shop}\nspec: {host: web, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}}",
            &format!("metadata: {{name: b, namespace: shop}}\nspec: {{host: web, {RANDOM}}}"),
        ],
        "service shop/web 10.96.0.1 random\nfinding DestinationRule shop/zz: Service shop/web already has the policy of DestinationRule shop/b",
    );
}

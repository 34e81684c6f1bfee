//! Kinds that only a gateway acts on, in the shapes their APIs have them.

use edgemesh_api::{DecodeError, Kind, Object, decode_item, decode_stored, decode_value, unknown_fields};
use serde_json::{Value, json};

fn yaml(text: &str) -> Value {
    yaml_serde::from_str(text).expect("YAML")
}

/// Decodes a manifest both ways that objects come; they agree.
#[track_caller]
fn decode(text: &str) -> Object {
    let value = yaml(text);
    let object = decode_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {text}"));
    let item = decode_item(object.kind(), value.to_string().as_bytes());
    assert_eq!(item.as_ref(), Ok(&object), "{text}");
    object
}

/// Decodes a manifest; what is written of it is this, and can be read back.
#[track_caller]
fn check(text: &str, kind: Kind, expected: &Value) {
    let object = decode(text);
    assert_eq!(object.kind(), kind);
    let stored = serde_json::to_value(&object).expect("JSON");
    assert_eq!(stored["kind"], kind.as_str());
    assert_eq!(stored["spec"], *expected, "{stored:#}");
    assert_eq!(stored["notUnderstood"], Value::Null);
    let again = decode_stored(kind, stored.to_string().as_bytes()).expect("as it was written");
    assert_eq!(again, object);
    let again: Object = serde_json::from_value(stored).expect("by its tag");
    assert_eq!(again, object);
}

/// Decodes a manifest; what in it is not understood, a line each.
#[track_caller]
fn check_told(text: &str, expected: &[&str]) {
    let stored = serde_json::to_value(decode(text)).expect("JSON");
    let told: Vec<String> = serde_json::from_value(stored["notUnderstood"].clone()).unwrap_or_default();
    assert_eq!(told, expected, "{text}");
    assert!(unknown_fields(&yaml(text)).is_empty(), "what an object carries is told once");
}

#[test]
fn an_istio_gateway_with_a_port_of_each_sort() {
    let text = "
apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata: { name: edge, namespace: shop }
spec:
  selector: { kubeedge: edgemesh-gateway }
  servers:
  - port: { number: 80, name: web, protocol: HTTP }
    hosts: [shop.example, '*.shop.example']
    tls: { httpsRedirect: true }
  - port: { number: 443, name: secure, protocol: HTTPS }
    hosts: ['*']
    tls: { mode: MUTUAL, credentialName: shop-tls, minProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256] }
  - { port: { number: 2379, name: db, protocol: TCP }, hosts: ['*'], bind: 0.0.0.0, name: store }
";
    let expected = json!({
        "selector": {"kubeedge": "edgemesh-gateway"},
        "servers": [
            {"port": {"number": 80, "name": "web", "protocol": "HTTP"}, "hosts": ["shop.example", "*.shop.example"],
             "tls": {"httpsRedirect": true}},
            {"port": {"number": 443, "name": "secure", "protocol": "HTTPS"}, "hosts": ["*"],
             "tls": {"httpsRedirect": false, "mode": "MUTUAL", "credentialName": "shop-tls",
                     "minProtocolVersion": "TLSV1_2", "cipherSuites": ["ECDHE-RSA-AES128-GCM-SHA256"]}},
            {"name": "store", "port": {"number": 2379, "name": "db", "protocol": "TCP"}, "bind": "0.0.0.0",
             "hosts": ["*"]},
        ],
    });
    check(text, Kind::IstioGateway, &expected);
    for version in ["v1beta1", "v1"] {
        check(&text.replace("v1alpha3", version), Kind::IstioGateway, &expected);
    }
}

#[test]
fn a_virtual_service_with_routes_of_each_sort() {
    check(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: shop, namespace: shop }
spec:
  hosts: [shop.example]
  gateways: [edge, other/edge]
  http:
  - name: api
    match:
    - uri: { prefix: /api/ }
      ignoreUriCase: true
      method: { exact: POST }
      headers: { x-user: { regex: '[a-z]+' } }
      queryParams: { page: {} }
    rewrite: { uri: /v2/ }
    timeout: 5s
    retries: { attempts: 3, perTryTimeout: 2s, retryOn: 5xx }
    route:
    - { destination: { host: api, port: { number: 8080 }, subset: v2 }, weight: 80 }
    - { destination: { host: api.shop.svc.cluster.local }, weight: 20, headers: { response: { remove: [x-old] } } }
  - redirect: { authority: new.example, redirectCode: 302 }
  - directResponse: { status: 503, body: { string: closed } }
  tcp:
  - match: [{ port: 2379 }]
    route: [{ destination: { host: db, port: { number: 2379 } } }]
  tls:
  - match: [{ port: 443, sniHosts: [login.example] }]
    route: [{ destination: { host: login } }]
",
        Kind::VirtualService,
        &json!({
            "hosts": ["shop.example"],
            "gateways": ["edge", "other/edge"],
            "http": [
                {"name": "api",
                 "match": [{"uri": {"prefix": "/api/"}, "ignoreUriCase": true, "method": {"exact": "POST"},
                            "headers": {"x-user": {"regex": "[a-z]+"}}, "queryParams": {"page": {}}}],
                 "rewrite": {"uri": "/v2/"},
                 "timeout": "5s",
                 "retries": {"attempts": 3, "perTryTimeout": "2s", "retryOn": "5xx"},
                 "route": [
                     {"destination": {"host": "api", "port": {"number": 8080}, "subset": "v2"}, "weight": 80},
                     {"destination": {"host": "api.shop.svc.cluster.local"}, "weight": 20,
                      "headers": {"response": {"remove": ["x-old"]}}},
                 ]},
                {"redirect": {"authority": "new.example", "redirectCode": 302}},
                {"directResponse": {"status": 503, "body": {"string": "closed"}}},
            ],
            "tcp": [{"match": [{"port": 2379}],
                     "route": [{"destination": {"host": "db", "port": {"number": 2379}}}]}],
            "tls": [{"match": [{"port": 443, "sniHosts": ["login.example"]}],
                     "route": [{"destination": {"host": "login"}}]}],
        }),
    );
}

#[test]
fn gateways_and_routes_of_the_gateway_api() {
    check(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {name: edge}, spec: {controllerName: example.org/edge}}",
        Kind::GatewayClass,
        &json!({"controllerName": "example.org/edge"}),
    );
    check(
        "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: Gateway
metadata: { name: edge, namespace: shop }
spec:
  gatewayClassName: edge
  addresses: [{ type: IPAddress, value: 192.0.2.1 }]
  listeners:
  - { name: web, port: 80, protocol: HTTP }
  - name: secure
    hostname: '*.shop.example'
    port: 443
    protocol: HTTPS
    tls: { mode: Terminate, certificateRefs: [{ kind: Secret, group: '', name: shop-tls }] }
    allowedRoutes:
      namespaces: { from: Selector, selector: { matchLabels: { team: shop } } }
      kinds: [{ kind: HTTPRoute }]
status: { conditions: [] }
",
        Kind::Gateway,
        &json!({
            "gatewayClassName": "edge",
            "addresses": [{"type": "IPAddress", "value": "192.0.2.1"}],
            "listeners": [
                {"name": "web", "port": 80, "protocol": "HTTP"},
                {"name": "secure", "hostname": "*.shop.example", "port": 443, "protocol": "HTTPS",
                 "tls": {"mode": "Terminate",
                         "certificateRefs": [{"group": "", "kind": "Secret", "name": "shop-tls"}]},
                 "allowedRoutes": {
                     "namespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "shop"}}},
                     "kinds": [{"kind": "HTTPRoute"}]}},
            ],
        }),
    );
    check(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: shop, namespace: shop }
spec:
  parentRefs: [{ name: edge, sectionName: secure }]
  hostnames: [a.shop.example]
  rules:
  - matches:
    - path: { type: PathPrefix, value: /api }
      method: GET
      headers: [{ type: Exact, name: x-version, value: '2' }]
      queryParams: [{ name: page, value: '1' }]
    filters:
    - type: URLRewrite
      urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: / } }
    - { type: RequestHeaderModifier, requestHeaderModifier: { add: [{ name: x-edge, value: '1' }], remove: [x-old] } }
    timeouts: { request: 10s }
    backendRefs: [{ name: api, port: 8080, weight: 9 }, { name: api-next, namespace: next, port: 8080, weight: 1 }]
  - filters: [{ type: RequestRedirect, requestRedirect: { scheme: https, statusCode: 301 } }]
",
        Kind::HttpRoute,
        &json!({
            "parentRefs": [{"name": "edge", "sectionName": "secure"}],
            "hostnames": ["a.shop.example"],
            "rules": [
                {"matches": [{"path": {"type": "PathPrefix", "value": "/api"}, "method": "GET",
                              "headers": [{"type": "Exact", "name": "x-version", "value": "2"}],
                              "queryParams": [{"name": "page", "value": "1"}]}],
                 "filters": [
                     {"type": "URLRewrite",
                      "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}},
                     {"type": "RequestHeaderModifier",
                      "requestHeaderModifier": {"add": [{"name": "x-edge", "value": "1"}], "remove": ["x-old"]}},
                 ],
                 "timeouts": {"request": "10s"},
                 "backendRefs": [{"name": "api", "port": 8080, "weight": 9},
                                 {"name": "api-next", "namespace": "next", "port": 8080, "weight": 1}]},
                {"filters": [{"type": "RequestRedirect",
                              "requestRedirect": {"scheme": "https", "statusCode": 301}}]},
            ],
        }),
    );
    for (kind, version, hostnames) in
        [("TCPRoute", "v1alpha2", None), ("TLSRoute", "v1alpha3", Some("a.example"))]
    {
        let mut spec = json!({
            "parentRefs": [{"name": "edge", "sectionName": "db"}],
            "rules": [{"backendRefs": [{"name": "db", "port": 5432}]}],
        });
        if let Some(hostname) = hostnames {
            spec["hostnames"] = json!([hostname]);
        }
        let object = json!({
            "apiVersion": format!("gateway.networking.k8s.io/{version}"), "kind": kind,
            "metadata": {"name": "db", "namespace": "shop"}, "spec": spec,
        });
        let expected = if kind == "TCPRoute" { Kind::TcpRoute } else { Kind::TlsRoute };
        check(&object.to_string(), expected, &spec);
    }
}

#[test]
fn what_is_not_understood_is_told_and_loses_nothing_else() {
    check_told(
        "
apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata: { name: a }
spec:
  colour: blue
  servers:
  - { port: { number: 80, protocol: QUIC }, host: [a.example] }
  - { port: { number: 443, protocol: HTTPS }, hosts: [a.example], tls: { mode: simple, credentialname: x } }
",
        &[
            "fields that the API does not define: spec.colour, spec.servers[].host (is hosts meant?), spec.servers[].tls.credentialname (is credentialName meant?)",
            "spec.servers[].port.protocol: \"QUIC\" is none of HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS",
            "spec.servers[].tls.mode: \"simple\" is none of PASSTHROUGH, SIMPLE, MUTUAL, AUTO_PASSTHROUGH, ISTIO_MUTUAL, OPTIONAL_MUTUAL",
        ],
    );
    check_told(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: a }
spec:
  gatewayClass: edge
  listeners:
  - { name: a, port: 80, protocol: example.org/quic }
  - { name: b, port: 443, protocol: TLS, tls: { mode: Terminated } }
",
        &[
            "fields that the API does not define: spec.gatewayClass",
            "spec.listeners[].tls.mode: \"Terminated\" is none of Terminate, Passthrough",
        ],
    );
    check_told(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, spec: {parentRef: [], rules: [{matches: [{path: {type: Prefix, value: /}}]}]}}",
        &[
            "fields that the API does not define: spec.parentRef (is parentRefs meant?)",
            "spec.rules[].matches[].path.type: \"Prefix\" is none of PathPrefix, Exact, RegularExpression",
        ],
    );
    check_told(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a}, spec: null}",
        &[],
    );
    check_told(
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a}, spec: {hosts: null, http: [{match: null, route: null}]}}",
        &[],
    );
}

#[test]
fn what_has_another_type_is_an_error_that_names_the_object() {
    let value = yaml(
        "{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: a, namespace: n}, spec: {servers: [{port: {number: web}}]}}",
    );
    let error = decode_value(value).expect_err("a port is a number");
    assert_eq!(
        error,
        DecodeError::Invalid {
            kind: Kind::IstioGateway,
            object: "n/a".to_owned(),
            reason: "invalid type: string \"web\", expected u16".to_owned(),
        }
    );
}

/// The private parts: `KEY` and its like.
const SECRET: &str = "{apiVersion: v1, kind: Secret, metadata: {name: shop-tls, namespace: shop}, type: kubernetes.io/tls, data: {tls.crt: Q0VSVA==, tls.key: S0VZ, ca.crt: Q0E=, other: T1RIRVI=}}";

#[test]
fn a_secret_has_its_certificate_and_shows_it_to_nobody() {
    let Object::Secret(secret) = decode(SECRET) else { panic!("a Secret") };
    assert!(secret.is_tls());
    let data = &secret.data;
    let parts = [&data.certificate, &data.key, &data.ca].map(|part| part.as_ref().map(|part| part.expose()));
    assert_eq!(parts, [Some("Q0VSVA=="), Some("S0VZ"), Some("Q0E=")]);
    let shown =
        format!("{secret:?} {}", serde_json::to_string(&Object::Secret(secret.clone())).expect("JSON"));
    assert!(shown.contains("shop-tls"), "{shown}");
    for part in ["Q0VSVA", "S0VZ", "Q0E", "T1RIRVI"] {
        assert!(!shown.contains(part), "{part}: {shown}");
    }
    let other = decode(&SECRET.replace("S0VZ", "WUVL"));
    let json = |object: &Object| serde_json::to_string(object).expect("JSON");
    assert_ne!(json(&other), json(&decode(SECRET)), "a change of the key is seen all the same");
}

#[test]
fn of_other_secrets_nothing_is_kept() {
    for type_ in ["Opaque", "kubernetes.io/service-account-token", "''"] {
        let text = SECRET.replace("kubernetes.io/tls", type_);
        let error = decode_value(yaml(&text)).expect_err("not read").to_string();
        assert!(
            error.contains(&type_.replace('\'', "")) && error.ends_with("is not read by the mesh"),
            "{error}"
        );
        // A cache may list them all.
        let item = decode_item(Kind::Secret, yaml(&text).to_string().as_bytes()).expect("an object");
        let Object::Secret(secret) = item else { panic!("a Secret") };
        assert_eq!((secret.is_tls(), secret.data), (false, Default::default()));
    }
}

#[test]
fn the_two_kinds_called_gateway_are_two() {
    assert_eq!(Kind::of("networking.istio.io/v1", "Gateway"), Some(Kind::IstioGateway));
    assert_eq!(Kind::of("gateway.networking.k8s.io/v1", "Gateway"), Some(Kind::Gateway));
    assert_eq!(Kind::of("example.org/v1", "Gateway"), None);
    assert_eq!(Kind::of("v1", "Gateway.networking.istio.io"), None);
    for kind in Kind::ALL {
        let written = serde_json::to_value(kind).expect("JSON");
        assert_eq!(written, kind.as_str());
        assert_eq!(serde_json::from_value::<Kind>(written).expect("a kind"), kind);
        assert_eq!(Kind::ALL.into_iter().filter(|other| other.as_str() == kind.as_str()).count(), 1);
        let (agent, ingress) = (Kind::AGENT.contains(&kind), kind.is_ingress());
        assert!(!(agent && ingress) && (agent || ingress || kind == Kind::Pod), "{kind}");
    }
}

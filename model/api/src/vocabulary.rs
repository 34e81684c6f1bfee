//! What the APIs of the kinds define that only a gateway acts on: Istio 1.28, Gateway API 1.4 with its experimental fields.

use crate::Kind;

type Fields = (&'static [Kind], &'static str, &'static [&'static str]);
type Words = (&'static [Kind], &'static str, &'static str, &'static [&'static str]);

const EVERY: &[Kind] = &[
    Kind::VirtualService,
    Kind::IstioGateway,
    Kind::GatewayClass,
    Kind::Gateway,
    Kind::HttpRoute,
    Kind::TcpRoute,
    Kind::TlsRoute,
];
const VIRTUAL: &[Kind] = &[Kind::VirtualService];
const ISTIO: &[Kind] = &[Kind::IstioGateway];
const CLASS: &[Kind] = &[Kind::GatewayClass];
const GATEWAY: &[Kind] = &[Kind::Gateway];
const HTTP: &[Kind] = &[Kind::HttpRoute];
const L4: &[Kind] = &[Kind::TcpRoute, Kind::TlsRoute];
const ROUTES: &[Kind] = &[Kind::HttpRoute, Kind::TcpRoute, Kind::TlsRoute];

const L4_MATCH: &[&str] =
    &["destinationSubnets", "gateways", "port", "sourceLabels", "sourceNamespace", "sourceSubnet"];
const DESTINATION: &[&str] = &["host", "port", "subset"];
const FILTER: &[&str] = &[
    "cors",
    "extensionRef",
    "externalAuth",
    "requestHeaderModifier",
    "requestMirror",
    "requestRedirect",
    "responseHeaderModifier",
    "type",
    "urlRewrite",
];
const BACKEND: &[&str] = &["group", "kind", "name", "namespace", "port", "weight"];

/// Fields of each block. A path ends in `[]` for each item of a list.
pub(crate) const INGRESS_FIELDS: &[Fields] = &[
    (EVERY, "", &["apiVersion", "kind", "metadata", "spec", "status"]),
    (ISTIO, "spec", &["selector", "servers"]),
    (ISTIO, "spec.servers[]", &["bind", "defaultEndpoint", "hosts", "name", "port", "tls"]),
    (ISTIO, "spec.servers[].port", &["name", "number", "protocol", "targetPort"]),
    (
        ISTIO,
        "spec.servers[].tls",
        &[
            "caCertCredentialName",
            "caCertificates",
            "caCrl",
            "cipherSuites",
            "credentialName",
            "credentialNames",
            "httpsRedirect",
            "maxProtocolVersion",
            "minProtocolVersion",
            "mode",
            "privateKey",
            "serverCertificate",
            "subjectAltNames",
            "tlsCertificates",
            "verifyCertificateHash",
            "verifyCertificateSpki",
        ],
    ),
    (VIRTUAL, "spec", &["exportTo", "gateways", "hosts", "http", "tcp", "tls"]),
    (
        VIRTUAL,
        "spec.http[]",
        &[
            "corsPolicy",
            "delegate",
            "directResponse",
            "fault",
            "headers",
            "match",
            "mirror",
            "mirrorPercent",
            "mirrorPercentage",
            "mirror_percent",
            "mirrors",
            "name",
            "redirect",
            "retries",
            "rewrite",
            "route",
            "timeout",
        ],
    ),
    (
        VIRTUAL,
        "spec.http[].match[]",
        &[
            "authority",
            "gateways",
            "headers",
            "ignoreUriCase",
            "method",
            "name",
            "port",
            "queryParams",
            "scheme",
            "sourceLabels",
            "sourceNamespace",
            "statPrefix",
            "uri",
            "withoutHeaders",
        ],
    ),
    (VIRTUAL, "spec.http[].match[].uri", &["exact", "prefix", "regex"]),
    (VIRTUAL, "spec.http[].match[].method", &["exact", "prefix", "regex"]),
    (VIRTUAL, "spec.http[].match[].authority", &["exact", "prefix", "regex"]),
    (VIRTUAL, "spec.http[].route[]", &["destination", "headers", "weight"]),
    (VIRTUAL, "spec.http[].route[].destination", DESTINATION),
    (VIRTUAL, "spec.http[].route[].destination.port", &["number"]),
    (VIRTUAL, "spec.http[].redirect", &["authority", "derivePort", "port", "redirectCode", "scheme", "uri"]),
    (VIRTUAL, "spec.http[].directResponse", &["body", "status"]),
    (VIRTUAL, "spec.http[].rewrite", &["authority", "uri", "uriRegexRewrite"]),
    (
        VIRTUAL,
        "spec.http[].retries",
        &[
            "attempts",
            "backoff",
            "perTryTimeout",
            "retryIgnorePreviousHosts",
            "retryOn",
            "retryRemoteLocalities",
        ],
    ),
    (VIRTUAL, "spec.tcp[]", &["match", "route"]),
    (VIRTUAL, "spec.tcp[].match[]", L4_MATCH),
    (VIRTUAL, "spec.tcp[].route[]", &["destination", "weight"]),
    (VIRTUAL, "spec.tcp[].route[].destination", DESTINATION),
    (VIRTUAL, "spec.tls[]", &["match", "route"]),
    (
        VIRTUAL,
        "spec.tls[].match[]",
        &["destinationSubnets", "gateways", "port", "sniHosts", "sourceLabels", "sourceNamespace"],
    ),
    (VIRTUAL, "spec.tls[].route[]", &["destination", "weight"]),
    (VIRTUAL, "spec.tls[].route[].destination", DESTINATION),
    (CLASS, "spec", &["controllerName", "description", "parametersRef"]),
    (
        GATEWAY,
        "spec",
        &[
            "addresses",
            "allowedListeners",
            "backendTLS",
            "defaultScope",
            "gatewayClassName",
            "infrastructure",
            "listeners",
            "tls",
        ],
    ),
    (GATEWAY, "spec.listeners[]", &["allowedRoutes", "hostname", "name", "port", "protocol", "tls"]),
    (GATEWAY, "spec.listeners[].tls", &["certificateRefs", "frontendValidation", "mode", "options"]),
    (GATEWAY, "spec.listeners[].tls.certificateRefs[]", &["group", "kind", "name", "namespace"]),
    (GATEWAY, "spec.listeners[].allowedRoutes", &["kinds", "namespaces"]),
    (GATEWAY, "spec.listeners[].allowedRoutes.namespaces", &["from", "selector"]),
    (GATEWAY, "spec.listeners[].allowedRoutes.kinds[]", &["group", "kind"]),
    (GATEWAY, "spec.addresses[]", &["type", "value"]),
    (HTTP, "spec", &["hostnames", "parentRefs", "rules", "useDefaultGateways"]),
    (L4, "spec", &["hostnames", "parentRefs", "rules", "useDefaultGateways"]),
    (ROUTES, "spec.parentRefs[]", &["group", "kind", "name", "namespace", "port", "sectionName"]),
    (
        HTTP,
        "spec.rules[]",
        &["backendRefs", "filters", "matches", "name", "retry", "sessionPersistence", "timeouts"],
    ),
    (HTTP, "spec.rules[].matches[]", &["headers", "method", "path", "queryParams"]),
    (HTTP, "spec.rules[].matches[].path", &["type", "value"]),
    (HTTP, "spec.rules[].matches[].headers[]", &["name", "type", "value"]),
    (HTTP, "spec.rules[].matches[].queryParams[]", &["name", "type", "value"]),
    (HTTP, "spec.rules[].filters[]", FILTER),
    (
        HTTP,
        "spec.rules[].backendRefs[]",
        &["filters", "group", "kind", "name", "namespace", "port", "weight"],
    ),
    (HTTP, "spec.rules[].timeouts", &["backendRequest", "request"]),
    (L4, "spec.rules[]", &["backendRefs", "name"]),
    (L4, "spec.rules[].backendRefs[]", BACKEND),
];

/// Words of each field that has a fixed set of them.
pub(crate) const INGRESS_WORDS: &[Words] = &[
    (
        ISTIO,
        "spec.servers[].port",
        "protocol",
        &["HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS"],
    ),
    (
        ISTIO,
        "spec.servers[].tls",
        "mode",
        &["PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"],
    ),
    (
        ISTIO,
        "spec.servers[].tls",
        "minProtocolVersion",
        &["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"],
    ),
    (
        ISTIO,
        "spec.servers[].tls",
        "maxProtocolVersion",
        &["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"],
    ),
    (VIRTUAL, "spec.http[].redirect", "derivePort", &["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"]),
    (GATEWAY, "spec.listeners[]", "protocol", &["HTTP", "HTTPS", "TLS", "TCP", "UDP"]),
    (GATEWAY, "spec.listeners[].tls", "mode", &["Terminate", "Passthrough"]),
    (GATEWAY, "spec.listeners[].allowedRoutes.namespaces", "from", &["All", "Same", "Selector", "None"]),
    (GATEWAY, "spec.addresses[]", "type", &["IPAddress", "Hostname", "NamedAddress"]),
    (HTTP, "spec.rules[].matches[].path", "type", &["PathPrefix", "Exact", "RegularExpression"]),
    (HTTP, "spec.rules[].matches[].headers[]", "type", &["Exact", "RegularExpression"]),
    (HTTP, "spec.rules[].matches[].queryParams[]", "type", &["Exact", "RegularExpression"]),
    (
        HTTP,
        "spec.rules[].matches[]",
        "method",
        &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"],
    ),
    (
        HTTP,
        "spec.rules[].filters[]",
        "type",
        &[
            "RequestHeaderModifier",
            "ResponseHeaderModifier",
            "RequestRedirect",
            "URLRewrite",
            "RequestMirror",
            "ExtensionRef",
            "CORS",
            "ExternalAuth",
        ],
    ),
];

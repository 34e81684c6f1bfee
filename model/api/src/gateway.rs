//! The Gateway API's `gateway.networking.k8s.io` kinds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::decode::null_is_default;
use crate::{CustomObject, Name};

/// gateway.networking.k8s.io GatewayClass: which program serves Gateways of the class.
pub type GatewayClass = CustomObject<GatewayClassSpec>;

/// The part of a GatewayClass a gateway reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayClassSpec {
    /// The program, `domain/path`.
    #[serde(deserialize_with = "null_is_default")]
    pub controller_name: Name,
}

/// gateway.networking.k8s.io Gateway: what a gateway listens on.
pub type Gateway = CustomObject<GatewaySpec>;

/// The part of a Gateway a gateway reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Its class.
    #[serde(deserialize_with = "null_is_default")]
    pub gateway_class_name: Name,
    /// What is listened on.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub listeners: Vec<Listener>,
    /// Addresses that it asks for; none means those the gateway has.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub addresses: Vec<GatewayAddress>,
}

/// Gateway API `Listener`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Listener {
    /// Its name, which routes refer to.
    #[serde(deserialize_with = "null_is_default")]
    pub name: Name,
    /// The host it is for; none means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Name>,
    /// The port.
    #[serde(deserialize_with = "null_is_default")]
    pub port: u16,
    /// `HTTP`, `HTTPS`, `TLS`, `TCP`, `UDP`, or one of an implementation: `domain/word`.
    #[serde(deserialize_with = "null_is_default")]
    pub protocol: Name,
    /// How TLS is spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Routes that may attach to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_routes: Option<AllowedRoutes>,
}

/// Gateway API `ListenerTLSConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListenerTls {
    /// `Terminate` (also where it is absent) or `Passthrough`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Name>,
    /// The certificates.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub certificate_refs: Vec<ObjectReference>,
    /// What implementations define.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub options: BTreeMap<Name, Name>,
}

/// Gateway API `SecretObjectReference`: without group and kind it is a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ObjectReference {
    /// The group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Name>,
    /// The kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Name>,
    /// The name.
    #[serde(deserialize_with = "null_is_default")]
    pub name: Name,
    /// The namespace, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
}

/// Gateway API `AllowedRoutes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AllowedRoutes {
    /// Where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<RouteNamespaces>,
    /// Which kinds they are of; none means those that fit the protocol.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub kinds: Vec<RouteGroupKind>,
}

/// Gateway API `RouteNamespaces`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteNamespaces {
    /// `All`, `Same` (also where it is absent), `Selector` or `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Name>,
    /// Labels of the namespaces, with `Selector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// Kubernetes `LabelSelector`: all of it has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels with their values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub match_labels: BTreeMap<Name, Name>,
    /// Further requirements.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub match_expressions: Vec<LabelRequirement>,
}

/// Kubernetes `LabelSelectorRequirement`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelRequirement {
    /// The label.
    #[serde(deserialize_with = "null_is_default")]
    pub key: Name,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[serde(deserialize_with = "null_is_default")]
    pub operator: Name,
    /// The values of `In` and `NotIn`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub values: Vec<Name>,
}

/// Gateway API `RouteGroupKind`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteGroupKind {
    /// The group; the Gateway API's own where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Name>,
    /// The kind.
    #[serde(deserialize_with = "null_is_default")]
    pub kind: Name,
}

/// Gateway API `GatewaySpecAddress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayAddress {
    /// `IPAddress` (also where it is absent), `Hostname`, or one of an implementation.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Name>,
    /// The address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Name>,
}

/// gateway.networking.k8s.io HTTPRoute: where requests of a host go.
pub type HttpRoute = CustomObject<HttpRouteSpec>;

/// The part of an HTTPRoute a gateway reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteSpec {
    /// Gateways that it attaches to.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub parent_refs: Vec<ParentReference>,
    /// Hosts that it is for; none means those of the listener.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub hostnames: Vec<Name>,
    /// What is done.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub rules: Vec<HttpRouteRule>,
}

/// Gateway API `ParentReference`: without group and kind it is a Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ParentReference {
    /// The group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Name>,
    /// The kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Name>,
    /// The namespace, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// The name.
    #[serde(deserialize_with = "null_is_default")]
    pub name: Name,
    /// The listener; none means every one that fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub section_name: Option<Name>,
    /// The port of the listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Gateway API `HTTPRouteRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteRule {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// One of these has to match; none matches all.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub matches: Vec<HttpRouteMatch>,
    /// What is changed.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub filters: Vec<HttpRouteFilter>,
    /// Where requests go, by weight.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub backend_refs: Vec<BackendReference>,
    /// How long an answer may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<HttpRouteTimeouts>,
}

/// Gateway API `HTTPRouteMatch`: all parts have to match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteMatch {
    /// The path; none is the prefix `/`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPathMatch>,
    /// Headers.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub headers: Vec<HttpValueMatch>,
    /// Parameters of the query.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub query_params: Vec<HttpValueMatch>,
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Name>,
}

/// Gateway API `HTTPPathMatch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpPathMatch {
    /// `PathPrefix` (also where it is absent), `Exact` or `RegularExpression`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Name>,
    /// The path; `/` where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Name>,
}

/// Gateway API `HTTPHeaderMatch` and `HTTPQueryParamMatch`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpValueMatch {
    /// `Exact` (also where it is absent) or `RegularExpression`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Name>,
    /// The name.
    #[serde(deserialize_with = "null_is_default")]
    pub name: Name,
    /// The value.
    #[serde(deserialize_with = "null_is_default")]
    pub value: Name,
}

/// Gateway API `HTTPRouteFilter`; the field that its type names is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteFilter {
    /// Which filter it is.
    #[serde(rename = "type", deserialize_with = "null_is_default")]
    pub kind: Name,
    /// `RequestHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HttpHeaderFilter>,
    /// `ResponseHeaderModifier`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HttpHeaderFilter>,
    /// `RequestRedirect`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<HttpRequestRedirect>,
    /// `URLRewrite`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<HttpUrlRewrite>,
}

/// Gateway API `HTTPHeaderFilter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpHeaderFilter {
    /// Headers that are replaced.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub set: Vec<HttpHeader>,
    /// Headers that are appended.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub add: Vec<HttpHeader>,
    /// Headers that are taken away.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub remove: Vec<Name>,
}

/// Gateway API `HTTPHeader`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpHeader {
    /// The name.
    #[serde(deserialize_with = "null_is_default")]
    pub name: Name,
    /// The value.
    #[serde(deserialize_with = "null_is_default")]
    pub value: Name,
}

/// Gateway API `HTTPRequestRedirectFilter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRequestRedirect {
    /// The new scheme.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Name>,
    /// The new host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Name>,
    /// The new path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPathModifier>,
    /// The new port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The status; 302 unless it is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
}

/// Gateway API `HTTPURLRewriteFilter`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpUrlRewrite {
    /// In place of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Name>,
    /// In place of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPathModifier>,
}

/// Gateway API `HTTPPathModifier`; the field that its type names is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpPathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    #[serde(rename = "type", deserialize_with = "null_is_default")]
    pub kind: Name,
    /// In place of the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_full_path: Option<Name>,
    /// In place of the prefix that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_prefix_match: Option<Name>,
}

/// Gateway API `HTTPBackendRef` and `BackendRef`: without group and kind it is a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct BackendReference {
    /// The group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Name>,
    /// The kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Name>,
    /// The name.
    #[serde(deserialize_with = "null_is_default")]
    pub name: Name,
    /// The namespace, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Name>,
    /// The port of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its share of the traffic; 1 where it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// What is changed on this way; of an HTTPRoute only.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub filters: Vec<HttpRouteFilter>,
}

/// Gateway API `HTTPRouteTimeouts`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRouteTimeouts {
    /// Of the whole request, as `10s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Name>,
    /// Of one attempt at a backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Name>,
}

/// gateway.networking.k8s.io TCPRoute: where connections of a listener go.
pub type TcpRoute = CustomObject<L4RouteSpec>;

/// gateway.networking.k8s.io TLSRoute: where connections go by the server name of TLS.
pub type TlsRoute = CustomObject<L4RouteSpec>;

/// The part of a TCPRoute or TLSRoute a gateway reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct L4RouteSpec {
    /// Gateways that it attaches to.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub parent_refs: Vec<ParentReference>,
    /// Server names that it is for; of a TLSRoute only.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub hostnames: Vec<Name>,
    /// What is done.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub rules: Vec<L4RouteRule>,
}

/// Gateway API `TCPRouteRule` and `TLSRouteRule`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct L4RouteRule {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Where connections go, by weight.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub backend_refs: Vec<BackendReference>,
}

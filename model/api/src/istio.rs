//! Istio's `networking.istio.io` kinds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::decode::null_is_default;
use crate::{CustomObject, Name, ObjectMeta};

/// networking.istio.io DestinationRule: how traffic to a host is balanced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DestinationRule {
    /// Its namespace resolves a short `spec.host`.
    pub metadata: ObjectMeta,
    /// Host and policy.
    pub spec: DestinationRuleSpec,
}

/// The part of a DestinationRule the mesh reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    /// Service name: short (in the rule's namespace) or fully qualified.
    pub host: Name,
    /// The policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic_policy: Option<TrafficPolicy>,
}

/// Istio `TrafficPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficPolicy {
    /// Balancing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerSettings>,
}

/// Istio `LoadBalancerSettings`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoadBalancerSettings {
    /// `RANDOM`, `ROUND_ROBIN`, and names the mesh reports and ignores (`PASSTHROUGH`, `LEAST_CONN`, …).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub simple: Option<Name>,
    /// Hashing; only the source address is known at layer 4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
}

/// Istio `ConsistentHashLB`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsistentHash {
    /// Hash on a request header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_header_name: Option<Name>,
    /// Hash on the client's address.
    pub use_source_ip: bool,
}

/// networking.istio.io Gateway: what a gateway listens on.
pub type Gateway = CustomObject<GatewaySpec>;

/// The part of an Istio Gateway a gateway reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewaySpec {
    /// What is listened on.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub servers: Vec<Server>,
    /// Labels of the gateways that serve it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub selector: BTreeMap<Name, Name>,
}

/// Istio `Server`: one port with its hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Server {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The port.
    #[serde(deserialize_with = "null_is_default")]
    pub port: Port,
    /// The address to listen on, where it names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind: Option<Name>,
    /// Hosts that are served: `host`, `*.domain`, `*`, each with `namespace/` before it or without.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub hosts: Vec<Name>,
    /// How TLS is spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTlsSettings>,
}

/// Istio `Port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Port {
    /// The port's number.
    #[serde(deserialize_with = "null_is_default")]
    pub number: u16,
    /// `HTTP`, `HTTPS`, `GRPC`, `HTTP2`, `MONGO`, `TCP`, `TLS`.
    #[serde(deserialize_with = "null_is_default")]
    pub protocol: Name,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

/// Istio `ServerTLSSettings`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServerTlsSettings {
    /// Requests without TLS are redirected.
    #[serde(deserialize_with = "null_is_default")]
    pub https_redirect: bool,
    /// `PASSTHROUGH`, `SIMPLE`, `MUTUAL`, `AUTO_PASSTHROUGH`, `ISTIO_MUTUAL`, `OPTIONAL_MUTUAL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Name>,
    /// The Secret with the certificate, in the Gateway's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential_name: Option<Name>,
    /// Several of them, for certificates of different keys.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub credential_names: Vec<Name>,
    /// Path of the certificate, where it is a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_certificate: Option<Name>,
    /// Path of its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<Name>,
    /// Path of the certificates that clients are verified by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_certificates: Option<Name>,
    /// Names that a client's certificate must have one of.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub subject_alt_names: Vec<Name>,
    /// `TLS_AUTO`, `TLSV1_0` … `TLSV1_3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_protocol_version: Option<Name>,
    /// The same, for the newest one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_protocol_version: Option<Name>,
    /// The only cipher suites.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub cipher_suites: Vec<Name>,
}

/// networking.istio.io VirtualService: where requests of a host go.
pub type VirtualService = CustomObject<VirtualServiceSpec>;

/// The part of a VirtualService a gateway reads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VirtualServiceSpec {
    /// Hosts that it is for.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub hosts: Vec<Name>,
    /// Gateways that it is for, `namespace/name` or `name`; none means the mesh itself.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub gateways: Vec<Name>,
    /// Routes of HTTP; the first that matches counts.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub http: Vec<HttpRoute>,
    /// Routes by the server name of TLS.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub tls: Vec<TlsRoute>,
    /// Routes of other connections.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub tcp: Vec<TcpRoute>,
    /// Namespaces that see it; none means all.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub export_to: Vec<Name>,
}

/// Istio `HTTPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRoute {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// One of these has to match; none matches all.
    #[serde(rename = "match", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub matches: Vec<HttpMatchRequest>,
    /// Where requests go, by weight.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub route: Vec<RouteDestination>,
    /// The answer is a redirect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<HttpRedirect>,
    /// The answer is this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_response: Option<HttpDirectResponse>,
    /// What is changed before the request goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<HttpRewrite>,
    /// How long an answer may take, as `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Name>,
    /// How often a request that failed is sent again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<HttpRetry>,
    /// Headers that are changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
}

/// Istio `HTTPMatchRequest`: all parts have to match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMatchRequest {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<StringMatch>,
    /// Whether upper and lower case of the path are the same.
    #[serde(deserialize_with = "null_is_default")]
    pub ignore_uri_case: bool,
    /// `http` or `https`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<StringMatch>,
    /// The method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<StringMatch>,
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<StringMatch>,
    /// Headers by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub headers: BTreeMap<Name, StringMatch>,
    /// Headers that must not match.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub without_headers: BTreeMap<Name, StringMatch>,
    /// Parameters of the query by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub query_params: BTreeMap<Name, StringMatch>,
    /// The port of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Gateways that this match is for.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub gateways: Vec<Name>,
}

/// Istio `StringMatch`: one of its fields is there. Without any it matches whatever is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct StringMatch {
    /// The whole text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<Name>,
    /// Its beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Name>,
    /// An expression in RE2's syntax for the whole text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<Name>,
}

/// Istio `HTTPRouteDestination` and `RouteDestination`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteDestination {
    /// Where it leads.
    #[serde(deserialize_with = "null_is_default")]
    pub destination: Destination,
    /// Its share of the traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i32>,
    /// Headers that are changed on this way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Headers>,
}

/// Istio `Destination`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Destination {
    /// The Service: short (in the namespace of the VirtualService) or fully qualified.
    #[serde(deserialize_with = "null_is_default")]
    pub host: Name,
    /// A subset that a DestinationRule defines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset: Option<Name>,
    /// The port of the Service; needed unless it has only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<PortSelector>,
}

/// Istio `PortSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortSelector {
    /// The port's number.
    #[serde(deserialize_with = "null_is_default")]
    pub number: u16,
}

/// Istio `HTTPRedirect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRedirect {
    /// The new path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<Name>,
    /// The new host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<Name>,
    /// The new scheme.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Name>,
    /// The new port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `FROM_PROTOCOL_DEFAULT` or `FROM_REQUEST_PORT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub derive_port: Option<Name>,
    /// The status; 301 unless it is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect_code: Option<u16>,
}

/// Istio `HTTPDirectResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpDirectResponse {
    /// The status.
    #[serde(deserialize_with = "null_is_default")]
    pub status: u16,
    /// The body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<HttpBody>,
}

/// Istio `HTTPBody`: one of its fields is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpBody {
    /// The text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub string: Option<Name>,
    /// The octets in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Name>,
}

/// Istio `HTTPRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRewrite {
    /// In place of the path, or of the prefix that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<Name>,
    /// In place of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<Name>,
    /// In place of what an expression matches in the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// Istio `RegexRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RegexRewrite {
    /// The expression in RE2's syntax.
    #[serde(rename = "match", deserialize_with = "null_is_default")]
    pub matches: Name,
    /// What stands in its place; `\\1` is its first group.
    #[serde(deserialize_with = "null_is_default")]
    pub rewrite: Name,
}

/// Istio `HTTPRetry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRetry {
    /// How often.
    #[serde(deserialize_with = "null_is_default")]
    pub attempts: i32,
    /// How long each may take, as `5s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<Name>,
    /// Conditions separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<Name>,
}

/// Istio `Headers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Headers {
    /// Of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<HeaderOperations>,
    /// Of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<HeaderOperations>,
}

/// Istio `HeaderOperations`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeaderOperations {
    /// Headers that are replaced.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub set: BTreeMap<Name, Name>,
    /// Headers that are appended.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub add: BTreeMap<Name, Name>,
    /// Headers that are taken away.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub remove: Vec<Name>,
}

/// Istio `TLSRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsRoute {
    /// One of these has to match.
    #[serde(rename = "match", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub matches: Vec<L4Match>,
    /// Where connections go, by weight.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub route: Vec<RouteDestination>,
}

/// Istio `TCPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpRoute {
    /// One of these has to match; none matches all.
    #[serde(rename = "match", skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub matches: Vec<L4Match>,
    /// Where connections go, by weight.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub route: Vec<RouteDestination>,
}

/// Istio `L4MatchAttributes` and `TLSMatchAttributes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct L4Match {
    /// Server names; of a TLS route only.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub sni_hosts: Vec<Name>,
    /// Addresses that were connected to.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub destination_subnets: Vec<Name>,
    /// The port of the gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Gateways that this match is for.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub gateways: Vec<Name>,
}

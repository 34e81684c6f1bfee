use crate::field::{Field, Preset, Roles, Shape};

const JSON: &str = "JSON is always spoken";
const RATE: &str = "objects are listed once and then watched: there is no rate to limit";
const NO_KUBECONFIG: &str = "no kubeconfig is ever written";
const PROFILING: &str = "there is no profiling server";

pub(super) const KUBE: &[Field] = &[
    Field::go(
        "kubeAPIConfig.master",
        Roles::Both,
        Shape::Url,
        Preset::Text(""),
        "URL of the API server, over what the kubeconfig says; not empty means ManualMode",
    ),
    Field::go(
        "kubeAPIConfig.contentType",
        Roles::Both,
        Shape::Text,
        Preset::Text("application/vnd.kubernetes.protobuf"),
        "encoding of requests",
    )
    .unused(JSON),
    Field::go(
        "kubeAPIConfig.qps",
        Roles::Both,
        Shape::Integer,
        Preset::Number(100),
        "requests per second to the API server",
    )
    .unused(RATE),
    Field::go(
        "kubeAPIConfig.burst",
        Roles::Both,
        Shape::Integer,
        Preset::Number(200),
        "requests at once to the API server",
    )
    .unused(RATE),
    Field::go(
        "kubeAPIConfig.kubeConfig",
        Roles::Both,
        Shape::AbsolutePath,
        Preset::Text(""),
        "path of a kubeconfig; not empty means ManualMode",
    ),
    Field::go(
        "kubeAPIConfig.mode",
        Roles::Both,
        Shape::OneOf(&["", "ManualMode", "CloudMode", "EdgeMode"]),
        Preset::Text(""),
        "running mode; empty means that it is found out",
    ),
    Field::go(
        "kubeAPIConfig.metaServer.server",
        Roles::Both,
        Shape::Url,
        Preset::Text("http://127.0.0.1:10550"),
        "URL of edgecore's metaServer, the source in EdgeMode",
    ),
    Field::go(
        "kubeAPIConfig.metaServer.security.requireAuthorization",
        Roles::Both,
        Shape::Flag,
        Preset::Flag(false),
        "speak https to the metaServer and show the service account's token",
    ),
    Field::go(
        "kubeAPIConfig.metaServer.security.insecureSkipTLSVerify",
        Roles::Both,
        Shape::Flag,
        Preset::Flag(false),
        "take the metaServer's certificate unseen and show none",
    ),
    Field::go(
        "kubeAPIConfig.metaServer.security.tlsCaFile",
        Roles::Both,
        Shape::File,
        Preset::Text("/etc/edgemesh/metaserver/rootCA.crt"),
        "who signed the metaServer's certificate",
    ),
    Field::go(
        "kubeAPIConfig.metaServer.security.tlsCertFile",
        Roles::Both,
        Shape::File,
        Preset::Text("/etc/edgemesh/metaserver/server.crt"),
        "certificate shown to the metaServer",
    ),
    Field::go(
        "kubeAPIConfig.metaServer.security.tlsPrivateKeyFile",
        Roles::Both,
        Shape::File,
        Preset::Text("/etc/edgemesh/metaserver/server.key"),
        "key of that certificate",
    ),
    Field::go(
        "kubeAPIConfig.deleteKubeConfig",
        Roles::Both,
        Shape::Flag,
        Preset::Flag(false),
        "delete the generated kubeconfig after the start",
    )
    .unused(NO_KUBECONFIG),
    Field::ours(
        "kubeAPIConfig.manifests",
        Roles::Both,
        Shape::AbsolutePath,
        Preset::Text(""),
        "directory of Kubernetes manifests that is the source instead of a cluster; not empty means ManifestMode",
    ),
];

pub(super) const COMMON: &[Field] = &[
    Field::go(
        "commonConfig.bridgeDeviceName",
        Roles::Agent,
        Shape::Device,
        Preset::Text("edgemesh0"),
        "device that carries the agent's own addresses",
    ),
    Field::go(
        "commonConfig.bridgeDeviceIP",
        Roles::Agent,
        Shape::Ip,
        Preset::Text("169.254.96.16"),
        "address of that device, where pods find their DNS server; an IPv4 address brings the same number as a link-local \
         IPv6 address with it",
    ),
    Field::go(
        "commonConfig.pprofConfig.enableProfiling",
        Roles::Agent,
        Shape::Flag,
        Preset::Flag(false),
        "serve Go's profiles",
    )
    .unused(PROFILING),
    Field::go(
        "commonConfig.pprofConfig.profilingAddress",
        Roles::Agent,
        Shape::Text,
        Preset::Text(""),
        "address of that server",
    )
    .unused(PROFILING),
    Field::go(
        "commonConfig.pprofConfig.profilingPort",
        Roles::Agent,
        Shape::Integer,
        Preset::Number(0),
        "port of that server",
    )
    .unused(PROFILING),
    Field::ours(
        "commonConfig.stateDir",
        Roles::Both,
        Shape::AbsolutePath,
        Preset::ByRole("/var/lib/edgemesh", "/var/lib/edgemesh/gateway"),
        "directory of the node's key and of the journal",
    ),
    Field::ours(
        "commonConfig.adminSocket",
        Roles::Both,
        Shape::AbsolutePath,
        Preset::ByRole("/run/edgemesh/agent.sock", "/run/edgemesh/gateway.sock"),
        "socket that `edgemesh status` and its like ask",
    ),
    Field::ours(
        "commonConfig.metricsListen",
        Roles::Both,
        Shape::Listen,
        Preset::ByRole("127.0.0.1:9999", "127.0.0.1:10000"),
        "address of /metrics and /healthz, or off",
    ),
    Field::ours(
        "commonConfig.accessLog",
        Roles::Both,
        Shape::OneOf(&["all", "errors", "off"]),
        Preset::Text("all"),
        "which connections get a line in the log",
    )
    .while_running(),
    Field::ours(
        "commonConfig.logLevel",
        Roles::Both,
        Shape::LogLevel,
        Preset::Text("info"),
        "what is logged, by crate too: info,edgemesh_tunnel=debug",
    )
    .while_running(),
    Field::ours(
        "commonConfig.logFormat",
        Roles::Both,
        Shape::OneOf(&["text", "json"]),
        Preset::Text("text"),
        "how a line of the log is written",
    ),
];

pub(super) const PPROF: &[Field] = &[
    Field::go(
        "pprofConfig.enableProfiling",
        Roles::Gateway,
        Shape::Flag,
        Preset::Flag(false),
        "serve Go's profiles",
    )
    .unused(PROFILING),
    Field::go(
        "pprofConfig.profilingAddress",
        Roles::Gateway,
        Shape::Text,
        Preset::Text(""),
        "address of that server",
    )
    .unused(PROFILING),
    Field::go(
        "pprofConfig.profilingPort",
        Roles::Gateway,
        Shape::Integer,
        Preset::Number(0),
        "port of that server",
    )
    .unused(PROFILING),
];

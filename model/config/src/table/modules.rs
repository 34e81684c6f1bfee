use crate::field::{Field, Preset, Roles, Shape};

const NO_SOCKS5: &str =
    "this version has no SOCKS5 server; an agent that is told to serve one says so in its status";
const NO_POD_NETWORK: &str =
    "this version has no pod network; an agent that is told to have one says so in its status";
const INTERNAL: &str = "the program sets it itself";
const NO_RING: &str = "endpoints are hashed without a ring of fixed size";
const OWN_ADDRESSES: &str = "the pod network finds its addresses itself";
const ONE_WAY: &str = "packets are forwarded in one way only";

/// Past the kernel's fs.nr_open (2^20) no process can have as many sockets.
const MAX_OPEN: i64 = 1 << 20;

/// A week, which RFC 8767 (section 4) recommends as the cap of a TTL; nothing else waits longer either.
const MAX_SECONDS: i64 = 604_800;

pub(super) const DNS: &[Field] = &[
    Field::go(
        "modules.edgeDNS.enable",
        Roles::Agent,
        Shape::Flag,
        Preset::ByMode,
        "answer DNS queries of the node's pods",
    ),
    Field::go(
        "modules.edgeDNS.kubeAPIConfig",
        Roles::Agent,
        Shape::Anything,
        Preset::Empty,
        "copy of the block at the top",
    )
    .unused(INTERNAL),
    Field::go(
        "modules.edgeDNS.listenInterface",
        Roles::Agent,
        Shape::Text,
        Preset::Text(""),
        "copy of commonConfig.bridgeDeviceName",
    )
    .unused(INTERNAL),
    Field::go(
        "modules.edgeDNS.listenPort",
        Roles::Agent,
        Shape::Port,
        Preset::Number(53),
        "port, UDP and TCP",
    ),
    Field::go(
        "modules.edgeDNS.cacheDNS.enable",
        Roles::Agent,
        Shape::Flag,
        Preset::Flag(false),
        "answer no name from the mesh: ask the cluster's DNS for all of them and keep what it answers",
    ),
    Field::go(
        "modules.edgeDNS.cacheDNS.autoDetect",
        Roles::Agent,
        Shape::Flag,
        Preset::Flag(true),
        "with cacheDNS.enable: ask the DNS Services of kube-system",
    ),
    Field::go(
        "modules.edgeDNS.cacheDNS.upstreamServers",
        Roles::Agent,
        Shape::Addresses,
        Preset::Empty,
        "with cacheDNS.enable: ask these servers too; port 53 unless said",
    ),
    Field::go(
        "modules.edgeDNS.cacheDNS.cacheTTL",
        Roles::Agent,
        Shape::Number(1, MAX_SECONDS),
        Preset::Number(30),
        "with cacheDNS.enable: seconds that an answer is kept at most",
    ),
    Field::ours(
        "modules.edgeDNS.clusterDomain",
        Roles::Agent,
        Shape::Domain,
        Preset::Text("cluster.local"),
        "domain of the cluster",
    ),
    Field::ours(
        "modules.edgeDNS.upstreamServers",
        Roles::Agent,
        Shape::Addresses,
        Preset::Empty,
        "without cacheDNS.enable: servers asked for names outside the cluster, port 53 unless said; none means those of \
         /etc/resolv.conf",
    ),
    Field::ours(
        "modules.edgeDNS.listenAddresses",
        Roles::Agent,
        Shape::Addresses,
        Preset::Empty,
        "addresses to listen on, with listenPort unless said; none means the addresses of the agent's own device",
    ),
];

pub(super) const PROXY: &[Field] = &[
    Field::go(
        "modules.edgeProxy.enable",
        Roles::Agent,
        Shape::Flag,
        Preset::Flag(false),
        "intercept connections to Services",
    ),
    Field::go(
        "modules.edgeProxy.listenInterface",
        Roles::Agent,
        Shape::Text,
        Preset::Text(""),
        "copy of commonConfig.bridgeDeviceName",
    )
    .unused(INTERNAL),
    Field::go(
        "modules.edgeProxy.serviceFilterMode",
        Roles::Agent,
        Shape::OneOf(&["FilterIfLabelExists", "FilterIfLabelDoesNotExists"]),
        Preset::Text("FilterIfLabelExists"),
        "leave Services alone that have, or do not have, the label service.edgemesh.kubeedge.io/service-proxy-name",
    )
    .while_running(),
    Field::go(
        "modules.edgeProxy.socks5Proxy.enable",
        Roles::Agent,
        Shape::Flag,
        Preset::Flag(false),
        "serve SOCKS5 on the agent's own addresses",
    )
    .unused(NO_SOCKS5),
    Field::go(
        "modules.edgeProxy.socks5Proxy.listenPort",
        Roles::Agent,
        Shape::Port,
        Preset::Number(10800),
        "port of that server",
    )
    .unused(NO_SOCKS5),
    Field::go(
        "modules.edgeProxy.socks5Proxy.nodeName",
        Roles::Agent,
        Shape::Text,
        Preset::Text(""),
        "copy of NODE_NAME",
    )
    .unused(INTERNAL),
    Field::go(
        "modules.edgeProxy.socks5Proxy.namespace",
        Roles::Agent,
        Shape::Text,
        Preset::Text(""),
        "copy of NAMESPACE",
    )
    .unused(INTERNAL),
    Field::go(
        "modules.edgeProxy.loadBalancer.caller",
        Roles::Agent,
        Shape::Text,
        Preset::Text("ProxyCaller"),
        "which module picks endpoints",
    )
    .unused(INTERNAL),
    Field::go(
        "modules.edgeProxy.loadBalancer.nodeName",
        Roles::Agent,
        Shape::Text,
        Preset::Text(""),
        "copy of NODE_NAME",
    )
    .unused(INTERNAL),
    Field::go(
        "modules.edgeProxy.loadBalancer.consistentHash.partitionCount",
        Roles::Agent,
        Shape::Integer,
        Preset::Number(100),
        "partitions of the hash ring",
    )
    .unused(NO_RING),
    Field::go(
        "modules.edgeProxy.loadBalancer.consistentHash.replicationFactor",
        Roles::Agent,
        Shape::Integer,
        Preset::Number(10),
        "points of an endpoint on the hash ring",
    )
    .unused(NO_RING),
    Field::go(
        "modules.edgeProxy.loadBalancer.consistentHash.load",
        Roles::Agent,
        Shape::Fraction,
        Preset::Fraction(1.25),
        "how much an endpoint may have over the average",
    )
    .unused(NO_RING),
    Field::ours(
        "modules.edgeProxy.proxyPort",
        Roles::Agent,
        Shape::Port,
        Preset::Number(15001),
        "loopback port that intercepted connections reach",
    ),
    Field::ours(
        "modules.edgeProxy.kernelPath",
        Roles::Agent,
        Shape::OneOf(&["auto", "always", "off"]),
        Preset::Text("auto"),
        "whether the kernel translates connections to endpoints that it reaches; `auto` leaves those of pods to the proxy where the host's firewall drops forwarded packets by default, `always` trusts the firewall to accept them, `off` leaves all to the proxy",
    ),
    Field::ours(
        "modules.edgeProxy.connectRewrite",
        Roles::Agent,
        Shape::OneOf(&["auto", "off"]),
        Preset::Text("auto"),
        "whether TCP sockets of the host's own network namespace connect to an endpoint at once (BPF), where the kernel's rules would translate each packet; `auto` does so where the kernel lets the agent: it takes CAP_BPF and CAP_NET_ADMIN and the root of the host's cgroups; `edgemesh status` says whether and why",
    ),
    Field::ours(
        "modules.edgeProxy.backend",
        Roles::Agent,
        Shape::OneOf(&["auto", "nftables", "iptables"]),
        Preset::Text("auto"),
        "what carries the kernel's rules out; `auto` is nftables where the kernel takes every rule, else iptables, which needs the programs iptables and ipset; `edgemesh status` says which and why",
    ),
    Field::ours(
        "modules.edgeProxy.nodePortAddresses",
        Roles::Agent,
        Shape::Nets,
        Preset::Text(""),
        "addresses and ranges of the host at which node ports are open; all but loopback when empty",
    ),
    Field::ours(
        "modules.edgeProxy.keepRules",
        Roles::Agent,
        Shape::Flag,
        Preset::Flag(true),
        "the kernel's rules stay when the agent ends, so that connections go on while it is restarted; `edgemesh cleanup` removes them",
    ),
    Field::ours(
        "modules.edgeProxy.maxConnections",
        Roles::Agent,
        Shape::Number(1, MAX_OPEN),
        Preset::Number(10_240),
        "open TCP connections",
    ),
    Field::ours(
        "modules.edgeProxy.maxUDPSessions",
        Roles::Agent,
        Shape::Number(1, MAX_OPEN),
        Preset::Number(4_096),
        "open UDP sessions",
    ),
    Field::ours(
        "modules.edgeProxy.tcpIdleSeconds",
        Roles::Agent,
        Shape::Number(1, MAX_SECONDS),
        Preset::Number(7_200),
        "how long a TCP connection may be silent",
    ),
    Field::ours(
        "modules.edgeProxy.udpIdleSeconds",
        Roles::Agent,
        Shape::Number(1, MAX_SECONDS),
        Preset::Number(60),
        "how long a UDP session may be silent",
    ),
    Field::ours(
        "modules.edgeProxy.hijackKubernetesService",
        Roles::Agent,
        Shape::Flag,
        Preset::Flag(false),
        "intercept the Service default/kubernetes too",
    )
    .while_running(),
];

pub(super) const CNI: &[Field] = &[
    Field::go(
        "modules.edgeCNI.enable",
        Roles::Agent,
        Shape::Flag,
        Preset::Flag(false),
        "carry packets between pods of cloud and edge",
    )
    .unused(NO_POD_NETWORK),
    Field::go(
        "modules.edgeCNI.encapsulationIP",
        Roles::Agent,
        Shape::Text,
        Preset::Text(""),
        "address of the TUN device",
    )
    .unused(OWN_ADDRESSES),
    Field::go(
        "modules.edgeCNI.tunMode",
        Roles::Agent,
        Shape::Integer,
        Preset::Number(0),
        "how the TUN device is read",
    )
    .unused(ONE_WAY),
    Field::go(
        "modules.edgeCNI.meshCIDRConfig.cloudCIDR",
        Roles::Agent,
        Shape::Cidrs,
        Preset::Empty,
        "addresses of pods in the cloud",
    )
    .unused(NO_POD_NETWORK),
    Field::go(
        "modules.edgeCNI.meshCIDRConfig.edgeCIDR",
        Roles::Agent,
        Shape::Cidrs,
        Preset::Empty,
        "addresses of pods at the edge",
    )
    .unused(NO_POD_NETWORK),
];

pub(super) const GATEWAY: &[Field] = &[
    Field::go(
        "modules.edgeGateway.enable",
        Roles::Gateway,
        Shape::Flag,
        Preset::Flag(false),
        "serve Gateways and VirtualServices",
    ),
    Field::go(
        "modules.edgeGateway.nic",
        Roles::Gateway,
        Shape::Interfaces,
        Preset::Text("*"),
        "interfaces to listen on: lo,eth0; empty or * means all",
    ),
    Field::go(
        "modules.edgeGateway.includeIP",
        Roles::Gateway,
        Shape::Nets,
        Preset::Text("*"),
        "addresses to listen on, IP or CIDR: 192.0.2.1,10.0.0.0/8; empty or * means all",
    ),
    Field::go(
        "modules.edgeGateway.excludeIP",
        Roles::Gateway,
        Shape::Nets,
        Preset::Text("*"),
        "addresses not to listen on, IP or CIDR; empty or * means none",
    ),
    Field::go(
        "modules.edgeGateway.loadBalancer.caller",
        Roles::Gateway,
        Shape::Text,
        Preset::Text("ProxyCaller"),
        "which module picks endpoints",
    )
    .unused(INTERNAL),
    Field::go(
        "modules.edgeGateway.loadBalancer.nodeName",
        Roles::Gateway,
        Shape::Text,
        Preset::Text(""),
        "copy of NODE_NAME",
    )
    .unused(INTERNAL),
    Field::go(
        "modules.edgeGateway.loadBalancer.consistentHash.partitionCount",
        Roles::Gateway,
        Shape::Integer,
        Preset::Number(100),
        "partitions of the hash ring",
    )
    .unused(NO_RING),
    Field::go(
        "modules.edgeGateway.loadBalancer.consistentHash.replicationFactor",
        Roles::Gateway,
        Shape::Integer,
        Preset::Number(10),
        "points of an endpoint on the hash ring",
    )
    .unused(NO_RING),
    Field::go(
        "modules.edgeGateway.loadBalancer.consistentHash.load",
        Roles::Gateway,
        Shape::Fraction,
        Preset::Fraction(1.25),
        "how much an endpoint may have over the average",
    )
    .unused(NO_RING),
];

use crate::field::{Field, Preset, Roles, Shape};

const INTERNAL: &str = "the program sets it itself";
const KEY_DIVIDES: &str = "the private-network key tells meshes apart";
const LOG_LEVEL: &str = "commonConfig.logLevel says what is logged, by crate too";
const ALL_RELAYS: &str = "every relay of relayNodes is a candidate";
const OWN_PERIODS: &str = "the tunnel has shorter periods of its own";
const FIXED_BOUNDS: &str = "the tunnel's bounds are fixed";

pub(super) const TUNNEL: &[Field] = &[
    Field::go(
        "modules.edgeTunnel.enable",
        Roles::Both,
        Shape::Flag,
        Preset::Flag(false),
        "reach nodes of other networks",
    ),
    Field::go(
        "modules.edgeTunnel.mode",
        Roles::Both,
        Shape::Text,
        Preset::ByRole("ServerAndClient", "ClientOnly"),
        "whether peers may open streams",
    )
    .unused(INTERNAL),
    Field::go(
        "modules.edgeTunnel.nodeName",
        Roles::Both,
        Shape::Text,
        Preset::Text(""),
        "copy of NODE_NAME",
    )
    .unused(INTERNAL),
    Field::go(
        "modules.edgeTunnel.listenPort",
        Roles::Both,
        Shape::Port,
        Preset::Number(20006),
        "port of the tunnel; a gateway listens on the next one",
    ),
    Field::go(
        "modules.edgeTunnel.transport",
        Roles::Both,
        Shape::OneOf(&["tcp", "ws", "quic"]),
        Preset::Text("tcp"),
        "what carries the tunnel; tcp is used for each of them",
    ),
    Field::go(
        "modules.edgeTunnel.rendezvous",
        Roles::Both,
        Shape::Text,
        Preset::Text("EDGEMESH_PLAYGOUND"),
        "name under which nodes look for each other",
    )
    .unused(KEY_DIVIDES),
    Field::go(
        "modules.edgeTunnel.relayNodes",
        Roles::Both,
        Shape::Relays,
        Preset::Empty,
        "nodes through which others are reached when no direct way is found",
    )
    .while_running(),
    Field::go(
        "modules.edgeTunnel.relayNodes[].nodeName",
        Roles::Both,
        Shape::Text,
        Preset::Text(""),
        "name of the node; the agent that runs there relays",
    )
    .while_running(),
    Field::go(
        "modules.edgeTunnel.relayNodes[].advertiseAddress",
        Roles::Both,
        Shape::RelayAddresses,
        Preset::Empty,
        "where other nodes reach it, with listenPort unless said; /p2p/ and its identity at the end pins that",
    )
    .while_running(),
    Field::go(
        "modules.edgeTunnel.enableIpfsLog",
        Roles::Both,
        Shape::Flag,
        Preset::Flag(false),
        "log everything of libp2p",
    )
    .unused(LOG_LEVEL),
    Field::go(
        "modules.edgeTunnel.maxCandidates",
        Roles::Both,
        Shape::Integer,
        Preset::Number(15),
        "relays that are held ready",
    )
    .unused(ALL_RELAYS),
    Field::go(
        "modules.edgeTunnel.heartbeatPeriod",
        Roles::Both,
        Shape::Integer,
        Preset::Number(120),
        "seconds between looks at the relays",
    )
    .unused(OWN_PERIODS),
    Field::go(
        "modules.edgeTunnel.finderPeriod",
        Roles::Both,
        Shape::Integer,
        Preset::Number(60),
        "seconds between searches for relays",
    )
    .unused(OWN_PERIODS),
    Field::go(
        "modules.edgeTunnel.psk.enable",
        Roles::Both,
        Shape::Flag,
        Preset::Flag(true),
        "let in only who has the private-network key; false is refused",
    ),
    Field::go(
        "modules.edgeTunnel.psk.path",
        Roles::Both,
        Shape::File,
        Preset::Text("/etc/edgemesh/psk"),
        "file of that key",
    ),
    Field::go(
        "modules.edgeTunnel.tunnelLimitConfig.enable",
        Roles::Both,
        Shape::Flag,
        Preset::Flag(true),
        "bound the streams",
    )
    .unused(FIXED_BOUNDS),
    Field::go(
        "modules.edgeTunnel.tunnelLimitConfig.tunnelBaseStreamIn",
        Roles::Both,
        Shape::Integer,
        Preset::Number(10_240),
        "streams from all peers",
    )
    .unused(FIXED_BOUNDS),
    Field::go(
        "modules.edgeTunnel.tunnelLimitConfig.tunnelBaseStreamOut",
        Roles::Both,
        Shape::Integer,
        Preset::Number(10_240),
        "streams to all peers",
    )
    .unused(FIXED_BOUNDS),
    Field::go(
        "modules.edgeTunnel.tunnelLimitConfig.tunnelPeerBaseStreamIn",
        Roles::Both,
        Shape::Integer,
        Preset::Number(1_024),
        "streams from one peer",
    )
    .unused(FIXED_BOUNDS),
    Field::go(
        "modules.edgeTunnel.tunnelLimitConfig.tunnelPeerBaseStreamOut",
        Roles::Both,
        Shape::Integer,
        Preset::Number(1_024),
        "streams to one peer",
    )
    .unused(FIXED_BOUNDS),
    Field::go(
        "modules.edgeTunnel.configPath",
        Roles::Both,
        Shape::Text,
        Preset::Text(""),
        "path of the file itself",
    )
    .unused(INTERNAL),
    Field::go(
        "modules.edgeTunnel.listenInterfaces",
        Roles::Both,
        Shape::Interfaces,
        Preset::Text("*"),
        "interfaces to listen on: lo,eth0; empty or * means all",
    ),
    Field::go(
        "modules.edgeTunnel.extraFilteredInterfaces",
        Roles::Both,
        Shape::Interfaces,
        Preset::Text(""),
        "beginnings of further interface names that are no LAN: wg,vpn",
    ),
    Field::go(
        "modules.edgeTunnel.metricConfig.enable",
        Roles::Both,
        Shape::Flag,
        Preset::Flag(false),
        "serve /metrics on all interfaces",
    ),
    Field::go(
        "modules.edgeTunnel.metricConfig.port",
        Roles::Both,
        Shape::Port,
        Preset::Number(9999),
        "port of that server",
    ),
    Field::ours(
        "modules.edgeTunnel.identity.policy",
        Roles::Both,
        Shape::OneOf(&["auto", "require", "prefer", "off"]),
        Preset::Text("auto"),
        "whose claims of node names are believed; auto is require where authorityFile names an authority, else prefer",
    ),
    Field::ours(
        "modules.edgeTunnel.identity.authorityFile",
        Roles::Both,
        Shape::File,
        Preset::Text("/etc/edgemesh/authority.pub"),
        "public keys of the authorities that sign join tokens; a missing file has none",
    ),
    Field::ours(
        "modules.edgeTunnel.identity.authorityKeyFile",
        Roles::Both,
        Shape::File,
        Preset::Text("/etc/edgemesh/authority.key"),
        "the authority's own key; where the file is, the node pins join tokens to the keys that present them",
    ),
    Field::ours(
        "modules.edgeTunnel.mdns",
        Roles::Both,
        Shape::Flag,
        Preset::Flag(true),
        "look for peers in the LAN",
    ),
    Field::ours(
        "modules.edgeTunnel.goPeers",
        Roles::Both,
        Shape::Flag,
        Preset::Flag(false),
        "speak with agents of Go EdgeMesh too; the private-network key is then made from its file as they make it, so all \
         agents of a mesh must agree; psk.path's bytes count, a newline at the end too",
    ),
    Field::ours(
        "modules.edgeTunnel.advertiseAddress",
        Roles::Both,
        Shape::Addresses,
        Preset::Empty,
        "where other nodes reach this one, besides the addresses of its interfaces; with the tunnel's port unless said",
    ),
];

use crate::settings::Role;
use crate::value::Value;

/// One key of the file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Field {
    /// The key with its blocks, such as `modules.edgeDNS.enable`; `[]` stands for each item of a list.
    pub path: &'static str,
    /// What may stand there.
    pub shape: Shape,
    /// What counts when the file does not say.
    pub default: Preset,
    /// What it is for.
    pub meaning: &'static str,
    /// What it does here.
    pub effect: Effect,
    /// Who defined it.
    pub origin: Origin,
    /// When a change counts.
    pub reload: Reload,
    /// Which program reads it.
    pub roles: Roles,
}

/// What may stand at a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `true` or `false`.
    Flag,
    /// A whole number from the first to the second, both included.
    Number(i64, i64),
    /// A whole number of a key that does nothing.
    Integer,
    /// A number.
    Fraction,
    /// A port, 1 to 65535.
    Port,
    /// Any text.
    Text,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A path.
    File,
    /// An absolute path.
    AbsolutePath,
    /// `http://` or `https://`, or a host with a port.
    Url,
    /// An IPv4 or IPv6 address.
    Ip,
    /// `IP:PORT`, or `off`.
    Listen,
    /// A list of `IP` or `IP:PORT`.
    Addresses,
    /// Interface names, separated by commas; `*` or nothing stands for all.
    Interfaces,
    /// IP addresses and CIDR blocks, separated by commas; `*` or nothing stands for all.
    Nets,
    /// A list of CIDR blocks.
    Cidrs,
    /// A DNS name.
    Domain,
    /// A log level, or levels by crate.
    LogLevel,
    /// The name of a network device.
    Device,
    /// The list of relay nodes.
    Relays,
    /// A list of relay addresses.
    RelayAddresses,
    /// Whatever Go EdgeMesh put there.
    Anything,
}

impl Shape {
    /// What to write, for people.
    pub fn expected(self) -> String {
        let text = match self {
            Self::Flag => "true or false",
            Self::Number(min, max) => return format!("a whole number from {min} to {max}"),
            Self::Integer => "a whole number",
            Self::Fraction => "a number",
            Self::Port => "a port, 1 to 65535",
            Self::Text => "text",
            Self::OneOf(words) => {
                let words: Vec<_> = words.iter().filter(|word| !word.is_empty()).copied().collect();
                return format!("one of {}", words.join(", "));
            }
            Self::File => "a path",
            Self::AbsolutePath => "an absolute path",
            Self::Url => "a URL such as https://10.0.0.1:6443",
            Self::Ip => "an IPv4 or IPv6 address",
            Self::Listen => "IP:PORT, [IPv6]:PORT or off",
            Self::Addresses => "a list of IP, IP:PORT or [IPv6]:PORT",
            Self::Interfaces => "interface names separated by commas, or *",
            Self::Nets => "IP addresses and CIDR blocks separated by commas, or *",
            Self::Cidrs => "a list of CIDR blocks such as 10.244.0.0/16",
            Self::Domain => "a DNS name such as cluster.local",
            Self::LogLevel => {
                "error, warn, info, debug or trace, or levels by crate such as info,edgemesh_tunnel=debug"
            }
            Self::Device => "a device name (1 to 15 characters, no slash, no space)",
            Self::Relays => "a list of blocks with nodeName and advertiseAddress",
            Self::RelayAddresses => "a list of IP, IP:PORT, [IPv6]:PORT, host names or multiaddrs",
            Self::Anything => "anything",
        };
        text.to_owned()
    }
}

/// What counts when the file does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Preset {
    /// A flag.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// A number.
    Fraction(f64),
    /// Text.
    Text(&'static str),
    /// Text that differs between agent and gateway.
    ByRole(&'static str, &'static str),
    /// `true` on an edge node, `false` on a node where the kubelet names the API server.
    ByMode,
    /// An empty list.
    Empty,
}

/// What a key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What it says.
    Used,
    /// Nothing, and why.
    Unused(&'static str),
}

/// Who defined a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Go EdgeMesh.
    Go,
    /// This implementation.
    Rust,
}

/// When a change of a key counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// When the file is read again.
    Running,
    /// At the next start.
    Restart,
}

/// Which program reads a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roles {
    /// The agent.
    Agent,
    /// The gateway.
    Gateway,
    /// Either.
    Both,
}

impl Roles {
    /// Whether a program reads it.
    pub fn include(self, role: Role) -> bool {
        match self {
            Self::Agent => role == Role::Agent,
            Self::Gateway => role == Role::Gateway,
            Self::Both => true,
        }
    }
}

impl Field {
    pub(crate) const fn go(
        path: &'static str,
        roles: Roles,
        shape: Shape,
        default: Preset,
        meaning: &'static str,
    ) -> Self {
        Self {
            path,
            shape,
            default,
            meaning,
            effect: Effect::Used,
            origin: Origin::Go,
            reload: Reload::Restart,
            roles,
        }
    }

    pub(crate) const fn ours(
        path: &'static str,
        roles: Roles,
        shape: Shape,
        default: Preset,
        meaning: &'static str,
    ) -> Self {
        Self { origin: Origin::Rust, ..Self::go(path, roles, shape, default, meaning) }
    }

    pub(crate) const fn unused(self, why: &'static str) -> Self {
        Self { effect: Effect::Unused(why), ..self }
    }

    pub(crate) const fn while_running(self) -> Self {
        Self { reload: Reload::Running, ..self }
    }

    /// Whether the key does something.
    pub fn is_used(&self) -> bool {
        self.effect == Effect::Used
    }

    /// Whether it is a key of its own and not one inside the items of a list.
    pub(crate) fn is_whole(&self) -> bool {
        !self.path.contains("[]")
    }

    /// The blocks around it; empty at the top.
    pub fn block(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(block, _)| block)
    }

    /// The key alone.
    pub fn key(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, key)| key)
    }

    /// The default, unless the node's place decides it.
    pub(crate) fn default(&self, role: Role) -> Option<Value> {
        Some(match self.default {
            Preset::Flag(flag) => Value::Flag(flag),
            Preset::Number(number) => Value::Number(number),
            Preset::Fraction(number) => Value::Fraction(number),
            Preset::Text(text) => Value::Text(text.to_owned()),
            Preset::ByRole(agent, _) if role == Role::Agent => Value::Text(agent.to_owned()),
            Preset::ByRole(_, gateway) => Value::Text(gateway.to_owned()),
            Preset::ByMode => return None,
            Preset::Empty if self.shape == Shape::Relays => Value::Relays(Vec::new()),
            Preset::Empty if self.shape == Shape::Anything => Value::Anything,
            Preset::Empty => Value::List(Vec::new()),
        })
    }
}

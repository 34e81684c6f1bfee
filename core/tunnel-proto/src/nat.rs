//! Which path two nodes can have, by what stands between them and the internet.

use edgemesh_mesh::Path;

/// What stands between a node and the internet, in the terms of RFC 4787.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NatKind {
    /// Nothing: everybody reaches the node at its own address.
    Open,
    /// Endpoint-independent mapping and filtering ("full cone").
    EndpointIndependent,
    /// Endpoint-independent mapping, address-dependent filtering ("restricted cone").
    AddressDependent,
    /// Endpoint-independent mapping, address- and port-dependent filtering ("port-restricted cone").
    AddressAndPortDependent,
    /// Address- and port-dependent mapping and filtering, with ports drawn at random.
    Symmetric,
    /// Two translations one behind the other, the second the provider's, each with endpoint-independent mapping and address-
    /// and port-dependent filtering.
    CarrierGrade,
    /// As [`NatKind::AddressAndPortDependent`], and UDP does not get out.
    UdpBlocked,
    /// As [`NatKind::AddressAndPortDependent`], and only TCP connections to port 443 get out.
    Port443Only,
}

/// Whom a mapped port lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Admits {
    Anybody,
    /// Any port of an address that was sent to.
    Address,
    /// An address and port that was sent to.
    AddressAndPort,
}

impl NatKind {
    /// Every kind, in the order of what it makes difficult.
    pub const ALL: [Self; 8] = [
        Self::Open,
        Self::EndpointIndependent,
        Self::AddressDependent,
        Self::AddressAndPortDependent,
        Self::CarrierGrade,
        Self::UdpBlocked,
        Self::Symmetric,
        Self::Port443Only,
    ];

    /// The word for tables and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::EndpointIndependent => "endpoint_independent",
            Self::AddressDependent => "address_dependent",
            Self::AddressAndPortDependent => "address_and_port_dependent",
            Self::Symmetric => "symmetric",
            Self::CarrierGrade => "carrier_grade",
            Self::UdpBlocked => "udp_blocked",
            Self::Port443Only => "port_443_only",
        }
    }

    /// Whether a peer can know the outer port beforehand: it is the one others have seen.
    fn port_is_known(self) -> bool {
        self != Self::Symmetric
    }

    fn admits(self) -> Admits {
        match self {
            Self::Open | Self::EndpointIndependent => Admits::Anybody,
            Self::AddressDependent => Admits::Address,
            Self::AddressAndPortDependent
            | Self::Symmetric
            | Self::CarrierGrade
            | Self::UdpBlocked
            | Self::Port443Only => Admits::AddressAndPort,
        }
    }
}

/// The best path two nodes can have that are not in one LAN and share a relay which listens at port 443 too. It holds for
/// TCP alone, so that a node whose UDP is blocked loses nothing.
pub fn expected(a: NatKind, b: NatKind) -> Path {
    if [a, b].contains(&NatKind::Port443Only) {
        // No peer listens there: what a node punches from is a port of the NAT's choice.
        Path::Relayed
    } else if [a, b].contains(&NatKind::Open) {
        Path::Direct
    } else if enters(a, b) || enters(b, a) {
        Path::Punched
    } else {
        Path::Relayed
    }
}

/// Whether what `from` sends gets in at `to`, once `to` has sent to where `from` was seen.
fn enters(from: NatKind, to: NatKind) -> bool {
    to.port_is_known() && (from.port_is_known() || to.admits() != Admits::AddressAndPort)
}

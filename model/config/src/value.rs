/// A relay node of `modules.edgeTunnel.relayNodes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayNode {
    /// The Kubernetes name of the node; the agent with this name relays.
    pub node_name: String,
    /// Where other nodes reach it. Resolved settings have the port at each.
    pub advertise: Vec<String>,
}

/// What stands at a key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Flag(bool),
    Number(i64),
    Fraction(f64),
    Text(String),
    List(Vec<String>),
    Relays(Vec<RelayNode>),
    /// Of a key that may hold anything and does nothing.
    Anything,
}

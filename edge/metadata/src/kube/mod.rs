//! An API server as a source: Kubernetes' own, or KubeEdge's metaServer on the node.

mod client;
mod credentials;
mod kubeconfig;
mod link;
mod source;
mod tls;

pub use credentials::{AccessError, ApiAccess, Pem, Token};
pub use kubeconfig::parse_kubeconfig;
pub use source::{KubeBoard, KubeSource, KubeSourceSpec};

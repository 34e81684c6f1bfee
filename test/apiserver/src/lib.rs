//! A Kubernetes API server for tests: list and watch over HTTP, with the faults of real ones as switches.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use edgemesh_apiserver::{FaultSet, Resource, Server, ServerOptions};
//!
//! let server = Server::start(ServerOptions::default()).await?;
//! server.store().create(serde_json::json!({
//!     "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"clusterIP": "10.0.0.1"},
//! }))?;
//! // … a client of server.url() lists and watches …
//! server.requests().until(|counts| counts[Resource::Services].open_watches == 1).await;
//! server.faults().set(FaultSet::error(500));
//! server.cut();
//! server.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! * `Store` holds the objects: one version counter for all resources, uids that end with the object, generations,
//!   and a bounded history that watches resume from.
//! * `Faults` are switches, for all resources or for one; they concern watches that are established too. KubeEdge's local
//!   API has two sets: `FaultSet::metaserver` is an older one that only ever answers from its store,
//!   `FaultSet::metaserver_connected` passes on what the cloud says, and answers from the store while
//!   `Faults::cloud_away` is on.
//! * `Requests` count what was served and can be waited for, so that no test needs to sleep.
//!
//! # Over HTTP
//! The program `edgemesh-test-apiserver` has the same switches under `/_test/`, which need no token and know no faults:
//! `GET requests`, `GET`, `PUT` and `DELETE faults`, and `PUT` of `load?services=N&endpoints=M&pods=P`, `token?value=T`,
//! `expire?resource=R`, `compact`, `restart-empty` and `cut`. A document of faults is
//! `{"metaserver": false, "metaserverConnected": false, "cloudAway": false, "refuseConnections": false, "all": {…}, "resources": {"services": {…}}}`; each `{…}` is a
//! `FaultSet` in camel case.
//!
//! # What differs from Kubernetes
//! Only JSON is spoken. Objects are neither validated nor given defaults, there are no finalizers, and of patches only
//! JSON merge patches are known. A list at a version in the past is answered with 410 unless it is a later page.

mod control;
mod counters;
mod discovery;
mod faults;
mod http;
mod list;
mod load;
mod node;
mod resource;
mod selector;
mod server;
mod stamp;
mod status;
mod store;
mod target;
mod tls;
mod watching;

pub use counters::{Counts, Requests, ResourceCounts};
pub use faults::{
    Availability, Delivery, EventObjects, FaultSet, Faults, ItemTypes, ListFaults, ListVersion, Reply,
    Selectors, ServingFaults, WatchFaults,
};
pub use load::Load;
pub use resource::{Resource, Scope, ScopeError};
pub use server::{Server, ServerOptions, StartError};
pub use store::{Store, WriteError};
pub use tls::{Identity, TlsError, TlsOptions};

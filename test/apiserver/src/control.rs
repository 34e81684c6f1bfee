//! `/_test/`: the switches over HTTP, for a server that runs as a program of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::faults::{FaultSet, Switches};
use crate::http::{Body, read_json, refused, whole};
use crate::load::Load;
use crate::resource::Scope;
use crate::server::Shared;
use crate::status::Refusal;
use crate::target::Query;

/// All switches as one document. What a document leaves out is off.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Document {
    /// Begins with the set of the metaServer instead of none.
    #[serde(skip_serializing)]
    metaserver: bool,
    /// Begins with the set of a metaServer that passes on what the cloud says.
    #[serde(skip_serializing)]
    metaserver_connected: bool,
    cloud_away: bool,
    refuse_connections: bool,
    all: Option<FaultSet>,
    resources: BTreeMap<String, FaultSet>,
}

impl Document {
    fn of(switches: &Switches) -> Self {
        let named = |(scope, set): (&Scope, &FaultSet)| (scope.to_string(), set.clone());
        Self {
            metaserver: false,
            metaserver_connected: false,
            cloud_away: switches.cloud_away,
            refuse_connections: switches.refuse,
            all: Some(switches.all.clone()),
            resources: switches.scoped.iter().map(named).collect(),
        }
    }

    fn switches(self) -> Result<Switches, String> {
        let all = match (self.all, self.metaserver, self.metaserver_connected) {
            (Some(all), false, false) => all,
            (None, true, false) => FaultSet::metaserver(),
            (None, false, true) => FaultSet::metaserver_connected(),
            (None, false, false) => FaultSet::default(),
            _ => return Err("metaserver and all, metaserverConnected: say one of them".to_owned()),
        };
        let scoped = self.resources.into_iter().map(|(name, set)| {
            let scope = name.parse::<Scope>().map_err(|error| error.to_string())?;
            Ok((scope, set))
        });
        let scoped = scoped.collect::<Result<_, String>>()?;
        Ok(Switches { refuse: self.refuse_connections, cloud_away: self.cloud_away, all, scoped })
    }
}

pub(crate) async fn answer(
    shared: &Arc<Shared>,
    control: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    match act(shared, control, request).await {
        Ok(value) => whole(StatusCode::OK, Bytes::from(format!("{value}\n"))),
        Err(refusal) => refused(refusal),
    }
}

async fn act(shared: &Arc<Shared>, control: &str, request: Request<Incoming>) -> Result<Value, Refusal> {
    let query = Query::of(request.uri());
    match (control, request.method()) {
        ("requests", &Method::GET) => Ok(shared.requests.counts().json()),
        ("faults", &Method::GET) => Ok(json!(Document::of(&shared.faults.switches()))),
        ("faults", &Method::DELETE) => {
            shared.faults.clear();
            Ok(json!({}))
        }
        ("faults", &Method::PUT) => {
            let document: Document = serde_json::from_value(read_json(request).await?)
                .map_err(|error| Refusal::bad_request(format!("faults: {error}")))?;
            let switches = document.switches().map_err(Refusal::bad_request)?;
            if switches.refuse && !shared.has_control {
                let message =
                    "refuseConnections could never be taken back: start the server with --control ADDR";
                return Err(Refusal::bad_request(message));
            }
            shared.faults.replace(switches);
            Ok(json!(Document::of(&shared.faults.switches())))
        }
        ("load", &Method::PUT | &Method::POST) => {
            let load = load(&query).map_err(Refusal::bad_request)?;
            shared.store.load(load).map_err(|error| Refusal::bad_request(error.to_string()))?;
            Ok(json!({"resourceVersion": shared.store.version().to_string()}))
        }
        ("token", &Method::PUT | &Method::POST) => {
            let token = query.text("value");
            shared.set_token((!token.is_empty()).then(|| token.to_owned()));
            Ok(json!({}))
        }
        ("expire", &Method::PUT | &Method::POST) => {
            let scope: Scope = query
                .text("resource")
                .parse()
                .map_err(|error| Refusal::bad_request(format!("resource: {error}")))?;
            shared.store.expire_watches(scope.resource);
            Ok(json!({}))
        }
        ("compact" | "restart-empty" | "cut", &Method::PUT | &Method::POST) => {
            match control {
                "compact" => shared.store.compact(),
                "cut" => shared.cut(),
                _ => shared.restart_empty(),
            }
            Ok(json!({"resourceVersion": shared.store.version().to_string()}))
        }
        _ => Err(Refusal::new(
            StatusCode::NOT_FOUND,
            "no such switch: GET requests or faults, PUT faults, load, token, expire, compact, restart-empty or cut, \
             DELETE faults",
        )),
    }
}

fn load(query: &Query) -> Result<Load, String> {
    let known = ["services", "endpoints", "pods"];
    if let Some(unknown) = query.keys().find(|key| !known.contains(key)) {
        return Err(format!("load: {unknown} is not known (say services, endpoints, pods)"));
    }
    // As many as fit into the addresses that are made up.
    let number = |key| match query.number(key)? {
        Some(number) if number > 1 << 20 => Err(format!("load: {key} is larger than {}", 1 << 20)),
        number => Ok(number.and_then(|number| usize::try_from(number).ok()).unwrap_or(0)),
    };
    Ok(Load { services: number("services")?, endpoints: number("endpoints")?, pods: number("pods")? })
}

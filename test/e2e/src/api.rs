//! An API server in a node of a laboratory.

use std::io::{BufRead as _, Write as _};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::lab::{Background, Lab};
use crate::process::{eventually, program};

/// Where it listens on its node, in both families.
const PORT: u16 = 6443;

/// Where its switches are, which no fault spoils.
const CONTROL: &str = "127.0.0.1:6444";

/// What an HTTP server said.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Sends HTTP requests from inside a node or pod.
pub struct Http(Mutex<Background>);

impl Http {
    pub(crate) fn new(lab: &Lab, host: &str) -> Self {
        Self(Mutex::new(lab.background(host, &["http"])))
    }

    /// Sends a request; why there is no answer, if there is none.
    pub fn ask(&self, method: &str, address: &str, path: &str, body: &Value) -> Result<Answer, String> {
        let mut talk = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let line = json!({ "method": method, "address": address, "path": path, "body": body });
        let input = talk.input.as_mut().expect("open until the end");
        writeln!(input, "{line}").expect("the probe reads");
        let mut answer = String::new();
        talk.said.read_line(&mut answer).expect("the probe answers");
        let answer: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"));
        match (answer["status"].as_u64().and_then(|code| u16::try_from(code).ok()), answer["body"].as_str()) {
            (Some(status), Some(body)) => Ok(Answer { status, body: body.to_owned() }),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// Fetches a page.
    pub fn get(&self, address: &str, path: &str) -> Result<Answer, String> {
        self.ask("GET", address, path, &Value::Null)
    }
}

/// A running API server; killed when dropped. Its objects end with its process.
pub struct ApiServer<'a> {
    lab: &'a Lab,
    host: String,
    flags: Vec<String>,
    process: Option<Background>,
    http: Http,
}

impl<'a> ApiServer<'a> {
    pub(crate) fn start(lab: &'a Lab, host: &str, flags: &[&str]) -> Self {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let http = Http::new(lab, host);
        let mut server = Self { lab, host: host.to_owned(), flags, process: None, http };
        server.begin();
        server
    }

    /// Starts it, without any object.
    pub fn begin(&mut self) {
        let program = program("edgemesh-test-apiserver").display().to_string();
        let listen = format!("[::]:{PORT}");
        let mut command =
            self.lab.command(&self.host, &[&program, "--listen", &listen, "--control", CONTROL]);
        command.args(&self.flags);
        let (process, said) = Background::start(&mut command);
        assert!(said.starts_with("ready "), "the API server says {said:?}");
        self.process = Some(process);
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        drop(self.process.take());
        // It ends after its parent, which is what was killed.
        eventually("the API server's end", || {
            self.http.get(CONTROL, "/_test/requests").is_err().then_some(())
        });
    }

    fn own(&self) -> String {
        format!("127.0.0.1:{PORT}")
    }

    /// Creates or replaces an object. Without TLS only.
    pub fn apply(&self, object: &Value) {
        let (collection, name) = (collection(object), text(&object["metadata"]["name"]));
        let send = |method: &str, path: &str| {
            let answer = self.http.ask(method, &self.own(), path, object);
            answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
        };
        let mut answer = send("PUT", &format!("{collection}/{name}"));
        // The metaServer calls every refusal an internal error.
        if answer.status >= 400 && answer.body.contains("not found") {
            answer = send("POST", &collection);
        }
        assert!(answer.status < 300, "{object}: {answer:?}");
    }

    /// Creates or replaces objects, in this order.
    pub fn apply_all(&self, objects: &[Value]) {
        objects.iter().for_each(|object| self.apply(object));
    }

    /// Deletes an object like this one. Without TLS only.
    pub fn delete(&self, object: &Value) {
        let path = format!("{}/{}", collection(object), text(&object["metadata"]["name"]));
        let answer = self.http.ask("DELETE", &self.own(), &path, &Value::Null);
        assert_eq!(answer.as_ref().map(|answer| answer.status), Ok(200), "{path}: {answer:?}");
    }

    /// Turns a switch; see the documentation of `edgemesh-apiserver`.
    pub fn switch(&self, what: &str, body: &Value) {
        let answer = self.http.ask("PUT", CONTROL, &format!("/_test/{what}"), body);
        assert_eq!(answer.as_ref().map(|answer| answer.status), Ok(200), "{what}: {answer:?}");
    }

    /// What it did so far with a resource.
    pub fn count(&self, resource: &str, what: &str) -> u64 {
        let answer = self.http.get(CONTROL, "/_test/requests").expect("the switches answer");
        let counts: Value = serde_json::from_str(&answer.body).expect("the counters are JSON");
        let count = &counts["resources"][resource][what];
        count.as_u64().unwrap_or_else(|| panic!("no count {what} of {resource}: {counts:#}"))
    }

    /// Takes a node's way to the server away, in both families, and closes its connections.
    pub fn cut_off(&self, node: &str, addresses: [&str; 2]) {
        let [v4, v6] = addresses;
        let script = format!("ip route add unreachable {v4}/32 && ip -6 route add unreachable {v6}/128");
        self.lab.exec(node, &["sh", "-c", &script]);
        self.switch("cut", &Value::Null);
    }

    /// Gives a node its way back.
    pub fn join(&self, node: &str, addresses: [&str; 2]) {
        let [v4, v6] = addresses;
        let script = format!("ip route del unreachable {v4}/32 && ip -6 route del unreachable {v6}/128");
        self.lab.exec(node, &["sh", "-c", &script]);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// Where objects like this one are.
fn collection(object: &Value) -> String {
    let version = text(&object["apiVersion"]);
    let root = if version.contains('/') { "apis" } else { "api" };
    let plural = match text(&object["kind"]) {
        "Endpoints" => "endpoints".to_owned(),
        "GatewayClass" => "gatewayclasses".to_owned(),
        kind => kind.to_lowercase() + "s",
    };
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/{root}/{version}/namespaces/{namespace}/{plural}"),
        None => format!("/{root}/{version}/{plural}"),
    }
}

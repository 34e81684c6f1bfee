//! The test API server, and a client that writes to it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::lab::beside;

/// Making 5,000 Services and 20,000 Pods takes the server seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running test API server; killed when dropped.
#[derive(Debug)]
pub(crate) struct ApiServer {
    process: Child,
    addr: SocketAddr,
    connection: BufReader<TcpStream>,
}

/// A made-up cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) services: usize,
    pub(crate) endpoints: usize,
    pub(crate) pods: usize,
}

impl ApiServer {
    pub(crate) fn start() -> Result<Self> {
        let mut command = Command::new(beside("edgemesh-test-apiserver")?);
        let mut process = command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take().context("piped")?).read_line(&mut line)?;
        let words =
            line.trim().strip_prefix("ready ").with_context(|| format!("the API server said {line:?}"));
        let addr: SocketAddr = words?.parse()?;
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { process, addr, connection: BufReader::new(stream) })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(crate) fn load(&mut self, load: Load) -> Result<()> {
        let Load { services, endpoints, pods } = load;
        let target = format!("/_test/load?services={services}&endpoints={endpoints}&pods={pods}");
        self.ask("PUT", &target, None).map(drop)
    }

    /// Listings that the server began, and bytes that it served.
    pub(crate) fn served(&mut self) -> Result<(f64, f64)> {
        let counts = self.ask("GET", "/_test/requests", None)?;
        let resources = counts["resources"].as_object().context("no resources")?;
        let sum = |what: &str| resources.values().filter_map(|of| of[what].as_f64()).sum();
        Ok((sum("lists"), sum("bytes")))
    }

    /// Creates a Service with one port and one endpoint.
    pub(crate) fn create(&mut self, service: &Served) -> Result<()> {
        self.ask("POST", "/api/v1/namespaces/default/services", Some(&service.object()))?;
        self.ask(
            "POST",
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            Some(&service.slice()),
        )?;
        Ok(())
    }

    /// Writes where the endpoint of a Service is now.
    pub(crate) fn move_endpoint(&mut self, service: &Served) -> Result<()> {
        let target =
            format!("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/{}-1", service.name);
        self.ask("PUT", &target, Some(&service.slice())).map(drop)
    }

    /// One request; an answer that is no success is an error.
    pub(crate) fn ask(&mut self, method: &str, target: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.addr,
            body.len()
        );
        self.connection.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.connection.read_line(&mut line)?;
        let status = line.split_whitespace().nth(1).context("no status")?.to_owned();
        let mut length = None;
        loop {
            line.clear();
            self.connection.read_line(&mut line)?;
            let Some((name, value)) = line.trim().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        let mut answer =
            vec![0; length.with_context(|| format!("{method} {target}: an answer without a length"))?];
        self.connection.read_exact(&mut answer)?;
        if !status.starts_with('2') {
            bail!("{method} {target}: {status}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody to tell.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A Service with an endpoint that answers.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) name: String,
    pub(crate) vip: Ipv4Addr,
    pub(crate) port: u16,
    pub(crate) node: &'static str,
    pub(crate) pod: Ipv4Addr,
    /// Its name has the pod's address.
    pub(crate) headless: bool,
}

impl Served {
    /// The name without the cluster's domain.
    pub(crate) fn dns_name(&self) -> String {
        format!("{}.default", self.name)
    }

    fn object(&self) -> Value {
        let vip = if self.headless { "None".to_owned() } else { self.vip.to_string() };
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": self.name},
            "spec": {
                "type": "ClusterIP", "clusterIP": vip, "clusterIPs": [vip],
                "ipFamilies": ["IPv4"], "selector": {"app": self.name},
                "ports": [{"name": "p", "protocol": "TCP", "port": self.port, "targetPort": self.port}],
            },
        })
    }

    fn slice(&self) -> Value {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default", "name": format!("{}-1", self.name),
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": "IPv4",
            "ports": [{"name": "p", "protocol": "TCP", "port": self.port}],
            "endpoints": [{
                "addresses": [self.pod], "nodeName": self.node,
                "conditions": {"ready": true, "serving": true, "terminating": false},
            }],
        })
    }
}

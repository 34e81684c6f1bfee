//! Other programs' rules beside ours: whoever starts first, flushes, or starts again, Services of both work, from the
//! host and from Pods, in both families.

use edgemesh_e2e::foreign::{CONTAINER_PORT, Flavour, Foreign, Portal, World};
use edgemesh_e2e::{
    Agent, Background, FAR, Lab, NEAR, Place, eventually, installed, program, service, skipped, v4, v6,
};

/// A client and a server at one node, a server at another that only the tunnel reaches.
const SITE: &str = "
lans:
  - name: home
    nodes:
      - name: n1
        pods4: 10.244.1.0/24
        pods6: fd00:244:1::/64
        pods:
          - { name: c1 }
          - name: s1
            labels: { app: near }
            run: &server [edgemesh-workload, serve, --http=8080, --echo=8081, --udp-echo=8085]
      - name: n2
        pods4: 10.244.2.0/24
        pods6: fd00:244:2::/64
        pods: [{ name: s2, labels: { app: far }, run: *server }]
";

/// The Service with an endpoint at each node: the kernel and the listener share its connections.
const MIXED: u8 = 21;
/// The Service that is labelled for another program.
const LABELLED: u8 = 22;
/// The Service of which only the other program knows.
const UNKNOWN: u8 = 23;
/// Ports of every Service, and what is behind them.
const PORTS: [(&str, u16, u16); 2] = [("TCP", 81, 8081), ("UDP", 85, 8085)];
/// Enough that a share of them reaches each endpoint.
const STORM: &str = "24";

/// A port of the host that nobody translates.
const PLAIN: u16 = 22;
/// A port of the host that no firewall is told to open.
const CLOSED: u16 = 23;

struct Stage {
    lab: Lab,
    world: World,
    /// The node's addresses, IPv4 and IPv6.
    host: [String; 2],
    _far: Agent,
    _servers: Vec<Background>,
}

impl Stage {
    fn new(test: &str) -> Self {
        let labelled = service("labelled", LABELLED, &PORTS).replace(
            "name: labelled",
            "name: labelled, labels: { service.kubernetes.io/service-proxy-name: other }",
        );
        let manifests = [service("near", NEAR, &PORTS), service("far", FAR, &PORTS), labelled].concat();
        let lab = Lab::up(test, SITE, &[("services.yaml", &manifests)]);
        for server in ["s1", "s2"] {
            lab.until_listening(server, &[8081, 8085]);
        }
        let places = ["s1", "s2"].map(|pod| lab.place(pod));
        std::fs::write(lab.manifests().join("mixed.yaml"), mixed(&places)).expect("a manifest");
        let host = addresses(&lab, "n1");
        // Without a route the host itself cannot even try an address that others translate.
        let script = "ip -6 route add default dev eth0 && ip link add docker0 type bridge && ip link set docker0 up && \
            ip addr add 172.17.0.1/16 dev docker0 && ip addr add fd00:17::1/64 dev docker0 nodad";
        lab.exec("n1", &["sh", "-c", script]);
        let container = ["172.17.0.1".to_owned(), "fd00:17::1".to_owned()];
        let mut bound: Vec<String> = container.iter().map(|it| at(it, CONTAINER_PORT)).collect();
        bound.extend(host.iter().flat_map(|it| [at(it, PLAIN), at(it, CLOSED)]));
        let servers = bound.iter().map(|address| lab.background("n1", &["hold", address])).collect();
        let world = World {
            portals: portals(&places),
            pods: ["10.244.0.0/16".to_owned(), "fd00:244::/32".to_owned()],
            services: ["10.96.0.0/16".to_owned(), "fd96::/112".to_owned()],
            bridge: "cni0",
            published: vec![("tcp", 81), ("udp", 85)],
            container,
        };
        let far = lab.agent("n2", &[]);
        Self { lab, world, host, _far: far, _servers: servers }
    }

    fn load(&self, programs: &[Foreign]) {
        programs.iter().for_each(|program| program.load(&self.lab, "n1", &self.world));
    }

    fn flush(&self, programs: &[Foreign]) {
        programs.iter().for_each(|program| program.flush(&self.lab, "n1"));
    }

    fn agent(&self) -> Agent {
        let agent = self.lab.agent("n1", &[]);
        agent.until_path("n2");
        agent
    }

    /// The address serves, over TCP and UDP, every time.
    fn serves(&self, from: &str, number: u8) {
        for (tcp, udp) in [(v4(number, 81), v4(number, 85)), (v6(number, 81), v6(number, 85))] {
            assert_eq!(self.lab.probe(from, &["tcp-storm", &tcp, STORM])["done"], 24, "{tcp} from {from}");
            assert_eq!(self.lab.outcome(from, &["udp", &udp]), "answered", "{udp} from {from}");
        }
    }

    /// Our Services: by the kernel, by the listener, and by both.
    fn ours(&self) {
        for from in ["n1", "c1"] {
            for number in [NEAR, FAR, MIXED] {
                self.serves(from, number);
            }
        }
    }

    /// What the other programs serve, or refuse.
    fn theirs(&self, programs: &[Foreign]) {
        for program in programs {
            match program {
                Foreign::KubeProxyIptables(_) | Foreign::KubeProxyNftables => {
                    for (from, number) in
                        [("n1", LABELLED), ("c1", LABELLED), ("n1", UNKNOWN), ("c1", UNKNOWN)]
                    {
                        self.serves(from, number);
                    }
                }
                Foreign::Docker(_) => self.connects(&["c1", "n2"], 81, true),
                Foreign::Flannel(_) => self.connects(&["c1", "n2"], PLAIN, true),
                Foreign::Firewalld { .. } => {
                    self.connects(&["c1", "n2"], PLAIN, true);
                    self.connects(&["n2"], CLOSED, false);
                }
            }
        }
    }

    /// Whether the node's own address answers at a port.
    fn connects(&self, from: &[&str], port: u16, expected: bool) {
        for from in from {
            for address in self.host.iter().map(|it| at(it, port)) {
                assert_eq!(self.connected(from, &address), expected, "{address} from {from}");
            }
        }
    }

    /// The probe fails where a firewall says that it is prohibited.
    fn connected(&self, from: &str, address: &str) -> bool {
        let probe = program("edgemesh-e2e-probe").display().to_string();
        let output = self.lab.output(from, &[&probe, "tcp", address]);
        String::from_utf8_lossy(&output.stdout).contains("\"connected\"")
    }

    /// Waits until the agent goes by what it found: other programs do not tell it of their start.
    fn until_noticed(&self) {
        let probe = program("edgemesh-e2e-probe").display().to_string();
        eventually("our Services beside those that started", || {
            let done = |(from, number): (&str, u8)| {
                let storm = |address: &str| self.lab.output(from, &[&probe, "tcp-storm", address, STORM]);
                [v4(number, 81), v6(number, 81)].iter().all(|address| storm(address).status.success())
            };
            [("c1", NEAR), ("n1", MIXED)].into_iter().all(done).then_some(())
        });
    }
}

/// Starts after them, sees them flush and start again, is killed, and starts again.
fn check(test: &str, programs: &[Foreign]) {
    let needs = programs.iter().flat_map(|program| program.needs());
    if let Some(missing) = needs.into_iter().find(|program| !installed(program)) {
        return skipped(test, missing);
    }
    let stage = Stage::new(test);
    stage.load(programs);
    let mut agent = stage.agent();
    stage.ours();
    stage.theirs(programs);

    stage.flush(programs);
    stage.ours();

    stage.load(programs);
    stage.until_noticed();
    stage.ours();
    stage.theirs(programs);

    agent.kill();
    drop(agent);
    stage.theirs(programs);
    // The kernel needs no agent.
    stage.serves("n1", NEAR);

    let agent = stage.agent();
    stage.ours();
    stage.theirs(programs);
    assert_eq!(agent.logged(&["changed by somebody else"]), 0);
}

#[test]
fn kube_proxy_in_mode_iptables() {
    check("kube-iptables", &[Foreign::KubeProxyIptables(Flavour::Nft)]);
}

#[test]
fn kube_proxy_in_mode_iptables_by_the_legacy_flavour() {
    check("kube-legacy", &[Foreign::KubeProxyIptables(Flavour::Legacy)]);
}

#[test]
fn kube_proxy_in_mode_nftables() {
    check("kube-nftables", &[Foreign::KubeProxyNftables]);
}

#[test]
fn docker() {
    check("docker", &[Foreign::Docker(Flavour::Nft)]);
}

#[test]
fn docker_by_the_legacy_flavour() {
    check("docker-legacy", &[Foreign::Docker(Flavour::Legacy)]);
}

#[test]
fn flannel() {
    check("flannel", &[Foreign::Flannel(Flavour::Nft)]);
}

#[test]
fn firewalld_with_the_pods_bridge_trusted() {
    check("firewalld", &[Foreign::Firewalld { trusted: true }]);
}

/// What goes to the listener is input of the host, which firewalld refuses from a bridge in no zone. What the kernel
/// translates it lets through.
#[test]
fn firewalld_with_the_pods_bridge_in_no_zone() {
    let program = Foreign::Firewalld { trusted: false };
    if let Some(missing) = program.needs().iter().find(|it| !installed(it)) {
        return skipped("firewalld", missing);
    }
    let stage = Stage::new("no-zone");
    stage.load(&[program]);
    let _agent = stage.agent();
    for (from, number) in [("n1", NEAR), ("n1", FAR), ("n1", MIXED), ("c1", NEAR)] {
        stage.serves(from, number);
    }
    for address in [v4(FAR, 81), v6(FAR, 81)] {
        assert!(!stage.connected("c1", &address), "{address}");
    }
    stage.flush(&[program]);
    stage.ours();
}

#[test]
fn kube_proxy_and_docker_and_flannel_and_firewalld_together() {
    let programs = [
        Foreign::KubeProxyIptables(Flavour::Nft),
        Foreign::Docker(Flavour::Nft),
        Foreign::Flannel(Flavour::Nft),
        Foreign::Firewalld { trusted: true },
    ];
    check("all", &programs);
}

/// The exit code of `edgemesh check`, and the lines that name something.
fn report(stage: &Stage) -> (Option<i32>, String) {
    let edgemesh = program("edgemesh").display().to_string();
    let admin = stage.lab.admin("n1").display().to_string();
    let output = stage.lab.output("n1", &[&edgemesh, "check", "--admin-socket", &admin]);
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn check_names_what_is_in_the_way() {
    let programs =
        [Foreign::KubeProxyNftables, Foreign::KubeProxyIptables(Flavour::Nft), Foreign::Docker(Flavour::Nft)];
    let needs = programs.iter().flat_map(|program| program.needs());
    if let Some(missing) = needs.into_iter().find(|program| !installed(program)) {
        return skipped("check", missing);
    }
    let stage = Stage::new("check");
    let (code, text) = report(&stage);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("no agent answers"), "{text}");
    let _agent = stage.agent();
    let (code, text) = report(&stage);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("table inet edgemesh is as it wrote it"), "{text}");

    stage.load(&programs);
    stage.lab.exec("n1", &["nft", "add rule inet edgemesh input counter"]);
    let taken = "ip nat early { type nat hook prerouting priority -150; }";
    stage.lab.exec("n1", &["nft", &format!("add chain {taken}")]);
    stage.lab.exec("n1", &["sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding"]);
    let (code, text) = report(&stage);
    assert_eq!(code, Some(1), "{text}");
    for words in [
        "chain FORWARD of table ip filter drops",
        "chain FORWARD of table ip6 filter drops",
        "chain early of table ip nat translates at priority -150",
        "kube-proxy has rules here: table ip kube-proxy, chain KUBE-SERVICES of table ip nat",
        // Three Services with two ports and an address of each family, and their six addresses.
        "18 addresses are served by kube-proxy and by the agent: 10.96.0.11, 10.96.0.11:81/tcp",
        "table inet edgemesh was changed by somebody else: chain input has",
        "net.ipv6.conf.all.forwarding is off",
    ] {
        assert!(text.contains(words), "{words}:\n{text}");
    }
    assert!(!text.contains("cannot be read"), "{text}");
}

/// A Service without selector, with an endpoint at each node.
fn mixed(places: &[Place; 2]) -> String {
    let mut text = service("mixed", MIXED, &PORTS).replace("  selector: { app: mixed }\n", "");
    for (family, address_type) in ["IPv4", "IPv6"].into_iter().enumerate() {
        text += &format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{ name: mixed-{family}, labels: {{ kubernetes.io/service-name: mixed }} }}
addressType: {address_type}
ports: [{{ name: tcp-81, port: 8081, protocol: TCP }}, {{ name: udp-85, port: 8085, protocol: UDP }}]
endpoints:
"
        );
        for place in places {
            text += &format!(
                "  - {{ addresses: ['{}'], nodeName: {}, conditions: {{ ready: true }} }}\n",
                place.addresses[family], place.node
            );
        }
    }
    text
}

/// The Services as kube-proxy has them. Those that are ours too it has with all endpoints, also such as it cannot reach.
fn portals([near, far]: &[Place; 2]) -> Vec<Portal> {
    let services = [
        ("near", NEAR, vec![near]),
        ("far", FAR, vec![far]),
        ("mixed", MIXED, vec![near, far]),
        ("labelled", LABELLED, vec![near]),
        ("unknown", UNKNOWN, vec![near]),
    ];
    let mut portals = Vec::new();
    for (name, number, places) in services {
        for (protocol, port, target) in [("tcp", 81, 8081), ("udp", 85, 8085)] {
            portals.push(Portal {
                name: format!("default/{name}:{protocol}-{port}"),
                addresses: [format!("10.96.0.{number}"), format!("fd96::{number}")],
                protocol,
                port,
                endpoints: places.iter().map(|place| place.addresses.clone()).collect(),
                target,
            });
        }
    }
    portals
}

/// The addresses of a node.
fn addresses(lab: &Lab, node: &str) -> [String; 2] {
    let objects = lab.node_objects();
    let object = objects.iter().find(|it| it["metadata"]["name"] == node).expect("the node");
    let addresses = object["status"]["addresses"].as_array().expect("a node has addresses");
    let mut internal = addresses.iter().filter(|it| it["type"] == "InternalIP");
    let mut next =
        || internal.next().and_then(|it| it["address"].as_str()).expect("two addresses").to_owned();
    [next(), next()]
}

fn at(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

//! Configuration in Go EdgeMesh's form: the command line, files with mistakes, files that change.

use std::path::Path;
use std::process::Command;

use edgemesh_e2e::{
    Agent, Lab, NEAR, TWO_NODES, alarms, eventually, output, program, services, site, v4, v6,
};
use serde_json::json;

/// A node that reads manifests by its file; all else is Go EdgeMesh's.
const FILE: &str = "
apiVersion: agent.edgemesh.config.kubeedge.io/v1alpha1
kind: EdgeMeshAgent
kubeAPIConfig:
  manifests: MANIFESTS
commonConfig:
  stateDir: STATE
  adminSocket: ADMIN
modules:
  edgeProxy:
    enable: true
  edgeTunnel:
    enable: true
    psk:
      path: PSK
";

const GO_DEFAULT: &str = include_str!("../../../model/config/tests/fixtures/go-agent-default.yaml");
const GO_GATEWAY: &str = include_str!("../../../model/config/tests/fixtures/go-gateway-default.yaml");

fn file(lab: &Lab) -> String {
    FILE.replace("MANIFESTS", &lab.manifests().display().to_string())
}

fn assert_serves(lab: &Lab) {
    let http = lab.workload("c1", &["http", "near:80"]);
    assert_eq!(http["pods"]["s1"], 1, "{http}");
    for frontend in [v4(NEAR, 80), v6(NEAR, 80)] {
        assert_eq!(lab.outcome("c1", &["tcp", &frontend]), "connected", "{frontend}");
    }
}

/// A folder with the binary under Go EdgeMesh's names.
struct Image(tempfile::TempDir);

impl Image {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["edgemesh", "edgemesh-agent", "edgemesh-gateway"] {
            std::os::unix::fs::symlink(program("edgemesh"), folder.path().join(name)).expect("a new link");
        }
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path.display().to_string()
    }

    fn command(&self, name: &str, words: &[&str]) -> Command {
        let mut command = Command::new(self.0.path().join(name));
        command.args(words).env("NODE_NAME", "edge-1").env("NAMESPACE", "kubeedge");
        for name in ["KUBERNETES_PORT", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"] {
            command.env_remove(name);
        }
        command
    }

    /// Exit code, what it printed, what it said of mistakes.
    fn run(&self, name: &str, words: &[&str]) -> (Option<i32>, String, String) {
        let output = output(&mut self.command(name, words));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stderr);
        assert!(!said.contains("panicked"), "{name} {words:?}: {said}");
        (output.status.code(), text(&output.stdout), said)
    }

    fn succeed(&self, name: &str, words: &[&str]) -> String {
        let (code, printed, said) = self.run(name, words);
        assert_eq!(code, Some(0), "{name} {words:?}: {said}");
        printed
    }

    /// A run that must fail; `expected` are parts of what it says.
    fn fail(&self, name: &str, words: &[&str], expected: &[&str]) {
        let (code, _, said) = self.run(name, words);
        assert_eq!(code, Some(1), "{name} {words:?}: {said}");
        for part in expected {
            assert!(said.contains(part), "{name} {words:?} without {part:?}: {said}");
        }
    }
}

#[test]
fn what_go_edgemesh_prints_is_printed_and_can_be_read_back() {
    let image = Image::new();
    for (name, kind) in [("edgemesh-agent", "EdgeMeshAgent"), ("edgemesh-gateway", "EdgeMeshGateway")] {
        for words in [&["--version"][..], &["--version=raw"], &["-v=2", "--version"]] {
            assert!(image.succeed(name, words).starts_with("edgemesh "), "{name} {words:?}");
        }
        for flag in ["--minconfig", "--defaultconfig"] {
            let printed = image.succeed(name, &[flag]);
            assert!(printed.contains(&format!("kind: {kind}")), "{printed}");
            let path = image.write("printed.yaml", &printed);
            let mut validate = image.command("edgemesh", &["config", "validate", &path]);
            // At the gateway the default is the cluster that it runs in.
            validate.env("KUBERNETES_PORT", "tcp://10.96.0.1:443");
            validate.env("KUBERNETES_SERVICE_HOST", "10.96.0.1").env("KUBERNETES_SERVICE_PORT", "443");
            let valid = output(&mut validate);
            assert!(valid.status.success(), "{name} {flag}: {}", String::from_utf8_lossy(&valid.stderr));
        }
    }
}

/// Validate, show and convert agree about Go EdgeMesh's own file.
#[test]
fn files_are_validated_shown_and_converted() {
    let image = Image::new();
    let path = image.write("go.yaml", GO_DEFAULT);
    let valid = image.succeed("edgemesh", &["config", "validate", &path]);
    assert!(valid.contains("edge-1") && valid.contains("metaServer http://127.0.0.1:10550"), "{valid}");
    let shown = image.succeed("edgemesh", &["config", "show", &path]);
    assert!(shown.contains("stateDir: /var/lib/edgemesh") && shown.contains("without effect"), "{shown}");
    let short = image.write("short.yaml", &image.succeed("edgemesh", &["config", "convert", &path]));
    let without_comments = |text: &str| -> Vec<String> {
        let lines =
            text.lines().map(|line| line.split(" #").next().unwrap_or_default().trim_end().to_owned());
        lines.filter(|line| !line.is_empty()).collect()
    };
    let again = image.succeed("edgemesh", &["config", "show", &short]);
    // What has no effect may differ: it was left out.
    let effective = |text: &str| {
        without_comments(
            &text.lines().filter(|line| !line.contains("without effect")).collect::<Vec<_>>().join("\n"),
        )
    };
    assert_eq!(effective(&again), effective(&shown));
    image.fail("edgemesh", &["config", "check", &path], &["check", "validate, show, convert"]);
    image.fail("edgemesh", &["config", "validate", "/nowhere/x.yaml"], &["/nowhere/x.yaml"]);
}

/// Go EdgeMesh passes over keys it does not know, and crashes later or does the wrong thing.
#[test]
fn go_c23_mistakes_are_named_with_their_place_and_the_nearest_key() {
    const MISTAKES: &str = "\
kind: EdgeMeshAgent
modules:
  edgeProxy:
    enabled: true
  edgeTunel: {}
";
    let image = Image::new();
    let path = image.write("mistakes.yaml", MISTAKES);
    let (code, _, said) = image.run("edgemesh", &["config", "validate", &path]);
    assert_eq!(code, Some(0), "unknown keys are warnings: {said}");
    for part in [
        "line 4: modules.edgeProxy.enabled: there is no such key; is modules.edgeProxy.enable meant?",
        "line 5: modules.edgeTunel: there is no such key; is modules.edgeTunnel meant?",
    ] {
        assert!(said.contains(&format!("{path}: warning: {part}")), "{said}");
    }
    for (text, expected) in [
        ("modules: { edgeProxy: { enable: 7 } }", "modules.edgeProxy.enable"),
        ("modules:\n  edgeProxy: { enable: true, serviceFilterMode: Sometimes }", "line 2"),
        ("modules: { edgeDNS: { enable: true, listenPort: 70000 } }", "modules.edgeDNS.listenPort"),
        ("commonConfig: { bridgeDeviceIP: 169.254.96 }", "commonConfig.bridgeDeviceIP"),
        ("kubeAPIConfig: { kubeConfig: relative/path }", "kubeAPIConfig.kubeConfig"),
        ("modules: [", "line"),
        ("kind: EdgeMeshGateway", "edgemesh gateway"),
    ] {
        let path = image.write("wrong.yaml", text);
        // The agent says the same as the check, and does not start.
        for (name, words) in [
            ("edgemesh", &["config", "validate", "--role", "agent", &path][..]),
            ("edgemesh-agent", &["--config-file", &path]),
        ] {
            image.fail(name, words, &["error", expected]);
        }
    }
    let good = image.write("good.yaml", GO_DEFAULT);
    let mut nameless = image.command("edgemesh-agent", &["--config-file", &good]);
    let refused = output(nameless.env_remove("NODE_NAME"));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("NODE_NAME") && said.contains("spec.nodeName"), "{said}");
    image.fail("edgemesh-agent", &[], &["/etc/edgemesh/config/edgemesh-agent.yaml"]);
    image.fail(
        "edgemesh-agent",
        &["--config-file", "/nowhere/x.yaml"],
        &["--config-file", "/nowhere/x.yaml"],
    );
}

/// Objects come from one place; flags that name two are refused, and flags win over the file.
#[test]
fn sources_exclude_each_other() {
    let image = Image::new();
    for words in [
        ["--manifests", "/m", "--master", "http://10.0.0.1:6443"],
        ["--manifests", "/m", "--metaserver", "http://127.0.0.1:10550"],
        ["--kubeconfig", "/k", "--metaserver", "http://127.0.0.1:10550"],
    ] {
        image.fail(
            "edgemesh-agent",
            &words,
            &["--manifests, --kubeconfig or --master, and --metaserver exclude each other"],
        );
    }
    image.fail("edgemesh-agent", &["--kubeconfig", "/nowhere/kubeconfig"], &["/nowhere/kubeconfig"]);
    image.fail("edgemesh-agent", &["--master", "ftp://10.0.0.1"], &["ftp://10.0.0.1", "https://HOST:PORT"]);
    let login = image.write(
        "kubeconfig",
        "clusters: [{ name: c, cluster: { server: 'https://10.0.0.1' } }]
contexts: [{ name: x, context: { cluster: c, user: u } }]
users: [{ name: u, user: { exec: { command: aws } } }]
",
    );
    image.fail("edgemesh-agent", &["--kubeconfig", &login], &[&login, "\"u\"", "exec", "client certificate"]);
}

/// Go EdgeMesh ends on SIGHUP, and has no page that tells whether it is well.
#[test]
fn go_c23_sighup_ends_nothing_and_health_can_be_asked() {
    let lab = Lab::two_nodes("go-c23");
    let agent = lab.spawn_by_file("n1", &file(&lab));
    agent.until_ready();
    agent.hang_up();
    eventually("the signal", || (agent.logged(&["SIGHUP is ignored"]) == 1).then_some(()));
    let http = lab.http("n1");
    for path in ["/healthz", "/readyz"] {
        let answer = http.get("127.0.0.1:9999", path).expect("the agent answers");
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{path}");
    }
    assert_serves(&lab);
}

/// What is wrong ends it before it takes anything from the gateway that works.
#[test]
fn a_gateway_with_mistakes_does_not_start() {
    let image = Image::new();
    let path = image.write("wrong.yaml", "modules: { edgeGateway: { enable: often } }");
    image.fail("edgemesh-gateway", &["--config-file", &path], &["modules.edgeGateway.enable"]);
    let path = image.write("agent.yaml", GO_DEFAULT);
    image.fail("edgemesh-gateway", &["--config-file", &path], &["this is a file of edgemesh agent"]);
    image.fail("edgemesh-gateway", &["--speed=9"], &["--speed"]);
    image.fail("edgemesh-gateway", &[], &["/etc/edgemesh/config/edgemesh-gateway.yaml"]);
    let path = image.write("gateway.yaml", &GO_GATEWAY.replace("mode: CloudMode", "mode: EdgeMode"));
    let valid = image.succeed("edgemesh", &["config", "validate", &path]);
    assert!(valid.contains("is valid for gateway"), "{valid}");
    assert!(image.succeed("edgemesh-gateway", &["--help"]).contains("/readyz stays 503"));
}

/// What Go EdgeMesh's command lines have besides the file; -v=4 is where it tells every connection.
#[test]
fn flags_of_klog_are_accepted() {
    let lab = Lab::two_nodes("klog");
    lab.write_config("n1", &file(&lab));
    let command = |words: &[&str]| {
        let mut command = lab.agent_by_file("n1", &file(&lab));
        command.args(words);
        command
    };
    let quiet =
        ["-v", "2", "--logtostderr=true", "--alsologtostderr", "--stderrthreshold=2", "--log-dir", "/tmp"];
    let agent = Agent::start(&lab, "n1", command(&quiet));
    agent.until_ready();
    assert_eq!(agent.logged(&[" DEBUG "]), 0);
    drop(agent);
    let more = ["--log_file=/tmp/x.log", "--log-flush-frequency=5s", "--skip_headers", "--vmodule=server=4"];
    for verbose in [&["-v=4"][..], &["--v=5"], &["--v", "4"], &["-v9"]] {
        let agent = Agent::start(&lab, "n1", command(&[&more[..], verbose].concat()));
        eventually("debug lines", || (agent.logged(&[" DEBUG "]) > 0).then_some(()));
        assert_eq!(agent.page("/healthz"), "ok\n", "{verbose:?}");
    }
}

/// Go EdgeMesh dereferences what a file leaves out, at its start and when the file changes under it.
#[test]
fn go_c19_a_file_without_modules_is_no_crash() {
    let lab = Lab::two_nodes("go-c19");
    let bare = "commonConfig: { stateDir: STATE, adminSocket: ADMIN }\n";
    let agent = lab.spawn_by_file("n1", bare);
    let status = agent.until("a status", |status| status["node"] == "n1");
    assert_eq!(status["metadata"]["source"], "metaServer http://127.0.0.1:10550", "{status:#}");
    assert_eq!(status["tunnel"], json!(null));
    for text in ["modules:\n", "modules: { edgeTunnel: }\n", "modules: {}\n"] {
        lab.write_config("n1", &format!("{bare}{text}"));
    }
    // A change that counts tells that the file was read.
    lab.write_config("n1", &format!("{bare}modules: {{ edgeTunnel: {{ enable: true }} }}\n"));
    agent.until("the change", |status| alarms(status).contains("modules.edgeTunnel.enable"));
    assert_eq!(agent.page("/healthz"), "ok\n");
    drop(agent);
    let with =
        |text: &str| file(&lab).split("modules:").next().map(|head| format!("{head}{text}")).expect("a head");
    let agent = lab.spawn_by_file("n1", &file(&lab));
    agent.until_ready();
    lab.write_config("n1", &with("modules:\n  edgeTunnel:\n"));
    agent.until("what needs a restart", |status| alarms(status).contains("modules.edgeTunnel.enable"));
    assert_serves(&lab);
}

fn relays(status: &serde_json::Value) -> Vec<String> {
    let relays = status["tunnel"]["relays"].as_array().into_iter().flatten();
    relays.map(|relay| relay["address"].as_str().unwrap_or_default().to_owned()).collect()
}

/// A ConfigMap changes while the agent runs: what can be taken over is, what cannot is told, and a broken file changes
/// nothing.
#[test]
fn a_file_that_changes_is_followed() {
    let lab = Lab::two_nodes("reload");
    let agent = lab.spawn_by_file("n1", &file(&lab));
    agent.until_ready();
    assert_serves(&lab);
    assert_eq!(relays(&agent.status()), Vec::<String>::new());
    assert_eq!(agent.logged(&[" DEBUG "]), 0);
    let changed = file(&lab)
        .replace("commonConfig:\n", "commonConfig:\n  logLevel: debug\n  accessLog: off\n")
        .replace(
            "    psk:",
            "    relayNodes:\n    - nodeName: n2\n      advertiseAddress: [10.1.0.12, 'fd00:1::c']\n    psk:",
        );
    lab.write_config("n1", &changed);
    let status = agent.until("the relays", |status| relays(status).len() == 2);
    let text = relays(&status).join(" ");
    assert!(text.contains("10.1.0.12") && text.contains("fd00:1::c") && text.contains("20006"), "{text}");
    eventually("what was taken over", || (agent.logged(&["is taken over", "relayNodes"]) == 1).then_some(()));
    let lines = agent.logged(&["::access: "]);
    assert_serves(&lab);
    eventually("the log level", || (agent.logged(&[" DEBUG "]) > 0).then_some(()));
    assert_eq!(agent.logged(&["::access: "]), lines, "no more access lines");
    assert!(!alarms(&agent.status()).contains("configuration"), "{}", alarms(&agent.status()));

    // What needs a restart is said, and the rest of the same file counts.
    let restart = changed.replace("10.1.0.12, ", "").replace("    psk:", "    listenPort: 20007\n    psk:");
    lab.write_config("n1", &restart);
    let status = agent.until("the key", |status| alarms(status).contains("modules.edgeTunnel.listenPort"));
    assert!(alarms(&status).contains("restart"), "{}", alarms(&status));
    let before = relays(&agent.until("the relay", |status| relays(status).len() == 1));

    // Which Services are intercepted.
    let filter = "  edgeProxy:\n    serviceFilterMode: FilterIfLabelDoesNotExists\n";
    lab.write_config("n1", &restart.replace("  edgeProxy:\n", filter));
    agent.until("no Service", |status| status["metadata"]["frontends"] == 0);
    lab.write_config("n1", &restart);
    agent.until("all Services", |status| status["metadata"]["frontends"].as_u64() > Some(0));
    agent.until_applied();

    // A broken file is told, whatever is broken about it.
    for (broken, word) in [
        ("modules: [", "line"),
        ("modules: { edgeProxy: { enable: 7 } }", "modules.edgeProxy.enable"),
        ("\u{0}", "is not taken over"),
    ] {
        lab.write_config("n1", broken);
        let status = agent.until(broken, |status| {
            alarms(status).contains("is not taken over") && alarms(status).contains(word)
        });
        assert_eq!(relays(&status), before);
    }
    assert_serves(&lab);
    lab.write_config("n1", &file(&lab));
    agent.until("the first file again", |status| {
        relays(status).is_empty() && !alarms(status).contains("configuration")
    });
}

/// The kubelet swaps a link when a ConfigMap changes; the file itself keeps its name and its link.
#[test]
fn a_config_map_that_is_swapped_is_followed() {
    let lab = Lab::two_nodes("swap");
    let volume = lab.folder().join("volume");
    let link = |target: &Path, name: &str| {
        let new = volume.join("link.new");
        std::os::unix::fs::symlink(target, &new)
            .and_then(|()| std::fs::rename(&new, volume.join(name)))
            .expect("the volume is ours");
    };
    let publish = |version: &str, text: &str| {
        std::fs::create_dir_all(volume.join(version)).expect("a new folder");
        let text = text
            .replace("STATE", &lab.state("n1").display().to_string())
            .replace("ADMIN", &lab.admin("n1").display().to_string())
            .replace("PSK", &lab.psk().display().to_string());
        std::fs::write(volume.join(version).join("edgemesh-agent.yaml"), text).expect("a new file");
        link(Path::new(version), "..data");
    };
    publish("..first", &file(&lab));
    link(Path::new("..data/edgemesh-agent.yaml"), "edgemesh-agent.yaml");
    let mut command = lab.agent_by_file("n1", "");
    // The last one counts.
    command.args(["--config-file", &volume.join("edgemesh-agent.yaml").display().to_string()]);
    let agent = Agent::start(&lab, "n1", command);
    agent.until_ready();
    let relays_of = "    relayNodes: [{ nodeName: n2, advertiseAddress: [10.1.0.12] }]\n    psk:";
    publish("..second", &file(&lab).replace("    psk:", relays_of));
    // As the kubelet: the old one is removed at once.
    std::fs::remove_dir_all(volume.join("..first")).expect("the first version");
    agent.until("the relay", |status| relays(status).len() == 1);
    assert_serves(&lab);
}

/// Go EdgeMesh makes a bridge and leaves it behind; its address is where pods look for DNS.
#[test]
fn the_bridge_that_go_edgemesh_left_is_taken_over() {
    let lab = Lab::two_nodes("bridge");
    let script = "ip link add edgemesh0 type bridge && ip addr add 169.254.96.16/32 dev edgemesh0 && ip link set edgemesh0 up";
    lab.exec("n1", &["sh", "-c", script]);
    let mut agent = lab.spawn_by_file("n1", &file(&lab));
    agent.until_ready();
    assert_serves(&lab);
    assert!(agent.logged(&["taken over"]) >= 1, "{}", agent.log());
    // Of both families, though Go EdgeMesh's has one.
    let addresses = lab.exec("n1", &["ip", "-oneline", "addr", "show", "dev", "edgemesh0"]);
    assert!(addresses.contains("169.254.96.16/32") && addresses.contains("fe80::a9fe:6010/"), "{addresses}");
    assert!(agent.terminate().success());
    // A node's agent leaves its rules to its successor; cleanup knows the device for ours.
    lab.exec("n1", &["ip", "link", "show", "dev", "edgemesh0"]);
    lab.exec("n1", &[&program("edgemesh").display().to_string(), "cleanup"]);
    let left = lab.output("n1", &["ip", "link", "show", "dev", "edgemesh0"]);
    assert!(!left.status.success(), "{left:?}");
}

/// A bridge of the same name that somebody uses is not touched.
#[test]
fn a_bridge_of_somebody_else_is_named() {
    let lab = Lab::two_nodes("bridge-used");
    let script = "ip link add edgemesh0 type bridge && ip addr add 192.0.2.1/24 dev edgemesh0 && ip link set edgemesh0 up";
    lab.exec("n1", &["sh", "-c", script]);
    let refused = output(&mut lab.agent_by_file("n1", &file(&lab)));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("edgemesh0") && said.contains("not ours"), "{said}");
    assert!(lab.exec("n1", &["ip", "-oneline", "addr", "show", "dev", "edgemesh0"]).contains("192.0.2.1/24"));
}

#[test]
fn interfaces_to_listen_on_are_those_of_the_node() {
    let lab = Lab::two_nodes("interfaces");
    let of =
        |names: &str| file(&lab).replace("    psk:", &format!("    listenInterfaces: '{names}'\n    psk:"));
    let refused = output(&mut lab.agent_by_file("n1", &of("lo,eth7")));
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("listenInterfaces") && said.contains("\"eth7\""), "{said}");
    let agent = lab.spawn_by_file("n1", &of("eth0"));
    agent.until_ready();
    let status = agent.until("the tunnel's addresses", |status| {
        status["tunnel"]["listen"].as_array().is_some_and(|listen| listen.len() == 2)
    });
    let listen = status["tunnel"]["listen"].to_string();
    assert!(
        listen.contains("/ip4/10.1.0.11/tcp/20006") && listen.contains("/ip6/fd00:1::b/tcp/20006"),
        "{listen}"
    );
    // The sockets themselves: nothing on all addresses. 4E26 is port 20006 in net/tcp; 0A is a listener.
    let sockets = lab.exec("n1", &["sh", "-c", "cat /proc/net/tcp /proc/net/tcp6"]);
    let listeners: Vec<&str> =
        sockets.lines().filter(|line| line.contains(":4E26 ") && line.contains(" 0A ")).collect();
    assert_eq!(listeners.len(), 2, "{listeners:#?}");
    assert!(
        listeners
            .iter()
            .all(|line| !line.contains(" 00000000:4E26")
                && !line.contains(&format!(" {}:4E26", "0".repeat(32)))),
        "{listeners:#?}"
    );
}

/// A file that asks for what this version has not is served as far as possible, and says so for as long as it runs.
#[test]
fn what_this_version_has_not_is_an_alarm() {
    let lab = Lab::up("unserved", &site(TWO_NODES), &[("services.yaml", &services())]);
    lab.until_listening("s1", &[8080]);
    let text = file(&lab).replace(
        "  edgeProxy:\n",
        "  edgeCNI: { enable: true }\n  edgeProxy:\n    socks5Proxy: { enable: true }\n",
    );
    let agent = lab.spawn_by_file("n1", &text);
    agent.until_ready();
    let alarms = alarms(&agent.status());
    assert!(alarms.contains("socks5Proxy is on") && alarms.contains("edgeCNI is on"), "{alarms}");
    assert_serves(&lab);
}

"""Checks of what the charts render."""

import base64
import hashlib
import json
import re
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml

from harness import CHARTS, MANIFESTS, RENDERED, ROOT, Failure, check, expect, nested, refusal, rendered
from renderings import FALSE, GO_DEFAULT_PSK, PSK

# The oldest and the newest that kubernetes-validate has schemas of, and every third between.
VERSIONS = ["1.25", "1.28", "1.31", "1.34", "1.37"]


# Schemas


@check
def objects_are_valid_for_every_version_of_kubernetes():
    seen = set()
    for item in RENDERED.values():
        for document in item.objects:
            key = json.dumps(document, sort_keys=True)
            if key in seen:
                continue
            seen.add(key)
            for version in VERSIONS:
                try:
                    used = kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    where = "/".join(str(part) for part in error.absolute_path)
                    raise Failure(
                        f"{item.name}: {document['kind']} {document['metadata']['name']}, "
                        f"Kubernetes {version}: {where}: {error.message}"
                    ) from error
                expect(used == version, f"there is no schema of Kubernetes {version}")


@check
def charts_are_lint_clean():
    for name in ("agent-defaults", "gateway-defaults"):
        item = rendered(name)
        report = helm_python.lint(str(CHARTS / item.chart), item.rendering.values, strict=True, namespace="kubeedge")
        told = [f"{message['path']}: {message['error']}" for message in report["messages"] if message["severity"] >= 2]
        expect(not told and not report["errors"], f"{item.chart}: {told or report['errors']}")


@check
def no_yaml_key_is_written_twice():
    class Strict(yaml.SafeLoader):
        """Refuses a key that a map has already."""

    def construct(loader, node, deep=False):
        keys = [loader.construct_object(key, deep=deep) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        expect(not twice, f"{sorted(twice)} twice{node.start_mark}")
        return yaml.SafeLoader.construct_mapping(loader, node, deep)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, construct)
    for item in RENDERED.values():
        for name, text in item.texts.items():
            if name != "NOTES.txt":
                list(yaml.load_all(text, Loader=Strict))
        yaml.load(item.config_file()[1], Loader=Strict)


# The private-network key


@check
def go_s5_the_key_is_in_a_secret_and_nowhere_else():
    forms = [PSK, base64.b64encode(PSK.encode()).decode(), hashlib.sha256(PSK.encode()).hexdigest()]
    found = 0
    for item in RENDERED.values():
        for document in item.objects:
            text = json.dumps(document)
            held = [form for form in forms if form in text]
            if document["kind"] == "Secret":
                expect(base64.b64decode(document["data"]["psk"]).decode() == PSK, f"{item.name}: another key than given")
                found += 1
            else:
                expect(not held, f"{item.name}: {document['kind']} {document['metadata']['name']} has the key")
        expect(not any(form in item.texts.get("NOTES.txt", "") for form in forms), f"{item.name}: the notes have the key")
    expect(found > 0, "no rendering has the Secret")


@check
def go_s5_the_published_key_is_refused():
    for chart, path in (("edgemesh", "agent"), ("edgemesh-gateway", "")):
        for key in (GO_DEFAULT_PSK, f"{GO_DEFAULT_PSK}\n"):
            told = refusal(chart, nested(path, {"psk": key}))
            expect("publishes" in told and "openssl rand -base64 32" in told, f"{chart}: {told}")


@check
def go_s5_a_missing_key_is_refused():
    for chart, path in (("edgemesh", "agent"), ("edgemesh-gateway", "")):
        for values in ({}, {"psk": ""}, {"psk": None}):
            told = refusal(chart, nested(path, values))
            expect("no private-network key" in told, f"{chart}: {told}")
            expect("edgemesh psk" in told and "openssl rand -base64 32" in told, f"{chart}: {told}")
        told = refusal(chart, nested(path, {"psk": 123456}))
        expect("--set-string" in told, f"{chart}: {told}")


@check
def go_s5_no_file_of_the_charts_has_a_key():
    for file in sorted([*CHARTS.rglob("*"), *MANIFESTS.rglob("*")]):
        if file.is_file() and file.name != "_mesh.tpl":
            expect(GO_DEFAULT_PSK not in file.read_text(), f"{file.relative_to(ROOT)} has the published key")
    for chart, path in (("edgemesh", "agent"), ("edgemesh-gateway", "")):
        values = helm_python.Chart.load(str(CHARTS / chart)).values
        expect(not (values.get(path) or values)["psk"], f"{chart}: psk has a default")


@check
def a_secret_of_the_users_own_is_taken():
    for name in ("agent-own-secret", "gateway-own-secret"):
        item = rendered(name)
        expect(not item.all("Secret"), f"{name}: makes a Secret although one is named")
        volume = next(volume for volume in item.pod()["volumes"] if volume["name"] == "psk")
        expect(volume["secret"]["secretName"] == "mesh-key", f"{name}: {volume}")


@check
def the_key_is_where_the_configuration_says():
    for item in RENDERED.values():
        tunnel = item.config()["modules"]["edgeTunnel"]
        mounts = {mount["name"]: mount for mount in item.container()["volumeMounts"]}
        if tunnel.get("enable") is False:
            expect("psk" not in mounts, f"{item.name}: a key without a tunnel")
            continue
        path = Path(tunnel["psk"]["path"])
        mount = mounts["psk"]
        expect(str(path.parent) == mount["mountPath"], f"{item.name}: {path} is not in {mount['mountPath']}")
        expect("subPath" not in mount, f"{item.name}: a subPath does not follow the Secret")
        volume = next(volume for volume in item.pod()["volumes"] if volume["name"] == "psk")["secret"]
        expect(volume["items"] == [{"key": "psk", "path": path.name}], f"{item.name}: {volume}")
        expect(volume["defaultMode"] & 0o077 == 0, f"{item.name}: others may read the key")


# The pod


@check
def go_s5_nothing_is_privileged():
    granted = {"edgemesh": {"NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"}, "edgemesh-gateway": {"NET_RAW", "NET_BIND_SERVICE"}}
    for item in RENDERED.values():
        pod, context = item.pod(), item.container()["securityContext"]
        expect(not context.get("privileged"), f"{item.name}: privileged")
        expect(context["allowPrivilegeEscalation"] is False, f"{item.name}: allowPrivilegeEscalation")
        expect(context["readOnlyRootFilesystem"] is True, f"{item.name}: the root is writable")
        expect(context["capabilities"]["drop"] == ["ALL"], f"{item.name}: keeps capabilities")
        expect(set(context["capabilities"]["add"]) == granted[item.chart], f"{item.name}: {context['capabilities']}")
        expect(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", f"{item.name}: no seccomp profile")
        expect(not pod.get("hostPID") and not pod.get("hostIPC"), f"{item.name}: hostPID or hostIPC")


@check
def only_what_must_survive_is_written_on_the_node():
    for item in RENDERED.values():
        pod = item.pod()
        mounts = {mount["name"]: mount for mount in item.container()["volumeMounts"]}
        expect(set(mounts) == {volume["name"] for volume in pod["volumes"]}, f"{item.name}: volumes and mounts differ")
        for volume in pod["volumes"]:
            writable = not mounts[volume["name"]].get("readOnly")
            expect(writable == (volume["name"] in ("state", "run")), f"{item.name}: {volume['name']}, writable: {writable}")
    agent = {v["name"]: v["hostPath"]["path"] for v in rendered("agent-defaults").pod()["volumes"] if "hostPath" in v}
    expect(
        agent == {"state": "/var/lib/edgemesh", "run": "/run/edgemesh", "resolv": "/etc/resolv.conf"},
        f"agent: {agent}",
    )
    gateway = {v["name"]: v["hostPath"]["path"] for v in rendered("gateway-defaults").pod()["volumes"] if "hostPath" in v}
    expect(gateway == {"state": "/var/lib/edgemesh/gateway"}, f"gateway: {gateway}")


@check
def state_and_socket_are_where_the_configuration_says():
    mounts = {mount["name"]: mount["mountPath"] for mount in rendered("agent-own-paths").container()["volumeMounts"]}
    expect(mounts["state"] == "/srv/mesh/state", f"state: {mounts['state']}")
    expect(mounts["run"] == "/srv/mesh/run", f"run: {mounts['run']}")


@check
def dns_does_not_depend_on_the_agent_itself():
    for item in RENDERED.values():
        pod = item.pod()
        expect(pod["hostNetwork"] is True and pod["dnsPolicy"] == "Default", f"{item.name}: {pod['dnsPolicy']}")


@check
def pods_end_by_a_signal_within_seconds():
    for item in RENDERED.values():
        expect(item.pod()["terminationGracePeriodSeconds"] == 15, f"{item.name}: {item.pod()['terminationGracePeriodSeconds']} s")
        expect("lifecycle" not in item.container(), f"{item.name}: waits for something else than SIGTERM")


def probed(item):
    container = item.container()
    for probe, page in (("startupProbe", "/healthz"), ("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        get = container[probe]["httpGet"]
        expect(get["path"] == page, f"{item.name}: {probe} asks for {get['path']}")
        yield get["host"], get["port"]


@check
def go_17_go_c23_there_are_probes():
    for item in RENDERED.values():
        default = {"edgemesh": "127.0.0.1:9999", "edgemesh-gateway": "127.0.0.1:10000"}[item.chart]
        listen = item.config().get("commonConfig", {}).get("metricsListen", default)
        if listen == "off":
            expect(not [key for key in item.container() if key.endswith("Probe")], f"{item.name}: probes that cannot be answered")
            continue
        expected = {
            "127.0.0.1:9999": ("127.0.0.1", 9999),
            "127.0.0.1:10000": ("127.0.0.1", 10000),
            "0.0.0.0:9100": ("127.0.0.1", 9100),
            "[::]:9100": ("::1", 9100),
            "[2001:db8::7]:9100": ("2001:db8::7", 9100),
        }[listen]
        for address in probed(item):
            expect(address == expected, f"{item.name}: {listen} is probed at {address}")
    agent, gateway = set(probed(rendered("agent-defaults"))), set(probed(rendered("gateway-defaults")))
    expect(not agent & gateway, "agent and gateway of one node want the same port")


@check
def a_gateway_that_is_never_ready_takes_no_other_away():
    strategy = rendered("gateway-defaults").workload()["spec"]["strategy"]
    expect(strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}, f"{strategy}")
    told = refusal("edgemesh-gateway", {"psk": PSK, "commonConfig": {"metricsListen": "off"}})
    expect("pass for ready" in told, told)


@check
def go_17_the_agent_asks_for_little():
    resources = rendered("agent-defaults").container()["resources"]
    expect(resources == {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}, f"{resources}")
    given = rendered("agent-go-values").container()["resources"]
    expect(given["requests"]["cpu"] == 0.5 and given["limits"]["memory"] == "256Mi", f"given ones are not taken: {given}")


@check
def agents_go_everywhere_and_are_the_last_to_go():
    pod = rendered("agent-defaults").pod()
    expect(pod["tolerations"] == [{"operator": "Exists"}], f"{pod['tolerations']}")
    expect(pod["priorityClassName"] == "system-node-critical", f"{pod['priorityClassName']}")
    strategy = rendered("agent-defaults").workload()["spec"]["updateStrategy"]
    expect(strategy["rollingUpdate"]["maxUnavailable"] == "10%", f"{strategy}")


@check
def the_command_reads_the_file_of_the_config_map():
    for item in RENDERED.values():
        container = item.container()
        program = {"edgemesh": "edgemesh-agent", "edgemesh-gateway": "edgemesh-gateway"}[item.chart]
        expect(container["command"] == [f"/usr/local/bin/{program}"], f"{item.name}: {container['command']}")
        expect(f"/{program}" in (ROOT / "deploy" / "Dockerfile").read_text(), f"the image has no {program}")
        folder = next(mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "config")
        expect(container["args"] == ["--config-file", f"{folder}/{item.config_file()[0]}"], f"{item.name}: {container['args']}")
        names = {variable["name"] for variable in container["env"]}
        expect(names == {"NODE_NAME", "NAMESPACE"}, f"{item.name}: {names}")


# The configuration


def contains(whole, part, path=""):
    """The first path at which `whole` has not what `part` has."""
    if isinstance(part, dict) and isinstance(whole, dict):
        for key, value in part.items():
            if key not in whole:
                return f"{path}.{key}"
            missing = contains(whole[key], value, f"{path}.{key}")
            if missing:
                return missing
        return None
    return None if whole == part and type(whole) is type(part) else path


@check
def go_10_false_reaches_the_configuration():
    for name in ("agent-false", "gateway-false", "agent-psk-off", "agent-tunnel-off"):
        item = rendered(name)
        given = item.rendering.values["agent"] if item.chart == "edgemesh" else item.rendering.values
        wanted = {block: given[block] for block in ("kubeAPIConfig", "commonConfig", "modules") if block in given}
        missing = contains(item.config(), wanted)
        expect(not missing, f"{name}: {missing} is not what was given")
    expect(FALSE["modules"]["edgeProxy"]["enable"] is False, "the rendering says nothing false")


@check
def every_key_passes():
    for name in ("agent-every-key", "gateway-every-key"):
        item = rendered(name)
        given = item.rendering.values["agent"] if item.chart == "edgemesh" else item.rendering.values
        wanted = {block: given[block] for block in ("kubeAPIConfig", "commonConfig", "modules") if block in given}
        missing = contains(item.config(), wanted)
        expect(not missing, f"{name}: {missing} is not what was given")


@check
def the_kind_is_named():
    for item in RENDERED.values():
        kind = {"edgemesh": ("agent", "EdgeMeshAgent"), "edgemesh-gateway": ("gateway", "EdgeMeshGateway")}[item.chart]
        config = item.config()
        expect(config["apiVersion"] == f"{kind[0]}.edgemesh.config.kubeedge.io/v1alpha1", f"{item.name}: {config['apiVersion']}")
        expect(config["kind"] == kind[1], f"{item.name}: {config['kind']}")


ONE_RELAY = [{"nodeName": "k8s-master", "advertiseAddress": ["1.1.1.1"]}]
TWO_RELAYS = [*ONE_RELAY, {"nodeName": "ke-edge1", "advertiseAddress": ["2.2.2.2", "3.3.3.3"]}]


@check
def go_d7_relays_of_the_readme_reach_the_configuration():
    for name, expected in (
        ("agent-go-readme-one-relay", ONE_RELAY),
        ("agent-go-readme-two-relays", TWO_RELAYS),
        ("gateway-go-readme-one-relay", ONE_RELAY),
        ("gateway-go-readme-two-relays", TWO_RELAYS),
        ("agent-relays-in-modules", ONE_RELAY),
        ("gateway-relays-in-both-places", TWO_RELAYS),
    ):
        found = rendered(name).config()["modules"]["edgeTunnel"].get("relayNodes")
        expect(found == expected, f"{name}: {found}")
    expect(rendered("gateway-go-readme-one-relay").pod()["nodeName"] == "k8s-master", "nodeName is not taken")


@check
def a_relay_without_a_name_is_refused():
    for relays in ([{"advertiseAddress": ["1.1.1.1"]}], [None, ONE_RELAY[0]]):
        told = refusal("edgemesh", {"agent": {"psk": PSK, "relayNodes": relays}})
        expect("agent.relayNodes[0] has no nodeName" in told, told)


@check
def go_d7_pod_ranges_reach_the_configuration():
    expected = {"cloudCIDR": ["10.244.1.0/24"], "edgeCIDR": ["10.244.5.0/24", "fd00:5::/64"]}
    for name in ("agent-ranges-of-the-chart", "agent-ranges-of-the-documents"):
        found = rendered(name).config()["modules"]["edgeCNI"]
        expect(found["meshCIDRConfig"] == expected and found["enable"] is True, f"{name}: {found}")


@check
def certificates_of_the_meta_server_are_mounted():
    for name in ("agent-meta-server", "gateway-meta-server"):
        item = rendered(name)
        mount = next(mount for mount in item.container()["volumeMounts"] if mount["name"] == "metaserver-certs")
        expect(mount["mountPath"] == "/etc/edgemesh/metaserver", f"{name}: {mount}")
        security = item.config()["kubeAPIConfig"]["metaServer"]["security"]
        expect(security["requireAuthorization"] is True, f"{name}: {security}")


# Rights


READ = {"get", "list", "watch"}


@check
def rbac_has_no_wildcard():
    for item in RENDERED.values():
        for role in item.all("ClusterRole") + item.all("Role"):
            for rule in role["rules"]:
                for field in ("apiGroups", "resources", "verbs"):
                    expect(rule[field] and not any("*" in word for word in rule[field]), f"{item.name}: {rule}")
                expect("nonResourceURLs" not in rule, f"{item.name}: {rule}")


@check
def rbac_is_what_the_mesh_reads():
    base = {
        "": {"services", "endpoints", "namespaces", "nodes"},
        "discovery.k8s.io": {"endpointslices"},
        "networking.istio.io": {"destinationrules"},
        "edgemesh.kubeedge.io": {"tunnelpolicies"},
    }
    kinds = {"gatewayclasses", "gateways", "httproutes", "tcproutes", "tlsroutes"}
    expected = {
        "edgemesh": {(group, name): READ for group, names in base.items() for name in names},
        "edgemesh-gateway": {(group, name): READ for group, names in base.items() for name in names}
        | {("networking.istio.io", name): READ for name in ("gateways", "virtualservices")}
        | {("gateway.networking.k8s.io", name): READ for name in kinds}
        | {("gateway.networking.k8s.io", f"{name}/status"): {"update", "patch"} for name in kinds},
    }
    for item in RENDERED.values():
        granted = {
            (group, name): set(rule["verbs"])
            for rule in item.one("ClusterRole")["rules"]
            for group in rule["apiGroups"]
            for name in rule["resources"]
        }
        keys = granted.keys() | expected[item.chart].keys()
        differing = sorted(key for key in keys if granted.get(key) != expected[item.chart].get(key))
        expect(not differing, f"{item.name}: {differing}")


@check
def go_s8_only_named_secrets_are_read():
    for item in RENDERED.values():
        if item.chart == "edgemesh":
            expect(not item.all("Role"), f"{item.name}: the agent needs no Role")
    (role,) = rendered("gateway-defaults").all("Role")
    expect(role["metadata"]["namespace"] == "kubeedge", f"{role['metadata']}")
    (rule,) = role["rules"]
    expect(rule["resources"] == ["secrets"] and set(rule["verbs"]) == READ, f"{rule}")
    expect(rule["resourceNames"] == ["edgemesh-gateway-tls"], f"{rule}")
    item = rendered("gateway-every-key")
    roles = {role["metadata"]["namespace"]: role["rules"][0].get("resourceNames") for role in item.all("Role")}
    expect(roles == {"default": ["gw-secret"], "kubeedge": None}, f"{roles}")
    bound = {binding["metadata"]["namespace"]: binding["subjects"] for binding in item.all("RoleBinding")}
    expect(set(bound) == set(roles), f"{sorted(bound)}")
    for subjects in bound.values():
        expect(subjects[0]["namespace"] == "kubeedge" and subjects[0]["name"] == "edgemesh-gateway", f"{subjects}")
    told = refusal("edgemesh-gateway", {"psk": PSK, "tlsSecrets": [{"names": ["a"]}, {"names": ["b"]}]})
    expect("twice" in told, told)


@check
def bindings_bind_the_account_of_the_pod():
    for item in RENDERED.values():
        account = item.one("ServiceAccount")["metadata"]
        expect(item.pod()["serviceAccountName"] == account["name"], f"{item.name}: {item.pod()['serviceAccountName']}")
        for binding in item.all("ClusterRoleBinding") + item.all("RoleBinding"):
            subject = {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
            expect(binding["subjects"] == [subject], f"{item.name}: {binding['subjects']}")
            role = (binding["roleRef"]["kind"], binding["roleRef"]["name"])
            expect(role in {(r["kind"], r["metadata"]["name"]) for r in item.objects}, f"{item.name}: there is no {role}")


# Upgrades


@check
def objects_have_the_names_of_go_edgemesh():
    for name, expected, selector in (
        (
            "agent-defaults",
            {
                ("ServiceAccount", "edgemesh-agent"),
                ("ClusterRole", "edgemesh-agent"),
                ("ClusterRoleBinding", "edgemesh-agent"),
                ("ConfigMap", "edgemesh-agent-cfg"),
                ("DaemonSet", "edgemesh-agent"),
                ("Secret", "edgemesh-agent-psk"),
            },
            "edgemesh-agent",
        ),
        (
            "gateway-defaults",
            {
                ("ServiceAccount", "edgemesh-gateway"),
                ("ClusterRole", "edgemesh-gateway"),
                ("ClusterRoleBinding", "edgemesh-gateway"),
                ("ConfigMap", "edgemesh-gateway-cfg"),
                ("Deployment", "edgemesh-gateway"),
                ("Secret", "edgemesh-gateway-psk"),
            },
            "edgemesh-gateway",
        ),
    ):
        item = rendered(name)
        found = {(document["kind"], document["metadata"]["name"]) for document in item.objects}
        expect(expected <= found, f"{name}: {sorted(expected - found)} is missing")
        labels = {"k8s-app": "kubeedge", "kubeedge": selector}
        workload = item.workload()
        # A selector cannot be changed: with another one `helm upgrade` fails.
        expect(workload["spec"]["selector"] == {"matchLabels": labels}, f"{name}: {workload['spec']['selector']}")
        expect(workload["spec"]["template"]["metadata"]["labels"] == labels, f"{name}: labels of the pod")
        expect(item.container()["name"] == selector, f"{name}: {item.container()['name']}")
        for document in item.objects:
            metadata = document["metadata"]
            expect(labels.items() <= metadata["labels"].items(), f"{name}: labels of {metadata['name']}")
            cluster_wide = document["kind"].startswith(("ClusterRole", "CustomResourceDefinition"))
            expect(("namespace" in metadata) != cluster_wide, f"{name}: namespace of {metadata['name']}")


@check
def images_of_go_edgemesh_are_refused():
    for chart, path, image in (
        ("edgemesh", "agent", "kubeedge/edgemesh-agent:v1.17.0"),
        ("edgemesh-gateway", "", "mirror.example/kubeedge/edgemesh-gateway:v1.16.0"),
    ):
        told = refusal(chart, nested(path, {"psk": PSK, "image": image}))
        expect("--reset-then-reuse-values" in told, f"{chart}: {told}")


@check
def the_placeholder_of_the_go_gateway_is_refused():
    told = refusal("edgemesh-gateway", {"psk": PSK, "nodeName": "your node name"})
    expect("is no node's name" in told, told)


@check
def what_needs_a_restart_replaces_the_pods_and_the_rest_does_not():
    def checksum(name):
        return rendered(name).workload()["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    for name in ("agent-own-secret", "agent-reloaded", "agent-go-readme-two-relays", "agent-relays-in-modules"):
        expect(checksum("agent-defaults") == checksum(name), f"{name} replaces pods")
    for name in ("agent-false", "agent-own-paths", "agent-ranges-of-the-chart", "agent-meta-server"):
        expect(checksum("agent-defaults") != checksum(name), f"{name} does not replace pods")
    rows = re.findall(r"^\| `([^`]+)`.*reload \|$", (ROOT / "docs" / "config.md").read_text(), re.MULTILINE)
    told = {row.split("[")[0] for row in rows}
    followed = {"accessLog", "hijackKubernetesService", "logLevel", "relayNodes", "serviceFilterMode"}
    expect(told == followed, f"docs/config.md: the agent follows {sorted(told)}")


@check
def off_without_quotes_is_off():
    for name, expected in (
        ("agent-off", {"accessLog": "off", "metricsListen": "off"}),
        ("gateway-off", {"accessLog": "off"}),
    ):
        common = rendered(name).config()["commonConfig"]
        expect(common == expected, f"{name}: {common}")
    expect("there are no probes" in rendered("agent-off").texts["NOTES.txt"], "the notes do not tell")


@check
def istio_definitions_come_only_when_asked_for():
    for item in RENDERED.values():
        asked = item.rendering.values.get("installIstioCRDs", False)
        names = {document["metadata"]["name"] for document in item.all("CustomResourceDefinition")}
        kinds = {f"{kind}.networking.istio.io" for kind in ("destinationrules", "gateways", "virtualservices")}
        own = {"tunnelpolicies.edgemesh.kubeedge.io"}
        wanted = (kinds if asked else set()) | (own if item.rendering.chart == "edgemesh" else set())
        expect(names == wanted, f"{item.name}: {sorted(names)}")
        for document in item.all("CustomResourceDefinition"):
            keep = document["metadata"]["annotations"]["helm.sh/resource-policy"]
            stored = [version["name"] for version in document["spec"]["versions"] if version["storage"]]
            expected = ["v1alpha1"] if document["metadata"]["name"] in own else ["v1alpha3"]
            expect(keep == "keep" and stored == expected, f"{item.name}: {keep}, stored as {stored}")
    asking = [item for item in RENDERED.values() if item.rendering.values.get("installIstioCRDs")]
    expect(asking, "no rendering asks for them")

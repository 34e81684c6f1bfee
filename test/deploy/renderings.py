"""Values that the charts are rendered with."""

import base64
from dataclasses import dataclass

import helm_python
import yaml

# A key of the right form. It is made here so that no file has one.
PSK = base64.b64encode(bytes(range(32))).decode()
# Published with Go EdgeMesh (build/helm/edgemesh/values.yaml).
GO_DEFAULT_PSK = "JugH9HP1XBouyO5pWGeZa8LtipDURrf17EJvUHcJGuQ="


@dataclass(frozen=True)
class Rendering:
    """A chart with values."""

    name: str
    chart: str
    values: dict
    # Whether the program starts with the configuration that comes out.
    runs: bool = True


def sets(text):
    """Values from `--set` expressions, as the command line reads them."""
    return helm_python.parse_set_string(text)


def document(text):
    """Values from a YAML file."""
    return yaml.safe_load(text)


# Every boolean that Go EdgeMesh's charts could only say true of, and those that they did not know.
FALSE = document("""
kubeAPIConfig:
  deleteKubeConfig: false
  metaServer: {security: {requireAuthorization: false, insecureSkipTLSVerify: false}}
commonConfig:
  pprofConfig: {enableProfiling: false}
modules:
  edgeDNS: {enable: false, cacheDNS: {enable: false, autoDetect: false}}
  edgeProxy: {enable: false, socks5Proxy: {enable: false}}
  edgeTunnel:
    enable: true
    enableIpfsLog: false
    tunnelLimitConfig: {enable: false}
    metricConfig: {enable: false}
  edgeCNI: {enable: false}
""")

# The keys of Go EdgeMesh's v1alpha1, with values that are not the defaults.
EVERY_KUBE_API = document("""
master: https://192.0.2.1:6443
contentType: application/json
qps: 50
burst: 70
metaServer:
  server: https://127.0.0.1:10551
  security:
    requireAuthorization: true
    insecureSkipTLSVerify: true
    tlsCaFile: /etc/edgemesh/metaserver/rootCA.crt
    tlsCertFile: /etc/edgemesh/metaserver/server.crt
    tlsPrivateKeyFile: /etc/edgemesh/metaserver/server.key
deleteKubeConfig: true
""")
EVERY_TUNNEL = document("""
enable: true
listenPort: 20016
transport: tcp
rendezvous: SITE
relayNodes:
  - {nodeName: k8s-master, advertiseAddress: [203.0.113.10, "2001:db8::10"]}
enableIpfsLog: true
maxCandidates: 7
heartbeatPeriod: 60
finderPeriod: 30
psk: {enable: true, path: /etc/edgemesh/secrets/psk}
tunnelLimitConfig:
  enable: true
  tunnelBaseStreamIn: 1000000
  tunnelBaseStreamOut: 1000000
  tunnelPeerBaseStreamIn: 512
  tunnelPeerBaseStreamOut: 512
listenInterfaces: eth0,wlan0
extraFilteredInterfaces: veth
""")
EVERY_AGENT = document("""
commonConfig:
  bridgeDeviceName: mesh0
  bridgeDeviceIP: 169.254.96.17
  stateDir: /var/lib/edgemesh
  adminSocket: /run/edgemesh/agent.sock
  metricsListen: "[::]:9100"
  accessLog: errors
  logLevel: debug
  logFormat: json
modules:
  edgeDNS:
    enable: true
    listenPort: 5353
    cacheDNS: {enable: true, autoDetect: false, upstreamServers: [192.0.2.53, "192.0.2.54:5353"], cacheTTL: 60}
  edgeProxy:
    enable: true
    serviceFilterMode: FilterIfLabelDoesNotExists
    socks5Proxy: {enable: true, listenPort: 10801}
    loadBalancer: {consistentHash: {partitionCount: 50, replicationFactor: 5, load: 1.5}}
  edgeCNI:
    enable: false
    meshCIDRConfig: {cloudCIDR: [10.244.1.0/24], edgeCIDR: [10.244.5.0/24]}
""")
EVERY_GATEWAY = document("""
commonConfig:
  metricsListen: "[2001:db8::7]:9100"
  logLevel: debug
modules:
  edgeGateway:
    enable: true
    nic: "lo,eth0"
    includeIP: "192.0.2.1,198.51.100.0/24"
    excludeIP: "127.0.0.1"
    loadBalancer: {consistentHash: {partitionCount: 50, replicationFactor: 5, load: 1.5}}
tlsSecrets:
  - {namespace: default, names: [gw-secret]}
  - {}
""")
# What Go EdgeMesh's own values files say, without the key and the image, which no release may keep.
GO_RESOURCES = {"limits": {"cpu": 1, "memory": "256Mi"}, "requests": {"cpu": 0.5, "memory": "128Mi"}}
GO_AGENT = {
    "agent": {
        "psk": PSK,
        "affinity": {},
        "nodeSelector": {},
        "tolerations": [],
        "resources": GO_RESOURCES,
        "modules": {"edgeProxy": {"enable": True}, "edgeTunnel": {"enable": True}, "edgeCNI": {"enable": False}},
    },
    "spiderpool": {"coordinator": {"enabled": False}, "multus": {"multusCNI": {"install": False}}},
}
GO_GATEWAY = {
    "psk": PSK,
    "nodeName": "k8s-master",
    "affinity": {},
    "nodeSelector": {},
    "tolerations": {},
    "resources": GO_RESOURCES,
    "modules": {"edgeGateway": {"enable": True}, "edgeTunnel": {"enable": True}},
}
RELAY = "relayNodes[0].nodeName=k8s-master,{0}relayNodes[0].advertiseAddress={{1.1.1.1}}"
RELAYS = RELAY + ",{0}relayNodes[1].nodeName=ke-edge1,{0}relayNodes[1].advertiseAddress={{2.2.2.2,3.3.3.3}}"
AGENT_RELAY = f"agent.psk={PSK},agent." + RELAY.format("agent.")
AGENT_RELAYS = f"agent.psk={PSK},agent." + RELAYS.format("agent.")
GATEWAY_RELAY = f"nodeName=k8s-master,psk={PSK}," + RELAY.format("")
GATEWAY_RELAYS = f"nodeName=k8s-master,psk={PSK}," + RELAYS.format("")
TWO_WAY = "kubeAPIConfig.metaServer.security.requireAuthorization=true,{0}metaServerSecret=metaserver-certs"


def agent(name, values, runs=True):
    """A rendering of the agent's chart with values under `agent`."""
    return Rendering(f"agent-{name}", "edgemesh", {"agent": {"psk": PSK, **values}}, runs)


def gateway(name, values, runs=True):
    """A rendering of the gateway's chart."""
    return Rendering(f"gateway-{name}", "edgemesh-gateway", {"psk": PSK, **values}, runs)


def gateway_false():
    modules = {key: FALSE["modules"][key] for key in ("edgeTunnel",)}
    return {"kubeAPIConfig": FALSE["kubeAPIConfig"], "modules": {"edgeGateway": {"enable": False}, **modules}}


RENDERINGS = [
    agent("defaults", {}),
    agent("own-secret", {"psk": "", "pskSecret": "mesh-key"}),
    Rendering("agent-go-values", "edgemesh", GO_AGENT),
    Rendering("agent-go-readme-one-relay", "edgemesh", sets(AGENT_RELAY)),
    Rendering("agent-go-readme-two-relays", "edgemesh", sets(AGENT_RELAYS)),
    agent("relays-in-modules", {"modules": sets(f"edgeTunnel.{RELAY.format('edgeTunnel.')}")}),
    agent("false", FALSE),
    agent("psk-off", {"modules": {"edgeTunnel": {"psk": {"enable": False}}}}, runs=False),
    Rendering("agent-tunnel-off", "edgemesh", {"agent": {"modules": {"edgeTunnel": {"enable": False}}}}),
    agent(
        "every-key",
        {**EVERY_AGENT, "kubeAPIConfig": EVERY_KUBE_API, "modules": {**EVERY_AGENT["modules"], "edgeTunnel": EVERY_TUNNEL}},
    ),
    agent(
        "own-paths",
        {
            "commonConfig": {
                "stateDir": "/srv/mesh/state",
                "adminSocket": "/srv/mesh/run/agent.sock",
                "metricsListen": "0.0.0.0:9100",
            },
            "modules": {"edgeTunnel": {"psk": {"path": "/etc/edgemesh/psk"}}},
        },
    ),
    agent("one-way", sets("kubeAPIConfig.metaServer.security.requireAuthorization=true,"
                          "kubeAPIConfig.metaServer.security.insecureSkipTLSVerify=true")),
    Rendering("agent-meta-server", "edgemesh", sets(f"agent.psk={PSK},agent." + TWO_WAY.format("agent."))),
    agent("ranges-of-the-chart", {
        "modules": {"edgeCNI": {"enable": True}},
        "cloudCIDR": ["10.244.1.0/24"],
        "edgeCIDR": ["10.244.5.0/24", "fd00:5::/64"],
    }),
    agent("ranges-of-the-documents", {
        "modules": {"edgeCNI": {"enable": True}},
        "meshCIDRConfig": {"cloudCIDR": ["10.244.1.0/24"], "edgeCIDR": ["10.244.5.0/24", "fd00:5::/64"]},
    }),
    Rendering("agent-definitions", "edgemesh", {"agent": {"psk": PSK}, "installIstioCRDs": True}),
    agent("reloaded", {
        "commonConfig": {"logLevel": "debug", "accessLog": "errors"},
        "modules": {
            "edgeProxy": {"serviceFilterMode": "FilterIfLabelDoesNotExists", "hijackKubernetesService": True},
        },
    }),
    agent("off", {"commonConfig": document("{accessLog: off, metricsListen: off}")}),
    agent("pulled-with-a-password", {"imagePullSecrets": [{"name": "registry"}]}),
    gateway("defaults", {}),
    gateway("own-secret", {"psk": "", "pskSecret": "mesh-key"}),
    Rendering("gateway-go-values", "edgemesh-gateway", GO_GATEWAY),
    Rendering("gateway-go-readme-one-relay", "edgemesh-gateway", sets(GATEWAY_RELAY)),
    Rendering("gateway-go-readme-two-relays", "edgemesh-gateway", sets(GATEWAY_RELAYS)),
    Rendering(
        "gateway-relays-in-both-places",
        "edgemesh-gateway",
        sets(GATEWAY_RELAYS + ",modules.edgeTunnel." + RELAY.format("modules.edgeTunnel.")),
    ),
    gateway("false", gateway_false()),
    gateway(
        "every-key",
        {**EVERY_GATEWAY, "kubeAPIConfig": EVERY_KUBE_API, "modules": {**EVERY_GATEWAY["modules"], "edgeTunnel": EVERY_TUNNEL}},
    ),
    Rendering("gateway-meta-server", "edgemesh-gateway", sets(f"psk={PSK}," + TWO_WAY.format(""))),
    gateway("off", {"commonConfig": document("{accessLog: off}")}),
    gateway("without-certificates", {"tlsSecrets": []}),
]

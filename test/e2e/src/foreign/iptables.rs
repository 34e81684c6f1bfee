//! Programs that call `iptables`.

use super::{CONTAINER_PORT, World, socket};

/// Docker with one container whose ports are published: chains of its own, `FORWARD` with policy `DROP`, and translation
/// of whatever goes to a published port of an address that the host takes for its own.
pub(super) fn docker(world: &World, family: usize) -> String {
    let net = ["172.17.0.0/16", "fd00:17::/64"][family];
    let loopback = ["127.0.0.0/8", "::1/128"][family];
    let container = &world.container[family];
    let (mut translated, mut allowed) = (String::new(), String::new());
    for (protocol, port) in &world.published {
        let to = socket(container, CONTAINER_PORT);
        translated +=
            &format!("-A DOCKER ! -i docker0 -p {protocol} --dport {port} -j DNAT --to-destination {to}\n");
        allowed += &format!(
            "-A DOCKER -d {container} ! -i docker0 -o docker0 -p {protocol} --dport {CONTAINER_PORT} -j ACCEPT\n"
        );
    }
    format!(
        "*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A OUTPUT ! -d {loopback} -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s {net} ! -o docker0 -j MASQUERADE
{translated}COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-BRIDGE - [0:0]
:DOCKER-CT - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER-FORWARD -j DOCKER-CT
-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
-A DOCKER-FORWARD -j DOCKER-BRIDGE
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-BRIDGE -o docker0 -j DOCKER
-A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
{allowed}-A DOCKER ! -i docker0 -o docker0 -j DROP
COMMIT
"
    )
}

/// flannel: Pods are forwarded, and masqueraded to whatever is no Pod.
pub(super) fn flannel(world: &World, family: usize) -> String {
    let pods = &world.pods[family];
    let multicast = ["224.0.0.0/4", "ff00::/8"][family];
    format!(
        "*nat
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
-A FLANNEL-POSTRTG -s {pods} -d {pods} -j RETURN
-A FLANNEL-POSTRTG -s {pods} ! -d {multicast} -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s {pods} -d {pods} -j MASQUERADE --random-fully
COMMIT
*filter
:FLANNEL-FWD - [0:0]
-A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD
-A FLANNEL-FWD -s {pods} -j ACCEPT
-A FLANNEL-FWD -d {pods} -j ACCEPT
COMMIT
"
    )
}

//! kube-proxy: a chain for every Service and endpoint.

use super::{Portal, World, socket};

/// The mark of what is to be masqueraded.
const MARK: &str = "0x4000";

/// Mode `iptables`, one family.
pub(super) fn iptables(world: &World, family: usize) -> String {
    let pods = &world.pods[family];
    let (mut chains, mut rules) = (String::new(), String::new());
    let mut rejected = String::new();
    for (number, portal) in world.portals.iter().enumerate() {
        let Portal { name, protocol, port, target, endpoints, .. } = portal;
        let to = format!("-d {} -p {protocol} -m {protocol} --dport {port}", portal.addresses[family]);
        if endpoints.is_empty() {
            let comment = format!("-m comment --comment \"{name} has no endpoints\"");
            rejected += &format!("-A KUBE-SERVICES {comment} {to} -j REJECT\n");
            continue;
        }
        chains += &format!(":KUBE-SVC-{number} - [0:0]\n");
        rules += &format!(
            "-A KUBE-SERVICES -m comment --comment \"{name} cluster IP\" {to} -j KUBE-SVC-{number}
-A KUBE-SVC-{number} ! -s {pods} {to} -j KUBE-MARK-MASQ\n"
        );
        for (slot, endpoint) in endpoints.iter().enumerate() {
            let chain = format!("KUBE-SEP-{number}-{slot}");
            let address = &endpoint[family];
            chains += &format!(":{chain} - [0:0]\n");
            let lot = match endpoints.len() - slot {
                1 => String::new(),
                left => format!("-m statistic --mode random --probability {:.5} ", 1.0 / left as f64),
            };
            rules += &format!(
                "-A KUBE-SVC-{number} {lot}-j {chain}
-A {chain} -s {address} -j KUBE-MARK-MASQ
-A {chain} -p {protocol} -m {protocol} -j DNAT --to-destination {}\n",
                socket(address, *target)
            );
        }
    }
    format!(
        "*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
{chains}-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark {MARK}
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark {MARK}
{rules}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
*filter
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark {MARK}/{MARK} -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
{rejected}COMMIT
"
    )
}

/// Mode `nftables`, one family. What goes to a Service's address and is no port of it is refused, also at the output hook
/// after translation; what goes to an address of the range that no Service has is dropped.
pub(super) fn nftables(world: &World, family: usize) -> String {
    let (table, ip, address_type) = [("ip", "ip", "ipv4_addr"), ("ip6", "ip6", "ipv6_addr")][family];
    let (pods, range) = (&world.pods[family], &world.services[family]);
    let mut addresses: Vec<&str> = world.portals.iter().map(|it| it.addresses[family].as_str()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let addresses = addresses.join(", ");
    let (mut served, mut unserved, mut chains) = (String::new(), String::new(), String::new());
    for (number, portal) in world.portals.iter().enumerate() {
        let Portal { name, protocol, port, target, endpoints, .. } = portal;
        let address = &portal.addresses[family];
        let key = format!("{address} . {protocol} . {port}");
        if endpoints.is_empty() {
            unserved += &format!("\t\t\t{key} comment \"{name}\" : goto reject-chain,\n");
            continue;
        }
        served += &format!("\t\t\t{key} comment \"{name}\" : goto service-{number},\n");
        let mut lots = Vec::new();
        for (slot, endpoint) in endpoints.iter().enumerate() {
            lots.push(format!("{slot} : goto endpoint-{number}-{slot}"));
            let endpoint = &endpoint[family];
            chains += &format!(
                "\tchain endpoint-{number}-{slot} {{
		{ip} saddr {endpoint} jump mark-for-masquerade
		meta l4proto {protocol} dnat to {}
	}}\n",
                socket(endpoint, *target)
            );
        }
        chains += &format!(
            "\tchain service-{number} {{
		numgen random mod {} vmap {{ {} }}
	}}\n",
            endpoints.len(),
            lots.join(", ")
        );
    }
    let elements = |list: &str| match list {
        "" => String::new(),
        list => format!("elements = {{\n{list}\t\t}}"),
    };
    let (served, unserved) = (elements(&served), elements(&unserved));
    let key = format!("type {address_type} . inet_proto . inet_service : verdict");
    format!(
        "table {table} kube-proxy
delete table {table} kube-proxy
table {table} kube-proxy {{
	set cluster-ips {{
		type {address_type}
		elements = {{ {addresses} }}
	}}
	map firewall-ips {{
		{key}
	}}
	map no-endpoint-services {{
		{key}
		{unserved}
	}}
	map service-ips {{
		{key}
		{served}
	}}
	chain filter-prerouting-pre-dnat {{
		type filter hook prerouting priority -110; policy accept;
		ct state new jump firewall-check
	}}
	chain filter-output-pre-dnat {{
		type filter hook output priority -110; policy accept;
		ct state new jump firewall-check
	}}
	chain filter-input {{
		type filter hook input priority filter; policy accept;
		ct state new jump service-endpoints-check
	}}
	chain filter-forward {{
		type filter hook forward priority filter; policy accept;
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}}
	chain filter-output {{
		type filter hook output priority filter; policy accept;
		ct state new jump service-endpoints-check
		ct state new jump cluster-ips-check
	}}
	chain nat-prerouting {{
		type nat hook prerouting priority dstnat; policy accept;
		jump services
	}}
	chain nat-output {{
		type nat hook output priority -100; policy accept;
		jump services
	}}
	chain nat-postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		jump masquerading
	}}
	chain cluster-ips-check {{
		{ip} daddr @cluster-ips reject
		{ip} daddr {range} drop
	}}
	chain firewall-check {{
		{ip} daddr . meta l4proto . th dport vmap @firewall-ips
	}}
	chain service-endpoints-check {{
		{ip} daddr . meta l4proto . th dport vmap @no-endpoint-services
	}}
	chain reject-chain {{
		reject
	}}
	chain mark-for-masquerade {{
		meta mark set meta mark or {MARK}
	}}
	chain masquerading {{
		meta mark and {MARK} == 0 return
		meta mark set meta mark xor {MARK}
		masquerade fully-random
	}}
{chains}	chain services {{
		{ip} daddr @cluster-ips {ip} saddr != {pods} jump mark-for-masquerade
		{ip} daddr . meta l4proto . th dport vmap @service-ips
	}}
}}
"
    )
}

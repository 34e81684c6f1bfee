//! firewalld with its nftables backend.

use super::World;

/// The ports that an administrator opens for the mesh, besides ssh: the tunnel and its search for peers in the LAN.
const OPEN: &str = "tcp dport { 22, 20006 } accept
		udp dport { 5353, 20006 } accept";

/// The table: what a zone does not accept is refused, at the input and at the forward hook. Connections whose destination
/// was translated are let through at both.
pub(super) fn table(world: &World, trusted: bool) -> String {
    let bridge = world.bridge;
    let zone = match trusted {
        true => format!("iifname \"{bridge}\" accept\n\t\t"),
        false => String::new(),
    };
    let common = "ct state { established, related } accept
		ct status dnat accept
		iifname \"lo\" accept
		ct state invalid drop";
    format!(
        "table inet firewalld
delete table inet firewalld
table inet firewalld {{
	chain mangle_PREROUTING {{
		type filter hook prerouting priority -140; policy accept;
	}}
	chain nat_PREROUTING {{
		type nat hook prerouting priority -90; policy accept;
	}}
	chain nat_POSTROUTING {{
		type nat hook postrouting priority 110; policy accept;
	}}
	chain filter_PREROUTING {{
		type filter hook prerouting priority 10; policy accept;
		icmpv6 type {{ nd-router-advert, nd-neighbor-solicit }} accept
		meta nfproto ipv6 fib saddr . mark . iif oif missing drop
	}}
	chain filter_INPUT {{
		type filter hook input priority 10; policy accept;
		{common}
		jump filter_INPUT_ZONES
		reject with icmpx admin-prohibited
	}}
	chain filter_FORWARD {{
		type filter hook forward priority 10; policy accept;
		{common}
		jump filter_FORWARD_ZONES
		reject with icmpx admin-prohibited
	}}
	chain filter_OUTPUT {{
		type filter hook output priority 10; policy accept;
		ct state {{ established, related }} accept
		oifname \"lo\" accept
	}}
	chain filter_INPUT_ZONES {{
		{zone}goto filter_IN_public
	}}
	chain filter_FORWARD_ZONES {{
		{zone}goto filter_FWD_public
	}}
	chain filter_IN_public {{
		{OPEN}
		meta l4proto {{ icmp, ipv6-icmp }} accept
	}}
	chain filter_FWD_public {{
		meta l4proto {{ icmp, ipv6-icmp }} accept
	}}
}}
"
    )
}

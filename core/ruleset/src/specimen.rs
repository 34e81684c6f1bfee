use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use edgemesh_api::Protocol;
use edgemesh_mesh::{DeviceKind, Frontend, HostFacts, HostRoute};
use edgemesh_route::Via;
use ipnet::IpNet;

use crate::rules::chains;
use crate::{Family, Ruleset, RulesetSettings, Spread, Steer, VipRoute};

impl Ruleset {
    /// A ruleset that has rules of every kind, by which it is seen whether a kernel takes them. Its addresses are those
    /// for documentation (RFC 5737, RFC 3849).
    pub fn specimen(settings: &RulesetSettings) -> Self {
        let mut host =
            HostFacts { forward_v4: true, forward_v6: true, bridges_filtered: true, ..HostFacts::default() };
        let mut ruleset = Self::empty(&host, settings);
        for family in ruleset.families {
            let ip: IpAddr = match family {
                Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
                Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            };
            let range = IpNet::new(ip, 24).map(|range| range.trunc()).into_iter();
            host.pod_ranges.extend(range.clone());
            host.routes.extend(range.clone().map(on_link));
            let affinity = Some(Duration::from_secs(1));
            let endpoints = Arc::from([(SocketAddr::new(ip, 1), Via::Pod)]);
            let spread =
                Spread { endpoints, proxied: 1, affinity, inside: true, own: Arc::from([ip]), caught: true };
            *ruleset.picks.entry(spread.pick()).or_default() += 1;
            ruleset.backends.insert((SocketAddr::new(ip, 1), Protocol::Tcp), (Via::Pod, 1));
            ruleset.hairpins.insert(ip, 1);
            let steers = [Steer::Proxy, Steer::Kernel(spread), Steer::Drop { inside: true }, Steer::Reject];
            for (port, steer) in (1..).zip(steers) {
                ruleset.frontends.insert(Frontend { ip, port, protocol: Protocol::Tcp }, steer);
            }
            let first = Frontend { ip, port: 1, protocol: Protocol::Tcp };
            ruleset.restricted.insert(first, range.collect());
            ruleset.vips.insert(ip, VipRoute { vip: ip, source: None });
        }
        for member in ruleset.members() {
            ruleset.population.add(&member);
        }
        ruleset.chains = chains(&host, settings, ruleset.families, &ruleset.population);
        ruleset
    }
}

fn on_link(prefix: IpNet) -> HostRoute {
    HostRoute {
        prefix,
        gateway: false,
        device: DeviceKind::Pods,
        bridge_filtered: false,
        one_way: false,
        discards: false,
    }
}

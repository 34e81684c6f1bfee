use std::net::IpAddr;

use edgemesh_net::netlink::NetlinkError;
use edgemesh_net::netlink::rt::{Handle, Prefix, Route, RouteKind, Scope, TABLE_LOCAL};
use edgemesh_ruleset::{ROUTE_PROTOCOL, VipRoute};

/// The routes that are marked as ours.
pub(crate) fn installed(rt: &mut Handle) -> Result<Vec<Route>, NetlinkError> {
    let mut routes = rt.routes(Some(TABLE_LOCAL))?;
    routes.retain(|route| route.proto == ROUTE_PROTOCOL);
    Ok(routes)
}

/// A kernel route as the ruleset names it.
pub(crate) fn vip(route: &Route) -> VipRoute {
    let source = route.prefsrc.and_then(|source| match source {
        IpAddr::V4(source) => Some(source),
        IpAddr::V6(_) => None,
    });
    VipRoute { vip: route.dst.addr, source }
}

/// Adds routes; returns those to whose address somebody else has one.
pub(crate) fn add(rt: &mut Handle, lo: u32, add: &[VipRoute]) -> Result<Vec<VipRoute>, NetlinkError> {
    let routes: Vec<Route> = add.iter().map(|route| kernel(*route, lo)).collect();
    let exist = rt.add_routes(&routes)?;
    Ok(exist.into_iter().filter_map(|index| add.get(index).copied()).collect())
}

/// Deletes a route.
pub(crate) fn delete(rt: &mut Handle, lo: u32, route: VipRoute) -> Result<(), NetlinkError> {
    remove(rt, &kernel(route, lo))
}

/// Deletes a route as the kernel told it; one that is gone already is as wanted.
pub(crate) fn remove(rt: &mut Handle, route: &Route) -> Result<(), NetlinkError> {
    match rt.delete_route(route) {
        Err(error) if !error.is_missing() => Err(error),
        _ => Ok(()),
    }
}

fn kernel(route: VipRoute, lo: u32) -> Route {
    Route {
        table: TABLE_LOCAL,
        kind: RouteKind::Local,
        dst: Prefix::host(route.vip),
        gateway: None,
        oif: Some(lo),
        next_hops: Vec::new(),
        prefsrc: route.source.map(IpAddr::from),
        proto: ROUTE_PROTOCOL,
        metric: None,
        scope: if route.vip.is_ipv4() { Scope::Host } else { Scope::Universe },
    }
}

use crate::settings::Role;

/// A key of EdgeMesh before 1.12.
pub(crate) struct Old {
    pub(crate) path: &'static str,
    /// The key or block that it is now.
    pub(crate) now: Option<&'static str>,
    /// Why there is none.
    pub(crate) why: &'static str,
}

const fn renamed(path: &'static str, now: &'static str) -> Old {
    Old { path, now: Some(now), why: "" }
}

const fn gone(path: &'static str, why: &'static str) -> Old {
    Old { path, now: None, why }
}

const OLD: &[Old] = &[
    renamed("commonConfig.dummyDeviceName", "commonConfig.bridgeDeviceName"),
    renamed("commonConfig.dummyDeviceIP", "commonConfig.bridgeDeviceIP"),
    gone("commonConfig.mode", "the mode is found out"),
    gone("commonConfig.configMapName", "no ConfigMap is changed"),
    gone("goChassisConfig", "DestinationRules say how endpoints of a Service are picked"),
    gone("modules.edgeProxy.subNet", "the addresses of the Services say what is intercepted"),
    gone("modules.edgeProxy.listenPort", "modules.edgeProxy.proxyPort is the port of the proxy"),
    renamed("modules.tunnel", "modules.edgeTunnel"),
    gone("modules.edgeTunnel.security", "modules.edgeTunnel.psk says who is let in"),
    gone("modules.edgeTunnel.ACL", "modules.edgeTunnel.psk says who is let in"),
    gone("modules.edgeTunnel.enableSecurity", "modules.edgeTunnel.psk says who is let in"),
    gone("modules.edgeTunnel.enableHolePunch", "holes are always punched"),
];

/// The older key of this path, whose file was always the agent's.
pub(crate) fn old_name(path: &str, role: Role) -> Option<&'static Old> {
    OLD.iter().find(|old| old.path == path && (role == Role::Agent || old.path.starts_with("modules.")))
}

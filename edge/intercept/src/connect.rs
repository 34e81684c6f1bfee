//! Keeps what the programs look up when a socket connects as the ruleset says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use edgemesh_mesh::Frontend;
use edgemesh_net::bpf::{Attach, BpfError, Link, Map, MapKind, cgroup_roots, network_cookie};
use edgemesh_ruleset::connect::{
    END_LEN, Maps, PEER_LEN, SLOT_LEN, TARGET_LEN, Target, end, peer_name, rewrite, slot,
};
use edgemesh_ruleset::{Family, Ruleset};

/// Most frontends and endpoints: a cluster of 10,000 Services, most of one port in each family, and five endpoints each
/// (Kubernetes' thresholds and the bench's size). An empty table of so many takes 1.5 MB; what is more is left to the rules.
const FRONTENDS: usize = 1 << 15;
const BACKENDS: usize = 1 << 16;
/// Sockets whose clients are told whom they asked for; past them, those that were used least recently get to know their
/// endpoint instead. It takes 1 MB.
const PEERS: u32 = 8192;

/// The programs and their maps. They go with this value, and with the process.
#[derive(Debug)]
pub(crate) struct Rewriter {
    frontends: Map,
    backends: Map,
    _peers: Map,
    _links: Vec<Link>,
    /// What each frontend leads to.
    targets: BTreeMap<Frontend, Target>,
    /// Endpoints in the map.
    used: usize,
    /// The number of the next change.
    next: u32,
    /// What the maps were brought to.
    installed: Option<Ruleset>,
}

impl Rewriter {
    /// Loads the programs, which find nothing yet; the reason where the kernel or its administrator keeps them out.
    pub(crate) fn start(ipv6: bool) -> Result<Self, String> {
        Self::load(ipv6)
            .map_err(|error| match error.is_permission() {
                true => format!("{error}: it takes CAP_BPF and CAP_NET_ADMIN, outside of user namespaces"),
                false => error.to_string(),
            })
            .and_then(|loaded| loaded)
    }

    fn load(ipv6: bool) -> Result<Result<Self, String>, BpfError> {
        let cgroup = match whole_host() {
            Ok(cgroup) => cgroup,
            Err(reason) => return Ok(Err(reason)),
        };
        let frontends = Map::new("em_frontends", MapKind::Hash, END_LEN, TARGET_LEN, FRONTENDS as u32)?;
        let backends = Map::new("em_backends", MapKind::Hash, SLOT_LEN, END_LEN, BACKENDS as u32)?;
        let peers = Map::new("em_peers", MapKind::LruHash, size_of::<u64>(), PEER_LEN, PEERS)?;
        let maps = Maps { frontends: frontends.number(), backends: backends.number(), peers: peers.number() };
        let here = network_cookie()?;
        // Names first: nobody is connected otherwise than it believes.
        let mut programs = vec![
            (Attach::PeerName4, peer_name(Family::V4, maps)),
            (Attach::Connect4, rewrite(Family::V4, maps, here)),
        ];
        if ipv6 {
            programs.push((Attach::PeerName6, peer_name(Family::V6, maps)));
            programs.push((Attach::Connect6, rewrite(Family::V6, maps, here)));
        }
        let links = programs.iter().map(|(at, program)| Link::new(*at, &program.encode(), &cgroup));
        Ok(Ok(Self {
            _links: links.collect::<Result<_, _>>()?,
            frontends,
            backends,
            _peers: peers,
            targets: BTreeMap::new(),
            used: 0,
            next: 0,
            installed: None,
        }))
    }

    /// Brings the maps to the ruleset, at the cost of what is different. Endpoints come before what leads to them and go
    /// after it.
    pub(crate) fn bring(&mut self, ruleset: &Ruleset) -> Result<(), BpfError> {
        let before = self.installed.take();
        let concerned: BTreeSet<Frontend> = match &before {
            Some(before) => {
                let steered = ruleset.frontends.unshared(&before.frontends).into_iter();
                steered.chain(ruleset.restricted.unshared(&before.restricted)).copied().collect()
            }
            None => ruleset.frontends.keys().chain(self.targets.keys()).copied().collect(),
        };
        let (mut slots, mut leads) = (Vec::new(), Vec::new());
        let (mut gone, mut old) = (Vec::new(), Vec::new());
        for frontend in concerned {
            let known = before.as_ref().and_then(|before| before.at_connect(&frontend).ok());
            let wanted = ruleset.at_connect(&frontend).ok();
            let present = self.targets.get(&frontend).copied();
            if known == wanted && (present.is_some() || wanted.is_none()) {
                continue;
            }
            let fits = |endpoints: &&[_]| {
                self.used + endpoints.len() <= BACKENDS
                    && (present.is_some() || self.targets.len() < FRONTENDS)
            };
            match wanted.filter(fits) {
                Some(endpoints) => {
                    let target = Target { number: self.next, count: endpoints.len() as u32 };
                    self.next = self.next.wrapping_add(1);
                    self.used += endpoints.len();
                    let numbered = (0..).zip(endpoints);
                    slots.extend(numbered.map(|(at, (addr, _))| (slot(target.number, at), end(*addr))));
                    leads.push((end(frontend.socket_addr()), target.bytes()));
                    self.targets.insert(frontend, target);
                }
                None if present.is_some() => {
                    gone.push(end(frontend.socket_addr()));
                    self.targets.remove(&frontend);
                }
                None => {}
            }
            old.extend(present);
        }
        self.backends.update(&slots)?;
        self.frontends.update(&leads)?;
        self.frontends.delete(&gone)?;
        let unused: Vec<_> =
            old.iter().flat_map(|target| (0..target.count).map(|at| slot(target.number, at))).collect();
        self.backends.delete(&unused)?;
        self.used = self.used.saturating_sub(unused.len());
        self.installed = Some(ruleset.clone());
        Ok(())
    }

    /// How many frontends are found.
    pub(crate) fn len(&self) -> usize {
        self.targets.len()
    }
}

/// The root of the host's cgroups, below which every process is. A container may see its own cgroup as a root, which holds
/// nobody but itself; only the true one has no events to tell of.
fn whole_host() -> Result<File, String> {
    let roots = cgroup_roots().map_err(|error| format!("/proc/self/mountinfo: {error}"))?;
    let root = roots.iter().find(|root| !root.join("cgroup.events").exists());
    let root = root.ok_or("the root of the host's cgroups (cgroup2) is not mounted here")?;
    File::open(root).map_err(|error| format!("{}: {error}", root.display()))
}

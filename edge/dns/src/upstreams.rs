use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use edgemesh_mesh::MeshSnapshot;
use edgemesh_resolver::{Nameserver, parse_resolv_conf};

use crate::listen::interface_index;
use crate::settings::UpstreamSource;

/// How often the file is looked at, at most, and only when queries come: one `stat` in two seconds is nothing, and a
/// node that changes networks resolves again before a client gives up (5 s).
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The port of upstreams from resolv.conf, which cannot name another.
const PORT: u16 = 53;
/// A resolv.conf is some hundred octets; a file beyond this is something else.
const LARGEST: u64 = 64 * 1024;

/// What tells one version of a file from another: modification time, length, inode.
type Stamp = (i64, i64, u64, u64);

/// Follows the list of upstreams.
pub(crate) struct UpstreamList {
    source: UpstreamSource,
    stamp: Option<Stamp>,
    looked: Option<Instant>,
    last: Vec<SocketAddr>,
}

impl UpstreamList {
    pub(crate) fn new(source: UpstreamSource) -> Self {
        Self { source, stamp: None, looked: None, last: Vec::new() }
    }

    /// The list, when it is another one than at the last call. A file that cannot be read changes nothing: the
    /// upstreams that were known are better than none.
    pub(crate) fn changed(&mut self, now: Instant, snapshot: &MeshSnapshot) -> Option<Vec<SocketAddr>> {
        if self.looked.is_some_and(|looked| now < looked + LOOK_EVERY) {
            return None;
        }
        let first = self.looked.replace(now).is_none();
        match &self.source {
            UpstreamSource::Servers(servers) => first.then(|| servers.clone()),
            UpstreamSource::ClusterDns(servers) => {
                let mut list = cluster_dns(snapshot);
                list.extend(
                    servers.iter().filter(|server| !list.contains(server)).copied().collect::<Vec<_>>(),
                );
                // A snapshot that lost the Services has not lost the servers.
                let news = first || (!list.is_empty() && list != self.last);
                news.then(|| self.last.clone_from(&list)).map(|()| list)
            }
            UpstreamSource::ResolvConf(path) => {
                let stamp = stamp(path).filter(|stamp| self.stamp != Some(*stamp))?;
                let text = fs::read_to_string(path).ok()?;
                self.stamp = Some(stamp);
                Some(parse_resolv_conf(&text).iter().filter_map(address).collect())
            }
        }
    }
}

/// The virtual addresses of the cluster's own DNS: the Services that kubeadm and its kin install under these names (Go
/// EdgeMesh pkg/dns looks for the same).
fn cluster_dns(snapshot: &MeshSnapshot) -> Vec<SocketAddr> {
    let services = ["kube-dns", "coredns"].iter().filter_map(|name| snapshot.service("kube-system", name));
    let addresses = services.flat_map(|service| &service.cluster_ips);
    addresses.map(|ip| SocketAddr::new(*ip, PORT)).collect()
}

fn stamp(path: &PathBuf) -> Option<Stamp> {
    let metadata =
        fs::metadata(path).ok().filter(|metadata| metadata.is_file() && metadata.len() <= LARGEST)?;
    Some((metadata.mtime(), metadata.mtime_nsec(), metadata.len(), metadata.ino()))
}

fn address(server: &Nameserver) -> Option<SocketAddr> {
    match (server.ip, &server.scope) {
        (IpAddr::V6(ip), Some(scope)) => Some(SocketAddrV6::new(ip, PORT, 0, interface_index(scope)?).into()),
        (ip, _) => Some(SocketAddr::new(ip, PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_when_it_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("resolv.conf");
        let mut list = UpstreamList::new(UpstreamSource::ResolvConf(path.clone()));
        let mut now = Instant::now();
        let mut look = |list: &mut UpstreamList| {
            now += LOOK_EVERY;
            list.changed(now, &MeshSnapshot::empty("n".into()))
                .map(|servers| servers.iter().map(SocketAddr::to_string).collect::<Vec<_>>())
        };
        assert_eq!(look(&mut list), None);
        let write = |text: &str| {
            let new = dir.path().join("new");
            fs::write(&new, text).expect("written");
            fs::rename(&new, &path).expect("renamed");
        };
        write("nameserver 192.0.2.1\nnameserver fe80::1%lo\nnameserver fe80::1%nosuchdev0\n");
        assert_eq!(look(&mut list), Some(vec!["192.0.2.1:53".to_owned(), "[fe80::1%1]:53".to_owned()]));
        assert_eq!(look(&mut list), None);
        write("nameserver 192.0.2.2\n");
        assert_eq!(look(&mut list), Some(vec!["192.0.2.2:53".to_owned()]));
        fs::remove_file(&path).expect("removed");
        assert_eq!(look(&mut list), None);
    }
}

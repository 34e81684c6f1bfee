use std::fmt;

use edgemesh_net::netlink::NetlinkError;
use edgemesh_net::netlink::nft::{Batch, Nft};
use edgemesh_net::netlink::rt::Handle;

use crate::iptables::{self, Look};
use crate::table::OURS;
use crate::{InterceptError, device, routes};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanupReport {
    /// Routes to virtual addresses.
    pub routes: usize,
    /// Whether our table was there.
    pub table: bool,
    /// Whether there were chains or sets of ours of iptables.
    pub iptables: bool,
    /// Whether our device was there.
    pub device: bool,
    /// Why a device of our name was left alone.
    pub foreign_device: Option<String>,
}

impl CleanupReport {
    /// Whether there was nothing to remove.
    pub fn is_empty(&self) -> bool {
        self.routes == 0 && !self.table && !self.iptables && !self.device
    }
}

impl fmt::Display for CleanupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            f.write_str("nothing to remove")?;
        } else {
            let yes = |there, word| if there { word } else { "no" };
            let (table, device) = (yes(self.table, "the"), yes(self.device, "the"));
            write!(f, "removed {} routes, {table} table inet {}, {device} device", self.routes, OURS.name)?;
            if self.iptables {
                f.write_str(", the chains of iptables")?;
            }
        }
        if let Some(reason) = &self.foreign_device {
            write!(f, "; left alone: {reason}")?;
        }
        Ok(())
    }
}

/// Removes what an agent installed in this network namespace, also one that was killed: routes with our protocol
/// number in table `local`, table `inet edgemesh`, the chains and sets of iptables, and the device of this name if it is ours. Touches nothing else, and
/// does nothing when there is nothing.
pub fn cleanup(device_name: &str) -> Result<CleanupReport, InterceptError> {
    let mut rt = Handle::open()?;
    let mut nft = open()?;
    remove(&mut rt, nft.as_mut(), device_name, Look::Everywhere)
}

/// A kernel without nf_tables has no table of ours.
fn open() -> Result<Option<Nft>, InterceptError> {
    match Nft::open() {
        Ok(nft) => Ok(Some(nft)),
        Err(error) if error.is_unsupported() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Removes table `inet edgemesh`; whether there was one.
pub(crate) fn remove_table() -> Result<bool, InterceptError> {
    let Some(mut nft) = open()? else { return Ok(false) };
    Ok(delete_table(&mut nft)?)
}

/// Routes go first, so that no packet meets half of it.
pub(crate) fn remove(
    rt: &mut Handle,
    mut nft: Option<&mut Nft>,
    device_name: &str,
    look: Look,
) -> Result<CleanupReport, InterceptError> {
    let mut report = CleanupReport::default();
    for route in routes::installed(rt)? {
        routes::remove(rt, &route)?;
        report.routes += 1;
    }
    if let Some(nft) = &mut nft {
        report.table = delete_table(nft)?;
    }
    report.iptables = iptables::remove_leftovers(nft, look)?;
    match device::find(rt, device_name) {
        Ok(Some(link)) => match rt.delete_link(link.index) {
            Ok(()) => report.device = true,
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error.into()),
        },
        Ok(None) => {}
        Err(error @ InterceptError::DeviceTaken { .. }) => report.foreign_device = Some(error.to_string()),
        Err(error) => return Err(error),
    }
    Ok(report)
}

fn delete_table(nft: &mut Nft) -> Result<bool, NetlinkError> {
    let mut batch = Batch::new();
    batch.delete_table(OURS);
    match nft.commit(&batch) {
        Ok(_) => Ok(true),
        Err(error) if error.is_missing() || error.is_unsupported() => Ok(false),
        Err(error) => Err(error),
    }
}

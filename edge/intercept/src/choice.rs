//! Which backend carries the rules out.

use edgemesh_net::netlink::nft::{self, Nft, Table};
use edgemesh_ruleset::{KernelBackend, Ruleset, RulesetSettings};

use crate::iptables::Iptables;
use crate::nftables::Nftables;
use crate::{InterceptError, table};

/// Exists within one transaction only, which makes and deletes it.
const PROBE: Table<'static> = Table { family: nft::Family::Inet, name: "edgemesh-probe" };

/// What carries the rules out.
#[derive(Debug)]
pub(crate) enum Carrier {
    /// nf_tables.
    Nftables(Nftables),
    /// iptables, with a table of nf_tables for packets from bridges where the kernel takes one.
    Iptables(Box<Iptables>, Option<Nftables>),
}

/// A carrier and why it is this one.
pub(crate) type Chosen = (Carrier, String);

/// Takes what is asked for, or what the kernel can do.
pub(crate) fn choose(settings: &RulesetSettings) -> Result<Chosen, InterceptError> {
    decide(settings.backend, Nftables::open, || accepted(&Ruleset::specimen(settings)), Iptables::detect).map(
        |decided| match decided {
            (Decided::Nftables(nftables), reason) => (Carrier::Nftables(nftables), reason),
            (Decided::Iptables(iptables), reason) => with_iptables(Box::new(iptables), settings, &reason),
        },
    )
}

enum Decided<N, I> {
    Nftables(N),
    Iptables(I),
}

/// `probe` opens nf_tables if the kernel takes every rule.
fn decide<N, I>(
    asked: KernelBackend,
    open: impl FnOnce() -> Result<N, InterceptError>,
    probe: impl FnOnce() -> Result<N, InterceptError>,
    detect: impl FnOnce() -> Result<I, InterceptError>,
) -> Result<(Decided<N, I>, String), InterceptError> {
    match asked {
        KernelBackend::Nftables => Ok((Decided::Nftables(open()?), "asked for".to_owned())),
        KernelBackend::Iptables => Ok((Decided::Iptables(detect()?), "asked for".to_owned())),
        KernelBackend::Auto => match probe() {
            Ok(nftables) => Ok((Decided::Nftables(nftables), "the kernel takes every rule".to_owned())),
            Err(error @ InterceptError::NoPermission) => Err(error),
            Err(refused) => match detect() {
                Ok(iptables) => Ok((Decided::Iptables(iptables), refused.to_string())),
                Err(missing) => Err(InterceptError::NoBackend {
                    nftables: refused.to_string(),
                    iptables: missing.to_string(),
                }),
            },
        },
    }
}

fn with_iptables(iptables: Box<Iptables>, settings: &RulesetSettings, reason: &str) -> Chosen {
    let reason = format!("{reason}; of the flavour {}", iptables.flavour().as_str());
    match accepted(&Ruleset::specimen(settings).bridged()) {
        Ok(nftables) => (Carrier::Iptables(iptables, Some(nftables)), reason),
        Err(error) => {
            let gap = "connections of Pods on bridges do not reach the listener where bridge-nf-call-iptables is on";
            (Carrier::Iptables(iptables, None), format!("{reason}; {gap}: {error}"))
        }
    }
}

/// Opens nf_tables if the kernel takes these rules.
fn accepted(ruleset: &Ruleset) -> Result<Nftables, InterceptError> {
    let mut nftables = Nftables::open()?;
    probe(&mut nftables.nft, ruleset)?;
    Ok(nftables)
}

fn probe(nft: &mut Nft, ruleset: &Ruleset) -> Result<(), InterceptError> {
    let mut batch = table::replace(PROBE, ruleset, &[]);
    batch.delete_table(PROBE);
    nft.commit(&batch)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> InterceptError {
        InterceptError::NoModule { expression: "nat".to_owned(), module: "nft_nat" }
    }

    /// What is taken and why, or the log word of the error.
    #[track_caller]
    fn check(asked: KernelBackend, probe: Result<(), InterceptError>, programs: bool, expected: &str) {
        let detect = || programs.then_some(()).ok_or(InterceptError::NoIptables("ipset".to_owned()));
        let words = match decide(asked, || Ok(()), || probe, detect) {
            Ok((Decided::Nftables(()), reason)) => format!("nftables: {reason}"),
            Ok((Decided::Iptables(()), reason)) => format!("iptables: {reason}"),
            Err(error) => error.as_str().to_owned(),
        };
        assert_eq!(words, expected);
    }

    #[test]
    fn a_refused_rule_is_the_reason_for_iptables() {
        use KernelBackend::{Auto, Iptables, Nftables};
        check(Auto, Ok(()), true, "nftables: the kernel takes every rule");
        check(Auto, Err(refused()), true, &format!("iptables: {}", refused()));
        check(
            Auto,
            Err(InterceptError::NoNftables),
            true,
            &format!("iptables: {}", InterceptError::NoNftables),
        );
        check(Auto, Err(refused()), false, "no_backend");
        check(Auto, Err(InterceptError::NoPermission), true, "no_permission");
        check(Nftables, Err(refused()), true, "nftables: asked for");
        check(Iptables, Ok(()), true, "iptables: asked for");
        check(Iptables, Ok(()), false, "no_iptables");
    }
}

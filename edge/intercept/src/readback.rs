use std::collections::BTreeSet;

use edgemesh_net::netlink::NetlinkError;
use edgemesh_net::netlink::nft::{Element, Nft, RuleState};
use edgemesh_ruleset::Ruleset;

use crate::table::{OURS, contents, hook, session_maps, translate};

/// How often a set is read when its elements differ: the kernel resizes a set in the background, and a dump meanwhile
/// misses some and repeats others. Resizing 100,000 elements takes less time than two dumps of them.
const READ_ATTEMPTS: usize = 8;

/// Rules as the kernel gave them back right after they were written; later dumps must be equal byte by byte.
pub(crate) type Baseline = Vec<RuleState>;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Chains and rules.
    Rules,
    /// The elements of sets and maps as well.
    Elements,
}

/// How the table differs from the ruleset; empty when it does not.
pub(crate) fn differences(
    nft: &mut Nft,
    ruleset: &Ruleset,
    baseline: Option<&Baseline>,
    depth: Depth,
) -> Result<Vec<String>, NetlinkError> {
    if !nft.tables()?.iter().any(|table| table.family == OURS.family && table.name == OURS.name) {
        return Ok(vec![format!("table {} is not there", OURS.name)]);
    }
    let mut found = Vec::new();
    chains(nft, ruleset, &mut found)?;
    match baseline {
        Some(baseline) if nft.rules(OURS)? != *baseline => found.push("the rules were changed".to_owned()),
        Some(_) => {}
        None => rules(nft, ruleset, &mut found)?,
    }
    if depth == Depth::Elements {
        members(nft, ruleset, &mut found)?;
    }
    Ok(found)
}

fn chains(nft: &mut Nft, ruleset: &Ruleset, found: &mut Vec<String>) -> Result<(), NetlinkError> {
    let read = nft.chains(OURS)?;
    let wanted: Vec<_> = ruleset.all_chains().collect();
    for chain in &wanted {
        let place = chain.base.map(|base| (hook(base.hook).code(), base.priority));
        match read.iter().find(|it| it.name == chain.name) {
            None => found.push(format!("chain {} is not there", chain.name)),
            Some(it) if it.hook != place || it.drop => {
                found.push(format!("chain {} is at another hook, priority or policy", chain.name));
            }
            Some(_) => {}
        }
    }
    let foreign = read.iter().filter(|it| !wanted.iter().any(|chain| chain.name == it.name));
    found.extend(foreign.map(|it| format!("chain {} is not ours", it.name)));
    Ok(())
}

fn rules(nft: &mut Nft, ruleset: &Ruleset, found: &mut Vec<String>) -> Result<(), NetlinkError> {
    let read = nft.rules(OURS)?;
    for chain in ruleset.all_chains() {
        let read: Vec<(&[String], Option<&str>)> = read
            .iter()
            .filter(|rule| rule.chain == chain.name)
            .map(|rule| (&rule.expressions[..], rule.comment.as_deref()))
            .collect();
        let written: Vec<_> = chain.rules.iter().map(translate).collect();
        let same = read.len() == written.len()
            && read.iter().zip(&written).all(|((names, comment), rule)| {
                names.iter().map(String::as_str).eq(rule.exprs.iter().map(|expr| expr.name()))
                    && *comment == rule.comment.as_deref()
            });
        if !same {
            found.push(format!(
                "chain {} has {} rules for {} written",
                chain.name,
                read.len(),
                written.len()
            ));
        }
    }
    Ok(())
}

fn members(nft: &mut Nft, ruleset: &Ruleset, found: &mut Vec<String>) -> Result<(), NetlinkError> {
    let read: BTreeSet<String> = nft.sets(OURS)?.into_iter().map(|set| set.name).collect();
    let missing = session_maps(ruleset).filter(|name| !read.contains(*name));
    found.extend(missing.map(|name| format!("set {name} is not there")));
    for (name, wanted) in contents(ruleset) {
        if !read.contains(name) {
            found.push(format!("set {name} is not there"));
            continue;
        }
        if let Some((missing, foreign)) = difference(nft, name, &wanted)? {
            found.push(format!("set {name} lacks {missing} elements and has {foreign} foreign ones"));
        }
    }
    Ok(())
}

fn difference(nft: &mut Nft, set: &str, wanted: &[Element]) -> Result<Option<(usize, usize)>, NetlinkError> {
    let mut counts = None;
    for _ in 0..READ_ATTEMPTS {
        let mut read = nft.elements(OURS, set)?;
        read.sort();
        read.dedup();
        if read == wanted {
            return Ok(None);
        }
        let missing = wanted.iter().filter(|it| read.binary_search(it).is_err()).count();
        let foreign = read.iter().filter(|it| wanted.binary_search(it).is_err()).count();
        counts = Some((missing, foreign));
    }
    Ok(counts)
}

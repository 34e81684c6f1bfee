//! `edgemesh key`, `edgemesh token` and `edgemesh join`: who may speak for which node.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use edgemesh_tunnel::identity::{Authorities, Authority, IdentityFiles};
use edgemesh_tunnel_proto::SignedToken;
use lexopt::{Arg, ValueExt as _};

use crate::settings::DEFAULT_STATE_DIR;

/// Where nodes look for the authorities' public keys.
pub(crate) const DEFAULT_AUTHORITY: &str = "/etc/edgemesh/authority.pub";

/// How long a token that is not pinned may wait to be used: a working day, and a night for the mail.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);

pub(crate) const HELP: &str = "\
edgemesh key show [--state-dir DIR]               the identity of this node; its key is made where there is none
edgemesh key rotate [--state-dir DIR]             give this node a new key that the one before signs over to
edgemesh token authority FILE                     make the mesh's authority: FILE is its key, the printed line goes to
                                                  /etc/edgemesh/authority.pub of every node
edgemesh token create --authority FILE --node NAME [--ttl 24h|never] [--key ID]
                                                  make a token for a node; --key pins it to the identity that
                                                  `edgemesh key show` prints there, and then it does not expire
edgemesh token show TOKEN [--authority-file FILE] what a token says, and whether an authority signed it
edgemesh join TOKEN [--state-dir DIR]             put a token beside this node's key; a running agent presents it

See docs/security.md for what each of them guarantees.
";

/// Flags of these commands.
#[derive(Default)]
struct Flags {
    words: Vec<String>,
    state_dir: Option<PathBuf>,
    authority: Option<PathBuf>,
    authority_file: Option<PathBuf>,
    node: Option<String>,
    ttl: Option<String>,
    key: Option<String>,
    help: bool,
}

impl Flags {
    fn parse(rest: Vec<OsString>) -> Result<Self> {
        let mut flags = Self::default();
        let mut parser = lexopt::Parser::from_args(rest);
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Long("state-dir") => flags.state_dir = Some(PathBuf::from(parser.value()?)),
                Arg::Long("authority") => flags.authority = Some(PathBuf::from(parser.value()?)),
                Arg::Long("authority-file") => flags.authority_file = Some(PathBuf::from(parser.value()?)),
                Arg::Long("node") => flags.node = Some(parser.value()?.string()?),
                Arg::Long("ttl") => flags.ttl = Some(parser.value()?.string()?),
                Arg::Long("key") => flags.key = Some(parser.value()?.string()?),
                Arg::Long("help") | Arg::Short('h') => flags.help = true,
                Arg::Value(word) => flags.words.push(word.string()?),
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(flags)
    }

    fn files(&self) -> IdentityFiles {
        let dir = self.state_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR));
        IdentityFiles::beside(dir.join("node.key"))
    }
}

/// `edgemesh key …`.
pub(crate) fn run_key(rest: Vec<OsString>) -> Result<()> {
    let flags = Flags::parse(rest)?;
    let words: Vec<&str> = flags.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        _ if flags.help => print!("{HELP}"),
        ["show"] => println!("{}", flags.files().identity()?),
        ["rotate"] => {
            let (former, successor) = flags.files().rotate()?;
            println!("{successor}");
            eprintln!(
                "the key {former} is replaced; restart the agent of this node, and write the new identity wherever the \
                 former one is pinned: the annotation {} of its Node object, /p2p/ in relay addresses",
                edgemesh_api::label::PEER_ID
            );
        }
        _ => bail!("key wants show or rotate; `edgemesh key --help` says more"),
    }
    Ok(())
}

/// `edgemesh token …`.
pub(crate) fn run_token(rest: Vec<OsString>) -> Result<()> {
    let flags = Flags::parse(rest)?;
    let words: Vec<&str> = flags.words.iter().map(String::as_str).collect();
    match words.as_slice() {
        _ if flags.help => print!("{HELP}"),
        ["authority", file] => println!("{}", Authority::create(&PathBuf::from(file))?.public()),
        ["create"] => {
            let file = flags.authority.as_ref().context("token create wants --authority FILE")?;
            let node = flags.node.as_ref().context("token create wants --node NAME")?;
            let ttl = match (&flags.ttl, &flags.key) {
                (Some(text), _) => duration(text)?,
                (None, Some(_)) => None,
                (None, None) => Some(DEFAULT_TTL),
            };
            println!("{}", Authority::load(file)?.token(node, ttl, flags.key.as_deref())?);
        }
        ["show", text] => {
            let file = flags.authority_file.unwrap_or_else(|| PathBuf::from(DEFAULT_AUTHORITY));
            show(&SignedToken::parse(text)?, &Authorities::load(&file)?)?;
        }
        _ => bail!("token wants authority, create or show; `edgemesh token --help` says more"),
    }
    Ok(())
}

fn show(signed: &SignedToken, authorities: &Authorities) -> Result<()> {
    let token = signed.token()?;
    println!("node      {}", token.node);
    println!("number    {}", token.id);
    println!("made      {} (seconds since 1970)", token.issued);
    match token.expires {
        Some(expires) => println!("expires   {expires}"),
        None => println!("expires   never"),
    }
    match &token.pinned {
        Some(key) => println!("key       {key}"),
        None => println!("key       the first that presents it"),
    }
    let signed_by = match authorities.verify(signed) {
        Some(_) => "an authority of this node",
        None => "no authority of this node",
    };
    println!("signed by {signed_by}");
    Ok(())
}

/// `edgemesh join TOKEN`.
pub(crate) fn run_join(rest: Vec<OsString>) -> Result<()> {
    let flags = Flags::parse(rest)?;
    if flags.help {
        print!("{HELP}");
        return Ok(());
    }
    let [text] = flags.words.as_slice() else {
        bail!("join wants one TOKEN, as `edgemesh token create` prints it")
    };
    let files = flags.files();
    let token = files.join(text)?;
    println!(
        "this node may speak for {}; the token is in {} (the agent's --node-name has to be that name)",
        token.node,
        files.token().display()
    );
    Ok(())
}

/// `90s`, `30m`, `24h`, `7d`, or `never`.
fn duration(text: &str) -> Result<Option<Duration>> {
    if text == "never" {
        return Ok(None);
    }
    let wrong = || format!("--ttl {text:?} is no time such as 30m, 24h, 7d or never");
    let unit = text.chars().last().with_context(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => bail!(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().with_context(wrong)?;
    if number == 0 {
        bail!(wrong());
    }
    Ok(Some(Duration::from_secs(u64::from(number) * seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(duration(text).unwrap(), Some(Duration::from_secs(seconds)));
        }
        assert_eq!(duration("never").unwrap(), None);
        for text in ["", "h", "0h", "1", "-1h", "1w", "99999999999h"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}

//! From what the operator says of an API server to a way of reaching it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use edgemesh_config::SourceSettings;
use edgemesh_metadata::{ApiAccess, Pem, Token, parse_kubeconfig};
use edgemesh_reflector::Consistency;

use super::SourceChoice;

/// The authorities of the system, for an API server whose certificate a public one signed.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A Kubernetes API server by kubeconfig, by URL, or by both.
pub(super) fn kubernetes(kubeconfig: Option<&Path>, master: Option<&str>) -> Result<ApiAccess> {
    let mut access = match (kubeconfig, master) {
        (Some(path), master) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("the kubeconfig {} cannot be read", path.display()))?;
            let folder = path.parent().unwrap_or_else(|| Path::new("."));
            parse_kubeconfig(&text, folder, master).with_context(|| path.display().to_string())?
        }
        (None, Some(url)) => ApiAccess::of_url(url)?,
        (None, None) => bail!("neither a kubeconfig nor the URL of an API server is given"),
    };
    if access.tls && access.ca.is_none() && !access.insecure {
        access.ca = Some(Pem::File(PathBuf::from(SYSTEM_CA)));
    }
    Ok(access)
}

/// The source that a configuration file names.
pub(super) fn source(settings: &SourceSettings) -> Result<SourceChoice> {
    let (access, consistency) = match settings {
        SourceSettings::Manifests(directory) => return Ok(SourceChoice::Manifests(directory.clone())),
        SourceSettings::Kubernetes { master, in_cluster: true, .. } => {
            let url = master.as_deref().context("KUBERNETES_SERVICE_HOST is not set")?;
            let server = ApiAccess::of_url(url)?;
            (ApiAccess::in_cluster(&server.host, server.port)?, Consistency::Consistent)
        }
        SourceSettings::Kubernetes { master, kubeconfig, .. } => {
            (kubernetes(kubeconfig.as_deref(), master.as_deref())?, Consistency::Consistent)
        }
        SourceSettings::MetaServer {
            url,
            ca_file,
            cert_file,
            key_file,
            insecure_skip_verify,
            token_file,
        } => {
            let mut access = ApiAccess::of_url(url).context("kubeAPIConfig.metaServer.server")?;
            access.ca = ca_file.clone().map(Pem::File);
            access.identity = cert_file.clone().map(Pem::File).zip(key_file.clone().map(Pem::File));
            access.insecure = *insecure_skip_verify;
            access.token = token_file.clone().map_or(Token::None, Token::File);
            (access, Consistency::Cached)
        }
    };
    Ok(SourceChoice::Api { access: Box::new(access), consistency })
}

use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer};

use super::credentials::{AccessError, ApiAccess, Pem, Token};

/// The part of a kubeconfig (v1 Config) that says where the server is and who we are.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: Option<String>,
    #[serde(deserialize_with = "null_is_empty")]
    contexts: Vec<Named>,
    #[serde(deserialize_with = "null_is_empty")]
    clusters: Vec<Named>,
    #[serde(deserialize_with = "null_is_empty")]
    users: Vec<Named>,
}

/// `kubectl` writes an empty list as `null`.
fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Named>, D::Error> {
    Option::<Vec<Named>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    context: Context,
    cluster: Cluster,
    user: User,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
    proxy_url: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
    exec: Option<serde::de::IgnoredAny>,
    auth_provider: Option<serde::de::IgnoredAny>,
}

/// Reads a kubeconfig. `folder` is where it lies: its relative paths begin there. `master` takes the place of the
/// server it names.
pub fn parse_kubeconfig(text: &str, folder: &Path, master: Option<&str>) -> Result<ApiAccess, AccessError> {
    let broken = |message: String| AccessError::Kubeconfig(message);
    let config: Kubeconfig =
        yaml_serde::from_str(text).map_err(|error| broken(format!("is malformed: {error}")))?;
    let named = |list: &[Named], what: &str, name: &str| {
        list.iter().position(|named| named.name == name).ok_or_else(|| {
            let known: Vec<&str> = list.iter().map(|named| &*named.name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            broken(format!("has no {what} {name:?} (it has {known})"))
        })
    };
    let context = match (config.current_context.as_deref().unwrap_or(""), config.contexts.as_slice()) {
        ("", [only]) => only.context.clone(),
        ("", _) => return Err(broken("names no current-context".to_owned())),
        (name, contexts) => contexts[named(contexts, "context", name)?].context.clone(),
    };
    let cluster = config.clusters[named(&config.clusters, "cluster", &context.cluster)?].cluster.clone();
    let user = match context.user.as_str() {
        "" => User::default(),
        name => config.users[named(&config.users, "user", name)?].user.clone(),
    };
    for (way, used) in [("exec", user.exec.is_some()), ("auth-provider", user.auth_provider.is_some())] {
        if used {
            return Err(AccessError::Login { user: context.user, way });
        }
    }
    if let Some(proxy) = cluster.proxy_url.filter(|proxy| !proxy.is_empty()) {
        return Err(broken(format!(
            "sends everything through {proxy:?}: an agent goes to the server itself"
        )));
    }
    let mut access = ApiAccess::of_url(master.unwrap_or(&cluster.server))?;
    let pem = |data: Option<String>, file: Option<PathBuf>, field: &str| match (data, file) {
        (Some(data), _) if !data.is_empty() => {
            let data: Vec<u8> = data.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
            let text = BASE64.decode(&data);
            Ok(Some(Pem::Text(text.map_err(|error| broken(format!("has no base64 in {field}: {error}")))?)))
        }
        (_, file) => {
            Ok(file.filter(|file| !file.as_os_str().is_empty()).map(|file| Pem::File(folder.join(file))))
        }
    };
    access.ca =
        pem(cluster.certificate_authority_data, cluster.certificate_authority, "certificate-authority-data")?;
    access.insecure = cluster.insecure_skip_tls_verify;
    access.server_name = cluster.tls_server_name.filter(|name| !name.is_empty());
    let certificate = pem(user.client_certificate_data, user.client_certificate, "client-certificate-data")?;
    let key = pem(user.client_key_data, user.client_key, "client-key-data")?;
    access.identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            return Err(broken(format!("has a certificate and no key for user {:?}", context.user)));
        }
        (None, Some(_)) => {
            return Err(broken(format!("has a key and no certificate for user {:?}", context.user)));
        }
    };
    // As client-go: the file is renewed, what is written out is not.
    access.token = match (user.token, user.token_file, user.username) {
        (_, Some(file), _) if !file.as_os_str().is_empty() => Token::File(folder.join(file)),
        (Some(token), ..) if !token.is_empty() => Token::Text(token),
        (_, _, Some(name)) if !name.is_empty() => Token::Basic(name, user.password.unwrap_or_default()),
        _ => Token::None,
    };
    Ok(access)
}

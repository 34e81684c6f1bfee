//! Where an API server is and how the agent proves itself to it.

use std::io;
use std::path::{Path, PathBuf};

/// Tokens of service accounts are about a kilobyte; a file of another kind is not read whole.
const MAX_TOKEN: u64 = 64 << 10;

/// Certificate bundles of public authorities are 200 KB.
const MAX_PEM: u64 = 1 << 20;

/// Where Kubernetes mounts the service account (kubelet's projected volume).
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Why there is no way to reach an API server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// Not of the form `http(s)://HOST[:PORT][/PREFIX]`.
    #[error("{0:?} is no URL of an API server: write http://HOST:PORT or https://HOST:PORT")]
    Url(String),
    /// The kubeconfig is malformed.
    #[error("the kubeconfig {0}")]
    Kubeconfig(String),
    /// The kubeconfig wants a way to log in that an agent has not.
    #[error(
        "the kubeconfig's user {user:?} logs in by {way}, which needs a person or a program: use a token or a client certificate"
    )]
    Login {
        /// The user's name in the kubeconfig.
        user: String,
        /// `exec` or `auth-provider`.
        way: &'static str,
    },
    /// A file cannot be read.
    #[error("{path}: {kind}")]
    File {
        /// The file.
        path: String,
        /// Why.
        kind: io::ErrorKind,
    },
    /// TLS is wanted, and nothing says whose certificates are taken.
    #[error(
        "https needs to know who vouches for the server: name its CA file, or take any certificate with insecureSkipTLSVerify"
    )]
    NoAuthority,
    /// A file or field is no PEM of the expected kind.
    #[error("{place} holds no {what} in PEM form")]
    Pem {
        /// The file or field.
        place: String,
        /// `certificate` or `private key`.
        what: &'static str,
    },
}

impl AccessError {
    /// The log word and metric label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Url(_) => "url",
            Self::Kubeconfig(_) => "kubeconfig",
            Self::Login { .. } => "login",
            Self::File { .. } => "file",
            Self::NoAuthority => "no_authority",
            Self::Pem { .. } => "pem",
        }
    }
}

/// PEM text, or the file that has it; files are read again for every connection, since they are renewed.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// The text itself.
    Text(Vec<u8>),
    /// A file.
    File(PathBuf),
}

impl std::fmt::Debug for Pem {
    /// Without the text, which may be a private key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

impl Pem {
    pub(crate) fn read(&self) -> Result<Vec<u8>, AccessError> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::File(path) => read(path, MAX_PEM),
        }
    }

    pub(crate) fn place(&self) -> String {
        match self {
            Self::Text(_) => "the kubeconfig".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }
}

/// What goes into the `Authorization` header.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Token {
    /// Nothing.
    #[default]
    None,
    /// A bearer token.
    Text(String),
    /// A file with a bearer token, read again for every request: the kubelet renews it every hour.
    File(PathBuf),
    /// User and password (RFC 7617).
    Basic(String, String),
}

impl std::fmt::Debug for Token {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Text(_) => f.write_str("Text"),
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Basic(user, _) => write!(f, "Basic({user})"),
        }
    }
}

impl Token {
    /// The header's value.
    pub(crate) fn header(&self) -> Result<Option<String>, AccessError> {
        let token = match self {
            Self::None => return Ok(None),
            Self::Basic(user, password) => {
                let pair = format!("{user}:{password}");
                return Ok(Some(format!("Basic {}", data_encoding::BASE64.encode(pair.as_bytes()))));
            }
            Self::Text(token) => token.clone(),
            Self::File(path) => String::from_utf8_lossy(&read(path, MAX_TOKEN)?).into_owned(),
        };
        Ok(Some(format!("Bearer {}", token.trim())))
    }
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, AccessError> {
    let refused = |kind| AccessError::File { path: path.display().to_string(), kind };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| refused(error.kind()))?;
    io::Read::read_to_end(&mut io::Read::take(file, limit), &mut text)
        .map_err(|error| refused(error.kind()))?;
    Ok(text)
}

/// An API server and how to talk to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiAccess {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Prefix of every path, without a slash at its end; most often empty.
    pub prefix: String,
    /// Who vouches for the server; the system has no say. Without it TLS is refused unless `insecure`.
    pub ca: Option<Pem>,
    /// Certificate and key of the agent.
    pub identity: Option<(Pem, Pem)>,
    /// The name the server's certificate is checked against, when it is another one than `host`.
    pub server_name: Option<String>,
    /// Take any certificate.
    pub insecure: bool,
    /// What goes into the `Authorization` header.
    pub token: Token,
}

impl ApiAccess {
    /// A server without credentials.
    pub fn of_url(url: &str) -> Result<Self, AccessError> {
        let malformed = || AccessError::Url(url.to_owned());
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(malformed()),
        };
        let (authority, prefix) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, ""),
        };
        let default_port = if tls { 443 } else { 80 };
        let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(malformed)?;
            let port = match rest {
                "" => default_port,
                rest => rest.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or_else(malformed)?,
            };
            host.parse::<std::net::Ipv6Addr>().map_err(|_| malformed())?;
            (host, port)
        } else {
            match authority.split_once(':') {
                Some((host, port)) => (host, port.parse().map_err(|_| malformed())?),
                None => (authority, default_port),
            }
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        let of_path = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
        if host.is_empty() || port == 0 || !host.bytes().all(plain) || !prefix.bytes().all(of_path) {
            return Err(malformed());
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port,
            prefix: prefix.trim_end_matches('/').to_owned(),
            ca: None,
            identity: None,
            server_name: None,
            insecure: false,
            token: Token::None,
        })
    }

    /// The API server of the cluster this process runs in: its address from the environment, the service account from
    /// where Kubernetes mounts it.
    pub fn in_cluster(host: &str, port: u16) -> Result<Self, AccessError> {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let folder = Path::new(SERVICE_ACCOUNT);
        Ok(Self {
            ca: Some(Pem::File(folder.join("ca.crt"))),
            token: Token::File(folder.join("token")),
            ..Self::of_url(&format!("https://{host}:{port}"))?
        })
    }

    /// As a URL, for status and logs.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{scheme}://{host}:{}{}", self.port, self.prefix)
    }
}

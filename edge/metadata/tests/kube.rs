//! Ways to an API server, from URLs and kubeconfigs.

use std::path::{Path, PathBuf};

use edgemesh_metadata::{AccessError, ApiAccess, Pem, Token, parse_kubeconfig};

/// A way without credentials.
fn plain(tls: bool, host: &str, port: u16, prefix: &str) -> ApiAccess {
    ApiAccess {
        tls,
        host: host.to_owned(),
        port,
        prefix: prefix.to_owned(),
        ca: None,
        identity: None,
        server_name: None,
        insecure: false,
        token: Token::None,
    }
}

fn file(name: &str) -> Pem {
    Pem::File(PathBuf::from(name))
}

fn text(text: &str) -> Pem {
    Pem::Text(text.into())
}

#[test]
fn urls() {
    for (url, expected, shown) in [
        ("http://10.0.0.1:10550", plain(false, "10.0.0.1", 10550, ""), "http://10.0.0.1:10550"),
        ("https://api.example:6443/", plain(true, "api.example", 6443, ""), "https://api.example:6443"),
        ("HTTPS://api.example", plain(true, "api.example", 443, ""), "https://api.example:443"),
        ("http://api.example", plain(false, "api.example", 80, ""), "http://api.example:80"),
        ("127.0.0.1:10550", plain(false, "127.0.0.1", 10550, ""), "http://127.0.0.1:10550"),
        ("https://[fd00::1]:6443", plain(true, "fd00::1", 6443, ""), "https://[fd00::1]:6443"),
        ("https://[fd00::1]", plain(true, "fd00::1", 443, ""), "https://[fd00::1]:443"),
        (
            "https://portal.example/k8s/clusters/c-1/",
            plain(true, "portal.example", 443, "/k8s/clusters/c-1"),
            "https://portal.example:443/k8s/clusters/c-1",
        ),
    ] {
        let access = ApiAccess::of_url(url);
        assert_eq!(access.as_ref(), Ok(&expected), "{url}");
        assert_eq!(access.map(|access| access.url()).as_deref(), Ok(shown), "{url}");
    }
}

#[test]
fn texts_that_are_no_urls_of_a_server() {
    for url in [
        "",
        "https://",
        "ftp://a",
        "unix:///run/api.sock",
        "https://a:port",
        "https://a:0",
        "https://a:65536",
        "https://user:secret@a",
        "https://a b",
        "https://fd00::1:6443",
        "https://[fd00::1",
        "https://[fd00::1]6443",
        "https://[a]:6443",
        "https://a/b?c",
        "https://a/b#c",
        "https://a/\u{fc}",
        "https://a/b\r\nHost: c",
    ] {
        assert_eq!(ApiAccess::of_url(url), Err(AccessError::Url(url.to_owned())), "{url}");
    }
}

#[test]
fn the_cluster_the_process_runs_in() {
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    for (host, shown) in [("10.96.0.1", "https://10.96.0.1:443"), ("fd00:96::1", "https://[fd00:96::1]:443")]
    {
        let access = ApiAccess::in_cluster(host, 443).expect("an address");
        assert_eq!(access.url(), shown);
        assert_eq!(access.ca, Some(file(&format!("{folder}/ca.crt"))));
        assert_eq!(access.token, Token::File(Path::new(folder).join("token")));
    }
}

#[track_caller]
fn check(config: &str, expected: ApiAccess) {
    assert_eq!(parse_kubeconfig(config, Path::new("/etc/edgemesh"), None), Ok(expected));
}

const CONTEXTS: &str = r#"
apiVersion: v1
kind: Config
preferences: {}
current-context: two
contexts:
- {name: one, context: {cluster: first, user: nobody}}
- {name: two, context: {cluster: second, user: somebody, namespace: ignored}}
- {name: three, context: {cluster: second}}
clusters:
- {name: first, cluster: {server: "http://10.0.0.1:8080"}}
- {name: second, cluster: {server: "https://[fd00::2]:6443/prefix", certificate-authority: pki/ca.crt, tls-server-name: api}}
users:
- {name: nobody, user: {}}
- {name: somebody, user: {client-certificate: /var/agent.crt, client-key: agent.key}}
"#;

#[test]
fn the_current_context_names_server_and_user() {
    let somebody = ApiAccess {
        ca: Some(file("/etc/edgemesh/pki/ca.crt")),
        server_name: Some("api".to_owned()),
        identity: Some((file("/var/agent.crt"), file("/etc/edgemesh/agent.key"))),
        ..plain(true, "fd00::2", 6443, "/prefix")
    };
    check(CONTEXTS, somebody.clone());
    let current = |name: &str| CONTEXTS.replace("current-context: two", &format!("current-context: {name}"));
    check(&current("one"), plain(false, "10.0.0.1", 8080, ""));
    check(&current("three"), ApiAccess { identity: None, ..somebody.clone() });
    let master = parse_kubeconfig(CONTEXTS, Path::new("/etc/edgemesh"), Some("https://other.example"));
    let other = ApiAccess { host: "other.example".to_owned(), port: 443, prefix: String::new(), ..somebody };
    assert_eq!(master, Ok(other), "a master is another place with the same credentials");
}

/// A kubeconfig with one of each, and these fields of its cluster and user, as JSON.
fn single(cluster: &str, user: &str) -> String {
    let server = r#""server":"https://api.example:6443""#;
    let cluster = if cluster.is_empty() { server.to_owned() } else { format!("{server},{cluster}") };
    format!(
        r#"{{"kind":"Config","contexts":[{{"name":"c","context":{{"cluster":"k","user":"u"}}}}],
            "clusters":[{{"name":"k","cluster":{{{cluster}}}}}],"users":[{{"name":"u","user":{{{user}}}}}]}}"#
    )
}

#[test]
fn credentials() {
    let bare = plain(true, "api.example", 6443, "");
    let identity = Some((text("cert"), text("key")));
    for (cluster, user, expected) in [
        ("", "", bare.clone()),
        (r#""insecure-skip-tls-verify":true"#, "", ApiAccess { insecure: true, ..bare.clone() }),
        // What is written out wins over a file; `base64` breaks its lines.
        (
            r#""certificate-authority":"ca.crt","certificate-authority-data":"Y2\nE=""#,
            "",
            ApiAccess { ca: Some(text("ca")), ..bare.clone() },
        ),
        (
            r#""certificate-authority-data":"","certificate-authority":"","tls-server-name":"""#,
            "",
            bare.clone(),
        ),
        (
            "",
            r#""client-certificate-data":"Y2VydA==","client-key-data":"a2V5""#,
            ApiAccess { identity: identity.clone(), ..bare.clone() },
        ),
        (
            "",
            r#""client-certificate":"a.crt","client-key-data":"a2V5","token":"t""#,
            ApiAccess {
                identity: Some((file("/etc/edgemesh/a.crt"), text("key"))),
                token: Token::Text("t".to_owned()),
                ..bare.clone()
            },
        ),
        (
            "",
            r#""tokenFile":"token""#,
            ApiAccess { token: Token::File("/etc/edgemesh/token".into()), ..bare.clone() },
        ),
        (
            "",
            r#""token":"old","tokenFile":"/run/token""#,
            ApiAccess { token: Token::File("/run/token".into()), ..bare.clone() },
        ),
        ("", r#""exec":null,"auth-provider":null,"token":"""#, bare.clone()),
        (
            "",
            r#""username":"agent","password":"p:w""#,
            ApiAccess { token: Token::Basic("agent".to_owned(), "p:w".to_owned()), ..bare.clone() },
        ),
    ] {
        check(&single(cluster, user), expected);
    }
}

#[test]
fn kubectl_writes_empty_lists_as_null() {
    let config = "{contexts: [{name: c, context: {cluster: k, user: ''}}], users: null, current-context: '',
        clusters: [{name: k, cluster: {server: 'http://a:1'}}]}";
    check(config, plain(false, "a", 1, ""));
    refused("{contexts: null, clusters: null, users: null}", "names no current-context");
}

#[track_caller]
fn refused(config: &str, words: &str) {
    let error = parse_kubeconfig(config, Path::new("/"), None).expect_err(words);
    assert!(error.to_string().contains(words), "{error} ({})", error.as_str());
}

#[test]
fn errors_name_what_is_wrong() {
    let current = |name: &str| CONTEXTS.replace("current-context: two", &format!("current-context: {name}"));
    for (config, words) in [
        ("{", "the kubeconfig is malformed"),
        ("{contexts: 7}", "contexts"),
        ("{}", "names no current-context"),
        (&current("''"), "names no current-context"),
        (&current("four"), r#"has no context "four" (it has one, two, three)"#),
        (
            &CONTEXTS.replace("name: second, cluster", "name: 2nd, cluster"),
            r#"has no cluster "second" (it has first, 2nd)"#,
        ),
        (
            &CONTEXTS.replace("name: somebody, user", "name: else, user"),
            r#"has no user "somebody" (it has nobody, else)"#,
        ),
        ("{contexts: [{name: c, context: {cluster: k}}]}", r#"has no cluster "k" (it has none)"#),
        ("{contexts: [{name: c, context: {cluster: k}}], clusters: [{name: k}]}", r#""" is no URL"#),
        (&single("", r#""exec":{"command":"aws"}"#), r#"user "u" logs in by exec"#),
        (&single("", r#""auth-provider":{"name":"gcp"}"#), r#"user "u" logs in by auth-provider"#),
        (&single(r#""certificate-authority-data":"%%%""#, ""), "no base64 in certificate-authority-data"),
        (
            &single("", r#""client-certificate-data":"%","client-key":"k""#),
            "no base64 in client-certificate-data",
        ),
        (&single("", r#""client-certificate":"c","client-key-data":"%""#), "no base64 in client-key-data"),
        (&single("", r#""client-certificate":"c""#), r#"a certificate and no key for user "u""#),
        (&single("", r#""client-key":"k""#), r#"a key and no certificate for user "u""#),
        (&single(r#""proxy-url":"socks5://127.0.0.1:1080""#, ""), "socks5://127.0.0.1:1080"),
    ] {
        refused(config, words);
    }
}

#[test]
fn secrets_are_not_shown() {
    let config =
        single("", r#""token":"hush","client-certificate-data":"Y2VydA==","client-key-data":"aHVzaA==""#);
    let access = parse_kubeconfig(&config, Path::new("/"), None).expect("a kubeconfig");
    assert_eq!(
        (&access.token, access.identity.as_ref().map(|(_, key)| key)),
        (&Token::Text("hush".to_owned()), Some(&text("hush")))
    );
    let basic = Token::Basic("agent".to_owned(), "hush".to_owned());
    let shown = format!("{access:?} {basic:?} {:?} {}", Token::File("/run/token".into()), access.url());
    assert!(!shown.contains("hush") && !shown.contains(&format!("{:?}", b"hush")), "{shown}");
    assert!(shown.contains("agent") && shown.contains("/run/token"), "what is no secret is shown: {shown}");
}

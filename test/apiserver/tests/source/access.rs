//! Tokens and certificates, and their renewal while the node runs.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use edgemesh_apiserver::{Server, ServerOptions, TlsOptions};
use edgemesh_metadata::{ApiAccess, Pem, Token};
use edgemesh_reflector::Consistency::Consistent;

use crate::fixture::{DEADLINE, Mesh, RETURN, start};
use crate::world::{Family, World};

fn tls(require_client: bool) -> ServerOptions {
    let tls = Some(TlsOptions { require_client, ..TlsOptions::default() });
    ServerOptions { tls, ..ServerOptions::default() }
}

fn access(server: &Server) -> ApiAccess {
    ApiAccess::of_url(&server.url()).expect("a URL")
}

fn ca(server: &Server) -> &str {
    server.ca_pem().expect("it speaks TLS")
}

fn with_ca(server: &Server, file: &Path) -> ApiAccess {
    fs::write(file, ca(server)).expect("written");
    ApiAccess { ca: Some(Pem::File(file.to_owned())), ..access(server) }
}

fn identity(server: &Server) -> (Pem, Pem) {
    let identity = server.client_identity().expect("it speaks TLS");
    (Pem::Text(identity.certificate.clone().into()), Pem::Text(identity.key.clone().into()))
}

async fn follows(server: &Server, access: ApiAccess) {
    let world = World::of(server.store(), 2);
    Mesh::follow(access, Consistent).shows(&world, Family::Both, DEADLINE).await;
}

#[tokio::test]
async fn every_way_in() {
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let listen = SocketAddr::new(ip, 0);
        let plain = start(ServerOptions { listen, ..ServerOptions::default() }).await;
        follows(&plain, access(&plain)).await;

        let one_way = start(ServerOptions { listen, ..tls(false) }).await;
        let ca = Some(Pem::Text(ca(&one_way).into()));
        follows(&one_way, ApiAccess { ca: ca.clone(), ..access(&one_way) }).await;
        let by_name = Some("kubernetes.default.svc".to_owned());
        follows(&one_way, ApiAccess { ca, server_name: by_name, ..access(&one_way) }).await;
        follows(&one_way, ApiAccess { insecure: true, ..access(&one_way) }).await;

        let mutual = start(ServerOptions { listen, ..tls(true) }).await;
        let ca = Some(Pem::Text(self::ca(&mutual).into()));
        follows(&mutual, ApiAccess { ca, identity: Some(identity(&mutual)), ..access(&mutual) }).await;
    }
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_is_told_of_as_such() {
    let server = start(tls(true)).await;
    let mesh = Mesh::follow(ApiAccess { insecure: true, ..access(&server) }, Consistent);
    mesh.told("CertificateRequired (tls)").await;
}

#[tokio::test]
async fn a_wrong_authority_is_named_with_its_file() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("ca.crt");
    let (server, other) = (start(tls(false)).await, start(tls(false)).await);
    let wrong = ApiAccess { ca: with_ca(&other, &file).ca, ..access(&server) };
    let mesh = Mesh::follow(wrong, Consistent);
    mesh.told("invalid peer certificate").await;
    mesh.told(file.to_str().expect("UTF-8")).await;
}

#[tokio::test]
async fn a_certificate_of_another_name_is_told_of() {
    let server = start(tls(false)).await;
    let ca = Some(Pem::Text(ca(&server).into()));
    let other = ApiAccess { ca, server_name: Some("elsewhere.example".to_owned()), ..access(&server) };
    Mesh::follow(other, Consistent).told("elsewhere.example").await;
}

#[tokio::test]
async fn files_that_are_not_there_are_named_and_used_once_they_are() {
    let folder = tempfile::tempdir().expect("a directory");
    let [authority, token] = ["ca.crt", "token"].map(|name| folder.path().join(name));
    let server = start(ServerOptions { token: Some("one".to_owned()), ..tls(false) }).await;
    let world = World::of(server.store(), 2);
    let (ca, token_file) = (Some(Pem::File(authority.clone())), Token::File(token.clone()));
    let mesh = Mesh::follow(ApiAccess { ca, token: token_file, ..access(&server) }, Consistent);
    mesh.told(authority.to_str().expect("UTF-8")).await;
    fs::write(&authority, "no certificate").expect("written");
    mesh.told("holds no certificate").await;
    fs::write(&authority, self::ca(&server)).expect("written");
    mesh.told(token.to_str().expect("UTF-8")).await;
    fs::write(&token, "one\n").expect("written");
    mesh.shows(&world, Family::Both, DEADLINE).await;
}

#[tokio::test]
async fn a_renewed_token_is_used() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("token");
    fs::write(&file, "one\n").expect("written");
    let server = start(ServerOptions { token: Some("one".to_owned()), ..ServerOptions::default() }).await;
    let mut world = World::of(server.store(), 3);
    let mesh = Mesh::follow(ApiAccess { token: Token::File(file.clone()), ..access(&server) }, Consistent);
    mesh.shows(&world, Family::Both, DEADLINE).await;
    mesh.guard(world.names().skip(1));

    server.set_token(Some("two".to_owned()));
    server.cut();
    mesh.told("HTTP 401").await;
    world.change(server.store());
    fs::write(&file, "two\n").expect("written");
    mesh.shows(&world, Family::Both, RETURN).await;
    mesh.assert_unbroken();
}

#[tokio::test]
async fn a_renewed_authority_is_used() {
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("ca.crt");
    let server = start(tls(false)).await;
    let listen = server.addr();
    let mut world = World::of(server.store(), 3);
    let mesh = Mesh::follow(with_ca(&server, &file), Consistent);
    mesh.shows(&world, Family::Both, DEADLINE).await;
    mesh.guard(world.names());

    server.stop().await;
    drop(server);
    let server = start(ServerOptions { listen, ..tls(false) }).await;
    world.write(server.store());
    mesh.told("invalid peer certificate").await;
    world.put(server.store(), 40, &[1]);
    with_ca(&server, &file);
    mesh.shows(&world, Family::Both, RETURN).await;
    mesh.assert_unbroken();
}

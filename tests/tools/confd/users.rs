//! Users, passwords, tokens that end, roles and certificates.

use super::double::Metad;
use super::{Running, Site, Store, put, until};
use crate::client::v2::v2_server;
use crate::user::with_root;
use anyhow::{Context, Result, ensure};
use api::authpb::Permission;
use api::authpb::permission::Type;
use api::etcdserverpb::{
    AuthEnableRequest, AuthRoleAddRequest, AuthRoleGrantPermissionRequest, AuthUserAddRequest, AuthUserGrantRoleRequest,
};
use harness::http::{full, send};
use harness::{Authority, Kind, Server, with_token};
use http::Request;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

const PASSWORD: &str = "0pen-sesame";
/// More ranges than are followed at once: what lies between them is not for this user.
const MANY: usize = 40;
const USER: [&str; 5] = ["-basic-auth", "-username", "confd", "-password", PASSWORD];

/// A server whose user `confd` may read `/app` and nothing else. Users are needed.
async fn with_reader(kind: Kind, flags: &[&str]) -> Result<Server> {
    let server = with_root(kind, flags).await?;
    let mut auth = server.client().await?.auth;
    let (name, password) = ("confd".to_owned(), PASSWORD.to_owned());
    auth.user_add(AuthUserAddRequest { name, password, ..AuthUserAddRequest::default() }).await?;
    auth.role_add(AuthRoleAddRequest { name: "reader".to_owned() }).await?;
    let many = (0..MANY).map(|number| (format!("/list/{number}/x"), format!("/list/{number}/y")));
    for (key, range_end) in many.chain([("/app".to_owned(), "/apq".to_owned())]) {
        let perm = Permission { perm_type: Type::Read.into(), key: key.into(), range_end: range_end.into() };
        auth.role_grant_permission(AuthRoleGrantPermissionRequest { name: "reader".to_owned(), perm: Some(perm) })
            .await?;
    }
    let (user, role) = ("confd".to_owned(), "reader".to_owned());
    auth.user_grant_role(AuthUserGrantRoleRequest { user, role }).await?;
    auth.auth_enable(AuthEnableRequest {}).await?;
    Ok(server)
}

async fn write(server: &Server, key: &str, value: &str) -> Result<()> {
    let client = server.client().await?;
    let token = client.login("root", crate::user::PASSWORD).await?;
    client.clone().kv.put(with_token(put(key, value), Some(&token))).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_reads_what_its_role_may_and_outlives_its_tokens() -> Result<()> {
    for kind in [Kind::Cleat, Kind::Etcd] {
        // etcd 3.4 has no flag for the life of a token; there the restart has to do.
        let flags: &[&str] = if kind == Kind::Cleat { &["--auth-token-ttl=1"] } else { &[] };
        let mut server = with_reader(kind, flags).await?;
        let store = Store::v3(&server);
        let site = Site::new()?;
        site.resource("a", &["/app".to_owned()], "{{getv \"/app/name\" \"-\"}}", "")?;
        let many: Vec<String> = (0..MANY).map(|number| format!("/list/{number}/x")).collect();
        site.resource("many", &many, "{{len (gets \"/list/*/x\")}}", "")?;
        write(&server, "/app/name", "one").await?;
        write(&server, "/list/7/x", "x").await?;

        let without = site.once(&store, &[]).await?;
        ensure!(without.code == Some(1) && without.stderr.contains("user name is empty"), "{without:?}");
        let wrong = site.once(&store, &["-basic-auth", "-username", "confd", "-password", "wr0ng"]).await?;
        ensure!(wrong.code == Some(1) && wrong.stderr.contains("authentication failed"), "{wrong:?}");
        ensure!(!wrong.stderr.contains("wr0ng"), "{wrong:?}");
        let unused = site.once(&store, &USER[1..]).await?;
        ensure!(unused.stderr.contains("no effect without -basic-auth"), "{unused:?}");

        let mut confd =
            Running::start(site.command(&store, &[&["-watch", "-log-level", "debug"], &USER[..]].concat())?)?;
        until("the first file", &site.out("a"), "one").await?;
        until("the keys of a role", &site.out("many"), "1").await?;
        // Longer than a token lives, and nothing is asked meanwhile.
        sleep(Duration::from_secs(3)).await;
        write(&server, "/app/name", "two").await?;
        until("a change after the token's end", &site.out("a"), "two").await?;
        // Nobody remembers tokens after a restart.
        server.kill()?;
        server.restart().await?;
        write(&server, "/app/name", "three").await?;
        until("a change after a restart", &site.out("a"), "three").await?;
        site.resource("b", &["/app".to_owned()], "b{{getv \"/app/name\"}}", "")?;
        // What the role may not see stops its own resource alone.
        site.resource("c", &["/secret".to_owned()], "{{getv \"/secret\"}}", "")?;
        confd.signal("HUP")?;
        until("a new resource", &site.out("b"), "bthree").await?;
        ensure!(!site.out("c").exists() && !confd.has_ended()?);
        let log = confd.log();
        ensure!(log.contains("permission denied") && !log.contains(PASSWORD), "{log}");
        ensure!(!log.contains("three"), "a value is in the log: {log}");
    }
    Ok(())
}

async fn v2_request(server: &Server, path: &str, body: &str) -> Result<()> {
    use base64::Engine as _;
    let root = base64::engine::general_purpose::STANDARD.encode(format!("root:{PASSWORD}"));
    let request = Request::put(path).header("authorization", format!("Basic {root}")).header("host", server.endpoint());
    let kind = if path.contains("/keys/") { "application/x-www-form-urlencoded" } else { "application/json" };
    let answer = send(&server.endpoint(), request.header("content-type", kind).body(full(body.to_owned()))?).await?;
    ensure!((200..300).contains(&answer.status), "{path}: {answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_of_the_v2_api_reads_what_its_role_may() -> Result<()> {
    for kind in [Kind::Cleat, Kind::Etcd] {
        let server = v2_server(kind, &[]).await?;
        v2_request(&server, "/v2/keys/app/name", "value=one").await?;
        let user =
            |name: &str, role: &str| format!(r#"{{"user":"{name}","password":"{PASSWORD}","roles":["{role}"]}}"#);
        v2_request(&server, "/v2/auth/users/root", &user("root", "root")).await?;
        // A whole tree is read only with the permission of all that begins so.
        let role = r#"{"role":"reader","permissions":{"kv":{"read":["/app*"],"write":[]}}}"#;
        v2_request(&server, "/v2/auth/roles/reader", role).await?;
        v2_request(&server, "/v2/auth/users/confd", &user("confd", "reader")).await?;
        v2_request(&server, "/v2/auth/enable", "").await?;
        let guest = r#"{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}"#;
        v2_request(&server, "/v2/auth/roles/guest", guest).await?;

        let store = Store::v2(&server);
        let site = Site::new()?;
        site.resource("a", &["/app".to_owned()], "{{getv \"/app/name\" \"-\"}}", "")?;
        let without = site.once(&store, &[]).await?;
        ensure!(without.code == Some(1) && !site.out("a").exists(), "{without:?}");
        let confd = Running::start(site.command(&store, &[&["-watch"], &USER[..]].concat())?)?;
        until("the first file", &site.out("a"), "one").await?;
        v2_request(&server, "/v2/keys/app/name", "value=two").await?;
        until("a change", &site.out("a"), "two").await?;
        ensure!(!confd.log().contains(PASSWORD), "{}", confd.log());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_shown_and_asked_for() -> Result<()> {
    let ca = Authority::new("ca")?;
    let files = harness::Site::new(&ca)?;
    files.admit(&ca, "m")?;
    let flags = [files.flags("m"), vec!["--enable-v2=true".to_owned()]].concat();
    let options =
        harness::Options { flags, is_secure: true, client_tls: Some(files.caller("client")), ..Default::default() };
    let options = harness::Options { secures_peers: true, ..options };
    let server = Server::start_with(Kind::Cleat, options).await?;
    let mut client = server.client().await?;
    client.kv.put(put("/app/name", "one")).await?;
    let path = |name: &str| files.path(name).display().to_string();
    let (ca_file, cert, key) = (path("trusted.pem"), path("client.pem"), path("client.key"));
    let own = ["-client-ca-keys", &ca_file, "-client-cert", &cert, "-client-key", &key];
    let insecure = ["-client-insecure", "-client-cert", &cert, "-client-key", &key];
    for (backend, flags, code) in [
        ("etcdv3", &own[..], 0),
        ("etcdv3", &insecure, 0),
        // Nobody knows this certificate's authority; and the server wants one.
        ("etcdv3", &own[2..], 1),
        ("etcdv3", &own[..2], 1),
        // The tree of the v2 API has no such key: it was asked.
        ("etcd", &own, 1),
    ] {
        let site = Site::new()?;
        site.resource("a", &["/app".to_owned()], "{{getv \"/app/name\"}}", "")?;
        let store = Store { backend, node: server.client_url() };
        let output = site.once(&store, flags).await?;
        ensure!(output.code == Some(code), "{backend} {flags:?}: {output:?}");
        if backend == "etcd" {
            ensure!(output.stderr.contains("100: Key not found (/app)"), "{output:?}");
        }
    }
    // From the environment, as confd has it.
    let site = Site::new()?;
    site.resource("a", &["/app".to_owned()], "{{getv \"/app/name\"}}", "")?;
    let mut command = site.command(&Store::v3(&server), &["-watch"])?;
    command.env("CONFD_CLIENT_CAKEYS", &ca_file).env("CONFD_CLIENT_CERT", &cert).env("CONFD_CLIENT_KEY", &key);
    let _confd = Running::start(command)?;
    until("the first file", &site.out("a"), "one").await?;
    client.kv.put(put("/app/name", "two")).await.context("put")?;
    until("a change", &site.out("a"), "two").await
}

/// What a metadata proxy serves that wants its clients to be of this authority.
fn served_to(ca: &Authority) -> Result<Arc<ServerConfig>> {
    let pair = ca.issue("metad", &harness::site::HOSTS)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.der()))?;
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes())?;
    let config = builder.with_client_cert_verifier(verifier).with_single_cert(vec![pair.der.into()], key)?;
    Ok(Arc::new(config))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_metadata_proxy_is_asked_with_certificates() -> Result<()> {
    let data = |name: &str| json!({"self": {"node": {"name": name}}});
    let ca = Authority::new("ca")?;
    let files = harness::Site::new(&ca)?;
    let metad = Metad::start_with(data("one"), Some(served_to(&ca)?)).await?;
    let path = |name: &str| files.path(name).display().to_string();
    let (ca_file, cert, key) = (path("trusted.pem"), path("client.pem"), path("client.key"));
    let own = ["-client-ca-keys", &ca_file, "-client-cert", &cert, "-client-key", &key];
    let site = Site::new()?;
    site.resource("a", &["/node".to_owned()], "{{getv \"/node/name\"}}", "prefix = \"/self\"")?;
    // Nobody knows who this proxy is; and it wants to know who asks.
    for flags in [&own[2..], &own[..2]] {
        let output = site.once(&metad.store(), flags).await?;
        ensure!(output.code == Some(1) && !site.out("a").exists() && metad.requests() == 0, "{flags:?}: {output:?}");
    }
    let _confd = Running::start(site.command(&metad.store(), &[&["-watch"], &own[..]].concat())?)?;
    until("the first file", &site.out("a"), "one").await?;
    metad.change(data("two"));
    until("a change", &site.out("a"), "two").await
}

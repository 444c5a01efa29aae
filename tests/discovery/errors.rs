//! Wrong input: what etcd says, and what we say. Ours has etcd's words where etcd has some for it, names the part
//! and tells what to do.

use crate::process::DiscoveryService;
use crate::url::{put, source, token};
use crate::{etcd, refused, resolve, v2_store};
use anyhow::Result;
use discovery::{InitialCluster, Me, Options, Source};
use harness::{Kind, Server};

/// What this etcd would be, for ours to be the same member.
fn same_member(server: &Server, name: &str) -> Me {
    Me { name: name.to_owned(), peer_urls: vec![server.peer_url()] }
}

#[tokio::test]
async fn lists() -> Result<()> {
    // OWN stands for this member's peer URL. etcd's words, and ours.
    let cases = [
        (
            "xx",
            "URL scheme must be http, https, unix, or unixs: ",
            "error setting up initial cluster: empty URL given for \"xx\"",
        ),
        (
            "m1=ftp://a:1",
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ftp://a:1",
            "",
        ),
        (
            "m1=http://a",
            "error setting up initial cluster: URL address does not have the form \"host:port\": http://a",
            "",
        ),
        ("m1=OWN/x", "error setting up initial cluster: URL must not contain a path: OWN/x", ""),
        ("m1=OWN,m2=OWN", "initial cluster m1=OWN,m2=OWN has duplicate url", ""),
        ("m2=http://127.0.0.1:1", "couldn't find local name \"m1\" in the initial cluster configuration", ""),
        ("=http://a:1", "couldn't find local name \"m1\"", "empty member name in \"=http://a:1\""),
        (
            "m1=http://127.0.0.1:1",
            "--initial-cluster has m1=http://127.0.0.1:1 but missing from --initial-advertise-peer-urls=OWN (resolved urls: ",
            "",
        ),
        (
            "m1=OWN,m1=http://127.0.0.1:1",
            "--initial-cluster has m1=http://127.0.0.1:1 but missing from --initial-advertise-peer-urls=OWN (",
            "",
        ),
    ];
    for (list, theirs, ours) in cases {
        let options = harness::Options { name: "m1".to_owned(), ..harness::Options::default() };
        let shape = Server::prepare(Kind::Etcd, options.clone())?;
        let own = shape.peer_url();
        let filled = |text: &str| text.replace("OWN", &own);
        let error = match InitialCluster::parse(&filled(list), "etcd-cluster") {
            Ok(cluster) => resolve(&Source::Static(cluster), &same_member(&shape, "m1")).await.unwrap_err(),
            Err(error) => discovery::Error::from(error).to_string(),
        };
        let expected = filled(if ours.is_empty() { theirs } else { ours });
        assert!(error.contains(&expected), "{list}: {error}");
        let mut flags = shape.args();
        let at = flags.iter().position(|flag| flag == "--initial-cluster").unwrap_or_default();
        flags[at + 1] = filled(list);
        let log = etcd_says(&shape, &flags).await?;
        assert!(log.contains(&filled(theirs)), "{list}: {log}");
    }
    Ok(())
}

/// Runs an etcd with exactly these flags until it ends.
async fn etcd_says(shape: &Server, flags: &[String]) -> Result<String> {
    let mut command: tokio::process::Command = shape.command().into();
    command.args(flags);
    let output = harness::tool::run(command, b"", crate::DEADLINE).await?;
    anyhow::ensure!(output.code != Some(0), "etcd ended well");
    Ok(output.stdout + &output.stderr)
}

#[tokio::test]
async fn discovery_urls() -> Result<()> {
    let store = v2_store(Kind::Etcd).await?;
    let service = DiscoveryService::start(&store.client_url()).await?;
    for (name, size) in [("bad", "x"), ("negative", "-1"), ("full", "1")] {
        token(&store, name, size).await?;
    }
    put(&store, "nosize", "aa", "z=http://127.0.0.1:1").await?;
    put(&store, "full", "aa", "z=http://127.0.0.1:1").await?;
    // A registration stays, so ours and etcd cannot both be second at one token.
    for whose in ["ours", "etcd"] {
        for (name, value) in [("url", "z=ftp://x"), ("name", "m1=http://127.0.0.1:1")] {
            token(&store, &format!("{name}-{whose}"), "2").await?;
            put(&store, &format!("{name}-{whose}"), "aa", value).await?;
        }
    }
    let url = |name: &str| format!("{}/v2/keys/tokens/{name}", store.client_url());
    // Where etcd only repeats what the service said, or calls it by another name, ours says what it means.
    let cases = [
        (url("nothing"), "100: Key not found (/tokens/nothing)", "discovery: token not found; "),
        (service.unknown_token(), "100: Key not found (/_etcd/registry/dedede", "discovery: token not found; "),
        (url("nosize"), "100: Key not found (/tokens/nosize/_config)", "discovery: size key not found; "),
        (url("bad"), "discovery: size key is bad", "discovery: size key is bad; "),
        (url("negative"), "discovery: size key is bad", "discovery: size key is bad; "),
        (url("full"), "discovery: cluster is full", "discovery: cluster is full; its 1 members are z="),
        (url("url-ours"), "discovery: invalid URL", "discovery: invalid peer URL; member aa registered \"z=ftp://x\""),
        (url("name-ours"), "member with duplicated name has registered", "discovery: found duplicate name; "),
        (
            format!("{}/version", store.client_url()),
            "discovery: bad discovery endpoint",
            "discovery: bad discovery endpoint; ",
        ),
    ];
    for (url, theirs, ours) in cases {
        let me = same_member(&etcd("m1", &[])?, "m1");
        let error = resolve(&source(&url), &me).await.unwrap_err();
        assert!(error.starts_with("failed to join discovery cluster (") && error.contains(ours), "{url}: {error}");
        let url = url.replace("-ours", "-etcd");
        let log = refused(etcd("m1", &["--discovery-fallback=exit", "--discovery", &url])?).await?;
        assert!(log.contains(theirs), "{url}: {log}");
    }
    Ok(())
}

#[tokio::test]
async fn dns() -> Result<()> {
    let etcd = etcd("m1", &["--discovery-srv", "nothing.invalid"])?;
    let me = same_member(&etcd, "m1");
    let srv = discovery::Srv { domain: "nothing.invalid".to_owned(), ..discovery::Srv::default() };
    let dns = crate::process::Dns::start(&["local=/invalid/".to_owned()]).await?;
    let options = Options { name_server: Some(dns.address()), ..crate::options() };
    let error = discovery::resolve(&Source::Srv(srv), &me, &options).await.unwrap_err().to_string();
    let words = "error querying DNS SRV records for _etcd-server-ssl";
    assert!(error.starts_with(words), "{error}");
    let log = refused(etcd).await?;
    assert!(log.contains(words), "{log}");
    Ok(())
}

//! Clients that others wrote, as their registries ship them.

use anyhow::{Context, Result, ensure};
use api::etcdserverpb::{AuthEnableRequest, AuthRoleAddRequest, AuthUserAddRequest, AuthUserGrantRoleRequest};
use harness::site::Site;
use harness::tool::{Output, run};
use harness::{Authority, Client, Kind, Options, Server};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// Installing from a registry takes most of it.
const DEADLINE: Duration = Duration::from_mins(4);

/// The same with a compiler, which also builds what the client needs.
const BUILD_DEADLINE: Duration = Duration::from_mins(15);

const PASSWORD: &str = "rootpwd";

/// True if nothing can be installed; then says what is left out.
fn is_offline(what: &str) -> bool {
    let is_offline = std::env::var("CLEAT_OFFLINE").is_ok_and(|value| value == "1");
    if is_offline {
        eprintln!("skipped: CLEAT_OFFLINE=1, and {what} installs a client from its registry");
    }
    is_offline
}

fn script(name: &str) -> Command {
    let mut command = Command::new("bash");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name));
    command
}

/// The user root, with its role.
async fn add_root(client: &mut Client) -> Result<()> {
    let (name, password) = ("root".to_owned(), PASSWORD.to_owned());
    client.auth.user_add(AuthUserAddRequest { name, password, ..AuthUserAddRequest::default() }).await?;
    client.auth.role_add(AuthRoleAddRequest { name: "root".to_owned() }).await?;
    let (user, role) = ("root".to_owned(), "root".to_owned());
    client.auth.user_grant_role(AuthUserGrantRoleRequest { user, role }).await?;
    Ok(())
}

async fn run_script(name: &str) -> Result<()> {
    if is_offline(name) {
        return Ok(());
    }
    let server = Server::start(Kind::Cleat).await?;
    let mut command = script(name);
    command.arg(server.endpoint()).arg(server.scratch());
    let output = run(command, b"", DEADLINE).await?;
    ensure!(output.code == Some(0) && output.stdout.contains("PASS"), "{name}: {output:#?}");
    run_secured(name, server.scratch()).await
}

/// The same as the user root of a server that wants certificates, with what was installed into `scratch`.
async fn run_secured(name: &str, scratch: &Path) -> Result<()> {
    let ca = Authority::new("ca")?;
    let site = Site::new(&ca)?;
    site.admit(&ca, "m")?;
    let (client_tls, file) = (Some(site.caller("client")), |name: &str| site.path(name).display().to_string());
    let mut flags = vec![
        format!("--cert-file={}", file("m-server.pem")),
        format!("--key-file={}", file("m-server.key")),
        format!("--trusted-ca-file={}", file("m-ca.pem")),
    ];
    // A v2 API that is refused while v3 has users is told of in Status, where the clients expect nothing.
    flags.extend(["--client-cert-auth", "--bcrypt-cost=4", "--enable-v2=false"].map(str::to_owned));
    let options = Options { flags, is_secure: true, client_tls, ..Options::default() };
    let server = Server::start_with(Kind::Cleat, options).await?;
    let mut client = server.client().await?;
    add_root(&mut client).await?;
    client.auth.auth_enable(AuthEnableRequest {}).await?;
    let mut command = script(name);
    command.arg(server.endpoint()).arg(scratch);
    command.env("CLIENT_USER", "root").env("CLIENT_PASSWORD", PASSWORD).env("CLIENT_CA", file("trusted.pem"));
    command.env("CLIENT_CERT", file("client.pem")).env("CLIENT_KEY", file("client.key"));
    let output = run(command, b"", DEADLINE).await?;
    ensure!(output.code == Some(0) && output.stdout.contains("PASS"), "{name} as root: {output:#?}");
    Ok(())
}

#[tokio::test]
async fn python_etcd3() -> Result<()> {
    run_script("python-etcd3.sh").await
}

#[tokio::test]
async fn node_etcd3() -> Result<()> {
    run_script("node-etcd3.sh").await
}

/// Runs an example, and says how it ended: its code, and the error that it returned.
async fn run_example(example: &Path, server: &Server) -> Result<(Output, String)> {
    let mut command = Command::new(example);
    command.env("ETCD_ENDPOINT", server.endpoint());
    let output = run(command, b"", DEADLINE).await?;
    let error = output.stderr.lines().find(|line| line.contains("Error")).unwrap_or_default();
    // What a server says beside its code and text is its own.
    let end = error.find(", metadata").or_else(|| error.find(", details")).unwrap_or(error.len());
    let ended = format!("{:?} {}", output.code, &error[..end]);
    Ok((output, ended))
}

/// The examples of crates.io's etcd-client end on Cleat as they do on etcd; those that etcd can do succeed.
#[tokio::test]
async fn rust_etcd_client() -> Result<()> {
    if is_offline("etcd-client") {
        return Ok(());
    }
    let (etcd, cleat) = tokio::try_join!(Server::start(Kind::Etcd), Server::start(Kind::Cleat))?;
    let mut build = script("rust-etcd-client.sh");
    build.arg(cleat.scratch());
    // What the compiler of this test was told is not for another workspace.
    for name in ["CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_MANIFEST_DIR"] {
        build.env_remove(name);
    }
    let built = run(build, b"", BUILD_DEADLINE).await?;
    ensure!(built.code == Some(0), "{built:#?}");
    for server in [&etcd, &cleat] {
        add_root(&mut server.client().await?).await?;
    }
    let found = std::fs::read_dir(cleat.scratch().join("examples"))?;
    let mut examples = found.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    // One of them adds a member that never starts: nothing is written after it.
    examples.sort_by_key(|example| (example.ends_with("cluster"), example.clone()));
    let mut succeeded = Vec::new();
    for example in &examples {
        let name = example.file_name().and_then(|name| name.to_str()).context("a name")?;
        let (etcds, cleats) = tokio::try_join!(run_example(example, &etcd), run_example(example, &cleat))?;
        ensure!(etcds.1 == cleats.1, "{name}\netcd:  {etcds:#?}\ncleat: {cleats:#?}");
        eprintln!("{name}: {}", cleats.1);
        succeeded.extend((cleats.0.code == Some(0)).then_some(name));
    }
    for name in ["auth", "auth_role", "auth_user", "election", "kv", "lease", "lock", "maintenance", "watch"] {
        ensure!(succeeded.contains(&name), "{name} is not among {succeeded:?} of {examples:?}");
    }
    Ok(())
}

//! Clients that others wrote, as their registries ship them.

use anyhow::{Result, ensure};
use api::etcdserverpb::{AuthEnableRequest, AuthRoleAddRequest, AuthUserAddRequest, AuthUserGrantRoleRequest};
use harness::site::Site;
use harness::tool::run;
use harness::{Authority, Client, Kind, Options, Server};
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// Installing from a registry takes most of it.
const DEADLINE: Duration = Duration::from_mins(4);

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

//! Clients that others wrote, as their registries ship them.

use anyhow::{Result, ensure};
use harness::tool::run;
use harness::{Kind, Server};
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// Installing from a registry takes most of it.
const DEADLINE: Duration = Duration::from_mins(4);

async fn run_script(name: &str) -> Result<()> {
    if std::env::var("CLEAT_OFFLINE").is_ok_and(|value| value == "1") {
        eprintln!("skipped: CLEAT_OFFLINE=1, and {name} installs a client from its registry");
        return Ok(());
    }
    let server = Server::start(Kind::Cleat).await?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name);
    let mut command = Command::new("bash");
    command.arg(script).arg(server.endpoint()).arg(server.scratch());
    let output = run(command, b"", DEADLINE).await?;
    ensure!(output.code == Some(0) && output.stdout.contains("PASS"), "{name}: {output:#?}");
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

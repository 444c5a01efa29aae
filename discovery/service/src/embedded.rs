//! `--embedded`: a member of its own in this process, that only this process can reach.

use anyhow::{Context as _, Result, bail};
use server::config::{self, Command};
use server::server::Server;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// History kept, in hours. The service only needs the present; operators may want to look back.
const RETENTION_HOURS: &str = "1";

/// Longest path of a Unix socket on Linux.
const MAX_SOCKET_PATH: usize = 107;

/// Starts the member and returns it with its endpoint: a socket in the data directory, which only its owner can enter.
pub(crate) async fn start(data_dir: &Path) -> Result<(Server, String)> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .with_context(|| format!("cannot create {}", data_dir.display()))?;
    let data_dir = data_dir.canonicalize().with_context(|| format!("cannot use {}", data_dir.display()))?;
    let (Some(dir), socket) = (data_dir.to_str(), data_dir.join("client.sock")) else {
        bail!("the path {} is no text", data_dir.display());
    };
    if socket.as_os_str().len() > MAX_SOCKET_PATH {
        bail!("the path {dir} is too long for a socket in it; choose another --data-dir");
    }
    let (endpoint, peers) = (format!("unix://{}", socket.display()), format!("unix://{dir}/peer.sock"));
    let args = [
        ("--name", "discovery"),
        ("--data-dir", dir),
        ("--listen-client-urls", &endpoint),
        ("--advertise-client-urls", &endpoint),
        // It has no peers; a port would be open to every user of the machine.
        ("--listen-peer-urls", &peers),
        ("--auto-compaction-mode", "periodic"),
        ("--auto-compaction-retention", RETENTION_HOURS),
    ];
    let args = args.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]);
    // The variables are for members that are processes of their own.
    let Command::Run(config) = config::load(args, [])? else { bail!("the member has no configuration") };
    let member = Box::pin(Server::start(*config)).await.context("cannot start the embedded member")?;
    tracing::info!(data_dir = dir, "the state is kept in this process");
    Ok((member, endpoint))
}

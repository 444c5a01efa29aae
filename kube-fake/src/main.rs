//! `cleat-kube-fake`: the fake API server as a process, for tests that are not written in Rust.

use anyhow::{Context as _, Result};
use clap::Parser;
use kube_fake::{FakeKube, Options, Resource};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A small Kubernetes API server for tests. It prints its URL when it serves, and ends with SIGTERM or SIGINT.
#[derive(Parser)]
#[command(name = "cleat-kube-fake", version)]
struct Args {
    /// Loopback address to serve on; port 0 takes any free port.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A resource to serve besides the built-in ones, as GROUP/VERSION/KIND/PLURAL/namespaced (or /cluster); repeat it
    /// for more.
    #[arg(long = "resource", value_name = "RESOURCE", value_parser = Resource::parse)]
    resources: Vec<Resource>,
    /// Kubernetes' minor version to pretend to be.
    #[arg(long, default_value_t = 33)]
    minor_version: u32,
    /// Events that watches can go back.
    #[arg(long, default_value_t = 4096)]
    history: usize,
    /// Files with an object each, or a List, as JSON, to begin with; repeat it for more.
    #[arg(long = "load", value_name = "FILE")]
    load: Vec<PathBuf>,
    /// Where to write a kubeconfig.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let options = Options {
        listen: args.listen,
        resources: args.resources,
        history: args.history,
        minor_version: args.minor_version,
        ..Options::default()
    };
    let kube = FakeKube::start(options).await?;
    for path in &args.load {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let object: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
        let objects = match object["items"].as_array() {
            Some(items) => items.clone(),
            None => vec![object],
        };
        for object in objects {
            kube.put(object).with_context(|| format!("cannot load {}", path.display()))?;
        }
    }
    if let Some(path) = &args.kubeconfig {
        std::fs::write(path, kube.kubeconfig(None, "default"))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    writeln!(std::io::stdout(), "{}", kube.url())?;
    std::io::stdout().flush()?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    kube.stop().await;
    Ok(())
}

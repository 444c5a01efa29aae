//! The program `cleat-agent`: reads its flags, and looks after the cluster while its member leads.

use crate::kubernetes::Kubernetes;
use crate::observe::Members;
use crate::run::{Agent, Pace};
use anyhow::{Context as _, Result, bail};
use clap::Parser;
use client::{Options, TlsOptions, User};
use kube::config::{KubeConfigOptions, Kubeconfig};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Looks after the pods and members of a Cleat StatefulSet, while its own member leads.
#[allow(clippy::doc_markdown, reason = "it is the text of --help")]
#[derive(Parser)]
#[command(name = "cleat-agent", version)]
struct Args {
    /// Namespace of the StatefulSet.
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// Name of the StatefulSet.
    #[arg(long)]
    statefulset: String,
    /// Name of the agent's own pod.
    #[arg(long, env = "POD_NAME")]
    pod: String,
    /// Client URL of the member in the agent's pod.
    #[arg(long, default_value = "http://127.0.0.1:2379")]
    member_url: String,
    /// CA that the members' certificates must come from.
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Certificate that is shown to the members.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Key of the certificate.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// User of the cluster's authentication; it needs the role root to remove members.
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    /// File with the user's password.
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// ConfigMap that is to hold the id of the cluster once it is founded; empty for none.
    #[arg(long, default_value = "")]
    cluster_configmap: String,
    /// How long a pod that was scaled away has to be gone until its member is removed.
    #[arg(long, default_value_t = 15, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    member_gone_seconds: u64,
    /// Between two looks at the cluster.
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=300))]
    interval_seconds: u64,
    /// How to reach the API server; without it the pod's service account is used.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Runs the program until it ends. `words` is its command line, the name by which it was called first.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = Args::parse_from(words);
    let filter = EnvFilter::new(format!("info,{}", terminal::log::OF_KUBE));
    let builder =
        tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr);
    // It would tell with eprintln! that stderr is gone, which panics.
    builder.log_internal_errors(false).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.context("start the runtime").and_then(|runtime| runtime.block_on(run(args)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the agent failed");
            ExitCode::FAILURE
        }
    }
}

/// Runs until SIGTERM or SIGINT.
async fn run(args: Args) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let members = Members::new(&args.member_url, &options(&args)?, &args.statefulset)?;
    let client = kube::Client::try_from(kube_config(&args).await?).context("make a client of the API server")?;
    let mark = Some(args.cluster_configmap.as_str()).filter(|name| !name.is_empty());
    let kubernetes = Kubernetes::new(client, &args.namespace, &args.statefulset, &args.pod, mark);
    let pace = Pace {
        interval: Duration::from_secs(args.interval_seconds),
        gone: Duration::from_secs(args.member_gone_seconds),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        namespace = args.namespace,
        statefulset = args.statefulset,
        pod = args.pod,
        member_url = args.member_url,
        "starting the agent"
    );
    let mut agent = Agent::new(members, kubernetes, &args.statefulset, pace);
    tokio::select! {
        () = agent.run() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("the agent ends");
    Ok(())
}

/// How members are reached.
fn options(args: &Args) -> Result<Options> {
    let user = match (&args.user, &args.password_file) {
        (Some(name), Some(path)) => {
            let password =
                std::fs::read_to_string(path).with_context(|| format!("read the password in {}", path.display()))?;
            let password = password.trim_end_matches(['\n', '\r']).to_owned();
            if password.is_empty() {
                bail!("{} holds no password", path.display());
            }
            Some(User { name: name.clone(), password })
        }
        _ => None,
    };
    let has_tls = args.cacert.is_some() || args.cert.is_some();
    let tls = has_tls.then(|| TlsOptions {
        ca_file: args.cacert.clone(),
        cert_file: args.cert.clone(),
        key_file: args.key.clone(),
        ..TlsOptions::default()
    });
    Ok(Options { tls, user, ..Options::default() })
}

async fn kube_config(args: &Args) -> Result<kube::Config> {
    let mut config = match &args.kubeconfig {
        Some(path) => {
            let what = || format!("use the kubeconfig {}", path.display());
            let read = Kubeconfig::read_from(path).with_context(what)?;
            kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.with_context(what)?
        }
        None => {
            kube::Config::incluster().context("use the pod's service account; outside of a pod give --kubeconfig")?
        }
    };
    // Every call ends, and soon: the agent follows nothing, it looks again.
    config.connect_timeout = Some(Duration::from_secs(5));
    config.read_timeout = Some(Duration::from_secs(10));
    config.write_timeout = Some(Duration::from_secs(10));
    Ok(config)
}

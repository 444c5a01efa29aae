//! `cleat`: reads the settings, runs a member until a signal comes, and ends the way etcd ends.

use server::config::{self, Command, Config};
use server::{logging, notify, version};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};
use wiring::Server;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// More workers than this do not make one member faster, but cost memory.
const MAX_WORKERS: usize = 8;

fn main() -> ExitCode {
    let args = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let config = match config::load(args, environment) {
        Ok(Command::Help) => return print(&config::help()),
        Ok(Command::Version) => return print(&version::long_version()),
        Ok(Command::Run(config)) => *config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(error.exit_code());
        }
    };
    if let Err(error) = logging::init(&config.log) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    let result = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let result = runtime.block_on(run(config));
            // A member that is broken must not wait for the part that hangs.
            runtime.shutdown_background();
            result
        });
    match result {
        Ok(signal) => end_by(signal),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "member failed");
            ExitCode::FAILURE
        }
    }
}

/// Runs a member until a signal asks it to stop, and returns that signal. A broken member is an error at once: it
/// must not answer anything more.
async fn run(config: Config) -> anyhow::Result<SignalKind> {
    let mut signals = Signals::new()?;
    for warning in &config.warnings {
        tracing::warn!(warning, "check the settings");
    }
    tracing::info!(
        cleat_version = version::CLEAT_VERSION,
        etcd_version = version::COMPATIBLE_ETCD_VERSION,
        git_sha = version::GIT_SHA,
        name = config.name,
        data_dir = %config.data_dir.display(),
        "starting a member"
    );
    let welcome = welcome(&config);
    let mut member = tokio::select! {
        started = Box::pin(Server::start(config)) => started?,
        stop = signals.next() => return Ok(stop),
    };
    tracing::info!("ready to serve client requests");
    if let Err(error) = notify::ready(std::env::var_os("NOTIFY_SOCKET").as_deref()) {
        tracing::warn!(%error, "cannot tell systemd that the member is ready");
    }
    if std::io::stdout().is_terminal() {
        print(&welcome);
    }
    let stop = tokio::select! {
        stop = signals.next() => stop,
        fault = member.fault() => anyhow::bail!(fault),
    };
    tracing::info!(signal = stop.as_raw_value(), "stopping; a second signal ends at once");
    tokio::select! {
        () = member.shutdown() => Ok(stop),
        second = signals.next() => Ok(second),
    }
}

/// The signals that ask a member to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }
}

/// What is served, where the data is, and what to type next.
fn welcome(config: &Config) -> String {
    let urls: Vec<_> = config.listen_client_urls.iter().map(ToString::to_string).collect();
    let endpoint = &config.advertise_client_urls[0];
    format!(
        "\ncleat {} serves etcd's v3 API\n  clients  {}\n  data     {}\n  try      cleatctl --endpoints {endpoint} put greeting hello\n\n",
        version::CLEAT_VERSION,
        urls.join(", "),
        config.data_dir.display(),
    )
}

/// Dies by the signal, so that a supervisor sees why; process 1 has no default actions and exits with 0.
fn end_by(stop: SignalKind) -> ExitCode {
    if std::process::id() != 1
        && let Err(error) = signal_hook::low_level::emulate_default_handler(stop.as_raw_value())
    {
        tracing::warn!(%error, "cannot end by the signal");
    }
    ExitCode::SUCCESS
}

fn print(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Serves the HTTP endpoints and gRPC health: what exists without a store.
mod wiring {
    use api::server::health_server::HealthServer;
    use server::config::{Config, MetricsLevel};
    use server::data_dir::DataDir;
    use server::health::{GrpcHealth, HealthChecks};
    use server::http::{AccessRules, HttpState, guarded, metrics_router, router};
    use server::listen::{Bound, Front, GrpcRoutes, ListenSettings, Listeners};
    use server::metrics::Metrics;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::sync::watch;

    const GRACE: Duration = Duration::from_secs(5);

    pub(crate) struct Server {
        listeners: Listeners,
        serving: watch::Sender<bool>,
        _data: DataDir,
    }

    impl Server {
        pub(crate) async fn start(config: Config) -> anyhow::Result<Self> {
            let data = DataDir::open(&config.data_dir)?;
            let metrics = Metrics::new(config.metrics == MetricsLevel::Extensive)?;
            let listeners = Listeners::new(&ListenSettings::new(&config), &metrics);
            let (serving, receiver) = watch::channel(true);
            let checks = HealthChecks {
                has_leader: Box::new(|| true),
                is_learner: Box::new(|| false),
                alarms: Box::new(Vec::new),
                serializable_read: Box::new(|| Box::pin(async { Ok(()) })),
                linearizable_read: Box::new(|| Box::pin(async { Ok(()) })),
            };
            let state = HttpState { metrics: Arc::clone(&metrics), checks: Arc::new(checks) };
            let rules = AccessRules { cors: config.cors.clone(), host_whitelist: config.host_whitelist.clone() };
            let http = guarded(router(state.clone()), rules.clone());
            let max = config.max_request_bytes + 512 * 1024;
            let routes = GrpcRoutes::new(metrics, max).with(HealthServer::new(GrpcHealth::new(receiver)));
            let routes = Arc::new(routes);
            let client_front = if config.listen_client_http_urls.is_empty() {
                Front::both(routes, http.clone())
            } else {
                Front::grpc_only(routes)
            };
            let http_front = Front::http_only(http);
            let metrics_front = Front::http_only(guarded(metrics_router(state), rules));
            for (urls, front) in [
                (&config.listen_client_urls, &client_front),
                (&config.listen_client_http_urls, &http_front),
                (&config.listen_metrics_urls, &metrics_front),
            ] {
                for url in urls {
                    listeners.serve(Bound::new(url, config.socket_reuse_port).await?, front);
                }
            }
            Ok(Self { listeners, serving, _data: data })
        }

        pub(crate) async fn fault(&mut self) -> String {
            std::future::pending().await
        }

        pub(crate) async fn shutdown(self) {
            drop(self.serving);
            self.listeners.shutdown(GRACE).await;
        }
    }
}

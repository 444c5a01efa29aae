//! The program `cleat`: reads the settings, runs a member until a signal comes, and ends the way etcd ends.

use crate::config::{self, Command, Config, InitialClusterState};
use crate::server::{End, Server, StartError};
use crate::{data_dir, logging, version};
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use terminal::{complain, print};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// More workers than this do not make one member faster, but cost memory.
const MAX_WORKERS: usize = 8;

/// Runs the program until it ends. `words` is its command line, the name by which it was called first.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = words.into_iter().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    let environment = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    let config = match config::load(args, environment) {
        Ok(Command::Help) => return print(&config::help()),
        Ok(Command::Version) => return print(&version::long_version()),
        Ok(Command::Run(config)) => *config,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::from(error.exit_code());
        }
    };
    if let Err(error) = logging::init(&config.log) {
        complain(&error.to_string());
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
    let code = match result {
        Ok(Some(signal)) => {
            logging::flush();
            end_by(signal)
        }
        // The member was removed, and has said so.
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            // The errors of a member say what caused them.
            tracing::error!(%error, "member failed");
            ExitCode::FAILURE
        }
    };
    logging::flush();
    code
}

/// Runs a member until a signal asks it to stop, and returns that signal, or until it is removed from its cluster. A
/// broken member is an error at once: it must not answer anything more.
async fn run(config: Config) -> anyhow::Result<Option<SignalKind>> {
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
    let finds_place = config.initial_cluster_state == InitialClusterState::Auto;
    let (data_dir, wal_dir) = (config.data_dir.clone(), config.wal_dir.clone());
    let removed = move || {
        if finds_place {
            set_aside(&data_dir, wal_dir.as_deref());
        }
        Ok(None)
    };
    let mut member = tokio::select! {
        started = Box::pin(Server::start(config)) => match started {
            Err(StartError::Ended(End::Removed)) => return removed(),
            started => started?,
        },
        stop = signals.next() => return Ok(Some(stop)),
    };
    tracing::info!("ready to serve client requests");
    if let Err(error) = notify::send(std::env::var_os(notify::SOCKET).as_deref(), notify::State::Ready) {
        tracing::warn!(%error, "cannot tell systemd that the member is ready");
    }
    if std::io::stdout().is_terminal() {
        print(&welcome);
    }
    let stop = tokio::select! {
        stop = signals.next() => stop,
        end = member.end() => match end {
            End::Fault(reason) => anyhow::bail!(reason),
            End::Removed => {
                member.shutdown().await;
                return removed();
            }
        },
    };
    tracing::info!(signal = stop.as_raw_value(), "stopping; a second signal ends at once");
    tokio::select! {
        () = member.shutdown() => Ok(Some(stop)),
        second = signals.next() => Ok(Some(second)),
    }
}

/// Makes room for a new member, which the next start is.
fn set_aside(data_dir: &Path, wal_dir: Option<&Path>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match data_dir::set_aside(data_dir, wal_dir, now) {
        Ok(aside) => tracing::warn!(
            aside = %aside.display(),
            "the data of the removed member is set aside: the next start asks to join as a new member"
        ),
        Err(error) => tracing::error!(
            %error,
            data_dir = %data_dir.display(),
            wal_dir = wal_dir.map(|dir| dir.display().to_string()),
            "the data of the removed member cannot be set aside: delete all of it before the next start"
        ),
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
        "\ncleat {} serves etcd's v3 API\n  clients  {}\n  data     {}\n  try      etcdctl --endpoints {endpoint} put greeting hello\n\n",
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

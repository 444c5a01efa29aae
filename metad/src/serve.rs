//! The process: starts the parts in order, waits for signals, and ends them in order.

use crate::address::Source;
use crate::app::{App, Review};
use crate::backend::{Backend, Etcd, Local};
use crate::listen::{Acceptor, Limits, Listener};
use crate::manage::Tokens;
use crate::metrics::Metrics;
use crate::pods::Pods;
use crate::rate::Limit;
use crate::session::Sessions;
use crate::settings::{KubernetesSettings, ManageSettings, SessionTokens, Settings, Storage};
use crate::state::World;
use crate::{manage, query};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How a process ends that was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By SIGINT.
    Interrupted,
    /// By SIGTERM.
    Terminated,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Serves until a signal ends it.
///
/// # Errors
/// What cannot be opened or bound, with its name.
pub async fn run(mut settings: Settings) -> Result<End, String> {
    let caught = |kind| signal(kind).map_err(|error| format!("cannot catch signals: {error}"));
    let mut signals = Signals {
        terminate: caught(SignalKind::terminate())?,
        interrupt: caught(SignalKind::interrupt())?,
        hangup: caught(SignalKind::hangup())?,
    };
    let limits = Limits { connections: settings.max_connections, of_source: settings.max_connections_per_source };
    let (limits, manage_limits) = limits.possible(settings.manage.is_some());
    settings.query.waits = settings.query.waits.beside(limits.connections);
    let acceptor = settings.manage.as_ref().map(acceptor).transpose()?.flatten();
    let hops = settings.query.session_tokens != SessionTokens::Off && settings.query.token_hop_limit > 0;
    let query_listener = Listener::bind(settings.listen, None, limits, hops).await?;
    let manage_listener = match &settings.manage {
        Some(manage) => Some(Listener::bind(manage.addr, acceptor.clone(), manage_limits, false).await?),
        None => None,
    };
    let (drain, listen) = (settings.drain, settings.listen);
    let manage_addr = settings.manage.as_ref().map(|manage| manage.addr);
    let pid_file = settings.pid_file.clone();
    if let Some(path) = &pid_file {
        write_pid(path)?;
    }
    let (tasks, stop_following) = (TaskTracker::new(), CancellationToken::new());
    let stop = CancellationToken::new();
    let app = Arc::new(app(settings, &tasks, &stop_following, &stop).await?);
    let serving = TaskTracker::new();
    let asked = Arc::clone(&app);
    let answer = move |request, peer| query::answer(&asked, request, peer);
    let known = Arc::clone(&app);
    serving.spawn(query_listener.serve(move |address| known.source(address), answer, stop.clone(), drain));
    if let Some(listener) = manage_listener {
        let asked = Arc::clone(&app);
        let answer = move |request, peer| manage::answer(Arc::clone(&asked), request, peer);
        serving.spawn(listener.serve(|address| Source::new(address, false), answer, stop.clone(), drain));
    }
    tracing::info!("Listening on {listen}");
    if let Some(manage) = manage_addr {
        tracing::info!("Listening for Manage on {manage}");
    }
    let end = wait(&mut signals, acceptor.as_ref(), &app).await;
    tracing::info!("Received stop signal");
    stop.cancel();
    app.world.hub.close();
    serving.close();
    serving.wait().await;
    stop_following.cancel();
    tasks.close();
    tasks.wait().await;
    if let Some(path) = pid_file {
        remove_pid(&path);
    }
    Ok(end)
}

/// Waits for the end, and reads files again on SIGHUP.
async fn wait(signals: &mut Signals, acceptor: Option<&Acceptor>, app: &App) -> End {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return End::Terminated,
            _ = signals.interrupt.recv() => return End::Interrupted,
            _ = signals.hangup.recv() => {
                let mut is_read = true;
                for read in [acceptor.map_or(Ok(()), Acceptor::reload), app.reload()] {
                    if let Err(error) = read {
                        is_read = false;
                        tracing::error!("what was read before stays in use: {error}");
                    }
                }
                if is_read {
                    tracing::info!("read tokens and certificates again");
                }
            }
        }
    }
}

fn acceptor(manage: &ManageSettings) -> Result<Option<Acceptor>, String> {
    let Some((certificate, key)) = manage.certificate.clone() else { return Ok(None) };
    let (client_ca, is_optional) = (manage.client_ca.clone(), manage.token_file.is_some());
    Acceptor::new(crate::listen::TlsFiles { certificate, key, client_ca, is_optional }).map(Some)
}

async fn app(
    settings: Settings,
    tasks: &TaskTracker,
    stop_following: &CancellationToken,
    stop: &CancellationToken,
) -> Result<App, String> {
    let world = Arc::new(World::default());
    let metrics = Metrics::new().map_err(|error| error.to_string())?;
    let backend = match &settings.storage {
        Storage::Local => {
            let local = Arc::new(Local::new(Arc::clone(&world)));
            let (expiring, stop) = (Arc::clone(&local), stop_following.clone());
            tasks.spawn(async move { expiring.expire(stop).await });
            Backend::Local(local)
        }
        Storage::Etcd(options) => {
            let echo = metrics.echo_seconds.clone();
            let etcd = Etcd::new(options, &settings.prefix, &settings.group, &world, echo, tasks, stop_following);
            let etcd = Arc::new(etcd.map_err(|error| error.to_string())?);
            etcd.follow();
            Backend::Etcd(etcd)
        }
    };
    let (pods, review) = kubernetes(settings.kubernetes.as_ref(), &world, tasks, stop_following).await?;
    let tokens_file = settings.manage.as_ref().and_then(|manage| manage.token_file.clone());
    let sessions = match settings.query.session_tokens {
        SessionTokens::Off => None,
        _ => Some(Sessions::new(settings.query.token_key_file.as_deref())?),
    };
    Ok(App {
        world,
        backend: Arc::new(backend),
        pods,
        review,
        rate: Limit::new(settings.query.rate_limit),
        manage_tokens: tokens_file.as_deref().map(Tokens::read).transpose()?.map(parking_lot::RwLock::new),
        sessions,
        query: settings.query,
        manage: settings.manage,
        compat: settings.compat,
        hosts: settings.hosts,
        access_log: settings.access_log,
        metrics,
        requests: AtomicU64::new(0),
        stop: stop.clone(),
    })
}

/// Starts to follow the pods, if they are to be clients.
#[cfg(feature = "kubernetes")]
async fn kubernetes(
    settings: Option<&KubernetesSettings>,
    world: &World,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(Option<Arc<Pods>>, Option<Review>), String> {
    let Some(settings) = settings else { return Ok((None, None)) };
    let client = crate::kubernetes::connect().await?;
    let pods = Arc::new(Pods::new(&settings.root, Arc::clone(&world.hub)));
    let following = crate::kubernetes::follow(client.clone(), settings.node.clone(), Arc::clone(&pods));
    let stop = stop.clone();
    tasks.spawn(async move { stop.run_until_cancelled(following).await });
    let review = (!settings.audience.is_empty()).then(|| {
        let reviewer = Arc::new(crate::kubernetes::Reviewer::new(client, &settings.audience));
        Review(Arc::new(move |token| {
            let reviewer = Arc::clone(&reviewer);
            Box::pin(async move { reviewer.pod_uid(&token).await })
        }))
    });
    Ok((Some(pods), review))
}

/// The settings refuse it.
#[cfg(not(feature = "kubernetes"))]
async fn kubernetes(
    _: Option<&KubernetesSettings>,
    _: &World,
    _: &TaskTracker,
    _: &CancellationToken,
) -> Result<(Option<Arc<Pods>>, Option<Review>), String> {
    Ok((None, None))
}

/// As metad does: the number alone.
fn write_pid(path: &Path) -> Result<(), String> {
    std::fs::write(path, std::process::id().to_string()).map_err(|error| format!("{}: {error}", path.display()))
}

/// Takes the file away, unless it is another process's by now.
fn remove_pid(path: &PathBuf) {
    let is_own = std::fs::read_to_string(path).is_ok_and(|text| text == std::process::id().to_string());
    if is_own && let Err(error) = std::fs::remove_file(path) {
        tracing::warn!("{}: {error}", path.display());
    }
}

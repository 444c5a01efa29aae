//! Rounds: once, in intervals or on changes. A round processes the resources that are due, and then runs the reload
//! commands of those that changed, each once.
//!
//! What fails is tried again with growing pauses until it succeeds, a reload as well as a resource, so that no change is
//! lost. Signals wait for the round that is under way.

use crate::command::CommandLine;
use crate::process::{self, Outcome, Renderer, Replaced};
use crate::resource::Loaded;
use crate::settings::{Mode, Settings};
use crate::source::Source;
use crate::stage;
use crate::template::strconv;
use crate::wait::Pending;
use futures::StreamExt as _;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Resources that are processed at the same time.
const CONCURRENCY: usize = 8;
/// Pauses after failures.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// Longest time that a signal waits for a round.
const GRACE: Duration = Duration::from_secs(30);

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything is as it should be.
    Success,
    /// With `-noop -diff`: something would change.
    WouldChange,
}

/// Keeps files up to date until it is done or told to end.
///
/// # Errors
/// What confd calls fatal: a source that cannot be opened, resources that cannot be read, in onetime a resource that
/// failed.
pub async fn run(settings: Settings, environment: BTreeMap<String, String>) -> Result<End, String> {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let source = Source::open(&settings, &environment)?;
    let signals = Signals::new().map_err(|error| format!("signals: {error}"))?;
    let environment = Arc::new(environment);
    let runner = Runner { settings, environment, source, items: Vec::new(), reloads: BTreeMap::new() };
    if !runner.settings.confdir.is_dir() {
        let confdir = runner.settings.confdir.display();
        tracing::warn!("Cannot load template resources: confdir '{confdir}' does not exist");
        return Ok(End::Success);
    }
    match runner.settings.mode {
        Mode::Onetime => runner.onetime_or_signal(signals).await,
        Mode::Interval(interval) => runner.keep(Some(interval), signals).await,
        Mode::Watch => runner.keep(None, signals).await,
    }
}

struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The name of the signal that asks for the end.
    async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupt",
            _ = self.terminate.recv() => "terminated",
        }
    }

    /// The name of any signal.
    async fn any(&mut self) -> &'static str {
        self.next().await.unwrap_or("hangup")
    }

    /// The name of the signal that asks for the end, or None for one that asks to read the resources again.
    async fn next(&mut self) -> Option<&'static str> {
        tokio::select! {
            _ = self.hangup.recv() => None,
            _ = self.interrupt.recv() => Some("interrupt"),
            _ = self.terminate.recv() => Some("terminated"),
        }
    }
}

/// A resource and when it is due.
struct Item {
    renderer: Arc<Renderer>,
    /// Changes that wait for others.
    pending: Option<Pending>,
    /// When it is due whatever changes: at first, in intervals, after a failure.
    due: Option<Instant>,
    failures: u32,
}

/// A reload command that has to run.
struct Reload {
    due: Instant,
    failures: u32,
    /// Files that changed, and are marked until it has succeeded.
    dests: BTreeSet<PathBuf>,
}

/// How long to wait after the n-th failure.
fn pause(failures: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
    pause.mul_f64(rand::random_range(0.75..1.0))
}

/// Ends the sleep at a time, or never.
async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

struct Runner {
    settings: Settings,
    environment: Arc<BTreeMap<String, String>>,
    source: Source,
    items: Vec<Item>,
    /// Ordered, so that rounds are alike.
    reloads: BTreeMap<CommandLine, Reload>,
}

impl Runner {
    /// Reads the resources. Those that are as before keep what they know. True if all could be used.
    fn load(&mut self) -> Result<bool, String> {
        let loaded = Loaded::read(&self.settings)?;
        for warning in &loaded.warnings {
            tracing::warn!("{warning}");
        }
        for error in &loaded.errors {
            tracing::error!("{error}");
        }
        if loaded.resources.is_empty() && loaded.errors.is_empty() {
            tracing::warn!("Found no templates");
        }
        let mut old = std::mem::take(&mut self.items);
        for resource in loaded.resources {
            let item = if let Some(at) = old.iter().position(|item| *item.renderer.resource == resource) {
                old.swap_remove(at)
            } else {
                let context = process::context(&self.settings, &self.environment);
                let renderer = Arc::new(Renderer::new(resource, context));
                Item { renderer, pending: None, due: None, failures: 0 }
            };
            self.items.push(item);
        }
        // A command that no resource has any more was removed or corrected. The marker keeps what is owed to the file.
        let lines = self.items.iter().filter_map(|item| {
            // What cannot be filled in never ran.
            process::reload_line(&item.renderer.resource, &self.settings).ok().flatten()
        });
        let lines: BTreeSet<CommandLine> = lines.collect();
        self.reloads.retain(|line, _| lines.contains(line));
        Ok(loaded.errors.is_empty())
    }

    /// [`Runner::onetime`], which any signal ends at once, as it ends confd. Commands that run are ended with it, and a
    /// reload that did not run is left to the next one by its marker.
    async fn onetime_or_signal(self, mut signals: Signals) -> Result<End, String> {
        tokio::select! {
            ended = self.onetime() => ended,
            name = signals.any() => Err(format!("Captured {name}. Exiting before everything is done")),
        }
    }

    async fn onetime(mut self) -> Result<End, String> {
        let all_usable = self.load()?;
        let all = (0..self.items.len()).collect();
        let (failed, would_change) = self.round(all).await;
        match failed {
            Some(error) => Err(error),
            None if !all_usable => Err("some template resources cannot be used".to_owned()),
            None if !self.reloads.is_empty() => Err("a reload command failed".to_owned()),
            None if would_change && self.settings.diff => Ok(End::WouldChange),
            None => Ok(End::Success),
        }
    }

    /// Runs until a signal. With an interval everything is due again and again, without one on changes.
    async fn keep(mut self, interval: Option<Duration>, mut signals: Signals) -> Result<End, String> {
        self.load()?;
        if !self.follow(interval, &mut signals).await {
            return Ok(End::Success);
        }
        let mut next_tick = Some(Instant::now());
        let mut is_ready = false;
        loop {
            let now = Instant::now();
            if next_tick.is_some_and(|tick| tick <= now) {
                if interval.is_some()
                    && is_ready
                    && let Err(error) = self.load()
                {
                    // What was read before still holds.
                    tracing::error!("{error}");
                }
                self.items.iter_mut().for_each(|item| item.due = Some(now));
                next_tick = interval.map(|interval| now + interval);
            }
            if let Some(name) = self.due_round(&mut signals).await {
                return Ok(Self::stop(name));
            }
            if !is_ready {
                is_ready = true;
                notify("READY=1");
            }
            let next = self.next_due().into_iter().chain(next_tick).min();
            tokio::select! {
                change = self.source.changed() => {
                    let now = Instant::now();
                    for item in self.items.iter_mut().filter(|item| change.concerns(&item.renderer.resource)) {
                        item.pending = Some(Pending::add(item.pending, now));
                    }
                }
                () = sleep_until(next) => {}
                name = signals.next() => {
                    if let Some(name) = name {
                        return Ok(Self::stop(name));
                    }
                    tracing::info!("Captured hangup. Reading the template resources again");
                    if let Err(error) = self.load() {
                        tracing::error!("{error}");
                    }
                    if !self.follow(interval, &mut signals).await {
                        return Ok(End::Success);
                    }
                    next_tick = Some(Instant::now());
                }
            }
        }
    }

    fn stop(signal: &str) -> End {
        tracing::info!("Captured {signal}. Exiting...");
        notify("STOPPING=1");
        End::Success
    }

    /// Follows the keys of the resources in watch mode. False if a signal asks for the end meanwhile.
    async fn follow(&mut self, interval: Option<Duration>, signals: &mut Signals) -> bool {
        if interval.is_some() {
            return true;
        }
        let resources: Vec<_> = self.items.iter().map(|item| (*item.renderer.resource).clone()).collect();
        let name = tokio::select! {
            () = self.source.follow(&resources) => return true,
            name = signals.end() => name,
        };
        Self::stop(name);
        false
    }

    /// When something is due next.
    fn next_due(&self) -> Option<Instant> {
        let item_due = |item: &Item| {
            let wait = item.renderer.resource.wait.unwrap_or(self.settings.wait);
            item.pending.map(|pending| pending.due(wait)).into_iter().chain(item.due).min()
        };
        self.items.iter().filter_map(item_due).chain(self.reloads.values().map(|reload| reload.due)).min()
    }

    /// Does what is due. A signal that asks for the end is returned, after the round if it does not take too long.
    async fn due_round(&mut self, signals: &mut Signals) -> Option<&'static str> {
        let now = Instant::now();
        let due = |item: &Item| {
            let wait = item.renderer.resource.wait.unwrap_or(self.settings.wait);
            item.due.is_some_and(|due| due <= now) || item.pending.is_some_and(|pending| pending.due(wait) <= now)
        };
        let due: Vec<usize> = (0..self.items.len()).filter(|&at| due(&self.items[at])).collect();
        if due.is_empty() && !self.reloads.values().any(|reload| reload.due <= now) {
            return None;
        }
        let round = self.round(due);
        finish(round, signals).await
    }

    /// Processes resources, and reloads what has to be. The last error, and whether anything would change.
    async fn round(&mut self, due: Vec<usize>) -> (Option<String>, bool) {
        for &at in &due {
            self.items[at].pending = None;
            self.items[at].due = None;
        }
        let (source, settings) = (&self.source, &self.settings);
        let renderers: Vec<_> = due.iter().map(|&at| self.items[at].renderer.clone()).collect();
        let processed: Vec<_> = futures::stream::iter(renderers)
            .map(|renderer| process::process(renderer, source, settings))
            .buffered(CONCURRENCY)
            .collect()
            .await;
        self.source.end_round();
        let mut failed = None;
        let mut would_change = false;
        let mut changed = Vec::new();
        for (&at, outcome) in due.iter().zip(processed) {
            match outcome {
                Ok(outcome) => {
                    self.items[at].failures = 0;
                    would_change |= matches!(outcome, Outcome::WouldChange);
                    match outcome {
                        Outcome::Changed(replaced) => {
                            if let Some(line) = &replaced.reload {
                                self.has_to_reload(line.clone(), at);
                            }
                            changed.push((at, replaced));
                        }
                        Outcome::NotReloaded(line) => {
                            self.reload_of(line, at);
                        }
                        Outcome::Unchanged | Outcome::WouldChange => {}
                    }
                }
                Err(error) => {
                    tracing::error!("{error}");
                    let item = &mut self.items[at];
                    item.due = Some(Instant::now() + pause(item.failures));
                    item.failures = item.failures.saturating_add(1);
                    failed = Some(error);
                }
            }
        }
        let failed = self.reload(&changed).await.or(failed);
        (failed, would_change)
    }

    /// Notes that a command has to run now, because of this resource.
    fn has_to_reload(&mut self, line: CommandLine, at: usize) {
        self.reload_of(line, at).due = Instant::now();
    }

    /// The command, which is for this resource's file, too. One that waits after a failure goes on waiting.
    fn reload_of(&mut self, line: CommandLine, at: usize) -> &mut Reload {
        let new = || Reload { due: Instant::now(), failures: 0, dests: BTreeSet::new() };
        let reload = self.reloads.entry(line).or_insert_with(new);
        reload.dests.insert(self.items[at].renderer.resource.dest.clone());
        reload
    }

    /// Runs the reload commands that are due, each once. The error tells of files that were put back.
    async fn reload(&mut self, changed: &[(usize, Replaced)]) -> Option<String> {
        let mut failed = None;
        let now = Instant::now();
        let due = self.reloads.iter().filter(|(_, reload)| reload.due <= now);
        let lines: Vec<CommandLine> = due.map(|(line, _)| line.clone()).collect();
        for line in lines {
            let error = match line.run().await {
                Ok(output) => {
                    process::log_output(&output);
                    self.reloaded(&line);
                    continue;
                }
                Err(error) => error,
            };
            tracing::error!("{}", strconv::quote(&error.output));
            tracing::error!("reload command failed, it will run again: {error}");
            if self.roll_back(&line, changed) {
                failed = Some("files are as they were before, because their reload command failed".to_owned());
                match line.run().await {
                    Ok(_) => {
                        self.reloaded(&line);
                        continue;
                    }
                    Err(error) => tracing::error!("reload command failed with the old file, too: {error}"),
                }
            }
            if let Some(reload) = self.reloads.get_mut(&line) {
                reload.due = Instant::now() + pause(reload.failures);
                reload.failures = reload.failures.saturating_add(1);
            }
        }
        failed
    }

    /// Nothing is left to do for a command.
    fn reloaded(&mut self, line: &CommandLine) {
        for dest in self.reloads.remove(line).into_iter().flat_map(|reload| reload.dests) {
            if let Err(error) = stage::unmark(&dest) {
                tracing::error!("{error}");
            }
        }
    }

    /// Puts old files back whose resources ask for it. False if no file was.
    fn roll_back(&self, line: &CommandLine, changed: &[(usize, Replaced)]) -> bool {
        let mut rolled_back = false;
        for (at, replaced) in changed.iter().filter(|(_, replaced)| replaced.reload.as_ref() == Some(line)) {
            let resource = &self.items[*at].renderer.resource;
            if !resource.rollback {
                continue;
            }
            match replaced.undo(&resource.dest) {
                Ok(()) => {
                    rolled_back = true;
                    tracing::warn!("{} is as it was before", resource.dest.display());
                }
                Err(error) => tracing::error!("{} cannot be put back: {error}", resource.dest.display()),
            }
        }
        rolled_back
    }
}

/// Lets a round come to its end after a signal, for a while.
async fn finish(round: impl Future<Output = (Option<String>, bool)>, signals: &mut Signals) -> Option<&'static str> {
    tokio::pin!(round);
    let name = tokio::select! {
        _ = &mut round => return None,
        name = signals.end() => name,
    };
    if tokio::time::timeout(GRACE, round).await.is_err() {
        tracing::warn!("a round is still under way after {GRACE:?}");
    }
    Some(name)
}

/// Tells systemd, if it asked for it.
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Ok(socket) = std::os::unix::net::UnixDatagram::unbound() else { return };
    let bytes = path.as_encoded_bytes();
    let sent = match bytes.strip_prefix(b"@") {
        Some(name) => <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)
            .and_then(|address| socket.send_to_addr(state.as_bytes(), &address)),
        None => socket.send_to(state.as_bytes(), &path),
    };
    if let Err(error) = sent {
        tracing::warn!("NOTIFY_SOCKET: {error}");
    }
}

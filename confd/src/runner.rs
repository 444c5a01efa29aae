//! Rounds: once, in intervals or on changes. A round processes the resources that are due, and then runs the reload
//! commands of those that changed, each once.
//!
//! What fails is tried again with growing pauses until it succeeds, a reload as well as a resource, so that no change is
//! lost. Signals wait for the round that is under way.

mod round;

use crate::command::CommandLine;
use crate::exec::Supervisor;
use crate::process::{self, Renderer};
use crate::resource::Loaded;
use crate::settings::{Mode, Settings};
use crate::source::Source;
use crate::status::Status;
use crate::wait::Pending;
use crate::{children, web};
use round::Round;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

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
    /// The program that was supervised has ended, with this exit code.
    Program(u8),
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
    let status = Arc::new(Status::new().map_err(|error| error.to_string())?);
    let program =
        settings.program.clone().map(Supervisor::new).transpose().map_err(|error| format!("signals: {error}"))?;
    // They end with this function.
    let mut beside = JoinSet::new();
    if let Some(address) = settings.metrics_addr {
        beside.spawn(web::serve(web::bind(address).await?, status.clone()));
    }
    beside.spawn(children::reap());
    let (items, reloads) = (Vec::new(), BTreeMap::new());
    let environment = Arc::new(environment);
    let runner = Runner { settings, environment, source, items, all_usable: true, reloads, status, program };
    if !runner.settings.confdir.is_dir() {
        let confdir = runner.settings.confdir.display();
        tracing::warn!("Cannot load template resources: confdir '{confdir}' does not exist");
        return Ok(End::Success);
    }
    match runner.settings.mode {
        Mode::Onetime => runner.onetime_or_signal(signals).await,
        Mode::Interval(interval) => runner.keep(Some(interval), false, signals).await,
        Mode::Watch(interval) => runner.keep(interval, true, signals).await,
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
    /// False if some files of resources cannot be used.
    all_usable: bool,
    /// Ordered, so that rounds are alike.
    reloads: BTreeMap<CommandLine, Reload>,
    status: Arc<Status>,
    program: Option<Supervisor>,
}

impl Runner {
    /// Reads the resources. Those that are as before keep what they know.
    fn load(&mut self) -> Result<(), String> {
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
        self.all_usable = loaded.errors.is_empty();
        let keys: BTreeSet<&String> = self.items.iter().flat_map(|item| &item.renderer.resource.keys).collect();
        self.status.loaded.set(i64::try_from(self.items.len()).unwrap_or(i64::MAX));
        self.status.watched_keys.set(i64::try_from(keys.len()).unwrap_or(i64::MAX));
        self.status.set_loaded(loaded.errors.len(), keys.first().and_then(|key| self.source.prober(key)));
        Ok(())
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
        self.load()?;
        let all = (0..self.items.len()).collect();
        let round = self.round(all).await;
        match round.failed {
            Some(error) => Err(error),
            None if !self.all_usable => Err("some template resources cannot be used".to_owned()),
            None if !self.reloads.is_empty() => Err("a reload command failed".to_owned()),
            None if round.would_change && self.settings.diff => Ok(End::WouldChange),
            None => Ok(End::Success),
        }
    }

    /// Runs until a signal, or until the program that is supervised has ended. With an interval everything is due again and
    /// again; with a watch resources are due on changes.
    async fn keep(mut self, interval: Option<Duration>, watch: bool, mut signals: Signals) -> Result<End, String> {
        let mut systemd = Systemd::new();
        self.load()?;
        if let Err(name) = self.follow(watch, &mut signals, &mut systemd).await {
            return Ok(self.stop(name, &systemd).await);
        }
        let mut next_tick = Some(Instant::now());
        let mut is_ready = false;
        loop {
            self.tick(&mut next_tick, interval, is_ready && !watch);
            let round = match self.due_round(&mut signals, &mut systemd).await {
                Ok(round) => round,
                Err(name) => return Ok(self.stop(name, &systemd).await),
            };
            match self.tell_program(&round, &mut signals, &mut systemd).await {
                Told::Done => {}
                Told::Signal(name) => return Ok(self.stop(name, &systemd).await),
                Told::Failed(error) => return Err(error),
            }
            if !is_ready {
                is_ready = true;
                self.status.set_started();
                systemd.tell(notify::State::Ready);
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
                () = systemd.alive() => {}
                code = Supervisor::watch(self.program.as_mut()) => {
                    systemd.tell(notify::State::Stopping);
                    return Ok(End::Program(code));
                }
                name = signals.next() => {
                    if let Some(name) = name {
                        return Ok(self.stop(name, &systemd).await);
                    }
                    tracing::info!("Captured hangup. Reading the template resources again");
                    systemd.tell(notify::State::Reloading);
                    if let Err(error) = self.load() {
                        tracing::error!("{error}");
                    }
                    if let Err(name) = self.follow(watch, &mut signals, &mut systemd).await {
                        return Ok(self.stop(name, &systemd).await);
                    }
                    systemd.tell(notify::State::Ready);
                    next_tick = Some(Instant::now());
                }
            }
        }
    }

    /// Lets everything be due if it is time for that. In intervals the resources are read again, too.
    fn tick(&mut self, next_tick: &mut Option<Instant>, interval: Option<Duration>, reads_again: bool) {
        let now = Instant::now();
        if next_tick.is_none_or(|tick| tick > now) {
            return;
        }
        if reads_again && let Err(error) = self.load() {
            // What was read before still holds.
            tracing::error!("{error}");
        }
        self.items.iter_mut().for_each(|item| item.due = Some(now));
        *next_tick = interval.map(|interval| now + interval);
    }

    /// Starts the program once all files are there, and tells it of changes later.
    async fn tell_program(&mut self, round: &Round, signals: &mut Signals, systemd: &mut Systemd) -> Told {
        let Some(program) = &mut self.program else { return Told::Done };
        let is_first = !program.is_running();
        let all_are_there = || self.items.iter().all(|item| item.failures == 0 && item.due.is_none());
        let is_due = if is_first { self.all_usable && all_are_there() } else { round.concerns_program };
        if !is_due {
            return Told::Done;
        }
        if is_first || program.restarts_on_change() {
            self.status.program_starts.inc();
        }
        let told = if is_first {
            program.start()
        } else {
            let mut changed = Box::pin(program.changed());
            loop {
                tokio::select! {
                    told = &mut changed => break told,
                    name = signals.end() => return Told::Signal(name),
                    () = systemd.alive() => {}
                }
            }
        };
        self.report();
        told.map_or_else(Told::Failed, |()| Told::Done)
    }

    /// Ends the program, if there is one, and says so.
    async fn stop(&mut self, signal: &str, systemd: &Systemd) -> End {
        tracing::info!("Captured {signal}. Exiting...");
        systemd.tell(notify::State::Stopping);
        match &mut self.program {
            Some(program) => End::Program(program.stop().await),
            None => End::Success,
        }
    }

    /// Follows the keys of the resources, if there is a watch. An error is a signal that asks for the end meanwhile.
    async fn follow(&mut self, watch: bool, signals: &mut Signals, systemd: &mut Systemd) -> Result<(), &'static str> {
        if !watch {
            return Ok(());
        }
        let resources: Vec<_> = self.items.iter().map(|item| (*item.renderer.resource).clone()).collect();
        let mut followed = Box::pin(self.source.follow(&resources));
        loop {
            tokio::select! {
                () = &mut followed => return Ok(()),
                name = signals.end() => return Err(name),
                () = systemd.alive() => {}
            }
        }
    }

    /// When something is due next.
    fn next_due(&self) -> Option<Instant> {
        let item_due = |item: &Item| {
            let wait = item.renderer.resource.wait.unwrap_or(self.settings.wait);
            item.pending.map(|pending| pending.due(wait)).into_iter().chain(item.due).min()
        };
        self.items.iter().filter_map(item_due).chain(self.reloads.values().map(|reload| reload.due)).min()
    }

    /// Does what is due. An error is a signal that asks for the end, after the round if it does not take too long.
    async fn due_round(&mut self, signals: &mut Signals, systemd: &mut Systemd) -> Result<Round, &'static str> {
        let now = Instant::now();
        let due = |item: &Item| {
            let wait = item.renderer.resource.wait.unwrap_or(self.settings.wait);
            item.due.is_some_and(|due| due <= now) || item.pending.is_some_and(|pending| pending.due(wait) <= now)
        };
        let due: Vec<usize> = (0..self.items.len()).filter(|&at| due(&self.items[at])).collect();
        if due.is_empty() && !self.reloads.values().any(|reload| reload.due <= now) {
            return Ok(Round::default());
        }
        finish(self.round(due), signals, systemd).await
    }
}

/// What became of telling the program.
enum Told {
    Done,
    /// It asks for the end.
    Signal(&'static str),
    /// The program cannot be started.
    Failed(String),
}

/// Lets a round come to its end after a signal, for a while.
async fn finish(
    round: impl Future<Output = Round>,
    signals: &mut Signals,
    systemd: &mut Systemd,
) -> Result<Round, &'static str> {
    tokio::pin!(round);
    let name = loop {
        tokio::select! {
            round = &mut round => return Ok(round),
            name = signals.end() => break name,
            () = systemd.alive() => {}
        }
    };
    if tokio::time::timeout(GRACE, round).await.is_err() {
        tracing::warn!("a round is still under way after {GRACE:?}");
    }
    Err(name)
}

/// Word to systemd, if it asked for it.
struct Systemd {
    socket: Option<OsString>,
    /// Between two signs of life.
    watchdog: Option<tokio::time::Interval>,
}

impl Systemd {
    fn new() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let (usec, pid) = (variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"));
        let interval = notify::watchdog_interval(usec.as_deref(), pid.as_deref());
        Self { socket: std::env::var_os(notify::SOCKET), watchdog: interval.map(tokio::time::interval) }
    }

    fn tell(&self, state: notify::State) {
        if let Err(error) = notify::send(self.socket.as_deref(), state) {
            tracing::warn!("{}: {error}", notify::SOCKET);
        }
    }

    /// Gives a sign of life when it is time for one; never, if nobody wants any. Cancel safe.
    async fn alive(&mut self) {
        match &mut self.watchdog {
            Some(watchdog) => {
                watchdog.tick().await;
                self.tell(notify::State::Alive);
            }
            None => std::future::pending().await,
        }
    }
}

//! Rounds: once, in intervals or on changes. A round processes the resources that are due, and then runs the reload
//! commands of those that changed, each once.
//!
//! What fails is tried again with growing pauses until it succeeds, a reload as well as a resource, so that no change is
//! lost. Signals wait for the round that is under way; the program that is supervised does not (`runner/outside.rs`).

mod outside;
mod round;

pub use outside::End;

use crate::command::CommandLine;
use crate::exec::Supervisor;
use crate::process::{self, Renderer};
use crate::resource::Loaded;
use crate::settings::{Mode, Settings};
use crate::source::Source;
use crate::status::Status;
use crate::wait::Pending;
use crate::{children, web};
use outside::{Ended, Outside, Signals};
use round::Round;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Resources that are processed at the same time.
const CONCURRENCY: usize = 8;
/// Pauses after failures.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Keeps files up to date until it is done or told to end.
///
/// # Errors
/// What confd calls fatal: a source that cannot be opened, resources that cannot be read, in onetime a resource that
/// failed.
pub async fn run(settings: Settings, environment: BTreeMap<String, String>) -> Result<End, String> {
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let status = Arc::new(Status::new().map_err(|error| error.to_string())?);
    let source = Source::open(&settings, &environment, status.backend_errors.clone()).await?;
    let signals = Signals::new().map_err(|error| format!("signals: {error}"))?;
    let program =
        settings.program.clone().map(Supervisor::new).transpose().map_err(|error| format!("signals: {error}"))?;
    // They end with this function.
    let mut beside = JoinSet::new();
    if let Some(address) = settings.metrics_addr {
        beside.spawn(web::serve(web::bind(address).await?, status.clone()));
    }
    beside.spawn(children::reap());
    let (items, reloads, reloaded) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
    let environment = Arc::new(environment);
    let runner = Runner { settings, environment, source, items, all_usable: true, reloads, reloaded, status };
    if !runner.settings.confdir.is_dir() {
        let confdir = runner.settings.confdir.display();
        tracing::warn!("Cannot load template resources: confdir '{confdir}' does not exist");
        return Ok(End::Success);
    }
    match runner.settings.mode {
        Mode::Onetime => runner.onetime_or_signal(signals).await,
        Mode::Interval(interval) => runner.keep(Some(interval), false, Outside::new(signals, program)).await,
        Mode::Watch(interval) => runner.keep(interval, true, Outside::new(signals, program)).await,
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
    /// When commands ran last that must not run again so soon.
    reloaded: BTreeMap<CommandLine, Instant>,
    status: Arc<Status>,
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
        self.reloaded.retain(|line, _| lines.contains(line));
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
            1.. => Err(format!("{} of {} template resources failed", round.failed, self.items.len())),
            0 if round.was_put_back => {
                Err("files are as they were before, because their reload command failed".to_owned())
            }
            0 if !self.all_usable => Err("some template resources cannot be used".to_owned()),
            0 if !self.reloads.is_empty() => Err("a reload command failed".to_owned()),
            0 if round.would_change && self.settings.diff => Ok(End::WouldChange),
            0 => Ok(End::Success),
        }
    }

    /// Runs until a signal, or until the program that is supervised has ended. With an interval everything is due again and
    /// again; with a watch resources are due on changes.
    async fn keep(mut self, interval: Option<Duration>, watch: bool, mut outside: Outside) -> Ended {
        let Err(ended) = self.rounds(interval, watch, &mut outside).await;
        ended
    }

    async fn rounds(
        &mut self,
        interval: Option<Duration>,
        watch: bool,
        outside: &mut Outside,
    ) -> Result<Infallible, Ended> {
        self.status.set_program(outside.program.as_ref().map(Supervisor::is_running));
        self.load().map_err(Err)?;
        self.follow(watch, outside).await?;
        let mut next_tick = Some(Instant::now());
        let (mut is_ready, mut was_read) = (false, true);
        loop {
            // At first and after a hangup the resources were read for this tick.
            let reads_again = !watch && !std::mem::take(&mut was_read);
            self.tick(&mut next_tick, interval, reads_again);
            let round = self.due_round(outside).await?;
            self.tell_program(&round, outside).await?;
            if !is_ready {
                is_ready = true;
                self.status.set_started();
                outside.systemd.tell(notify::State::Ready);
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
                stop = outside.next() => {
                    if let Some(stop) = stop {
                        return Err(outside.stop(stop).await);
                    }
                    tracing::info!("Captured hangup. Reading the template resources again");
                    outside.systemd.tell(notify::State::Reloading);
                    if let Err(error) = self.load() {
                        tracing::error!("{error}");
                    }
                    self.follow(watch, outside).await?;
                    outside.systemd.tell(notify::State::Ready);
                    (next_tick, was_read) = (Some(Instant::now()), true);
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
    async fn tell_program(&self, round: &Round, outside: &mut Outside) -> Result<(), Ended> {
        let Some(program) = &mut outside.program else { return Ok(()) };
        let all_are_there = || self.items.iter().all(|item| item.failures == 0 && item.due.is_none());
        let was_started = if program.is_running() {
            round.concerns_program && outside.files_changed().await?
        } else if self.all_usable && all_are_there() {
            program.start().map_err(Err)?;
            true
        } else {
            false
        };
        if was_started {
            self.status.program_starts.inc();
        }
        self.status.set_program(outside.program.as_ref().map(Supervisor::is_running));
        Ok(())
    }

    /// Follows the keys of the resources, if there is a watch.
    async fn follow(&mut self, watch: bool, outside: &mut Outside) -> Result<(), Ended> {
        if !watch {
            return Ok(());
        }
        let resources: Vec<_> = self.items.iter().map(|item| (*item.renderer.resource).clone()).collect();
        outside.unless_ended(self.source.follow(&resources)).await
    }

    /// When something is due next.
    fn next_due(&self) -> Option<Instant> {
        let item_due = |item: &Item| {
            let wait = item.renderer.resource.wait.unwrap_or(self.settings.wait);
            item.pending.map(|pending| pending.due(wait)).into_iter().chain(item.due).min()
        };
        self.items.iter().filter_map(item_due).chain(self.reloads.values().map(|reload| reload.due)).min()
    }

    /// Does what is due. A signal that asks for the end waits for it, if it does not take too long.
    async fn due_round(&mut self, outside: &mut Outside) -> Result<Round, Ended> {
        let now = Instant::now();
        let due = |item: &Item| {
            let wait = item.renderer.resource.wait.unwrap_or(self.settings.wait);
            item.due.is_some_and(|due| due <= now) || item.pending.is_some_and(|pending| pending.due(wait) <= now)
        };
        let due: Vec<usize> = (0..self.items.len()).filter(|&at| due(&self.items[at])).collect();
        if due.is_empty() && !self.reloads.values().any(|reload| reload.due <= now) {
            return Ok(Round::default());
        }
        outside.despite_the_end(self.round(due)).await
    }
}

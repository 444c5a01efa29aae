//! One round: the resources that are due are processed, then the reload commands of those that changed run.

use super::{CONCURRENCY, Item, Reload, Runner, pause};
use crate::command::{CommandError, CommandLine};
use crate::process::{self, Outcome, Renderer, Replaced};
use crate::settings::Settings;
use crate::source::Source;
use crate::stage;
use crate::status::{ReloadState, ResourceState, Status};
use futures::StreamExt as _;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Files of one reload command that its failure names.
const SHOWN_DESTS: usize = 3;

/// What became of a round.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// How many resources failed.
    pub(super) failed: usize,
    /// True if files are as they were before, because their reload command failed.
    pub(super) was_put_back: bool,
    /// True if something would change, if anything did.
    pub(super) would_change: bool,
    /// True if files have changed that no reload command tells of.
    pub(super) concerns_program: bool,
}

async fn timed(
    renderer: Arc<Renderer>,
    source: &Source,
    settings: &Settings,
    status: &Status,
) -> Result<Outcome, String> {
    let began = Instant::now();
    let resource = renderer.resource.clone();
    let dest = resource.dest.display().to_string();
    let outcome = process::process(renderer, source, settings, status)
        .await
        // Templates of several resources may have one name, and commands have none.
        .map_err(|error| format!("{}: {error}", resource.path.display()));
    status.process_seconds.observe(began.elapsed().as_secs_f64());
    let how = if outcome.is_ok() { "success" } else { "error" };
    status.processed.with_label_values(&[dest.as_str(), how]).inc();
    if matches!(outcome, Ok(Outcome::Changed(_))) {
        status.changed.inc();
    }
    outcome
}

/// The first files of several, for a log line.
fn shown(dests: &BTreeSet<PathBuf>) -> String {
    let first: Vec<String> = dests.iter().take(SHOWN_DESTS).map(|dest| dest.display().to_string()).collect();
    let more = dests.len() - first.len();
    if more == 0 { first.join(", ") } else { format!("{} and {more} more", first.join(", ")) }
}

impl Runner {
    /// Processes resources, and reloads what has to be.
    pub(super) async fn round(&mut self, due: Vec<usize>) -> Round {
        for &at in &due {
            self.items[at].pending = None;
            self.items[at].due = None;
        }
        let (source, settings, status) = (&self.source, &self.settings, &*self.status);
        let renderers: Vec<_> = due.iter().map(|&at| self.items[at].renderer.clone()).collect();
        let processed: Vec<_> = futures::stream::iter(renderers)
            .map(|renderer| timed(renderer, source, settings, status))
            .buffered(CONCURRENCY)
            .collect()
            .await;
        self.source.end_round();
        let mut round = Round::default();
        let mut changed = Vec::new();
        for (&at, outcome) in due.iter().zip(processed) {
            match outcome {
                Ok(outcome) => {
                    if !matches!(outcome, Outcome::Changed(_)) {
                        self.items[at].failures = 0;
                    }
                    round.would_change |= matches!(outcome, Outcome::WouldChange);
                    match outcome {
                        Outcome::Changed(replaced) => {
                            match &replaced.reload {
                                Some(line) => self.has_to_reload(line.clone(), at),
                                None => round.concerns_program |= self.items[at].renderer.resource.reload.is_none(),
                            }
                            changed.push((at, Arc::new(replaced)));
                        }
                        Outcome::NotReloaded(line) => {
                            self.reload_of(line, at);
                        }
                        Outcome::Unchanged | Outcome::WouldChange => {}
                    }
                }
                Err(error) => {
                    tracing::error!("{error}");
                    self.failed(at);
                    round.failed += 1;
                }
            }
        }
        let put_back = self.reload(&changed).await;
        for (at, _) in changed {
            // What was put back is not as it should be, and is tried again.
            if put_back.contains(&at) { self.failed(at) } else { self.items[at].failures = 0 }
        }
        round.was_put_back = !put_back.is_empty();
        self.report();
        round
    }

    /// Notes a failure of a resource, which is due again after a pause.
    fn failed(&mut self, at: usize) {
        let item = &mut self.items[at];
        item.due = Some(Instant::now() + pause(item.failures));
        item.failures = item.failures.saturating_add(1);
    }

    /// Tells the status how things are.
    fn report(&self) {
        let state = |item: &Item| ResourceState { resource: item.renderer.resource.clone(), failures: item.failures };
        let reload =
            |reload: &Reload| ReloadState { dests: reload.dests.iter().cloned().collect(), failures: reload.failures };
        let (resources, reloads) = (self.items.iter().map(state), self.reloads.values().map(reload));
        self.status.set(resources.collect(), reloads.collect());
    }

    /// Notes that a command has to run because of this resource: now, or when the resource lets it run again.
    fn has_to_reload(&mut self, line: CommandLine, at: usize) {
        let pause = self.items[at].renderer.resource.min_reload_interval;
        let (now, earliest) = (Instant::now(), self.reloaded.get(&line).map(|last| *last + pause));
        self.reload_of(line, at).due = earliest.map_or(now, |earliest| earliest.max(now));
    }

    /// The command, which is for this resource's file, too. One that waits after a failure goes on waiting.
    fn reload_of(&mut self, line: CommandLine, at: usize) -> &mut Reload {
        let new = || Reload { due: Instant::now(), failures: 0, dests: BTreeSet::new() };
        let reload = self.reloads.entry(line).or_insert_with(new);
        reload.dests.insert(self.items[at].renderer.resource.dest.clone());
        reload
    }

    /// Runs the reload commands that are due, each once. The items whose files were put back.
    async fn reload(&mut self, changed: &[(usize, Arc<Replaced>)]) -> BTreeSet<usize> {
        let mut put_back = BTreeSet::new();
        let now = Instant::now();
        let due = self.reloads.iter().filter(|(_, reload)| reload.due <= now);
        let lines: Vec<CommandLine> = due.map(|(line, _)| line.clone()).collect();
        for line in lines {
            let error = match self.run_reload(&line).await {
                Ok(output) => {
                    process::log_output(&output);
                    self.reloaded(&line);
                    continue;
                }
                Err(error) => error,
            };
            process::log_failed_output(&error);
            let dests = self.reloads.get(&line).map(|reload| shown(&reload.dests)).unwrap_or_default();
            tracing::error!("{dests}: reload command failed, it will run again: {error}");
            let rolled_back = self.roll_back(&line, changed).await;
            if !rolled_back.is_empty() {
                put_back.extend(rolled_back);
                match self.run_reload(&line).await {
                    Ok(_) => {
                        self.reloaded(&line);
                        continue;
                    }
                    Err(error) => {
                        tracing::error!("{dests}: reload command failed with the old file, too: {error}");
                    }
                }
            }
            if let Some(reload) = self.reloads.get_mut(&line) {
                reload.due = Instant::now() + pause(reload.failures);
                reload.failures = reload.failures.saturating_add(1);
            }
        }
        put_back
    }

    async fn run_reload(&self, line: &CommandLine) -> Result<Vec<u8>, CommandError> {
        process::measured(line, "reload", &self.status).await
    }

    /// Nothing is left to do for a command.
    fn reloaded(&mut self, line: &CommandLine) {
        if self.items.iter().any(|item| !item.renderer.resource.min_reload_interval.is_zero()) {
            self.reloaded.insert(line.clone(), Instant::now());
        }
        for dest in self.reloads.remove(line).into_iter().flat_map(|reload| reload.dests) {
            if let Err(error) = stage::unmark(&dest) {
                tracing::error!("{error}");
            }
        }
    }

    /// Puts old files back whose resources ask for it. The items of those that were.
    async fn roll_back(&self, line: &CommandLine, changed: &[(usize, Arc<Replaced>)]) -> Vec<usize> {
        let mut put_back = Vec::new();
        for (at, replaced) in changed.iter().filter(|(_, replaced)| replaced.reload.as_ref() == Some(line)) {
            let (resource, replaced) = (self.items[*at].renderer.resource.clone(), replaced.clone());
            if !resource.rollback {
                continue;
            }
            let dest = resource.dest.display();
            let blocking = resource.clone();
            let undone = tokio::task::spawn_blocking(move || replaced.undo(&blocking.dest)).await;
            match undone.map_err(std::io::Error::other).flatten() {
                Ok(()) => {
                    put_back.push(*at);
                    tracing::warn!("{dest} is as it was before");
                }
                Err(error) => tracing::error!("{dest} cannot be put back: {error}"),
            }
        }
        put_back
    }
}

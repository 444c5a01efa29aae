//! One round: the resources that are due are processed, then the reload commands of those that changed run.

use super::{CONCURRENCY, Item, Reload, Runner, pause};
use crate::command::{CommandError, CommandLine};
use crate::exec::Supervisor;
use crate::process::{self, Outcome, Renderer, Replaced};
use crate::settings::Settings;
use crate::source::Source;
use crate::stage;
use crate::status::{ReloadState, ResourceState, Status};
use crate::template::strconv;
use futures::StreamExt as _;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// What became of a round.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// The last error.
    pub(super) failed: Option<String>,
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
    let dest = renderer.resource.dest.display().to_string();
    let outcome = process::process(renderer, source, settings, status).await;
    status.process_seconds.observe(began.elapsed().as_secs_f64());
    let how = if outcome.is_ok() { "success" } else { "error" };
    status.processed.with_label_values(&[dest.as_str(), how]).inc();
    if matches!(outcome, Ok(Outcome::Changed(_))) {
        status.changed.inc();
    }
    outcome
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
                    self.items[at].failures = 0;
                    round.would_change |= matches!(outcome, Outcome::WouldChange);
                    match outcome {
                        Outcome::Changed(replaced) => {
                            match &replaced.reload {
                                Some(line) => self.has_to_reload(line.clone(), at),
                                None => round.concerns_program |= self.items[at].renderer.resource.reload.is_none(),
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
                    round.failed = Some(error);
                }
            }
        }
        round.failed = self.reload(&changed).await.or(round.failed);
        self.report();
        round
    }

    /// Tells the status how things are.
    pub(super) fn report(&self) {
        let state = |item: &Item| ResourceState {
            path: item.renderer.resource.path.clone(),
            dest: item.renderer.resource.dest.clone(),
            failures: item.failures,
        };
        let reload =
            |reload: &Reload| ReloadState { dests: reload.dests.iter().cloned().collect(), failures: reload.failures };
        let program_runs = self.program.as_ref().map(Supervisor::is_running);
        let (resources, reloads) = (self.items.iter().map(state), self.reloads.values().map(reload));
        self.status.set(resources.collect(), reloads.collect(), program_runs);
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
            let error = match self.run_reload(&line).await {
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
                match self.run_reload(&line).await {
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

    async fn run_reload(&self, line: &CommandLine) -> Result<Vec<u8>, CommandError> {
        process::measured(line, "reload", &self.status).await
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

//! Judges a [`History`] by what etcd promises.
//!
//! The watchers together tell every change in the order of revisions ([`watch`]). Replaying that gives the state at
//! each revision, and each answer, each key-value before a change and each outcome is compared with it ([`replay`]).
//! Times say what an answer had to include and what it could not yet know ([`order`]). Leases have a clock
//! ([`lease`]). Beside all that, [`search`] forgets the revisions and looks for an order of the operations of each key
//! that explains all answers, including those that nobody knows the outcome of.
//!
//! Pure functions over plain data: the tests feed it histories that are wrong in one place.

mod lease;
mod order;
mod replay;
mod search;
#[cfg(test)]
mod tests;
mod watch;

use crate::history::{Event, History, Nanos, Op, Outcome};
use std::collections::BTreeMap;
use std::fmt;

/// Violations of one rule beyond this are counted, not told.
const MAX_TOLD: usize = 200;

/// A promise of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// An acknowledged write is in the history, as it was asked for.
    LostWrite,
    /// A linearizable read has everything that was acknowledged before it began.
    StaleRead,
    /// A read has the state at the revision of its header.
    WrongRead,
    /// Two acknowledged writes have two revisions.
    DuplicateRevision,
    /// Who begins after another's end has the higher revision.
    RealTime,
    /// Nobody knows a write that was not called yet.
    Future,
    /// A write happens once, and one that failed never.
    Effect,
    /// A change without a request that asked for it.
    Unexplained,
    /// A transaction takes the branch that the state demands.
    Compare,
    /// Key-values carry the right create revision, version, lease and previous key-value.
    WrongKeyValue,
    /// A watcher is told revisions in ascending order.
    WatchOrder,
    /// A watcher is told each change once.
    WatchUnique,
    /// A watcher is told a revision in one response.
    WatchAtomic,
    /// A watcher is told every revision.
    WatchGap,
    /// All watchers are told the same.
    WatchAgree,
    /// A progress answer comes after all events up to its revision.
    Bookmark,
    /// Keys of a lease live at least as long as it was granted for.
    LeaseEarly,
    /// Keys of a lease that nobody renews go.
    LeaseLate,
    /// All keys of a lease go at one revision.
    LeaseTorn,
    /// Some order of the operations explains all answers.
    Linearizable,
}

/// One broken promise.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The promise.
    pub rule: Rule,
    /// What was seen, and what would have been right.
    pub text: String,
}

/// The verdict.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Broken promises; empty is good.
    pub violations: Vec<Violation>,
    /// Operations that were answered, and changed something.
    pub acknowledged_writes: usize,
    /// Linearizable reads that were answered.
    pub linearizable_reads: usize,
    /// Serializable reads that were answered.
    pub serializable_reads: usize,
    /// Operations of unknown outcome.
    pub unknown: usize,
    /// Revisions in the history.
    pub revisions: usize,
    /// Watchers.
    pub watchers: usize,
    /// Leases.
    pub leases: usize,
    /// Requests that retries did not absorb.
    pub failed_requests: usize,
    /// Keys whose operations were put into an order without looking at revisions.
    pub searched: usize,
    /// Keys whose search was given up at its limit.
    pub search_given_up: usize,
}

impl Report {
    fn add(&mut self, rule: Rule, text: impl FnOnce() -> String) {
        if self.count(rule) < MAX_TOLD {
            self.violations.push(Violation { rule, text: text() });
        }
    }

    /// How often a rule was broken.
    pub fn count(&self, rule: Rule) -> usize {
        self.violations.iter().filter(|violation| violation.rule == rule).count()
    }

    /// The first violations, one a line.
    pub fn told(&self, most: usize) -> String {
        let told = self.violations.iter().take(most);
        let mut lines: Vec<String> =
            told.map(|violation| format!("{:?}: {}", violation.rule, violation.text)).collect();
        if self.violations.len() > most {
            lines.push(format!("... and {} more", self.violations.len() - most));
        }
        lines.join("\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged writes lost of {}, {} stale linearizable reads of {}, {} violations; \
             {} serializable reads, {} unknown outcomes, {} failed requests, \
             {} revisions seen by {} watchers, {} leases, {} keys searched ({} given up)",
            self.count(Rule::LostWrite),
            self.acknowledged_writes,
            self.count(Rule::StaleRead),
            self.linearizable_reads,
            self.violations.len(),
            self.serializable_reads,
            self.unknown,
            self.failed_requests,
            self.revisions,
            self.watchers,
            self.leases,
            self.searched,
            self.search_given_up,
        )
    }
}

/// All changes of one revision.
#[derive(Clone, Debug, Default)]
struct Change {
    events: Vec<Event>,
    /// When a watcher first heard of it: it happened before that.
    seen: Nanos,
    /// When the operation that caused it was called, once [`replay`] has found it: it happened after that.
    cause: Option<Nanos>,
    /// The lease whose end caused it.
    lease: Option<i64>,
}

/// All changes, by revision.
type Log = BTreeMap<i64, Change>;

/// Checks a history against every rule.
pub fn check(history: &History) -> Report {
    let answered =
        |wanted: &dyn Fn(&Op) -> bool| history.ops.iter().filter(|op| op.answer().is_some() && wanted(op)).count();
    let reads = answered(&|op| !op.is_write());
    let linearizable_reads = answered(&Op::is_linearizable_read);
    let mut leases: Vec<i64> = history.leases.iter().map(|op| op.lease).collect();
    leases.sort_unstable();
    leases.dedup();
    let mut report = Report {
        acknowledged_writes: answered(&Op::changed),
        linearizable_reads,
        serializable_reads: reads - linearizable_reads,
        unknown: history.ops.iter().filter(|op| matches!(op.outcome, Outcome::Unknown(_))).count(),
        watchers: history.watches.len(),
        leases: leases.len(),
        failed_requests: history.failed_requests,
        ..Report::default()
    };
    let mut log = watch::merge(history, &mut report);
    report.revisions = log.len();
    replay::check(history, &mut log, &mut report);
    order::check(history, &log, &mut report);
    lease::check(history, &log, &mut report);
    search::check(history, &mut report);
    report
}

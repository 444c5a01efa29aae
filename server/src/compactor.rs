//! Auto compaction: proposes compactions by age or by count, while this member leads.

use crate::config::AutoCompaction;
use crate::node::Node;
use api::cleatpb::command::Op;
use api::error::Error;
use api::etcdserverpb::CompactionRequest;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Longest time between two periodic compactions.
const PERIODIC_MAX: Duration = Duration::from_hours(1);

/// Samples, and retries after an error, within one interval between compactions.
const SAMPLES: u32 = 10;

/// Time between two compactions by count.
const REVISION_INTERVAL: Duration = Duration::from_mins(5);

/// Runs until the member stops.
pub(crate) async fn run(node: Node, mode: AutoCompaction, stop: CancellationToken) {
    tokio::select! {
        () = async {
            match mode {
                AutoCompaction::Periodic(period) => periodic(&node, period).await,
                AutoCompaction::Revision(keep) => revision(&node, keep).await,
            }
        } => {}
        () = stop.cancelled() => {}
    }
}

/// What periodic compaction remembers: the store's revision at regular moments, for one period.
struct Samples {
    revisions: VecDeque<i64>,
    keep: usize,
}

impl Samples {
    fn new(period: Duration, interval: Duration) -> Self {
        let keep = (period.as_secs_f64() / interval.as_secs_f64()) as usize + 1;
        Self { revisions: VecDeque::with_capacity(keep + 1), keep }
    }

    fn push(&mut self, revision: i64) {
        self.revisions.push_back(revision);
        if self.revisions.len() > self.keep {
            self.revisions.pop_front();
        }
    }

    /// The oldest revision remembered.
    fn oldest(&self) -> Option<i64> {
        self.revisions.front().copied()
    }
}

async fn periodic(node: &Node, period: Duration) {
    let compact_every = period.min(PERIODIC_MAX);
    let sample_every = compact_every / SAMPLES;
    let mut samples = Samples::new(period, sample_every);
    let mut due = Instant::now() + period;
    samples.push(node.reader().revision());
    loop {
        tokio::time::sleep(sample_every).await;
        samples.push(node.reader().revision());
        if Instant::now() < due || !node.is_leader() {
            continue;
        }
        let Some(revision) = samples.oldest() else { continue };
        if compact(node, revision).await {
            due = Instant::now() + compact_every;
        }
    }
}

async fn revision(node: &Node, keep: i64) {
    loop {
        tokio::time::sleep(REVISION_INTERVAL).await;
        let revision = node.reader().revision() - keep;
        if revision > 0 && node.is_leader() {
            compact(node, revision).await;
        }
    }
}

/// True when everything below `revision` is compacted, by this call or before.
async fn compact(node: &Node, revision: i64) -> bool {
    let request = CompactionRequest { revision, physical: false };
    let answer = node.propose_own(Op::Compaction(request)).await.and_then(|outcome| outcome.result.map(drop));
    match answer {
        Ok(()) => {
            tracing::info!(compact_revision = revision, "auto compaction");
            true
        }
        Err(Error::Compacted) => true,
        Err(error) => {
            tracing::warn!(%error, compact_revision = revision, "auto compaction failed, trying again");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_period_is_remembered() {
        let mut samples = Samples::new(Duration::from_hours(1), Duration::from_mins(6));
        for revision in 1..=30 {
            samples.push(revision);
        }
        assert_eq!(samples.oldest(), Some(20));
    }
}

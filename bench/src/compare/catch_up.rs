//! The workload of a member that missed so many writes that the others' logs alone cannot serve it.
//!
//! A follower is stopped, keys are put through the other members, and the time counts from its start until it has applied
//! what the leader had at that moment.

use anyhow::{Context as _, bail};
use indicatif::ProgressBar;
use tokio::time::Instant;

use super::cluster::Cluster;
use super::plan::{Kind, Metric, Workload};
use super::probe;
use super::servers::{Ending, POLL_INTERVAL};
use super::session::{FILL_DEADLINE, Figures, Target, keys, put_all};
use crate::args::CompareArgs;
use crate::workload::run::Outcome;

/// Entries that etcd keeps in its log behind a snapshot, for members that are a little late.
const KEPT_ENTRIES: u64 = 5_000;

/// Checks that the stopped member will miss more than etcd's log keeps.
///
/// # Errors
/// There are too few keys for it.
pub(super) fn check(args: &CompareArgs, workloads: &[&'static Workload]) -> anyhow::Result<()> {
    let kept = args.snapshot_count.saturating_add(KEPT_ENTRIES);
    if workloads.iter().any(|workload| workload.kind == Kind::CatchUp) && args.catch_up_keys <= kept {
        bail!(
            "--catch-up-keys {} can be served from the log alone; give more than {kept}, or a smaller --snapshot-count",
            args.catch_up_keys
        );
    }
    Ok(())
}

/// Stops a follower, puts the keys, starts it again and waits for it.
pub(super) async fn measure(
    args: &CompareArgs,
    cluster: &mut Cluster,
    progress: &ProgressBar,
) -> anyhow::Result<(Figures, Option<Outcome>)> {
    let (leader, before) = cluster.leader().await?;
    let stopped = (leader + 1) % cluster.size();
    cluster.member(stopped).end(Ending::Terminate).await?;
    let outcome = put_all(args, Target::of(&cluster.others(stopped)), args.catch_up_keys, progress).await?;
    let (_, target) = cluster.leader().await?;
    progress.set_message("catching up");
    let begin = Instant::now();
    cluster.member(stopped).respawn()?;
    await_applied(cluster, stopped, target.raft_applied_index).await?;
    let elapsed = begin.elapsed();
    // What it has applied is there to be read: the last key that it missed.
    cluster.member(stopped).await_read(Some(keys(args.catch_up_keys).key(args.catch_up_keys - 1))).await?;
    let missed = target.raft_applied_index.saturating_sub(before.raft_applied_index);
    let throughput = outcome.groups.first().map_or(0.0, |group| group.summary.per_second);
    let figures = vec![
        (Metric::CatchUp, elapsed.as_secs_f64() * 1e6),
        (Metric::EntriesMissed, missed as f64),
        (Metric::Throughput, throughput),
    ];
    Ok((figures, Some(outcome)))
}

/// Asks member `index` until it has applied log entry `target`.
async fn await_applied(cluster: &mut Cluster, index: usize, target: u64) -> anyhow::Result<()> {
    let endpoint = cluster.member(index).endpoint().clone();
    let mut last = None;
    let applied = async {
        loop {
            cluster.member(index).check_alive()?;
            // Until it serves, it does not answer.
            last = probe::status(&endpoint).await.ok().map(|status| status.raft_applied_index).or(last);
            if last.is_some_and(|applied| applied >= target) {
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    let outcome = tokio::time::timeout(FILL_DEADLINE, applied).await;
    outcome.with_context(|| format!("{endpoint} has not applied entry {target} in {FILL_DEADLINE:?}, only {last:?}"))?
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::plan;
    use crate::args::{Cli, Command};

    #[test]
    fn keys_that_the_log_serves_are_refused() {
        let check = |flags: &[&str], workload: &str| {
            let arguments = ["cleat-bench", "compare", "--members", "3"].iter().chain(flags);
            let cli = Cli::try_parse_from(arguments).expect("valid arguments");
            let Command::Compare(args) = cli.command else { panic!("not a comparison") };
            let workloads = plan::of(3).select(&[workload.to_owned()]).expect("a workload");
            super::check(&args, &workloads).map_err(|error| error.to_string())
        };
        assert_eq!(check(&[], "catch-up"), Ok(()));
        let error = check(&["--catch-up-keys", "15000"], "catch-up").expect_err("too few");
        assert!(error.contains("more than 15000"), "{error}");
        assert_eq!(check(&["--catch-up-keys", "15001"], "catch-up"), Ok(()));
        assert_eq!(check(&["--catch-up-keys", "10000", "--snapshot-count", "1000"], "catch-up"), Ok(()));
        assert_eq!(check(&["--catch-up-keys", "1000"], "put-64"), Ok(()));
    }
}

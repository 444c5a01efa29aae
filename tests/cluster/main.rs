//! Whole clusters as real processes: faults under load, and a checker over everything that clients saw.
//!
//! A [`Scenario`] starts a cluster and a load, lets faults happen in rounds, ends the load, compares the members' data
//! and checks the recorded history. It prints one line. `CLEAT_CLUSTER_ROUNDS` sets the rounds (a few by default,
//! a hundred by hand), `CLEAT_PEER=etcd` runs everything against etcd, which shows that the tests ask for nothing that
//! etcd does not do.

mod assembly;
mod auth;
mod bootstrap;
mod corruption;
mod failover;
mod founders;
mod learner;
mod locks;
mod membership;
mod messages;
mod metrics;
mod network;
mod overload;
mod processes;
mod quota;
mod refusals;
mod rotation;
mod slow_requests;
mod v2;

use anyhow::{Context, Result, bail, ensure};
use harness::checker::{self, Report};
use harness::history::History;
use harness::load::{Load, LoadOptions};
use harness::{Cluster, Place, Subject};
use rand::Rng;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use tokio::sync::Semaphore;

const DEFAULT_ROUNDS: usize = 2;
/// Clusters at a time: more would take the processor from each other and find timeouts only.
static CLUSTERS: Semaphore = Semaphore::const_new(2);
/// Long enough that others elect a leader.
const FAULT_MILLIS: Range<u64> = 2_000..4_000;
/// Between faults.
const CALM_MILLIS: Range<u64> = 300..800;
const TOLD_VIOLATIONS: usize = 20;

/// Faults in each scenario.
fn rounds() -> Result<usize> {
    let set = std::env::var("CLEAT_CLUSTER_ROUNDS");
    set.map_or(Ok(DEFAULT_ROUNDS), |text| text.parse()).context("CLEAT_CLUSTER_ROUNDS is a number")
}

/// Lets a fault last. Not a wait for something: the length is the random part of the test.
async fn last(millis: Range<u64>) {
    let time = Duration::from_millis(rand::rng().random_range(millis));
    tokio::time::sleep(time).await;
}

/// A cluster, a load, and what happens to them.
struct Scenario {
    name: &'static str,
    place: Place,
    size: usize,
    flags: &'static [&'static str],
    load: LoadOptions,
    rounds: usize,
}

impl Scenario {
    fn new(name: &'static str, place: Place) -> Result<Self> {
        Ok(Self { name, place, size: 3, flags: &[], load: LoadOptions::default(), rounds: rounds()? })
    }

    /// Runs the rounds and checks what was seen. A round ends with all members running and nothing cut.
    async fn run(self, mut round: impl AsyncFnMut(&mut Cluster, &mut Load) -> Result<()>) -> Result<Report> {
        let _turn = CLUSTERS.acquire().await?;
        let subject = Subject::under_test()?;
        let mut cluster = Cluster::start_with(&subject, self.place, self.size, self.flags).await?;
        let name = format!("{} ({}, {} rounds)", self.name, subject.label, self.rounds);
        let history = match self.record(&mut cluster, &mut round).await {
            Ok(history) => history,
            Err(error) => {
                self.keep(&cluster, None)?;
                return Err(error.context(format!("{name}\n{}", cluster.logs())));
            }
        };
        let report = checker::check(&history);
        eprintln!("{name}: {report}");
        if !report.violations.is_empty() {
            self.keep(&cluster, Some(&history))?;
            bail!("{name}: broken promises\n{}\n{}", report.told(TOLD_VIOLATIONS), cluster.logs());
        }
        ensure!(report.acknowledged_writes > 0 && report.linearizable_reads > 0, "{name}: nothing was done");
        Ok(report)
    }

    /// Keeps what a failure left in the directory that `CLEAT_CLUSTER_KEEP` names.
    fn keep(&self, cluster: &Cluster, history: Option<&History>) -> Result<()> {
        let Some(dir) = std::env::var_os("CLEAT_CLUSTER_KEEP") else { return Ok(()) };
        let dir = Path::new(&dir).join(self.name.replace(' ', "-"));
        std::fs::create_dir_all(&dir)?;
        for (number, log) in cluster.whole_logs().into_iter().enumerate() {
            std::fs::write(dir.join(format!("member-{number}.log")), log)?;
        }
        if let Some(history) = history {
            std::fs::write(dir.join("history.txt"), format!("{history:#?}\n"))?;
        }
        Ok(())
    }

    async fn record(
        &self,
        cluster: &mut Cluster,
        round: &mut impl AsyncFnMut(&mut Cluster, &mut Load) -> Result<()>,
    ) -> Result<History> {
        let mut load = Load::start(cluster.endpoints(), &self.load);
        for number in 0..self.rounds {
            last(CALM_MILLIS).await;
            round(cluster, &mut load).await.with_context(|| format!("round {number}"))?;
            cluster.wait_healthy().await.with_context(|| format!("after round {number}"))?;
            load.settled();
        }
        last(CALM_MILLIS).await;
        let history = load.finish().await?;
        cluster.agree().await?;
        Ok(history)
    }
}

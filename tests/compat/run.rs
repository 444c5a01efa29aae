//! Runs sequences on pairs of servers and makes failures short.
//!
//! A sequence ends at the first difference after which the servers may hold different data; the next one starts
//! on fresh servers. So one run shows several kinds of differences, each kind once.

use crate::compare::Difference;
use anyhow::{Context as _, Result};
use harness::seeds::number;
use std::collections::BTreeMap;
use std::fmt::{Debug, Display, Formatter, Write as _};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const DEFAULT_OPS: usize = 20_000;
/// Long enough for stores to become interesting, short enough to vary the sequence's settings within a run.
const SEQUENCE_OPS: usize = 2_500;
/// More kinds of differences than anyone reads at once.
const MAX_FAILURES: usize = 12;
const SHOWN_OPS: usize = 10;
/// Most differences need nothing before the last request, or little.
const FIRST_TRIES: [usize; 4] = [1, 4, 16, 64];
/// Enough to shrink what does not depend on a long past.
const SHRINK_BUDGET: Duration = Duration::from_secs(8);
/// No new sequence of a run of the default length starts after this, however slow the servers are; longer runs have
/// proportionally more.
const RUN_BUDGET: Duration = Duration::from_secs(150);

/// Two servers side by side, and how to ask both the same and compare.
pub(crate) trait Contest: Sized + Send {
    /// A request, or another step.
    type Op: Clone + Debug + Display + Send + 'static;
    /// Draws steps from a seed.
    type Generator: Send;
    /// The accepted differences.
    type Ledger: Default + Send + Sync + 'static;

    /// Pairs of servers at the same time: they mostly wait for each other.
    const WORKERS: usize;

    /// Starts fresh servers.
    fn start() -> impl Future<Output = Result<Self>> + Send;
    /// A generator of one sequence.
    fn generator(seed: u64) -> Self::Generator;
    /// The next step, by what is known about the servers.
    fn draw(&self, generator: &mut Self::Generator) -> Self::Op;
    /// Does one step on both servers and compares.
    fn step(&mut self, op: &Self::Op, ledger: &Self::Ledger)
    -> impl Future<Output = Result<Option<Difference>>> + Send;
    /// Waits for what is still to come from both, and compares it.
    fn settle(&mut self) -> impl Future<Output = Result<Option<Difference>>> + Send;
}

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// One sequence to replay; otherwise seeds are drawn until enough requests were made.
    seed: Option<u64>,
    /// Take this seed and the ones after it instead of drawing them.
    first_seed: Option<u64>,
    ops: usize,
}

impl Plan {
    /// Reads `CLEAT_SEED`, `CLEAT_FIRST_SEED` and `CLEAT_DIFF_OPS`.
    pub(crate) fn from_env() -> Result<Self> {
        let ops = number("CLEAT_DIFF_OPS")?.map_or(DEFAULT_OPS, |ops| ops as usize);
        Ok(Self { seed: number("CLEAT_SEED")?, first_seed: number("CLEAT_FIRST_SEED")?, ops })
    }
}

/// A kind of difference, with a sequence that shows it.
#[derive(Debug)]
pub(crate) struct Failure<Op> {
    seed: u64,
    step: usize,
    ops: Vec<Op>,
    difference: Difference,
    shrunk: bool,
}

impl<Op: Display> Display for Failure<Op> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { seed, step, ops, difference, shrunk } = self;
        let from = ops.len().saturating_sub(if *shrunk { 4 * SHOWN_OPS } else { SHOWN_OPS });
        let mut list = String::new();
        for op in &ops[from..] {
            writeln!(list, "  {op}")?;
        }
        let how = if *shrunk { "shortest sequence found" } else { "last requests" };
        write!(f, "\n=== seed {seed}, step {step}: {difference}\n{how}:\n{list}")
    }
}

/// What the workers of a run share.
struct Run<C: Contest> {
    plan: Plan,
    ledger: Arc<C::Ledger>,
    started: Instant,
    done: AtomicUsize,
    /// Seeds taken in order so far.
    taken: AtomicU64,
    /// By signature.
    failures: Mutex<BTreeMap<String, Failure<C::Op>>>,
}

/// Runs a plan; returns one failure per kind of difference.
pub(crate) async fn run<C: Contest + 'static>(plan: Plan, ledger: Arc<C::Ledger>) -> Result<Vec<Failure<C::Op>>> {
    let workers = if plan.seed.is_some() { 1 } else { C::WORKERS };
    let (started, done, failures) = (Instant::now(), AtomicUsize::new(0), Mutex::default());
    let run = Arc::new(Run::<C> { plan, ledger, started, done, taken: AtomicU64::new(0), failures });
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let run = Arc::clone(&run);
        tasks.spawn(async move { run.work().await });
    }
    while let Some(worker) = tasks.join_next().await {
        worker??;
    }
    eprintln!("{} requests in {:.0?}", run.done.load(Ordering::Relaxed), started.elapsed());
    let mut found: Vec<Failure<C::Op>> = std::mem::take(&mut *run.failures()).into_values().collect();
    for failure in &mut found {
        shrink::<C>(failure, Instant::now() + SHRINK_BUDGET).await?;
    }
    Ok(found)
}

impl<C: Contest> Run<C> {
    fn failures(&self) -> MutexGuard<'_, BTreeMap<String, Failure<C::Op>>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(&self) -> Result<()> {
        if let Some(seed) = self.plan.seed {
            return self.sequence(seed).await;
        }
        while self.failures().len() < MAX_FAILURES
            && self.done.load(Ordering::Relaxed) < self.plan.ops
            && self.started.elapsed() < RUN_BUDGET * (self.plan.ops / DEFAULT_OPS).max(1) as u32
        {
            let seed = match self.plan.first_seed {
                Some(first) => first + self.taken.fetch_add(1, Ordering::Relaxed),
                None => rand::random_range(0..1_000_000_000),
            };
            self.sequence(seed).await?;
        }
        Ok(())
    }

    /// Runs one seed to its end, or until the servers can no longer be compared.
    async fn sequence(&self, seed: u64) -> Result<()> {
        eprintln!("CLEAT_SEED={seed}");
        let mut pair = C::start().await?;
        let mut generator = C::generator(seed);
        let count = self.plan.ops.min(SEQUENCE_OPS);
        let mut ops = Vec::with_capacity(count);
        while ops.len() < count {
            let op = pair.draw(&mut generator);
            ops.push(op.clone());
            self.done.fetch_add(1, Ordering::Relaxed);
            let outcome = pair.step(&op, &self.ledger).await;
            let Some(difference) = outcome.with_context(|| format!("seed {seed}, step {}", ops.len()))? else {
                continue;
            };
            let fatal = difference.fatal;
            self.fail(seed, &ops, difference);
            if fatal {
                return Ok(());
            }
        }
        if let Some(difference) = pair.settle().await? {
            self.fail(seed, &ops, difference);
        }
        Ok(())
    }

    fn fail(&self, seed: u64, ops: &[C::Op], difference: Difference) {
        self.failures().entry(difference.signature.clone()).or_insert_with(|| Failure {
            seed,
            step: ops.len(),
            ops: ops.to_vec(),
            difference,
            shrunk: false,
        });
    }
}

/// Takes requests out of a failing sequence for as long as the same kind of difference remains.
async fn shrink<C: Contest>(failure: &mut Failure<C::Op>, deadline: Instant) -> Result<()> {
    let all = failure.ops.len();
    for length in FIRST_TRIES.into_iter().filter(|n| *n < all).chain([all]) {
        let last = failure.ops[failure.ops.len() - length..].to_vec();
        if Instant::now() < deadline && still_fails::<C>(failure, last).await? {
            break;
        }
    }
    if !failure.shrunk {
        // It depends on timing: taking requests out would shrink towards chance.
        return Ok(());
    }
    let mut chunk = failure.ops.len().div_ceil(2).max(1);
    loop {
        let mut from = 0;
        // The last request shows the difference and stays.
        while from + 1 < failure.ops.len() {
            if Instant::now() > deadline {
                return Ok(());
            }
            let to = (from + chunk).min(failure.ops.len() - 1);
            let fewer = [&failure.ops[..from], &failure.ops[to..]].concat();
            if !still_fails::<C>(failure, fewer).await? {
                from = to;
            }
        }
        if chunk == 1 {
            return Ok(());
        }
        chunk = chunk.div_ceil(4);
    }
}

/// Replaces a failure's requests by fewer ones if they show the same kind of difference.
async fn still_fails<C: Contest>(failure: &mut Failure<C::Op>, mut ops: Vec<C::Op>) -> Result<bool> {
    match replay::<C>(&ops).await? {
        Some((length, difference)) if difference.signature == failure.difference.signature => {
            ops.truncate(length);
            failure.ops = ops;
            failure.difference = difference;
            failure.shrunk = true;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Runs requests on fresh servers; returns the first difference and how many requests it took.
async fn replay<C: Contest>(ops: &[C::Op]) -> Result<Option<(usize, Difference)>> {
    let ledger = C::Ledger::default();
    let mut pair = C::start().await?;
    for (step, op) in ops.iter().enumerate() {
        if let Some(difference) = pair.step(op, &ledger).await? {
            return Ok(Some((step + 1, difference)));
        }
    }
    Ok(pair.settle().await?.map(|difference| (ops.len(), difference)))
}

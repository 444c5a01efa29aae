//! Runs sequences on pairs of servers and makes failures short.
//!
//! A sequence ends at its first difference, because nothing after it can be compared; the next one starts on
//! fresh servers. So one run shows several kinds of differences, each kind once.

use crate::compare::Difference;
use crate::generate::Generator;
use crate::ledger::Ledger;
use crate::op::Op;
use crate::pair::Pair;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

const DEFAULT_OPS: usize = 20_000;
/// Long enough for stores to become interesting, short enough to vary the sequence's settings within a run.
const SEQUENCE_OPS: usize = 2_500;
/// Pairs of servers at the same time: they mostly wait for each other.
const WORKERS: usize = 3;
/// More kinds of differences than anyone reads at once.
const MAX_FAILURES: usize = 12;
const SHOWN_OPS: usize = 10;
/// Most differences need nothing before the last request, or little.
const FIRST_TRIES: [usize; 4] = [1, 4, 16, 64];
/// All shrinking of one run together.
const SHRINK_BUDGET: Duration = Duration::from_mins(1);

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    seeds: Vec<u64>,
    /// Requests of each sequence.
    ops: usize,
}

impl Plan {
    /// Reads `CLEAT_SEED` and `CLEAT_DIFF_OPS`.
    pub(crate) fn from_env() -> Result<Self> {
        let number = |name: &str| -> Result<Option<u64>> {
            let Ok(text) = std::env::var(name) else { return Ok(None) };
            Ok(Some(text.parse().with_context(|| format!("{name}={text}"))?))
        };
        let total = number("CLEAT_DIFF_OPS")?.map_or(DEFAULT_OPS, |ops| ops as usize);
        let ops = total.min(SEQUENCE_OPS);
        let seeds = match number("CLEAT_SEED")? {
            Some(seed) => vec![seed],
            None => (0..total.div_ceil(ops.max(1))).map(|_| rand::random_range(0..1_000_000_000)).collect(),
        };
        Ok(Self { seeds, ops })
    }
}

/// A kind of difference, with a sequence that shows it.
#[derive(Debug)]
pub(crate) struct Failure {
    seed: u64,
    step: usize,
    ops: Vec<Op>,
    difference: Difference,
    shrunk: bool,
}

impl Display for Failure {
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

/// Failures by signature.
type Failures = Arc<Mutex<BTreeMap<String, Failure>>>;

/// Runs a plan; returns one failure per kind of difference.
pub(crate) async fn run(plan: Plan, ledger: Arc<Ledger>) -> Result<Vec<Failure>> {
    let started = Instant::now();
    let failures = Failures::default();
    let queue = Arc::new(Mutex::new(plan.seeds.clone()));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS.min(plan.seeds.len()) {
        let (queue, failures, ledger) = (Arc::clone(&queue), Arc::clone(&failures), Arc::clone(&ledger));
        workers.spawn(async move {
            let mut done = 0;
            while lock(&failures).len() < MAX_FAILURES
                && let Some(seed) = pop(&queue)
            {
                done += sequence(seed, plan.ops, &failures, &ledger).await?;
            }
            Ok::<usize, anyhow::Error>(done)
        });
    }
    let mut done = 0;
    while let Some(worker) = workers.join_next().await {
        done += worker??;
    }
    eprintln!("{done} requests in {:.0?}", started.elapsed());
    let mut found: Vec<Failure> = std::mem::take(&mut *lock(&failures)).into_values().collect();
    let deadline = Instant::now() + SHRINK_BUDGET;
    for failure in &mut found {
        shrink(failure, deadline).await?;
    }
    Ok(found)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pop(queue: &Mutex<Vec<u64>>) -> Option<u64> {
    lock(queue).pop()
}

/// Runs one seed to its end or to its first difference; returns the number of requests.
async fn sequence(seed: u64, count: usize, failures: &Failures, ledger: &Ledger) -> Result<usize> {
    eprintln!("CLEAT_SEED={seed}");
    let mut pair = Pair::start().await?;
    let mut generator = Generator::new(seed);
    let mut ops = Vec::with_capacity(count);
    let mut difference = None;
    while difference.is_none() && ops.len() < count {
        let op = generator.next(&pair.world);
        ops.push(op);
        let op = &ops[ops.len() - 1];
        let t = Instant::now();
        difference = pair.step(op, ledger).await.with_context(|| format!("seed {seed}, step {}", ops.len()))?;
        if t.elapsed() > Duration::from_millis(700) {
            eprintln!("slow {:?} {op}", t.elapsed());
        }
    }
    let difference = match difference {
        None => pair.settle().await?,
        found => found,
    };
    let step = ops.len();
    if let Some(difference) = difference {
        let failure = Failure { seed, step, ops, difference: difference.clone(), shrunk: false };
        lock(failures).entry(difference.signature).or_insert(failure);
    }
    Ok(step)
}

/// Takes requests out of a failing sequence for as long as the same kind of difference remains.
async fn shrink(failure: &mut Failure, deadline: Instant) -> Result<()> {
    let all = failure.ops.len();
    for length in FIRST_TRIES.into_iter().filter(|n| *n < all).chain([all]) {
        let last = failure.ops[failure.ops.len() - length..].to_vec();
        if Instant::now() < deadline && still_fails(failure, last).await? {
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
            if !still_fails(failure, fewer).await? {
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
async fn still_fails(failure: &mut Failure, mut ops: Vec<Op>) -> Result<bool> {
    match replay(&ops).await? {
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
async fn replay(ops: &[Op]) -> Result<Option<(usize, Difference)>> {
    let ledger = Ledger::default();
    let mut pair = Pair::start().await?;
    for (step, op) in ops.iter().enumerate() {
        if let Some(difference) = pair.step(op, &ledger).await? {
            return Ok(Some((step + 1, difference)));
        }
    }
    Ok(pair.settle().await?.map(|difference| (ops.len(), difference)))
}

//! Seeds in numbers, the same seed twice, and bugs that must be found.

use super::faults::Faults;
use super::report::{Kind, Report};
use super::{Setup, run};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// So many seeds see everything that can happen.
const FULL_RUN: u64 = 100;

fn setup(seed: u64) -> Setup {
    let setup = Setup { members: if seed % 4 == 3 { 5 } else { 3 }, ..Setup::default() };
    if seed % 5 == 1 { with_snapshots(setup) } else { setup }
}

/// Members fall behind, again and again.
fn with_snapshots(setup: Setup) -> Setup {
    Setup { faults: Faults::Snapshots, duration: Duration::from_secs(10), ..setup }
}

#[track_caller]
fn check(seed: u64, setup: Setup) -> Report {
    let (report, lines) = run(seed, setup);
    assert!(
        report.failures.is_empty(),
        "{}\n\nseed {seed} failed:\n{}\nCLEAT_SEED={seed} cargo test -p cleat-server --lib simulation::tests::seeds",
        lines.join("\n"),
        report.failures.join("\n"),
    );
    report
}

/// `CLEAT_SEED` runs one seed, `CLEAT_SIM_SEEDS` so many; both processors work.
#[test]
fn seeds() {
    let number = |name| std::env::var(name).ok().map(|text: String| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("CLEAT_SEED") {
        println!("{:?}", check(seed, setup(seed)));
        return;
    }
    let count = number("CLEAT_SIM_SEEDS").unwrap_or(FULL_RUN);
    let next = AtomicU64::new(0);
    let work = || {
        let mut reports = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= count {
                return reports;
            }
            reports.push(check(seed, setup(seed)));
        }
    };
    let mut reports: Vec<Report> = Vec::new();
    std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        for worker in workers {
            reports.extend(worker.join().expect("a seed failed; see above"));
        }
    });
    let sum = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    println!(
        "{count} seeds: {} writes ({} of unknown fate), {} reads, {} watched changes, {} leases that ended",
        sum(|r| r.writes),
        sum(|r| r.unknown),
        sum(|r| r.reads),
        sum(|r| r.events),
        sum(|r| r.expired),
    );
    let mut happened = BTreeMap::new();
    for (kind, times) in reports.iter().flat_map(|report| &report.happened) {
        *happened.entry(*kind).or_insert(0) += times;
    }
    println!("{happened:?}");
    if count >= FULL_RUN {
        let missing: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| !happened.contains_key(kind)).collect();
        assert!(missing.is_empty(), "in {count} seeds there was no {missing:?}");
    }
    // Faults that leave nothing to check would pass every check.
    assert!(sum(|r| r.writes) > 50 * count && sum(|r| r.reads) > 20 * count && sum(|r| r.events) > 50 * count);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 8] {
        let setup = Setup { duration: Duration::from_secs(6), ..setup(seed) };
        let (first, lines) = run(seed, setup);
        let (second, others) = run(seed, setup);
        let differ = lines.iter().zip(&others).find(|(one, other)| one != other);
        assert_eq!(first, second, "{differ:#?}");
    }
}

fn all(setup: Setup) -> Setup {
    Setup { faults: Faults::All, ..setup }
}

/// Some seed among the first so many finds the bug, and finds nothing without it.
fn finds(base: impl Fn(Setup) -> Setup, bug: impl Fn(Setup) -> Setup, seeds: u64) {
    let found = (0..seeds).find_map(|seed| {
        let (report, _) = run(seed, bug(base(setup(seed))));
        report.failures.first().map(|failure| (seed, failure.clone()))
    });
    let (seed, failure) = found.expect("the bug was not found");
    println!("seed {seed}: {failure}");
    check(seed, base(setup(seed)));
}

#[test]
fn a_log_that_answers_before_the_disk_is_found() {
    let base = |setup| Setup { faults: Faults::Power, duration: Duration::from_secs(8), ..setup };
    finds(base, |setup| Setup { acknowledges_early: true, ..setup }, 20);
}

#[test]
fn reads_that_skip_the_barrier_are_found() {
    finds(all, |setup| Setup { skips_read_barrier: true, ..setup }, 20);
}

#[test]
fn votes_of_a_learner_are_found() {
    let base = |setup| Setup {
        has_learner: true,
        faults: Faults::Splits,
        members: 3,
        duration: Duration::from_secs(8),
        ..setup
    };
    finds(base, |setup| Setup { learner_votes: true, ..setup }, 40);
}

#[test]
fn a_snapshot_whose_install_is_not_durable_is_found() {
    finds(with_snapshots, |setup| Setup { forgets_names: true, ..setup }, 20);
}

#[test]
fn a_snapshot_that_watchers_do_not_hear_of_is_found() {
    finds(with_snapshots, |setup| Setup { forgets_watchers: true, ..setup }, 20);
}

#[test]
fn leases_that_a_new_leader_cuts_short_are_found() {
    finds(all, |setup| Setup { forgets_lease_time: true, ..setup }, 20);
}

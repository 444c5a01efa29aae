//! The side-by-side comparison: both servers in turns over several rounds, medians, ratios and verdicts.
//!
//! [`plan`] says what runs and what is claimed, [`session`] runs it on one server or cluster, with [`failover`] and
//! [`catch_up`] for the workloads that end members. [`servers`] starts and ends the processes, [`cluster`] keeps those
//! that belong together, [`probe`] asks them. [`report`] makes rows of the samples, [`chart`] lays them out, [`svg`] and
//! [`png`] draw it.

mod catch_up;
mod chart;
mod cluster;
mod failover;
mod plan;
mod png;
mod probe;
mod report;
mod servers;
mod session;
mod svg;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::args::CompareArgs;
use crate::{load, table};
use chart::Chart;
use report::{Samples, Side};

/// `f_type` of a file system in memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// What the figures were measured on and with.
#[derive(Debug, Serialize)]
struct Setting {
    cleat: String,
    etcd: String,
    kernel: String,
    cores: usize,
    members: u64,
    rounds: u64,
    seconds: f64,
    keys: u64,
    large_keys: u64,
    failovers: u64,
    election_timeout_ms: u64,
    catch_up_keys: u64,
    snapshot_count: u64,
    threads: u64,
    seed: u64,
}

/// Everything that `--json` writes.
#[derive(Serialize)]
struct Document<'a> {
    setting: &'a Setting,
    rows: &'a [report::Row],
    runs: &'a [report::Measured],
    failures: &'a [String],
}

/// Runs the comparison.
///
/// # Errors
/// A server does not start, a workload failed on one of them, or with `--strict` a ratio misses its floor.
pub(crate) async fn execute(args: &CompareArgs) -> anyhow::Result<()> {
    let plan = plan::of(args.members);
    if args.list {
        print!("{}", plan.list());
        return Ok(());
    }
    let workloads = plan.select(&args.only).map_err(anyhow::Error::msg)?;
    catch_up::check(args, &workloads)?;
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    warn_of_memory_disk(&parent)?;
    let setting = setting(args)?;
    println!("cleat: {}\netcd:  {}", setting.cleat, setting.etcd);
    println!(
        "{} cores, Linux {}; {}, {} rounds of {} s, {} keys, fsync on in both\n",
        setting.cores,
        setting.kernel,
        members(args),
        args.rounds,
        args.seconds,
        args.keys
    );

    let mut samples = Samples::default();
    let progress = load::progress_bar();
    for round in 1..=args.rounds {
        for session in plan::SESSIONS {
            let chosen: Vec<_> = workloads.iter().copied().filter(|workload| workload.session == session).collect();
            if chosen.is_empty() {
                continue;
            }
            for side in [Side::Cleat, Side::Etcd] {
                let place = session::Place { round, rounds: args.rounds, side, parent: &parent };
                session::execute(args, &place, &chosen, &progress, &mut samples).await?;
            }
        }
    }
    progress.finish_and_clear();

    let rows = report::rows(plan, &workloads, &samples);
    print!("{}", report::table(&rows));
    if let Some(others) = report::other_cores(&samples).filter(|others| others.median > table::NOTABLE_CORES) {
        println!(
            "note: other processes used {} cores while measuring ({} .. {}): ratios need an idle machine",
            table::number(others.median),
            table::number(others.min),
            table::number(others.max)
        );
    }
    for failure in &samples.failures {
        println!("failed: {failure}");
    }
    if let Some(path) = &args.json {
        let document = Document { setting: &setting, rows: &rows, runs: &samples.runs, failures: &samples.failures };
        load::write_json(path, &document)?;
    }
    draw(args, &setting, &rows)?;
    if !samples.failures.is_empty() {
        bail!("{} workload runs failed (see above)", samples.failures.len());
    }
    let misses = rows.iter().filter(|row| row.verdict == report::Verdict::Miss).count();
    if args.strict && misses > 0 {
        bail!("{misses} ratios miss their floor");
    }
    Ok(())
}

/// Writes the charts that were asked for.
fn draw(args: &CompareArgs, setting: &Setting, rows: &[report::Row]) -> anyhow::Result<()> {
    let note = format!(
        "{} against {}; {} cores, {}, {} rounds of {} s",
        setting.cleat,
        setting.etcd,
        setting.cores,
        members(args),
        args.rounds,
        args.seconds
    );
    let chart = Chart::new(rows, &note);
    let write = |path: &Path, bytes: &[u8]| {
        std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
    };
    if let Some(path) = &args.svg {
        write(path, svg::render(&chart).as_bytes())?;
    }
    if let Some(path) = &args.png {
        write(path, &png::render(&chart)?)?;
    }
    Ok(())
}

fn members(args: &CompareArgs) -> String {
    if args.members == 1 { "1 member".to_owned() } else { format!("{} members", args.members) }
}

fn setting(args: &CompareArgs) -> anyhow::Result<Setting> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Ok(Setting {
        cleat: version(&args.cleat, "--cleat")?,
        etcd: version(&args.etcd, "--etcd")?,
        kernel: kernel.trim().to_owned(),
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        members: args.members,
        rounds: args.rounds,
        seconds: args.seconds,
        keys: args.keys,
        large_keys: args.large_keys,
        failovers: args.failovers,
        election_timeout_ms: args.election_timeout,
        catch_up_keys: args.catch_up_keys,
        snapshot_count: args.snapshot_count,
        threads: args.threads,
        seed: args.seed,
    })
}

/// Its own line of what `binary --version` prints: ours names the etcd release that it answers like first.
fn version(binary: &PathBuf, flag: &str) -> anyhow::Result<String> {
    let output = Command::new(binary).arg("--version").output();
    let output = output.with_context(|| format!("cannot start {}: give its path with {flag}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let own = text.lines().find(|line| line.starts_with("Cleat")).or_else(|| text.lines().next());
    Ok(own.unwrap_or("unknown version").trim().to_owned())
}

/// A disk in memory syncs nothing: the figures would not be those of a server.
fn warn_of_memory_disk(parent: &Path) -> anyhow::Result<()> {
    let info = rustix::fs::statfs(parent).with_context(|| format!("{} (choose with --dir)", parent.display()))?;
    if info.f_type as i64 == TMPFS_MAGIC {
        eprintln!(
            "cleat-bench: {} is in memory, so fsync costs nothing there; choose a directory on a disk with --dir",
            parent.display()
        );
    }
    Ok(())
}

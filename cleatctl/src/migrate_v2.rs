//! `migrate v2-to-v3`: the tree of a v2 API becomes keys of a v3 API.
//!
//! The tree is read at once, as it is at one index. Then its files go to the target in batches: a batch is read, and what is
//! missing is written in one transaction that fails if anything of it was changed meanwhile. So a migration that was
//! interrupted is run again, and goes on where it stopped; and nothing that somebody else wrote is lost.

mod plan;
mod write;

use crate::args::{Format, Global, SourceUser, V2ToV3Args};
use crate::print;
use anyhow::{Context as _, Result, ensure};
use client::v2::{Get, code};
use client::{Client, Options, v2};
use indicatif::{ProgressBar, ProgressStyle};
use plan::{Plan, Reader};
use serde::Serialize;
use std::io::IsTerminal as _;
use std::time::Duration;
use write::{Outcome, Writer};

/// A large tree takes its time.
const READ_DEADLINE: Duration = Duration::from_mins(2);
/// Keys that are named of each kind; the others are counted.
const SHOWN: usize = 20;

/// What was done, or would be.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    dry_run: bool,
    /// Of the v2 store.
    index: u64,
    /// Written, or what would be.
    created: usize,
    overwritten: usize,
    /// There already, the same.
    unchanged: usize,
    conflicts: Vec<String>,
    expired: usize,
    leases: usize,
    directories: usize,
    empty_directories: Vec<String>,
    /// Values with characters in the place of bytes that the v2 API cannot tell.
    damaged_values: Vec<String>,
}

/// Copies a tree, or shows what that would do.
pub(crate) async fn v2_to_v3(global: &Global, args: &V2ToV3Args) -> Result<()> {
    let options = global.client_options().await?;
    let source = source(&options, args)?;
    let target = Client::new(&options)?;
    let plan = read(&source, args).await?;
    let mut writer = Writer::new(&target, args.yes, args.overwrite, plan.read_at);
    let progress = progress_bar(plan.files.len());
    for batch in plan.batches() {
        writer.batch(batch).await.with_context(|| stopped(writer.outcome(), plan.files.len()))?;
        progress.inc(batch.len() as u64);
    }
    progress.finish_and_clear();
    report(global.write_out, &summary(plan, writer.into_outcome(), !args.yes), args)
}

fn source(options: &Options, args: &V2ToV3Args) -> Result<v2::Client> {
    let user = args.source_user.clone().map(|SourceUser(user)| user);
    if let Some(user) = &user {
        ensure!(!user.name.is_empty() && !user.password.is_empty(), "--source-user is written as NAME:PASSWORD");
    }
    let endpoints = if args.source_endpoints.is_empty() { &options.endpoints } else { &args.source_endpoints };
    Ok(v2::Client::new(&v2::Options {
        endpoints: endpoints.clone(),
        tls: options.tls.clone(),
        user,
        dial_timeout: options.dial_timeout,
        request_timeout: options.request_timeout.max(READ_DEADLINE),
        ..v2::Options::default()
    })?)
}

/// Reads the tree, and the hidden keys that were named.
async fn read(source: &v2::Client, args: &V2ToV3Args) -> Result<Plan> {
    let mut reader = Reader::new(&args.source_prefix, args.target_prefix.as_deref());
    let get = |key: String, recursive: bool| async move {
        match source.get(&key, Get { recursive, sorted: true, quorum: true }).await {
            Ok(response) => Ok(Some(response)),
            Err(error) if error.is(code::KEY_NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let prefix = reader.source_prefix().to_owned();
    let root = get(prefix.clone(), true).await?.with_context(|| format!("the source has no key {prefix:?}"))?;
    reader.take(root);
    for above in reader.above_source() {
        let read = get(above.clone(), false).await;
        let read = read.with_context(|| format!("cannot read {above:?}, which may expire with all that is in it"))?;
        let gone = || format!("{above:?} was deleted meanwhile: run the same command again");
        reader.take_above(&read.with_context(gone)?);
    }
    loop {
        let hidden = reader.hidden(&args.hidden);
        if hidden.is_empty() {
            break;
        }
        for key in hidden {
            let Some(found) = get(key.clone(), true).await? else { continue };
            for above in reader.unknown_above(&key) {
                if let Some(directory) = get(above, false).await? {
                    reader.take_directory(directory);
                }
            }
            reader.take(found);
        }
    }
    Ok(reader.finish())
}

fn stopped(outcome: &Outcome, files: usize) -> String {
    let done = outcome.created + outcome.overwritten + outcome.unchanged;
    format!("stopped after {done} of {files} keys; run the same command again to go on")
}

fn summary(plan: Plan, outcome: Outcome, dry_run: bool) -> Summary {
    let damaged = |file: &plan::File| file.value.contains(char::REPLACEMENT_CHARACTER);
    Summary {
        dry_run,
        index: plan.index,
        created: outcome.created,
        overwritten: outcome.overwritten,
        unchanged: outcome.unchanged,
        conflicts: outcome.conflicts,
        expired: outcome.expired,
        leases: outcome.leases,
        directories: plan.directories,
        empty_directories: plan.empty_directories,
        damaged_values: plan.files.iter().filter(|file| damaged(file)).map(|file| file.source.clone()).collect(),
    }
}

/// Prints what was done; fails if something was left out that was meant to be there.
fn report(format: Format, summary: &Summary, args: &V2ToV3Args) -> Result<()> {
    if format == Format::Json {
        print::line(&serde_json::to_string(summary)?)?;
    } else {
        let would = if summary.dry_run { "would be " } else { "" };
        print::line(&format!(
            "{would}created {}, overwritten {}, unchanged {}, conflicts {}, leases {}; the source was read at index {}",
            summary.created,
            summary.overwritten,
            summary.unchanged,
            summary.conflicts.len(),
            summary.leases,
            summary.index,
        ))?;
        if summary.expired > 0 {
            print::line(&format!("{} keys expired meanwhile and are left out", summary.expired))?;
        }
        let (all, empty) = (summary.directories, &summary.empty_directories);
        print::line(&format!("{all} directories, {} of them empty: v3 has none, only the keys in them", empty.len()))?;
        named("empty directory", empty)?;
        named("conflict: there with another value", &summary.conflicts)?;
        named("the v2 API cannot tell all bytes of the value of", &summary.damaged_values)?;
        if summary.dry_run {
            print::line("nothing was written; add --yes to do it")?;
        }
    }
    ensure!(
        summary.conflicts.is_empty() || args.overwrite,
        "{} keys of the target have other values and were left as they are; --overwrite replaces them",
        summary.conflicts.len()
    );
    Ok(())
}

fn named(what: &str, keys: &[String]) -> Result<()> {
    for key in keys.iter().take(SHOWN) {
        print::line(&format!("{what}: {key}"))?;
    }
    if keys.len() > SHOWN {
        print::line(&format!("{what}: {} more", keys.len() - SHOWN))?;
    }
    Ok(())
}

fn progress_bar(files: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} keys {per_sec} {eta}");
    ProgressBar::new(files as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

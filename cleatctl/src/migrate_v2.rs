//! `migrate v2-to-v3`: the tree of a v2 API becomes keys of a v3 API.
//!
//! The tree is read at once, as it is at one index. Then its files go to the target in batches: a batch is read, and what is
//! missing is written in one transaction that fails if anything of it was changed meanwhile. So a migration that was
//! interrupted is run again, and goes on where it stopped; and nothing that somebody else wrote is lost.

mod plan;
mod write;

use crate::cli::{Command, Flag, Origin};
use crate::context::Context;
use crate::failure::Failure;
use crate::print::{self, Format};
use crate::progress;
use anyhow::{Context as _, Result, ensure};
use client::v2::{Get, code};
use client::{Client, Options, User, v2};
use plan::{Plan, Reader};
use serde::Serialize;
use std::time::Duration;
use write::{Outcome, Writer};

const DRY_RUN: Flag =
    Flag::switch("dry-run", "Only say what would be written, which is what happens without --yes").cleat();
const HIDDEN: Flag = Flag::list(
    "hidden",
    "",
    "Hidden keys to copy, too, which no listing shows: paths, or names to look for in every directory, as _config",
)
.cleat();
const OVERWRITE: Flag = Flag::switch("overwrite", "Replace keys that have another value").cleat();
const SOURCE_ENDPOINTS: Flag =
    Flag::list("source-endpoints", "", "Endpoints of the v2 API, tried in this order; --endpoints if none are given")
        .cleat();
const SOURCE_PREFIX: Flag = Flag::string("source-prefix", "/", "The directory to copy").cleat();
const SOURCE_USER: Flag =
    Flag::string("source-user", "", "User of the v2 API as name:password; ETCDCTL_USERNAME if none is given").cleat();
const TARGET_PREFIX: Flag =
    Flag::string("target-prefix", "", "What keys begin with instead of --source-prefix").cleat();
const YES: Flag = Flag::switch("yes", "Write").cleat();

pub(crate) const COMMAND: Command = Command {
    name: "v2-to-v3",
    // Of the v2 API, which it reads.
    variables: &["ETCDCTL_USERNAME"],
    usage: "[options]",
    short: "Copies the keys of a v2 API to the v3 API of --endpoints; without --yes it only says what it would do",
    long: "Files become keys, and the time that they have left a lease, which keys that expire together share. What the target
has already is left as it is: run it again after an interruption, and once more when nobody writes to the source
any more.",
    flags: &[
        DRY_RUN,
        HIDDEN,
        OVERWRITE,
        SOURCE_ENDPOINTS,
        SOURCE_PREFIX,
        SOURCE_USER,
        TARGET_PREFIX,
        YES,
    ],
    origin: Origin::Cleat,
    run: Some(|context| Box::pin(v2_to_v3(context))),
    ..Command::NONE
};

/// The user of a v2 API has a variable of its own, which is etcdctl's for that API.
const SOURCE_USER_VARIABLE: &str = "ETCDCTL_USERNAME";

/// What the flags say.
struct Args {
    source_endpoints: Vec<String>,
    source_user: Option<User>,
    source_prefix: String,
    /// None keeps the prefix of the source.
    target_prefix: Option<String>,
    hidden: Vec<String>,
    overwrite: bool,
    yes: bool,
}

impl Args {
    fn of(context: &Context) -> Result<Self, Failure> {
        if context.switch(&YES) && context.switch(&DRY_RUN) {
            return Err(Failure::bad_args("--yes and --dry-run cannot be set at the same time, choose one"));
        }
        let of_environment = || std::env::var(SOURCE_USER_VARIABLE).ok().filter(|user| !user.is_empty());
        let user = context.given(&SOURCE_USER).or_else(of_environment).map(|user| {
            // Without a password it is refused later.
            let (name, password) = user.split_once(':').unwrap_or((&user, ""));
            User { name: name.to_owned(), password: password.to_owned() }
        });
        Ok(Self {
            source_endpoints: context.list(&SOURCE_ENDPOINTS),
            source_user: user,
            source_prefix: context.string(&SOURCE_PREFIX),
            target_prefix: context.is_set(&TARGET_PREFIX).then(|| context.string(&TARGET_PREFIX)),
            hidden: context.list(&HIDDEN),
            overwrite: context.switch(&OVERWRITE),
            yes: context.switch(&YES),
        })
    }
}

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
async fn v2_to_v3(mut context: Context) -> Result<(), Failure> {
    let args = Args::of(&context)?;
    if let Some(extra) = context.args.first() {
        let extra = extra.to_string_lossy();
        return Err(Failure::bad_args(format!("migrate v2-to-v3 takes no arguments, and there is {extra:?}")));
    }
    context.read_environment()?;
    let format = context.printer()?.format;
    let endpoints = context.endpoints();
    let options = context.options(&endpoints).await?;
    Ok(copy(&options, &args, format).await?)
}

async fn copy(options: &Options, args: &Args, format: Format) -> Result<()> {
    let source = source(options, args)?;
    let target = Client::new(options)?;
    let plan = read(&source, args).await?;
    let mut writer = Writer::new(&target, args.yes, args.overwrite, plan.read_at);
    let progress = progress::keys(Some(plan.files.len()));
    for batch in plan.batches() {
        writer.batch(batch).await.with_context(|| stopped(writer.outcome(), plan.files.len()))?;
        progress.inc(batch.len() as u64);
    }
    progress::finish(&progress);
    report(format, &summary(plan, writer.into_outcome(), !args.yes), args)
}

fn source(options: &Options, args: &Args) -> Result<v2::Client> {
    let user = args.source_user.clone();
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
async fn read(source: &v2::Client, args: &Args) -> Result<Plan> {
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
fn report(format: Format, summary: &Summary, args: &Args) -> Result<()> {
    if format == Format::Json {
        line(&serde_json::to_string(summary)?)?;
    } else {
        let would = if summary.dry_run { "would be " } else { "" };
        line(&format!(
            "{would}created {}, overwritten {}, unchanged {}, conflicts {}, leases {}; the source was read at index {}",
            summary.created,
            summary.overwritten,
            summary.unchanged,
            summary.conflicts.len(),
            summary.leases,
            summary.index,
        ))?;
        if summary.expired > 0 {
            line(&format!("{} keys expired meanwhile and are left out", summary.expired))?;
        }
        let (all, empty) = (summary.directories, &summary.empty_directories);
        if all > 0 {
            line(&format!("{all} directories, {} of them empty: v3 has none, only the keys in them", empty.len()))?;
        }
        named("empty directory", empty)?;
        named("conflict: there with another value", &summary.conflicts)?;
        named("the v2 API cannot tell all bytes of the value of", &summary.damaged_values)?;
        if summary.dry_run {
            line("nothing was written; add --yes to do it")?;
        }
    }
    ensure!(
        summary.conflicts.is_empty() || args.overwrite,
        "{} keys of the target have other values and were left as they are; --overwrite replaces them",
        summary.conflicts.len()
    );
    Ok(())
}

fn line(text: &str) -> Result<()> {
    // What is asked for is said on standard output; the failure has one text.
    print::line(text).map_err(|failure| anyhow::anyhow!(failure.text.unwrap_or_default()))
}

fn named(what: &str, keys: &[String]) -> Result<()> {
    for key in keys.iter().take(SHOWN) {
        line(&format!("{what}: {key}"))?;
    }
    if keys.len() > SHOWN {
        line(&format!("{what}: {} more", keys.len() - SHOWN))?;
    }
    Ok(())
}

//! The commands as the command line has them: names, flags, and what is read of both.

use super::advice::ended;
use super::destructive::{DRY_RUN, YES};
use super::diff::DiffArgs;
use super::doctor::DoctorArgs;
use super::edit::EditArgs;
use super::history::HistoryArgs;
use super::revert::RevertArgs;
use super::status::StatusArgs;
use super::transfer::{ExportArgs, ImportArgs, Kind};
use super::tree::TreeArgs;
use super::{Format, Session, diff, doctor, edit, history, revert, status, transfer, tree};
use crate::cli::{Command, Flag, Group, Origin};
use crate::context::Context;
use crate::failure::{Failure, code};
use crate::people::terminal::Terminal;
use crate::print;
use std::time::Duration;

/// A server that is asked more often has less time for others.
const INTERVAL_MIN: Duration = Duration::from_millis(200);

const REV: Flag = Flag::int("rev", "0", "as it was at this revision; 0 is the present one").cleat();

const LIMIT: Flag = Flag::uint("limit", "100", "show only the newest so many changes; 0 shows all").cleat();

const DIFF_REV: Flag = Flag::string("rev", "", "revisions to compare: 10..25, or 10.. up to the present one").cleat();
const KEYS_ONLY: Flag = Flag::switch("keys-only", "name the keys, without their values").cleat();

const REVERT_REV: Flag = Flag::int("rev", "0", "the revision whose value the key gets").cleat();

const DEPTH: Flag =
    Flag::uint("depth", "0", "show so many levels, and count the keys that are deeper; 0 shows all").short('L').cleat();
const VALUES: Flag = Flag::switch("values", "show values, too").cleat();

const FORMAT: Flag =
    Flag::string("format", "", "yaml, json, dotenv or dir; by default what the name of the file says").cleat();
const NESTED: Flag = Flag::switch("nested", "write the parts of keys as maps within maps").cleat();
const OUTPUT: Flag = Flag::string("output", "-", "file, or new directory; - is standard output").short('o').cleat();
const KEEP_EXISTING: Flag = Flag::switch("keep-existing", "leave keys that exist as they are").cleat();

const WATCH: Flag = Flag::switch("watch", "keep it on the screen").cleat();
const INTERVAL: Flag = Flag::duration("interval", "2s", "time between two looks of --watch").cleat();

const DATA_DIR: Flag = Flag::string("data-dir", "", "check this data directory of a member, and its disk").cleat();
const WAL_DIR: Flag = Flag::string("wal-dir", "", "where that member's log is, if not in its data directory").cleat();
const STRICT: Flag = Flag::switch("strict", "fail on warnings, too").cleat();
const SRV_DOMAIN: Flag = Flag::string("srv-domain", "", "check the SRV records of this domain").cleat();
const SRV_NAME: Flag = Flag::string("srv-name", "", "service name in the names of those records").cleat();

const PEOPLE: Command = Command { origin: Origin::Cleat, group: Group::People, ..Command::NONE };

pub(crate) const HISTORY: Command = Command {
    name: "history",
    usage: "<key>",
    short: "Shows every change of a key",
    long: "
Shows every change of a key that is not compacted yet, deletions included, oldest first.
",
    flags: &[LIMIT],
    run: Some(|context| Box::pin(run_history(context))),
    ..PEOPLE
};

pub(crate) const DIFF: Command = Command {
    name: "diff",
    usage: "--rev <A..B> [prefix]",
    short: "Shows what changed between two revisions",
    long: "
Shows the keys that were added (+), removed (-) or changed (~) between two revisions, and the lines of their values
that differ.
",
    flags: &[KEYS_ONLY, DIFF_REV],
    run: Some(|context| Box::pin(run_diff(context))),
    ..PEOPLE
};

pub(crate) const REVERT: Command = Command {
    name: "revert",
    usage: "<key> --rev <revision>",
    short: "Gives a key the value that it had",
    long: "
Gives a key the value that it had at a revision, or deletes it if it did not exist then. The lease of the key stays.
Nothing is written if somebody else changes the key meanwhile.

At a terminal it shows what changes, and asks.
",
    flags: &[DRY_RUN, REVERT_REV, YES],
    run: Some(|context| Box::pin(run_revert(context))),
    ..PEOPLE
};

pub(crate) const TREE: Command = Command {
    name: "tree",
    usage: "[prefix]",
    short: "Shows keys as the directories that their slashes make",
    flags: &[DEPTH, REV, VALUES],
    run: Some(|context| Box::pin(run_tree(context))),
    ..PEOPLE
};

pub(crate) const EDIT: Command = Command {
    name: "edit",
    usage: "<key>",
    short: "Opens a value in your editor",
    long: "
Opens the value of a key in the editor that VISUAL or EDITOR names, and writes what was saved. Nothing is written if
somebody else changed the key meanwhile; what you wrote is kept in a file then.
",
    run: Some(|context| Box::pin(run_edit(context))),
    ..PEOPLE
};

pub(crate) const EXPORT: Command = Command {
    name: "export",
    usage: "[prefix]",
    short: "Writes keys to a YAML, JSON or dotenv file, or a directory",
    long: "
Writes the keys of a prefix as they are at one revision. The file has what is behind the prefix of each key, so that it
can be imported to another one.

$ {program} export /app/ -o app.yaml
$ {program} export /app/ -o app/            (a file for each key)
$ {program} export /app/ --format dotenv
",
    flags: &[FORMAT, NESTED, OUTPUT, REV],
    run: Some(|context| Box::pin(run_export(context))),
    ..PEOPLE
};

pub(crate) const IMPORT: Command = Command {
    name: "import",
    usage: "<file> [prefix]",
    short: "Writes the keys of a YAML, JSON or dotenv file, or of a directory",
    long: "
Writes the keys of a file that differ from those in the store, each only if nobody changes it meanwhile. Maps within
maps become keys with slashes. Keys that the file does not have stay. At a terminal it asks before it changes a value.

$ {program} import app.yaml /app/ --dry-run
$ {program} import - /app/ --format json < app.json
",
    flags: &[DRY_RUN, FORMAT, KEEP_EXISTING, YES],
    run: Some(|context| Box::pin(run_import(context))),
    ..PEOPLE
};

pub(crate) const STATUS: Command = Command {
    name: "status",
    short: "Shows the cluster on one screen, and what to do about its problems",
    long: "
Asks the endpoints, and every member that they name at its own client URLs: who leads, how far each has applied the
log (LAG, entries), the size of the database and how much of its quota that is, how long the syncs of the log take
(SYNC P99: 99 of 100 were not longer), and when certificates end.
",
    flags: &[INTERVAL, WATCH],
    run: Some(|context| Box::pin(run_status(context))),
    ..PEOPLE
};

pub(crate) const DOCTOR: Command = Command {
    name: "doctor",
    short: "Checks the cluster and how it was set up: PASS, WARN or FAIL, with a remedy",
    long: "
Checks what status shows, and the clocks, versions, ports, encryption and who is let in, with the points of the CIS
benchmark that can be seen from outside. With --data-dir it checks a directory and disk of this host, with --srv-domain
the SRV records that this host finds. It ends with 1 if a check fails.
",
    flags: &[DATA_DIR, SRV_DOMAIN, SRV_NAME, STRICT, WAL_DIR],
    run: Some(|context| Box::pin(run_doctor(context))),
    ..PEOPLE
};

/// The output formats of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Formats {
    Text,
    TextAndJson,
}

impl Session {
    /// What the flags, the environment and DNS say. Asks for the password if it must.
    ///
    /// # Errors
    /// Flags that do not fit, or a format that the command has not.
    async fn of(context: &mut Context, formats: Formats) -> Result<Self, Failure> {
        // Before anything is read of the flags: the environment has more of them.
        context.read_environment()?;
        let format = match (context.printer()?.format, formats) {
            (print::Format::Simple, _) => Format::Text,
            (print::Format::Json, Formats::TextAndJson) => Format::Json,
            (_, Formats::TextAndJson) => {
                let why = "this command prints simple or json; leave --write-out out";
                return Err(Failure::new(code::BAD_FEATURE, why));
            }
            (_, Formats::Text) => {
                let why = format!("{} prints simple only; leave --write-out out", context.path.name());
                return Err(Failure::new(code::BAD_FEATURE, why));
            }
        };
        context.discover().await?;
        let endpoints = context.endpoints();
        let options = context.options(&endpoints).await?;
        Ok(Self { options, format, terminal: Terminal::detect() })
    }
}

/// The only argument.
fn only<'a>(context: &'a Context, what: &str) -> Result<&'a [u8], Failure> {
    match (context.arg(0), context.args.len()) {
        (Some(argument), 1) => Ok(argument),
        _ => Err(Failure::bad_args(format!("name one {what}: {}", crate::cli::help::usage(&context.path)))),
    }
}

/// The argument that may be left out, behind `before` others.
fn optional(context: &Context, before: usize) -> Result<Vec<u8>, Failure> {
    if context.args.len() > before + 1 {
        let usage = crate::cli::help::usage(&context.path);
        return Err(Failure::bad_args(format!("there are more arguments than it takes: {usage}")));
    }
    Ok(context.arg(before).unwrap_or_default().to_vec())
}

/// Refuses arguments.
fn none(context: &Context) -> Result<(), Failure> {
    if context.args.is_empty() {
        return Ok(());
    }
    Err(Failure::bad_args(format!("it takes no arguments: {}", crate::cli::help::usage(&context.path))))
}

/// A revision that must be named.
fn revision(context: &Context, flag: &Flag) -> Result<i64, Failure> {
    match context.int(flag) {
        revision if revision > 0 => Ok(revision),
        _ => Err(Failure::bad_args(format!("name a revision above 0 with --{}", flag.name))),
    }
}

/// A revision that may be left out.
fn past(context: &Context) -> Result<i64, Failure> {
    match context.int(&REV) {
        revision if revision >= 0 => Ok(revision),
        _ => Err(Failure::bad_args("a revision cannot be below 0")),
    }
}

fn kind(context: &Context) -> Result<Option<Kind>, Failure> {
    context.given(&FORMAT).map(|text| text.parse().map_err(|error| Failure::bad_args(format!("{error}")))).transpose()
}

async fn run_history(mut context: Context) -> Result<(), Failure> {
    let key = only(&context, "key")?.to_vec();
    let limit = usize::try_from(context.uint(&LIMIT)).unwrap_or(usize::MAX);
    let session = Session::of(&mut context, Formats::TextAndJson).await?;
    ended(history::history(&session, &HistoryArgs { key, limit }).await)
}

async fn run_diff(mut context: Context) -> Result<(), Failure> {
    let prefix = optional(&context, 0)?;
    let rev = context.string(&DIFF_REV).parse().map_err(|why| Failure::bad_args(format!("--rev: {why}")))?;
    let args = DiffArgs { rev, prefix, keys_only: context.switch(&KEYS_ONLY) };
    let session = Session::of(&mut context, Formats::TextAndJson).await?;
    ended(diff::diff(&session, &args).await)
}

async fn run_revert(mut context: Context) -> Result<(), Failure> {
    let key = only(&context, "key")?.to_vec();
    let rev = revision(&context, &REVERT_REV)?;
    let args = RevertArgs { key, rev, dry_run: context.switch(&DRY_RUN), yes: context.switch(&YES) };
    let session = Session::of(&mut context, Formats::Text).await?;
    ended(revert::revert(&session, &args).await)
}

async fn run_tree(mut context: Context) -> Result<(), Failure> {
    let prefix = optional(&context, 0)?;
    let depth = u32::try_from(context.uint(&DEPTH)).ok().filter(|depth| *depth > 0);
    let args = TreeArgs { prefix, depth, values: context.switch(&VALUES), rev: past(&context)? };
    let session = Session::of(&mut context, Formats::Text).await?;
    ended(tree::tree(&session, &args).await)
}

async fn run_edit(mut context: Context) -> Result<(), Failure> {
    let key = only(&context, "key")?.to_vec();
    let session = Session::of(&mut context, Formats::Text).await?;
    ended(edit::edit(&session, &EditArgs { key }).await)
}

async fn run_export(mut context: Context) -> Result<(), Failure> {
    let args = ExportArgs {
        prefix: optional(&context, 0)?,
        output: context.string(&OUTPUT),
        kind: kind(&context)?,
        is_nested: context.switch(&NESTED),
        rev: past(&context)?,
    };
    let session = Session::of(&mut context, Formats::Text).await?;
    ended(transfer::export(&session, &args).await)
}

async fn run_import(mut context: Context) -> Result<(), Failure> {
    if context.args.is_empty() {
        return Err(Failure::bad_args(format!("name a file: {}", crate::cli::help::usage(&context.path))));
    }
    let args = ImportArgs {
        source: context.text(0),
        prefix: optional(&context, 1)?,
        kind: kind(&context)?,
        keeps_existing: context.switch(&KEEP_EXISTING),
        is_dry_run: context.switch(&DRY_RUN),
        is_sure: context.switch(&YES),
    };
    let session = Session::of(&mut context, Formats::Text).await?;
    ended(transfer::import(&session, &args).await)
}

async fn run_status(mut context: Context) -> Result<(), Failure> {
    none(&context)?;
    let interval = context.duration(&INTERVAL).max(INTERVAL_MIN);
    let args = StatusArgs { is_watch: context.switch(&WATCH), interval };
    let session = Session::of(&mut context, Formats::TextAndJson).await?;
    ended(status::status(&session, &args).await)
}

async fn run_doctor(mut context: Context) -> Result<(), Failure> {
    none(&context)?;
    let args = DoctorArgs {
        data_dir: context.file(&DATA_DIR),
        wal_dir: context.file(&WAL_DIR),
        srv_domain: context.given(&SRV_DOMAIN),
        srv_name: context.given(&SRV_NAME),
        is_strict: context.switch(&STRICT),
    };
    let session = Session::of(&mut context, Formats::TextAndJson).await?;
    ended(doctor::doctor(&session, &args).await)
}

//! `lock`: a lock of a name, held for a command or until this process is asked to end.

use super::kv;
use super::session::{Claim, Interrupts, Session};
use crate::cli::{Command, Flag, Group};
use crate::context::Context;
use crate::failure::{Failure, code};
use crate::print::{Format, Printer};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use go::strconv;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};

const FENCING: Flag =
    Flag::switch("fencing", "print the key, and the revision that the command finds in ETCD_LOCK_REV").cleat();
const TTL: Flag = Flag::int("ttl", "10", "timeout for session");

pub(crate) const COMMAND: Command = Command {
    name: "lock",
    usage: "<lockname> [exec-command arg1 arg2 ...]",
    short: "Acquires a named lock",
    group: Group::Leases,
    flags: &[FENCING, TTL],
    run: Some(|context| Box::pin(lock(context))),
    ..Command::NONE
};

async fn lock(mut context: Context) -> Result<(), Failure> {
    let Some((name, command)) = context.args.clone().split_first().map(|(name, rest)| (name.clone(), rest.to_vec()))
    else {
        return Err(Failure::bad_args("lock takes a lock name argument and an optional command to execute"));
    };
    let (ttl, is_fencing) = (context.int(&TTL), context.switch(&FENCING));
    let (client, printer) = context.connect().await?;
    let mut interrupts = Interrupts::listen()?;
    let session = Session::begin(client, ttl, context.is_etcdctl()).await?;
    let is_etcdctl = context.is_etcdctl();
    let held = hold(&session, name.as_bytes(), &command, printer, (is_fencing, is_etcdctl), &mut interrupts).await;
    session.end().await;
    held
}

/// Takes the lock, and gives it back after the command, or when this process is asked to end.
async fn hold(
    session: &Session,
    name: &[u8],
    command: &[OsString],
    printer: Printer,
    (is_fencing, is_etcdctl): (bool, bool),
    interrupts: &mut Interrupts,
) -> Result<(), Failure> {
    let claim = session.claim(name, b"").await?;
    let revision = tokio::select! {
        revision = session.wait_for_first(name, &claim) => revision?,
        expired = session.expired() => return Err(expired),
        () = interrupts.next() => {
            session.release(&claim).await?;
            return Err(Failure::new(code::ERROR, "context canceled"));
        }
    };
    if !command.is_empty() {
        // It runs to its end whatever becomes of the lock, as with etcdctl: the revision in its environment is what protects
        // what it writes to.
        let ran = run(command, &claim, revision, interrupts, is_etcdctl).await;
        let released = session.release(&claim).await;
        return ran.and(released);
    }
    let answer = session.own(&claim).await?;
    if answer.kvs.is_empty() {
        return Err(Failure::new(code::ERROR, "lock lost on init"));
    }
    if is_fencing {
        print_fencing(printer, &claim, revision)?;
    } else {
        printer.answer(
            "/etcdserverpb.KV/Range",
            &answer,
            |out| kv::got(out, &answer),
            |out| kv::got_fields(out, &answer),
        )?;
    }
    tokio::select! {
        () = interrupts.next() => session.release(&claim).await,
        expired = session.expired() => Err(expired),
    }
}

/// The key, and the revision at which it was the first. Later holders have larger ones: who writes can be told from who has
/// lost the lock meanwhile.
fn print_fencing(printer: Printer, claim: &Claim, revision: i64) -> Result<(), Failure> {
    match printer.format {
        Format::Simple => printer.simple(|out| {
            out.line(&claim.key);
            out.line(revision.to_string());
        }),
        Format::Fields => Printer::fields(|out| {
            out.quoted("Key", &claim.key);
            out.plain("Revision", revision);
        }),
        Format::Json => Printer::json(|json| {
            json.object(|json| {
                json.member_string("key", &STANDARD.encode(&claim.key));
                json.member("revision", revision);
            });
        }),
        Format::Protobuf | Format::Table => Err(printer.unsupported()),
    }
}

/// Runs a command that finds the lock in its environment: the revision is what tells its writes from those of an earlier
/// holder.
async fn run(
    command: &[OsString],
    claim: &Claim,
    revision: i64,
    interrupts: &mut Interrupts,
    is_etcdctl: bool,
) -> Result<(), Failure> {
    let Some((program, args)) = command.split_first() else { return Ok(()) };
    let mut child = tokio::process::Command::new(program);
    child
        .args(args)
        .env("ETCD_LOCK_KEY", OsStr::from_bytes(&claim.key))
        .env("ETCD_LOCK_REV", revision.to_string())
        .stdin(Stdio::null());
    let mut child = child.spawn().map_err(|error| Failure::new(code::ERROR, not_started(program, &error)))?;
    let status = loop {
        // A signal is the command's business as well: its end decides.
        tokio::select! {
            status = child.wait() => break status?,
            () = interrupts.next() => {}
        }
    };
    if status.success() {
        return Ok(());
    }
    // As etcdctl from 3.5 on. Before it, and of one that a signal ended, all that is told is that it failed.
    let of_command = status.code().and_then(|code| u8::try_from(code).ok()).filter(|_| !is_etcdctl);
    Err(Failure::new(of_command.unwrap_or(code::ERROR), ended(status)))
}

/// Go's words for how a command ended.
pub(super) fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(15)) => "signal: terminated".to_owned(),
        (None, Some(9)) => "signal: killed".to_owned(),
        (None, Some(2)) => "signal: interrupt".to_owned(),
        (None, signal) => format!("signal: {}", signal.unwrap_or_default()),
    }
}

/// Go's words for a command that cannot be run.
pub(crate) fn not_started(program: &OsStr, error: &std::io::Error) -> String {
    let quoted = strconv::quote(program.as_bytes());
    match error.kind() {
        ErrorKind::NotFound if program.as_bytes().contains(&b'/') => {
            format!("fork/exec {}: no such file or directory", program.display())
        }
        ErrorKind::NotFound => format!("exec: {quoted}: executable file not found in $PATH"),
        ErrorKind::PermissionDenied => format!("fork/exec {}: permission denied", program.display()),
        _ => format!("exec: {quoted}: {error}"),
    }
}

//! `import FILE [PREFIX]`: what differs is written, each key only if it is still as it was when the plan was made.

use super::{BYTES_MAX, Entries, Entry, Kind, STANDARD, directory, document, dotenv};
use crate::people::terminal::{Tone, confirm};
use crate::people::{Session, print, text};
use anyhow::{Context as _, Result, bail, ensure};
use api::etcdserverpb::response_op::Response;
use api::etcdserverpb::{PutRequest, TxnRequest};
use bytes::Bytes;
use client::{Client, message};
use std::io::Read as _;
use std::path::Path;

/// Operations of one transaction: half of what etcd takes.
const OPERATIONS_MAX: usize = 64;

/// About the largest transaction: etcd takes 1.5 MiB.
const TXN_BYTES: usize = 512 << 10;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct ImportArgs {
    /// File or directory; `-` is standard input.
    pub(crate) source: String,
    /// What stands before every key of the file.
    pub(crate) prefix: Vec<u8>,
    /// None: what the name says.
    pub(crate) kind: Option<Kind>,
    /// Keys that are there stay as they are.
    pub(crate) keeps_existing: bool,
    pub(crate) is_dry_run: bool,
    pub(crate) is_sure: bool,
}

/// What is to be done about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Create,
    /// Replace the value that was written at this revision.
    Change(i64),
    /// It has the value already.
    Same,
    /// It has another one, and keeps it.
    Keep,
}

/// Reads the file, shows what would change, asks, and writes it.
///
/// # Errors
/// The file's and the cluster's; a key was changed meanwhile. What was written before an error stays: the same command
/// again goes on with the rest.
pub(crate) async fn import(session: &Session, args: &ImportArgs) -> Result<()> {
    // What its name says matters less than that it is there.
    if args.source != STANDARD {
        std::fs::metadata(&args.source).with_context(|| format!("cannot import {}", args.source))?;
    }
    let kind = Kind::choose(args.kind, &args.source, None)?;
    let source = args.source.clone();
    let read = tokio::task::spawn_blocking(move || read(kind, &source)).await?;
    let mut entries = read.and_then(Entries::sorted).with_context(|| format!("cannot import {}", args.source))?;
    for (key, _) in &mut entries {
        key.splice(0..0, args.prefix.iter().copied());
        ensure!(!key.is_empty(), "a key of {} is empty; name a prefix", args.source);
    }
    let client = session.client()?;
    let actions = plan(&client, &entries, args.keeps_existing).await?;
    let count = |is: fn(&Action) -> bool| actions.iter().filter(|action| is(action)).count();
    let created = count(|action| *action == Action::Create);
    let changed = count(|action| matches!(action, Action::Change(_)));
    let kept = count(|action| *action == Action::Keep);
    let same = count(|action| *action == Action::Same);
    let kept = if kept > 0 { format!(", {kept} kept") } else { String::new() };
    if args.is_dry_run {
        for ((key, _), action) in entries.iter().zip(&actions) {
            let (tone, mark) = match action {
                Action::Create => (Tone::Good, '+'),
                Action::Change(_) => (Tone::Warning, '~'),
                Action::Same | Action::Keep => continue,
            };
            print(&format!("{}\n", session.terminal.paint(tone, &format!("{mark} {}", text::show(key)))))?;
        }
        let line = format!(
            "{created} to create, {changed} to change{kept}, {same} the same; nothing was written (--dry-run)\n"
        );
        return print(&line);
    }
    if changed > 0 {
        let question = format!("{created} to create, {changed} to change{kept}, {same} the same. Write them?");
        confirm(&session.terminal, args.is_sure, &question).await?;
    }
    let written = write(&client, &entries, &actions).await?;
    let at = written.map_or_else(String::new, |revision| format!(", at revision {revision}"));
    print(&format!("{created} created, {changed} changed{kept}, {same} the same{at}\n"))
}

fn read(kind: Kind, source: &str) -> Result<Entries> {
    if kind == Kind::Directory {
        return directory::read(Path::new(source));
    }
    let mut bytes = Vec::new();
    let limit = BYTES_MAX as u64 + 1;
    if source == STANDARD {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(source)?.take(limit).read_to_end(&mut bytes)?;
    }
    ensure!(bytes.len() <= BYTES_MAX, "it is larger than {} MiB", BYTES_MAX >> 20);
    // The error of the conversion would show what is in it.
    let Ok(text) = String::from_utf8(bytes) else { bail!("it is no UTF-8 text") };
    match kind {
        Kind::Yaml => document::from_yaml(&text),
        Kind::Json => document::from_json(&text),
        Kind::Dotenv | Kind::Directory => dotenv::read(&text),
    }
}

/// Ranges of entries that one transaction takes.
fn batches(entries: &[Entry]) -> Vec<std::ops::Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, (key, value)) in entries.iter().enumerate() {
        let more = key.len() + value.len();
        if at > start && (at - start == OPERATIONS_MAX || bytes + more > TXN_BYTES) {
            batches.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += more;
    }
    if start < entries.len() {
        batches.push(start..entries.len());
    }
    batches
}

/// What is to be done about each key.
async fn plan(client: &Client, entries: &[Entry], keeps_existing: bool) -> Result<Vec<Action>> {
    let mut actions = Vec::with_capacity(entries.len());
    for batch in batches(entries) {
        let entries = &entries[batch];
        let gets = entries.iter().map(|(key, _)| message::op::range(message::get(key.clone())));
        let answer = client.txn(TxnRequest { success: gets.collect(), ..TxnRequest::default() }).await?;
        ensure!(
            answer.responses.len() == entries.len(),
            "the server's answer lacks some of the keys that were asked for"
        );
        for ((_, value), response) in entries.iter().zip(answer.responses) {
            let Some(Response::ResponseRange(mut range)) = response.response else {
                bail!("the server answers a read with something else");
            };
            actions.push(match range.kvs.pop() {
                None => Action::Create,
                Some(kv) if kv.value == *value => Action::Same,
                Some(_) if keeps_existing => Action::Keep,
                Some(kv) => Action::Change(kv.mod_revision),
            });
        }
    }
    Ok(actions)
}

/// The transaction that does what is to be done about some keys; None if that is nothing.
fn txn(entries: &[Entry], actions: &[Action]) -> Option<TxnRequest> {
    let mut txn = TxnRequest::default();
    for ((key, value), action) in entries.iter().zip(actions) {
        let key = Bytes::copy_from_slice(key);
        let put = message::put(key.clone(), Bytes::copy_from_slice(value));
        let (unchanged, put) = match action {
            Action::Create => (message::is_absent(key), put),
            // The lease is of the key that is there, and the file says nothing of it.
            Action::Change(revision) => {
                (message::modified_at(key, *revision), PutRequest { ignore_lease: true, ..put })
            }
            Action::Same | Action::Keep => continue,
        };
        txn.compare.push(unchanged);
        txn.success.push(message::op::put(put));
    }
    (!txn.success.is_empty()).then_some(txn)
}

/// Writes, and returns the last revision that was made.
async fn write(client: &Client, entries: &[Entry], actions: &[Action]) -> Result<Option<i64>> {
    let mut revision = None;
    for batch in batches(entries) {
        let Some(txn) = txn(&entries[batch.clone()], &actions[batch.clone()]) else { continue };
        let (first, last) = (&entries[batch.start].0, &entries[batch.end - 1].0);
        let answer = client.txn(txn).await.map_err(|error| {
            let told = stopped(first, last, error.may_be_done());
            anyhow::Error::from(error).context(told)
        })?;
        if !answer.succeeded {
            let changed = anyhow::anyhow!("one of the keys was changed by somebody else in the meantime");
            return Err(changed.context(stopped(first, last, false)));
        }
        revision = answer.header.map(|header| header.revision);
    }
    Ok(revision)
}

/// How far it has come, when the transaction of these keys has failed.
fn stopped(first: &[u8], last: &[u8], may_be_done: bool) -> String {
    let (first, last) = (text::show(first), text::show(last));
    if may_be_done {
        format!(
            "what stands from {first} to {last} may have been written or not, all of it or nothing, and nothing behind \
             it; give the command again to go on"
        )
    } else {
        format!("nothing from {first} to {last} and behind was written; give the command again to go on")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_of_a_size_that_servers_take() {
        let entries: Vec<Entry> = (0..130).map(|n: u32| (n.to_be_bytes().to_vec(), b"v".to_vec())).collect();
        assert_eq!(batches(&entries), [0..64, 64..128, 128..130]);
        let large: Vec<Entry> = (0..5_u32).map(|n| (n.to_be_bytes().to_vec(), vec![0; 200 << 10])).collect();
        assert_eq!(batches(&large), [0..2, 2..4, 4..5]);
        let huge = [(b"k".to_vec(), vec![0; 2 << 20]), (b"l".to_vec(), Vec::new())];
        assert_eq!(batches(&huge), [0..1, 1..2]);
        assert!(batches(&[]).is_empty());
    }

    #[test]
    fn only_what_differs_is_written_and_on_a_condition() {
        let entries = ["a", "b", "c", "d"].map(|key| (key.into(), b"v".to_vec()));
        let actions = [Action::Create, Action::Same, Action::Change(7), Action::Keep];
        let txn = txn(&entries, &actions).unwrap();
        assert_eq!(txn.compare, [message::is_absent("a"), message::modified_at("c", 7)]);
        // A key that is changed keeps its lease.
        let puts = [("a", false), ("c", true)]
            .map(|(key, ignore_lease)| message::op::put(PutRequest { ignore_lease, ..message::put(key, "v") }));
        assert_eq!(txn.success, puts);
        assert_eq!(super::txn(&entries, &[Action::Same; 4]), None);
        assert!(stopped(b"a", b"b", true).contains("may have been written"));
        assert!(stopped(b"a", b"b", false).starts_with("nothing from a to b and behind was written"));
    }
}

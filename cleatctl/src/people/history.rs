//! `history KEY`: every change of a key that is not compacted yet.
//!
//! A watch from the first revision that is left tells all of them, deletions included, and the key as it was at the
//! compaction is what it begins with.

use crate::people::terminal::{Terminal, Tone};
use crate::people::text::{self, Align};
use crate::people::{Format, Session, print};
use anyhow::{Result, bail};
use api::mvccpb::event::EventType;
use api::mvccpb::{Event, KeyValue};
use bytes::Bytes;
use client::{Client, Error, Events, WatchOptions, message};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::Duration;

/// A key that does not exist has no last change to wait for. This long without another one is taken for the end, if there can
/// be none: behind a deletion, or where there was nothing at all. etcd looks for what watches have missed ten times a second.
const QUIET: Duration = Duration::from_secs(1);

/// A compaction may go on while history is read; who is overtaken so often is told.
const ATTEMPTS: usize = 3;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct HistoryArgs {
    /// The key
    pub(crate) key: Vec<u8>,
    /// Show only the newest so many changes; 0 shows all
    pub(crate) limit: usize,
}

/// One change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    revision: i64,
    kind: Kind,
    /// 0 for a deletion.
    version: i64,
    lease: i64,
    value: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Create,
    Put,
    Delete,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Put => "put",
            Self::Delete => "delete",
        }
    }
}

/// The changes of a key, oldest first.
#[derive(Debug, Default)]
struct History {
    changes: VecDeque<Change>,
    /// Earlier changes that were left out because of the limit.
    omitted: usize,
    /// What happened before this revision is gone.
    compact_revision: Option<i64>,
}

impl History {
    /// Adds a change, unless it is known, and forgets the oldest beyond the limit.
    fn add(&mut self, change: Change, limit: usize) {
        if self.changes.back().is_some_and(|last| last.revision >= change.revision) {
            return;
        }
        self.changes.push_back(change);
        if limit > 0 && self.changes.len() > limit {
            self.changes.pop_front();
            self.omitted += 1;
        }
    }

    /// True if it may be all of a key that does not exist: one that was put last was deleted later.
    fn may_be_whole(&self) -> bool {
        self.changes.back().is_none_or(|change| change.kind == Kind::Delete)
    }

    fn last_revision(&self) -> i64 {
        self.changes.back().map_or(0, |change| change.revision)
    }
}

/// Where the history of a key ends, by a first look at it.
#[derive(Clone, Copy, Debug)]
struct End {
    /// When that was.
    revision: i64,
    /// The last change until then; None if the key did not exist.
    last: Option<i64>,
}

impl End {
    /// True if the history has all that there was, or more.
    fn is_in(self, history: &History) -> bool {
        // Changes come in their order: a later one has all of them before it.
        self.last.map_or_else(|| history.last_revision() > self.revision, |last| history.last_revision() >= last)
    }

    /// True if nothing may come that would tell the end.
    fn may_be_silent(self, history: &History) -> bool {
        self.last.is_none() && history.may_be_whole()
    }

    /// The end of what a compaction left of a key that did not exist then: earlier changes are gone.
    fn without_before(self, revision: i64) -> Self {
        Self { last: self.last.filter(|last| *last > revision), ..self }
    }
}

/// A key-value as the change that made it.
fn put(kv: &KeyValue) -> Change {
    let kind = if kv.version == 1 { Kind::Create } else { Kind::Put };
    // A slice of the receive buffer would keep all of it.
    let value = Bytes::copy_from_slice(&kv.value);
    Change { revision: kv.mod_revision, kind, version: kv.version, lease: kv.lease, value }
}

/// What an event tells.
fn change(event: Event) -> Option<Change> {
    let is_delete = event.r#type() == EventType::Delete;
    let kv = event.kv?;
    Some(if is_delete {
        Change { revision: kv.mod_revision, kind: Kind::Delete, version: 0, lease: 0, value: Bytes::new() }
    } else {
        put(&kv)
    })
}

/// Prints the changes of a key.
///
/// # Errors
/// The cluster's, or there is no such key and never was, as far as the store remembers.
pub(crate) async fn history(session: &Session, args: &HistoryArgs) -> Result<()> {
    let key = Bytes::from(args.key.clone());
    let history = read(&session.client()?, &key, args.limit, session.request_timeout()).await?;
    if history.changes.is_empty() {
        match history.compact_revision {
            Some(revision) => bail!(
                "{} does not exist and has no history: what happened before revision {revision} was compacted",
                text::show(&key)
            ),
            None => bail!("{} does not exist, and no change of it was seen within {QUIET:?}", text::show(&key)),
        }
    }
    match session.format {
        Format::Json => print(&format!("{}\n", as_json(&key, &history))),
        Format::Text => print(&render(&history, &session.terminal)),
    }
}

async fn read(client: &Client, key: &Bytes, limit: usize, patience: Duration) -> Result<History> {
    let now = client.range(message::get(key.clone())).await?;
    let revision = now.header.map_or(0, |header| header.revision);
    let mut end = End { revision, last: now.kvs.first().map(|kv| kv.mod_revision) };
    let mut history = History::default();
    let mut start = 1;
    for _ in 0..ATTEMPTS {
        match follow(client, key, start, end, limit, patience, &mut history).await? {
            Followed::ToTheEnd => return Ok(history),
            Followed::Compacted(revision) => {
                history = History { compact_revision: Some(revision), ..History::default() };
                start = revision;
                let mut at = message::get(key.clone());
                at.revision = revision;
                match client.range(at).await {
                    Ok(mut answer) => match answer.kvs.pop() {
                        Some(kv) => history.add(put(&kv), limit),
                        None => end = end.without_before(revision),
                    },
                    // Compacted once more; the watch will say so, too.
                    Err(error) if error.is(api::error::Error::Compacted) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    bail!("the store was compacted {ATTEMPTS} times while its history was read; ask again")
}

/// How the reading of a watch ended.
enum Followed {
    ToTheEnd,
    Compacted(i64),
}

/// Adds what a watch tells, up to the end, or until it is quiet.
async fn follow(
    client: &Client,
    key: &Bytes,
    start: i64,
    end: End,
    limit: usize,
    patience: Duration,
    history: &mut History,
) -> Result<Followed> {
    if end.is_in(history) {
        return Ok(Followed::ToTheEnd);
    }
    let options = WatchOptions { key: key.clone(), start_revision: start, ..WatchOptions::default() };
    let mut watch = client.watch(options).await?;
    while !end.is_in(history) {
        let may_be_silent = end.may_be_silent(history);
        let wait = if may_be_silent { QUIET } else { patience };
        match tokio::time::timeout(wait, watch.next()).await {
            Ok(Ok(Events { events, .. })) => {
                events.into_iter().filter_map(change).for_each(|change| history.add(change, limit));
            }
            Ok(Err(Error::Compacted { compact_revision, .. })) => return Ok(Followed::Compacted(compact_revision)),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) if may_be_silent => break,
            Err(_) => bail!(
                "the history of {} did not arrive within {patience:?}; a larger --command-timeout waits longer",
                text::show(key)
            ),
        }
    }
    Ok(Followed::ToTheEnd)
}

fn as_json(key: &[u8], history: &History) -> Value {
    let changes: Vec<Value> = history
        .changes
        .iter()
        .map(|change| {
            json!({
                "revision": change.revision, "change": change.kind.name(), "version": change.version,
                "lease": change.lease, "value": super::base64(&change.value),
            })
        })
        .collect();
    json!({
        "key": super::base64(key), "compact_revision": history.compact_revision, "omitted": history.omitted,
        "changes": changes,
    })
}

/// One line for each change; values are cut where the terminal ends.
fn render(history: &History, terminal: &Terminal) -> String {
    let revision = history.changes.iter().map(|change| change.revision.to_string().len()).max().unwrap_or(0).max(8);
    let version = history.changes.iter().map(|change| change.version.to_string().len()).max().unwrap_or(0).max(7);
    let lease = if history.changes.iter().any(|change| change.lease != 0) { 16 } else { 0 };
    let mut lines = String::new();
    let mut head = format!("{:>revision$}  CHANGE  {:>version$}  ", "REVISION", "VERSION");
    if lease > 0 {
        text::push(&mut head, format_args!("{:<lease$}  ", "LEASE"));
    }
    head.push_str("VALUE");
    text::push(&mut lines, format_args!("{}\n", terminal.paint(Tone::Strong, &head)));
    if let Some(at) = history.compact_revision {
        let note = format!("{:>revision$}  what was before revision {at} is compacted", "");
        text::push(&mut lines, format_args!("{}\n", terminal.paint(Tone::Quiet, &note)));
    }
    if history.omitted > 0 {
        let note =
            format!("{:>revision$}  {} before, see --limit", "", text::count(history.omitted, "change", "changes"));
        text::push(&mut lines, format_args!("{}\n", terminal.paint(Tone::Quiet, &note)));
    }
    for change in &history.changes {
        let tone = match change.kind {
            Kind::Create => Tone::Good,
            Kind::Put => Tone::Warning,
            Kind::Delete => Tone::Bad,
        };
        let kind = text::pad(change.kind.name(), 6, Align::Left);
        let of_version = if change.version > 0 { change.version.to_string() } else { String::new() };
        let mut line = format!("{:>revision$}  {kind}  {of_version:>version$}  ", change.revision);
        if lease > 0 {
            let id = if change.lease == 0 { String::new() } else { format!("{:x}", change.lease) };
            text::push(&mut line, format_args!("{id:<lease$}  "));
        }
        if change.kind != Kind::Delete {
            line.push_str(&text::show(&change.value));
        }
        let line = line.trim_end();
        let line = terminal.width.map_or_else(|| line.to_owned(), |width| text::cut(line, width, terminal.has_unicode));
        // The word gets its colour last: escapes take no columns.
        let painted = terminal.paint(tone, &kind);
        text::push(&mut lines, format_args!("{}\n", line.replacen(&kind, &painted, 1)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::snapshots::{assert_recorded, outputs};

    fn kv(revision: i64, version: i64, value: &str) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(b"k"),
            mod_revision: revision,
            version,
            value: Bytes::copy_from_slice(value.as_bytes()),
            ..KeyValue::default()
        }
    }

    fn event(kind: EventType, kv: KeyValue) -> Event {
        Event { r#type: kind.into(), kv: Some(kv), prev_kv: None }
    }

    fn sample() -> History {
        let mut history = History { compact_revision: Some(1200), ..History::default() };
        let long = "the quick brown fox jumps over the lazy dog, ".repeat(4);
        for event in [
            event(EventType::Put, kv(1187, 4, "red")),
            event(EventType::Put, kv(1204, 5, &long)),
            event(EventType::Delete, kv(1311, 0, "")),
            event(EventType::Put, KeyValue { lease: 0x1642_b189_0d32_3094, ..kv(1500, 1, "two\nlines") }),
        ] {
            history.add(change(event).unwrap(), 0);
        }
        history
    }

    #[test]
    fn every_output_is_as_recorded() {
        for (name, terminal) in outputs() {
            assert_recorded(&format!("history-{name}"), &render(&sample(), &terminal));
        }
        let mut limited = History::default();
        (1..=5).for_each(|n| limited.add(put(&kv(n, n, "v")), 2));
        assert_recorded("history-limited", &render(&limited, &outputs()[0].1));
        assert_recorded("history-json", &format!("{:#}\n", as_json(b"k", &sample())));
    }

    #[test]
    fn changes_come_once_and_the_oldest_go_first() {
        let mut history = History::default();
        for revision in [3, 3, 2, 5, 7] {
            history.add(put(&kv(revision, 2, "v")), 2);
        }
        let revisions: Vec<_> = history.changes.iter().map(|change| change.revision).collect();
        assert_eq!((revisions, history.omitted, history.last_revision()), (vec![5, 7], 1, 7));
    }

    #[test]
    fn a_key_that_does_not_exist_was_deleted_last() {
        let mut history = History::default();
        assert!(history.may_be_whole());
        history.add(put(&kv(2, 1, "v")), 0);
        assert!(!history.may_be_whole());
        history.add(change(event(EventType::Delete, kv(3, 0, ""))).unwrap(), 0);
        assert!(history.may_be_whole());
    }

    #[test]
    fn a_key_that_is_created_meanwhile_ends_its_history() {
        let (absent, present) = (End { revision: 5, last: None }, End { revision: 5, last: Some(3) });
        let mut history = History::default();
        assert!(!absent.is_in(&history) && absent.may_be_silent(&history) && !present.may_be_silent(&history));
        // It did not exist at 5: what was put before was deleted before, too.
        history.add(put(&kv(3, 1, "v")), 0);
        assert!(!absent.is_in(&history) && !absent.may_be_silent(&history) && present.is_in(&history));
        history.add(change(event(EventType::Delete, kv(5, 0, ""))).unwrap(), 0);
        assert!(!absent.is_in(&history) && absent.may_be_silent(&history));
        history.add(put(&kv(6, 1, "v")), 0);
        assert!(absent.is_in(&history));
        // A last change that is compacted does not come any more.
        assert!(present.without_before(2).last.is_some());
        assert!(present.without_before(4).may_be_silent(&History::default()));
    }

    #[test]
    fn kinds_follow_from_versions_and_events() {
        let of = |kind, kv| change(event(kind, kv)).unwrap().kind;
        assert_eq!(of(EventType::Put, kv(2, 1, "v")), Kind::Create);
        assert_eq!(of(EventType::Put, kv(3, 2, "v")), Kind::Put);
        assert_eq!(of(EventType::Delete, kv(4, 0, "")), Kind::Delete);
    }
}

//! Rules of watchers, and what all of them together were told.

use super::{Change, Log, Report, Rule};
use crate::history::{Event, History, Said, WatchLog};

/// Checks each watcher by itself and merges them into the log of all changes.
pub(super) fn merge(history: &History, report: &mut Report) -> Log {
    let mut log = Log::new();
    for watch in &history.watches {
        check(history, watch, report);
        for record in &watch.records {
            if let Said::Events(_, events) = &record.said {
                for (revision, events) in by_revision(events) {
                    take(&mut log, watch, record.at, revision, events, report);
                }
            }
        }
    }
    for revision in history.start + 1..=history.end {
        if !log.contains_key(&revision) && revision > history.compacted {
            report.add(Rule::WatchGap, || format!("no watcher was told revision {revision}"));
        }
    }
    if let Some((&last, _)) = log.last_key_value()
        && last > history.end
    {
        report.add(Rule::Future, || format!("revision {last} was told, the last is {}", history.end));
    }
    log
}

/// The events of a response, grouped by revision in the order of the response.
fn by_revision(events: &[Event]) -> Vec<(i64, Vec<Event>)> {
    events.chunk_by(|a, b| a.kv.modified == b.kv.modified).map(|group| (group[0].kv.modified, group.to_vec())).collect()
}

fn take(log: &mut Log, watch: &WatchLog, at: u64, revision: i64, events: Vec<Event>, report: &mut Report) {
    let Some(known) = log.get_mut(&revision) else {
        log.insert(revision, Change { events, seen: at, cause: None, lease: None });
        return;
    };
    known.seen = known.seen.min(at);
    let same = known.events.len() == events.len()
        && known.events.iter().zip(&events).all(|(a, b)| a.put == b.put && a.kv == b.kv);
    if !same {
        let (first, second) = (&known.events, &events);
        report.add(Rule::WatchAgree, || {
            format!("revision {revision}: {} was told {second:?}, another {first:?}", watch.name)
        });
    }
    // One told without the previous key-value, because it is compacted by now, says nothing against the other.
    for (known, told) in known.events.iter_mut().zip(events) {
        if known.prev.is_none() {
            known.prev = told.prev;
        } else if told.prev.is_some() && told.prev != known.prev {
            let (first, second) = (&known.prev, &told.prev);
            report.add(Rule::WatchAgree, || {
                format!("revision {revision}: {} was told {second:?} before it, another {first:?}", watch.name)
            });
        }
    }
}

fn check(history: &History, watch: &WatchLog, report: &mut Report) {
    let name = &watch.name;
    // Everything up to here has been told, and a bookmark said so for everything up to there.
    let (mut newest, mut bookmark) = (history.start, history.start);
    for record in &watch.records {
        match &record.said {
            Said::Created(_) => {}
            Said::Progress(revision) => {
                bookmark = bookmark.max(*revision);
                if *revision > newest && !history.known_faults.early_progress {
                    report.add(Rule::Bookmark, || format!("{name}: progress {revision}, told up to {newest}"));
                }
            }
            Said::Compacted(oldest) => {
                if *oldest > history.compacted {
                    let asked = history.compacted;
                    report.add(Rule::WatchGap, || format!("{name}: compacted to {oldest}, asked for {asked}"));
                }
                newest = newest.max(oldest - 1);
            }
            Said::Events(header, events) => {
                for (revision, group) in by_revision(events) {
                    told(name, &mut newest, revision, &group, report);
                }
                if *header < newest {
                    report.add(Rule::WatchOrder, || format!("{name}: header {header} below the event at {newest}"));
                }
            }
        }
    }
    if newest < history.end {
        report.add(Rule::WatchGap, || format!("{name}: told up to {newest} of {}", history.end));
    }
    if bookmark > history.end {
        report.add(Rule::Bookmark, || format!("{name}: progress {bookmark}, the last revision is {}", history.end));
    }
}

/// One revision in one response to one watcher.
fn told(name: &str, newest: &mut i64, revision: i64, events: &[Event], report: &mut Report) {
    let mut keys: Vec<&str> = events.iter().map(|event| event.kv.key.as_str()).collect();
    keys.sort_unstable();
    if let Some([key, _]) = keys.array_windows().find(|[key, next]| key == next) {
        report.add(Rule::WatchUnique, || format!("{name}: two events for {key} at {revision}"));
    }
    let expected = *newest + 1;
    *newest = (*newest).max(revision);
    if revision == expected {
        return;
    }
    if revision > expected {
        report.add(Rule::WatchGap, || format!("{name}: revision {revision} after {}", expected - 1));
    } else if revision == expected - 1 {
        // Told again, or the rest of it in another response.
        report.add(Rule::WatchUnique, || format!("{name}: revision {revision} in two parts or told twice"));
        report.add(Rule::WatchAtomic, || format!("{name}: revision {revision} in two parts or told twice"));
    } else {
        report.add(Rule::WatchOrder, || format!("{name}: revision {revision} after {}", expected - 1));
    }
}

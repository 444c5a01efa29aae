//! Compares two normalised answers and prints where they differ.

use crate::answer::{Answer, Ids};
use crate::ledger::Ledger;
use crate::op::Op;
use crate::watch::WatcherLog;
use api::etcdserverpb::WatchCreateRequest;
use std::fmt::{Display, Formatter};

/// Remaining lease times are read at slightly different moments.
const TTL_TOLERANCE_SECONDS: i64 = 2;
const CONTEXT_LINES: usize = 4;
const SHOWN_LINES: usize = 60;

/// Two answers that should have been the same.
#[derive(Clone, Debug)]
pub(crate) struct Difference {
    /// Equal for differences that have the same cause, as far as that can be seen.
    pub(crate) signature: String,
    /// The servers may hold different data from here on.
    pub(crate) fatal: bool,
    etcd: String,
    cleat: String,
}

impl Difference {
    /// A difference of one kind of request, after which nothing can be compared.
    pub(crate) fn new(kind: &str, what: &str, etcd: String, cleat: String) -> Self {
        Self { signature: format!("{kind}: {what}"), fatal: true, etcd, cleat }
    }

    /// The same, fatal or not.
    pub(crate) fn with_fatal(mut self, fatal: bool) -> Self {
        self.fatal = fatal;
        self
    }
}

impl Display for Difference {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\netcd:\n{}\ncleat:\n{}", self.signature, self.etcd, self.cleat)
    }
}

/// Compares two answers after tolerances and the ledger.
pub(crate) fn compare(op: &Op, etcd: &mut Answer, cleat: &mut Answer, ledger: &Ledger) -> Option<Difference> {
    tolerate(etcd, cleat);
    if etcd == cleat {
        return None;
    }
    ledger.erase(op, etcd, cleat);
    if etcd == cleat {
        return None;
    }
    let refused = |answer: &Answer| matches!(answer, Answer::Error { .. });
    // An answer that did not come may still come, and be taken for that of a later request.
    let silent = *etcd == Answer::Silence || *cleat == Answer::Silence;
    let harmless = !silent && (op.only_reads() || (refused(etcd) && refused(cleat)));
    Some(Difference { fatal: !harmless, ..describe(op.kind(), etcd, cleat) })
}

fn tolerate(etcd: &Answer, cleat: &mut Answer) {
    if let (Answer::TimeToLive(theirs), Answer::TimeToLive(ours)) = (etcd, cleat)
        && theirs.ttl > 0
        && ours.ttl > 0
        && theirs.ttl.abs_diff(ours.ttl) <= TTL_TOLERANCE_SECONDS as u64
    {
        ours.ttl = theirs.ttl;
    }
}

fn describe(kind: &str, etcd: &Answer, cleat: &Answer) -> Difference {
    let outcome = |answer: &Answer| match answer {
        Answer::Error { code, message } => format!("{code:?} \"{}\"", without_digits(message)),
        Answer::Silence => "silence".to_owned(),
        _ => "ok".to_owned(),
    };
    let (theirs, ours) = (format!("{etcd:#?}"), format!("{cleat:#?}"));
    let (short_theirs, short_ours, fields) = differing_lines(&theirs, &ours);
    let what = match (outcome(etcd), outcome(cleat)) {
        (a, b) if a == b => format!("fields {fields}"),
        (a, b) => format!("{a} against {b}"),
    };
    Difference::new(kind, &what, short_theirs, short_ours)
}

fn without_digits(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect()
}

/// Both texts without the lines they share at both ends, and the names of the fields that differ.
fn differing_lines(a: &str, b: &str) -> (String, String, String) {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let shortest = a.len().min(b.len());
    let head = (0..shortest).take_while(|i| a[*i] == b[*i]).count();
    let tail = (0..shortest - head).take_while(|i| a[a.len() - 1 - i] == b[b.len() - 1 - i]).count();
    let cut = |lines: &[&str]| {
        let from = head.saturating_sub(CONTEXT_LINES);
        let to = (lines.len() - tail + CONTEXT_LINES).min(lines.len()).min(from + SHOWN_LINES);
        lines[from..to].join("\n")
    };
    let mut fields: Vec<&str> = a[head..a.len() - tail]
        .iter()
        .chain(&b[head..b.len() - tail])
        .filter_map(|line| Some(line.trim().split_once(": ")?.0))
        .collect();
    fields.sort_unstable();
    fields.dedup();
    (cut(&a), cut(&b), fields.join(","))
}

/// Compares what two watchers of the same request have received beyond the first `from` events.
pub(crate) fn compare_events(
    request: &WatchCreateRequest,
    from: usize,
    (etcd, etcd_ids): (&WatcherLog, &Ids),
    (cleat, cleat_ids): (&WatcherLog, &Ids),
) -> Option<Difference> {
    let normal = |log: &WatcherLog, ids: &Ids| {
        let mut events = log.events[from.min(log.events.len())..].to_vec();
        for event in &mut events {
            ids.event(event);
        }
        events
    };
    let (theirs, ours) = (normal(etcd, etcd_ids), normal(cleat, cleat_ids));
    if theirs != ours {
        let (theirs, ours, fields) = differing_lines(&format!("{theirs:#?}"), &format!("{ours:#?}"));
        let name = format!("events of {}", crate::show::watch(0, request));
        return Some(Difference::new("Watch", &format!("events, fields {fields}"), format!("{name}\n{theirs}"), ours));
    }
    let end = |log: &WatcherLog, ids: &Ids| {
        log.canceled.clone().map(|canceled| {
            let mut answer = Answer::Watch(canceled);
            ids.normalise(&mut answer);
            answer
        })
    };
    let (theirs, ours) = (end(etcd, etcd_ids), end(cleat, cleat_ids));
    if theirs == ours {
        return None;
    }
    let (theirs, ours, fields) = differing_lines(&format!("{theirs:#?}"), &format!("{ours:#?}"));
    let name = format!("end of {}", crate::show::watch(0, request));
    Some(Difference::new("Watch", &format!("end, fields {fields}"), format!("{name}\n{theirs}"), ours))
}

//! Looks for an order of the operations of each key that explains all answers, without looking at revisions.
//!
//! The method is Wing and Gong's in its just-in-time form: walk through calls and returns in the order of time, and
//! keep every configuration (value of the key, set of running operations that already took effect) that the answers so
//! far allow. A return keeps the configurations in which its operation can have taken effect. An operation of unknown
//! outcome runs forever. The search of a key is bounded; beyond its limit nothing is claimed.

use super::{Report, Rule};
use crate::history::{Action, History, KeyValue, Nanos, Op, Outcome};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Running operations in a configuration, one bit each.
const SLOTS: usize = 64;
/// Configurations of one key that are looked at.
const LIMIT: usize = 1_000_000;

/// A value of the key: its number, or `None` when the key is absent.
type Value = Option<u32>;

/// What an operation does to one key.
#[derive(Clone, Copy, Debug)]
enum Step {
    Read(Value),
    /// Sets a value; the one before it, when the answer tells.
    Write {
        new: Value,
        prev: Option<Value>,
    },
    /// Sets a value if the key has the expected one.
    Swap {
        expected: Value,
        new: Value,
    },
    /// Found another value than the expected one.
    Mismatch {
        expected: Value,
        found: Value,
    },
}

impl Step {
    /// The value after the step, or `None` when the step cannot happen at this value.
    fn take(self, value: Value) -> Option<Value> {
        match self {
            Self::Read(found) => (found == value).then_some(value),
            Self::Write { new, prev } => prev.is_none_or(|prev| prev == value).then_some(new),
            Self::Swap { expected, new } => (expected == value).then_some(new),
            Self::Mismatch { expected, found } => (found == value && expected != value).then_some(value),
        }
    }

    /// The value that the answer tells of, if it does.
    fn observed(self) -> Option<Value> {
        match self {
            Self::Read(found) | Self::Mismatch { found, .. } => Some(found),
            Self::Write { prev, .. } => prev,
            Self::Swap { expected, .. } => Some(expected),
        }
    }
}

/// An operation on one key; without an end its outcome is unknown.
#[derive(Clone, Copy, Debug)]
struct Span {
    call: Nanos,
    ret: Option<Nanos>,
    step: Step,
}

/// Searches every key that no lease has touched: a lease ends without a call.
pub(super) fn check(history: &History, report: &mut Report) {
    let leased = |op: &&Op| matches!(&op.action, Action::Put { lease, .. } if *lease != 0);
    let leased: HashSet<&str> = history.ops.iter().filter(leased).flat_map(written).collect();
    let mut keys: Vec<&str> = history.ops.iter().flat_map(written).filter(|key| !leased.contains(key)).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let spans = project(key, &history.ops);
        match search(&spans) {
            Some(true) => report.searched += 1,
            Some(false) => report.add(Rule::Linearizable, || {
                let count = spans.len();
                format!("no order of the {count} operations on {key} explains their answers")
            }),
            None => report.search_given_up += 1,
        }
    }
}

/// Keys that an operation may write.
fn written(op: &Op) -> Vec<&str> {
    match &op.action {
        Action::Put { key, .. } | Action::Delete { key } | Action::Cas { key, .. } => vec![key],
        Action::PutBoth { keys, .. } => keys.iter().map(String::as_str).collect(),
        Action::Get { .. } => Vec::new(),
    }
}

/// The part of all operations that concerns one key.
fn project(key: &str, ops: &[Op]) -> Vec<Span> {
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    let mut spans = Vec::new();
    for op in ops {
        let mut number = |value| {
            let next = numbers.len() as u32;
            *numbers.entry(value).or_insert(next)
        };
        let step = match (&op.outcome, op.answer()) {
            (Outcome::Failed(_), _) => None,
            (_, None) => blind(key, op, &mut number),
            (_, Some(answer)) => {
                let found = |kvs: &[KeyValue]| kvs.iter().position(|kv| kv.key == key);
                let read = found(&answer.kvs).map(|at| number(&answer.kvs[at].value));
                let prev = found(&answer.prev).map(|at| number(&answer.prev[at].value));
                match &op.action {
                    Action::Get { serializable: true, .. } => None,
                    Action::Get { key: from, prefix, .. } => {
                        let concerned = if *prefix { key.starts_with(from) } else { key == from };
                        concerned.then_some(Step::Read(read))
                    }
                    Action::Put { key: to, value, want_prev, .. } if to == key => {
                        Some(Step::Write { new: Some(number(value)), prev: want_prev.then_some(prev) })
                    }
                    Action::Delete { key: to } if to == key => Some(Step::Write { new: None, prev: Some(prev) }),
                    Action::Cas { key: to, expected_value, .. } if to == key && !answer.succeeded => {
                        let expected = expected_value.as_deref().map(&mut number);
                        Some(Step::Mismatch { expected, found: read })
                    }
                    _ => blind(key, op, &mut number),
                }
            }
        };
        let ret = op.answer().map(|_| op.ret);
        spans.extend(step.map(|step| Span { call: op.call, ret, step }));
    }
    // What was perhaps written and never seen explains nothing.
    let seen: HashSet<Value> = spans.iter().filter_map(|span| span.step.observed()).collect();
    spans.retain(|span| match span.step {
        Step::Write { new, .. } | Step::Swap { new, .. } => span.ret.is_some() || seen.contains(&new),
        Step::Read(_) | Step::Mismatch { .. } => true,
    });
    spans
}

/// An operation whose effect is known from the request alone.
fn blind<'a>(key: &str, op: &'a Op, number: &mut impl FnMut(&'a str) -> u32) -> Option<Step> {
    match &op.action {
        Action::Put { key: to, value, .. } if to == key => Some(Step::Write { new: Some(number(value)), prev: None }),
        Action::PutBoth { keys, value } if keys.iter().any(|to| to == key) => {
            Some(Step::Write { new: Some(number(value)), prev: None })
        }
        Action::Delete { key: to } if to == key => Some(Step::Write { new: None, prev: None }),
        Action::Cas { key: to, expected_value, value, .. } if to == key => {
            let expected = expected_value.as_deref().map(&mut *number);
            Some(Step::Swap { expected, new: Some(number(value)) })
        }
        _ => None,
    }
}

/// True when there is an order, false when there is none, `None` when the limit was reached.
fn search(spans: &[Span]) -> Option<bool> {
    // Calls before returns at the same time: what touches may overlap.
    let mut moments: BTreeSet<(Nanos, bool, usize)> = BTreeSet::new();
    for (at, span) in spans.iter().enumerate() {
        moments.insert((span.call, false, at));
        if let Some(ret) = span.ret {
            moments.insert((ret, true, at));
        }
    }
    let mut slots: [Option<usize>; SLOTS] = [None; SLOTS];
    let mut configurations: HashSet<(Value, u64)> = HashSet::from([(None, 0)]);
    let mut looked = 0;
    for (_, is_return, at) in moments {
        if !is_return {
            let free = slots.iter().position(Option::is_none)?;
            slots[free] = Some(at);
            continue;
        }
        let slot = slots.iter().position(|running| *running == Some(at))?;
        let (mut kept, mut open) = (HashSet::new(), Vec::new());
        let mut known = configurations.clone();
        open.extend(configurations);
        while let Some((value, done)) = open.pop() {
            looked += 1;
            if looked > LIMIT {
                return None;
            }
            if done & (1 << slot) != 0 {
                kept.insert((value, done & !(1 << slot)));
                continue;
            }
            for (other, running) in slots.iter().enumerate() {
                let Some(running) = running.filter(|_| done & (1 << other) == 0) else { continue };
                if let Some(after) = spans[running].step.take(value) {
                    let next = (after, done | (1 << other));
                    if known.insert(next) {
                        open.push(next);
                    }
                }
            }
        }
        if kept.is_empty() {
            return Some(false);
        }
        slots[slot] = None;
        configurations = kept;
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::{Span, Step, search};

    fn span(call: u64, ret: u64, step: Step) -> Span {
        Span { call, ret: (ret > 0).then_some(ret), step }
    }

    #[test]
    fn a_search_finds_an_order_or_shows_that_there_is_none() {
        let write = |value| Step::Write { new: Some(value), prev: None };
        let delete = Step::Write { new: None, prev: None };
        let read = |value| Step::Read(Some(value));
        let swap = |expected, new| Step::Swap { expected: Some(expected), new: Some(new) };
        let cases = [
            ("one after the other", true, vec![span(1, 2, write(1)), span(3, 4, read(1))]),
            ("stale", false, vec![span(1, 2, write(1)), span(3, 4, write(2)), span(5, 6, read(1))]),
            ("overlapping", true, vec![span(1, 2, write(1)), span(3, 6, write(2)), span(4, 5, read(1))]),
            (
                "back again",
                false,
                vec![span(1, 2, write(1)), span(3, 9, write(2)), span(4, 5, read(2)), span(6, 7, read(1))],
            ),
            (
                "unknown took effect late",
                true,
                vec![span(1, 0, write(1)), span(2, 3, write(2)), span(4, 5, read(2)), span(6, 7, read(1))],
            ),
            (
                "unknown took effect twice",
                false,
                vec![span(1, 0, write(1)), span(2, 3, read(1)), span(4, 5, write(2)), span(6, 7, read(1))],
            ),
            ("unknown delete", true, vec![span(1, 2, write(1)), span(3, 0, delete), span(4, 5, Step::Read(None))]),
            ("nobody deleted", false, vec![span(1, 2, write(1)), span(4, 5, Step::Read(None))]),
            (
                "two swaps of one value",
                false,
                vec![span(1, 2, write(1)), span(3, 5, swap(1, 2)), span(3, 5, swap(1, 3))],
            ),
            ("swaps in a row", true, vec![span(1, 2, write(1)), span(3, 5, swap(2, 3)), span(3, 5, swap(1, 2))]),
            (
                "mismatch",
                false,
                vec![span(1, 2, write(1)), span(3, 4, Step::Mismatch { expected: Some(1), found: Some(1) })],
            ),
        ];
        for (name, expected, spans) in cases {
            assert_eq!(search(&spans), Some(expected), "{name}");
        }
    }
}

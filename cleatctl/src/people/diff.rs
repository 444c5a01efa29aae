//! `diff --rev A..B [PREFIX]`: what changed between two revisions.

use crate::people::lines::{self, Line};
use crate::people::pages::Pages;
use crate::people::terminal::{Terminal, Tone};
use crate::people::text;
use crate::people::{Format, Session, base64, print};
use anyhow::{Result, ensure};
use api::mvccpb::KeyValue;
use go::strconv::quote;
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::str::FromStr;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct DiffArgs {
    /// The revisions to compare; the second is the present one by default
    pub(crate) rev: Revisions,
    /// What the keys begin with; every key by default
    pub(crate) prefix: Vec<u8>,
    /// Name the keys only
    pub(crate) keys_only: bool,
}

/// Two revisions, as `A..B`, `A..` or `A`. 0 is the present one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Revisions {
    from: i64,
    to: i64,
}

impl FromStr for Revisions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<i64>().ok().filter(|revision| *revision > 0);
        let (from, to) = text.split_once("..").unwrap_or((text, ""));
        let to = if to.is_empty() { Some(0) } else { number(to) };
        match (number(from), to) {
            (Some(from), Some(to)) => Ok(Self { from, to }),
            _ => Err("write two revisions as 10..25, or 10.. up to the present one".to_owned()),
        }
    }
}

/// What happened to a key between the revisions.
#[derive(Debug, PartialEq)]
enum Difference {
    Added(KeyValue),
    Removed(KeyValue),
    Changed(KeyValue, KeyValue),
}

/// What was taken of two listings: the same in both, or a difference.
enum Step {
    Same,
    Differs(Difference),
}

/// Compares two keys that come next in their listings, and takes one or both; None if neither is left.
fn next(before: &mut Option<KeyValue>, after: &mut Option<KeyValue>) -> Option<Step> {
    let order = match (before.as_ref(), after.as_ref()) {
        (None, None) => return None,
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (Some(old), Some(new)) => old.key.cmp(&new.key),
    };
    let old = before.take_if(|_| order != Ordering::Greater);
    let new = after.take_if(|_| order != Ordering::Less);
    Some(match (old, new) {
        (Some(old), None) => Step::Differs(Difference::Removed(old)),
        (None, Some(new)) => Step::Differs(Difference::Added(new)),
        (Some(old), Some(new)) if old.value != new.value || old.lease != new.lease => {
            Step::Differs(Difference::Changed(old, new))
        }
        _ => Step::Same,
    })
}

#[derive(Debug, Default)]
struct Counts {
    added: usize,
    removed: usize,
    changed: usize,
}

impl Counts {
    fn add(&mut self, difference: &Difference) {
        match difference {
            Difference::Added(_) => self.added += 1,
            Difference::Removed(_) => self.removed += 1,
            Difference::Changed(..) => self.changed += 1,
        }
    }
}

/// Prints the differences, one after the other as they are found.
///
/// # Errors
/// The cluster's, or one of the revisions cannot be read.
pub(crate) async fn diff(session: &Session, args: &DiffArgs) -> Result<()> {
    let Revisions { from, to } = args.rev;
    let client = session.client()?;
    let prefix = args.prefix.as_slice();
    let (mut old, mut new) = (Pages::new(&client, prefix, from), Pages::new(&client, prefix, to));
    // First the later one: if it is the present one, this decides which that is.
    let mut after = new.next().await?;
    let mut before = old.next().await?;
    let to = new.revision();
    ensure!(from <= to, "revision {from} is later than {to}; write the earlier one first");
    let mut counts = Counts::default();
    while let Some(step) = next(&mut before, &mut after) {
        if before.is_none() {
            before = old.next().await?;
        }
        if after.is_none() {
            after = new.next().await?;
        }
        let Step::Differs(difference) = step else { continue };
        counts.add(&difference);
        match session.format {
            Format::Json => print(&format!("{}\n", as_json(&difference, args.keys_only)))?,
            Format::Text => print(&render(&difference, args.keys_only, &session.terminal))?,
        }
    }
    if session.format == Format::Json {
        return Ok(());
    }
    print(&summary(&counts, from, to, &session.terminal))
}

/// One line of JSON for each key that differs.
fn as_json(difference: &Difference, keys_only: bool) -> Value {
    let side = |kv: &KeyValue| {
        let mut side = json!({ "mod_revision": kv.mod_revision, "version": kv.version, "lease": kv.lease });
        if !keys_only {
            side["value"] = base64(&kv.value).into();
        }
        side
    };
    match difference {
        Difference::Added(new) => json!({ "key": base64(&new.key), "change": "added", "after": side(new) }),
        Difference::Removed(old) => json!({ "key": base64(&old.key), "change": "removed", "before": side(old) }),
        Difference::Changed(old, new) => {
            json!({ "key": base64(&old.key), "change": "changed", "before": side(old), "after": side(new) })
        }
    }
}

fn render(difference: &Difference, keys_only: bool, terminal: &Terminal) -> String {
    let (mark, tone, key) = match difference {
        Difference::Added(new) => ('+', Tone::Good, &new.key),
        Difference::Removed(old) => ('-', Tone::Bad, &old.key),
        Difference::Changed(old, _) => ('~', Tone::Warning, &old.key),
    };
    let mut lines = format!("{}\n", terminal.paint(tone, &format!("{mark} {}", text::show(key))));
    if keys_only {
        return lines;
    }
    let mut add = |tone: Tone, line: String| {
        let line = terminal.width.map_or_else(|| line.clone(), |width| text::cut(&line, width, terminal.has_unicode));
        text::push(&mut lines, format_args!("{}\n", terminal.paint(tone, line.trim_end())));
    };
    match difference {
        Difference::Added(new) => value(&new.value).iter().for_each(|line| add(Tone::Good, format!("  + {line}"))),
        Difference::Removed(old) => value(&old.value).iter().for_each(|line| add(Tone::Bad, format!("  - {line}"))),
        Difference::Changed(old, new) => {
            if old.lease != new.lease {
                let lease = |id: i64| if id == 0 { "none".to_owned() } else { format!("{id:x}") };
                add(Tone::Warning, format!("  ~ lease {} -> {}", lease(old.lease), lease(new.lease)));
            }
            if old.value != new.value {
                changed(&old.value, &new.value, &mut add);
            }
        }
    }
    lines
}

/// The lines in which two values differ.
fn changed(old: &[u8], new: &[u8], add: &mut dyn FnMut(Tone, String)) {
    let (before, after) = (value(old).join("\n"), value(new).join("\n"));
    if before == after {
        // What is left to differ is what no line shows.
        let what = if new.ends_with(b"\n") { "now ends" } else { "no longer ends" };
        add(Tone::Warning, format!("  ~ the last line {what} with a line break"));
        return;
    }
    for line in lines::compare(&before, &after) {
        match line {
            Line::Same(line) => add(Tone::Quiet, format!("    {line}")),
            Line::Removed(line) => add(Tone::Bad, format!("  - {line}")),
            Line::Added(line) => add(Tone::Good, format!("  + {line}")),
            Line::Skipped(count) => {
                add(
                    Tone::Quiet,
                    format!("    ({})", text::count(count, "line that is the same", "lines that are the same")),
                );
            }
        }
    }
}

/// A value as lines to show. What is no text is one line in quotes.
fn value(bytes: &[u8]) -> Vec<String> {
    match std::str::from_utf8(bytes) {
        // The last line of a file ends with a line break, too: there is no other line behind it.
        Ok(text) => {
            let text = if text.len() > 1 { text.strip_suffix('\n').unwrap_or(text) } else { text };
            text.split('\n').map(|line| text::show(line.as_bytes())).collect()
        }
        Err(_) => vec![quote(bytes)],
    }
}

fn summary(counts: &Counts, from: i64, to: i64, terminal: &Terminal) -> String {
    let Counts { added, removed, changed } = counts;
    let line = if added + removed + changed == 0 {
        format!("nothing differs between the revisions {from} and {to}")
    } else {
        format!("{added} added, {changed} changed, {removed} removed between the revisions {from} and {to}")
    };
    format!("{}\n", terminal.paint(Tone::Quiet, &line))
}

/// What would change in one key, for commands that are about to do it.
pub(crate) fn preview(before: Option<&KeyValue>, after: Option<&KeyValue>, terminal: &Terminal) -> Option<String> {
    let (mut before, mut after) = (before.cloned(), after.cloned());
    match next(&mut before, &mut after) {
        Some(Step::Differs(difference)) => Some(render(&difference, false, terminal)),
        Some(Step::Same) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::snapshots::{assert_recorded, outputs};
    use bytes::Bytes;

    fn kv(key: &str, value: &[u8]) -> KeyValue {
        let key = Bytes::copy_from_slice(key.as_bytes());
        KeyValue { key, value: Bytes::copy_from_slice(value), mod_revision: 7, version: 2, ..KeyValue::default() }
    }

    fn differences(old: Vec<KeyValue>, new: Vec<KeyValue>) -> Vec<Difference> {
        let (mut old, mut new) = (old.into_iter(), new.into_iter());
        let (mut before, mut after) = (old.next(), new.next());
        let mut found = Vec::new();
        while let Some(step) = next(&mut before, &mut after) {
            before = before.or_else(|| old.next());
            after = after.or_else(|| new.next());
            if let Step::Differs(difference) = step {
                found.push(difference);
            }
        }
        found
    }

    fn sample() -> Vec<Difference> {
        let file = |port: u32| format!("name: web\nport: {port}\n{}", "more: of the same\n".repeat(9));
        let old = vec![
            kv("/app/binary", b"\x00\x01"),
            kv("/app/color", b"red"),
            kv("/app/file", file(80).as_bytes()),
            kv("/app/gone", b"line one\nline two"),
            kv("/app/lease", b"same"),
            kv("/app/same", b"same"),
        ];
        let long = "a value that is much longer than a line of eighty columns can take in, whatever is in front of it";
        let new = vec![
            kv("/app/binary", b"\x00\x02"),
            kv("/app/color", b"green"),
            kv("/app/file", file(8080).as_bytes()),
            KeyValue { lease: 0x1f, ..kv("/app/lease", b"same") },
            kv("/app/new", long.as_bytes()),
            KeyValue { mod_revision: 9, ..kv("/app/same", b"same") },
        ];
        differences(old, new)
    }

    #[test]
    fn every_output_is_as_recorded() {
        for (name, terminal) in outputs() {
            let mut counts = Counts::default();
            let mut text = String::new();
            for difference in sample() {
                counts.add(&difference);
                text.push_str(&render(&difference, false, &terminal));
            }
            text.push_str(&summary(&counts, 10, 25, &terminal));
            assert_recorded(&format!("diff-{name}"), &text);
        }
        let piped = outputs()[0].1;
        let keys: String = sample().iter().map(|difference| render(difference, true, &piped)).collect();
        assert_recorded("diff-keys", &format!("{keys}{}", summary(&Counts::default(), 3, 3, &piped)));
        let json: String = sample().iter().map(|difference| as_json(difference, false).to_string() + "\n").collect();
        assert_recorded("diff-json", &json);
        assert!(sample().iter().all(|difference| !as_json(difference, true).to_string().contains("value")));
    }

    #[test]
    fn a_line_break_at_the_end_is_a_difference_that_is_shown() {
        let shown =
            |old: &[u8], new: &[u8]| preview(Some(&kv("k", old)), Some(&kv("k", new)), &outputs()[0].1).unwrap();
        assert_eq!(shown(b"a", b"a\n"), "~ k\n  ~ the last line now ends with a line break\n");
        assert_eq!(shown(b"a\n", b"a"), "~ k\n  ~ the last line no longer ends with a line break\n");
        assert_eq!(shown(b"", b"\n").lines().count(), 3);
    }

    #[test]
    fn listings_are_merged_by_key() {
        let keys = |names: &[&str]| names.iter().map(|name| kv(name, b"v")).collect::<Vec<_>>();
        let found = differences(keys(&["a", "c", "d"]), keys(&["b", "c", "e", "f"]));
        let named: Vec<_> = found
            .iter()
            .map(|difference| match difference {
                Difference::Added(kv) => format!("+{}", text::show(&kv.key)),
                Difference::Removed(kv) => format!("-{}", text::show(&kv.key)),
                Difference::Changed(kv, _) => format!("~{}", text::show(&kv.key)),
            })
            .collect();
        assert_eq!(named, ["-a", "+b", "-d", "+e", "+f"]);
    }

    #[test]
    fn revisions_are_written_with_two_dots() {
        for (text, expected) in [("10..25", (10, 25)), ("10..", (10, 0)), ("10", (10, 0))] {
            assert_eq!(text.parse(), Ok(Revisions { from: expected.0, to: expected.1 }), "{text}");
        }
        for text in ["", "..", "..5", "a..b", "-1..5", "0..5", "1..-2", "1...2"] {
            assert!(text.parse::<Revisions>().is_err(), "{text}");
        }
    }
}

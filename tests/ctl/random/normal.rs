//! What twins cannot have in common, replaced by words: what time and disks make of them.

use super::given::{Line, Twin};

/// The lifetimes that lines and the test give to leases and keys. The shortest outlasts a run.
pub(super) const LIFETIMES: [u64; 4] = [10_000, 0x10000, 200_000, 400_000];
/// No run takes longer.
const RUN: u64 = 5_000;

/// Numbers behind these are what is left of a lifetime.
const REMAINING: &[&str] = &["remaining(", "\"ttl\":", "\"TTL\" : ", "TTL: "];

/// Sizes of the database and the length of the log, which depend on when it was written.
const SIZES: &[&str] = &[
    "\"dbSize\":",
    "\"dbSizeInUse\":",
    "\"DBSize\" : ",
    "\"raftIndex\":",
    "\"raftAppliedIndex\":",
    "\"RaftIndex\" : ",
    "\"RaftAppliedIndex\" : ",
];

/// The text as both twins would have to give it.
pub(super) fn normal(text: &str, line: &Line, twin: &Twin) -> String {
    let mut text = text.replace(&twin.server.endpoint(), "ENDPOINT");
    text = between(&text, "\"expiration\":\"", |time| time.find("\",").map(|end| ("TIME".to_owned(), end)));
    for key in REMAINING {
        text = between(&text, key, |rest| number(rest, |left| lifetime(left).unwrap_or_else(|| left.to_string())));
    }
    if line.has("timetolive") {
        text = with_sorted_keys(&text);
    }
    if line.has("health") {
        for key in ["took = ", "\"took\":\"", "\"Took\" : "] {
            text = between(&text, key, duration);
        }
        text = cells(&text, |cell| duration(cell).filter(|(_, end)| *end == cell.len()).map(|(word, _)| word));
    }
    if line.has("status") {
        for key in SIZES {
            text = between(&text, key, |rest| number(rest, |size| if size == 0 { "0" } else { "SIZE" }.to_owned()));
        }
        // Its columns have no names in a line.
        text = cells(&text, size_or_index);
    }
    text
}

/// The keys of a lease, which etcd has in any order, sorted. A message of protobuf is taken as a whole: what remains of the
/// lifetime is somewhere in it.
fn with_sorted_keys(text: &str) -> String {
    /// The first byte of the field that comes first, the header.
    const MESSAGE: char = '\n';
    if text.starts_with(MESSAGE) {
        return "MESSAGE".to_owned();
    }
    let sorted = |list: &str, separator: &str| {
        let mut keys: Vec<_> = list.split(separator).collect();
        keys.sort_unstable();
        keys.join(separator)
    };
    let text = between(text, "attached keys([", |rest| rest.rfind("])").map(|end| (sorted(&rest[..end], " "), end)));
    let text = between(&text, "\"keys\":[", |rest| rest.find(']').map(|end| (sorted(&rest[..end], ","), end)));
    let (mut keys, mut others): (Vec<_>, Vec<_>) = text.split('\n').partition(|line| line.starts_with("\"Key\" : "));
    keys.sort_unstable();
    others.append(&mut keys);
    others.join("\n")
}

/// Which lifetime this can be the rest of.
fn lifetime(left: u64) -> Option<String> {
    let whole = LIFETIMES.into_iter().find(|whole| (whole.saturating_sub(RUN)..=*whole).contains(&left))?;
    Some(format!("{whole} WHEN GIVEN"))
}

/// Replaces what `rule` says behind each occurrence of a key; it returns the word and how many bytes that replaces.
fn between(text: &str, key: &str, rule: impl Fn(&str) -> Option<(String, usize)>) -> String {
    let mut parts = text.split(key);
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| match rule(part) {
        Some((word, end)) => text + key + &word + &part[end..],
        None => text + key + part,
    })
}

fn number(text: &str, word: impl Fn(u64) -> String) -> Option<(String, usize)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((word(text[..end].parse().ok()?), end))
}

/// A duration as Go writes it.
fn duration(text: &str) -> Option<(String, usize)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && !".µmsn".contains(c)).unwrap_or(text.len());
    let is_one = text.starts_with(|c: char| c.is_ascii_digit()) && text[..end].ends_with('s');
    is_one.then(|| ("DURATION".to_owned(), end))
}

/// A size with its unit, or an index of the log: a number of more than one digit. Terms and numbers of keys are shorter or
/// stand elsewhere.
fn size_or_index(cell: &str) -> Option<String> {
    let is_size = cell
        .split_once(' ')
        .is_some_and(|(number, unit)| number.parse::<f64>().is_ok() && ["B", "kB", "MB"].contains(&unit));
    if is_size {
        return Some("SIZE".to_owned());
    }
    (cell.len() > 1 && cell.bytes().all(|byte| byte.is_ascii_digit())).then(|| "INDEX".to_owned())
}

/// The cells of a table, and of lines with commas, without what the widths of its columns are.
fn cells(text: &str, word: impl Fn(&str) -> Option<String>) -> String {
    let cell = |cell: &str| word(cell.trim()).unwrap_or_else(|| cell.trim().to_owned());
    let line = |line: &str| match line {
        border if border.starts_with('+') => "+".to_owned(),
        row if row.starts_with('|') => row.split('|').map(cell).collect::<Vec<_>>().join("|"),
        row => row.split(',').map(cell).collect::<Vec<_>>().join(","),
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

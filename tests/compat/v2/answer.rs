//! Brings answers into comparable form: what is the clock's or the server's own is replaced, and everything else stays as
//! it was sent.

use super::json::Raw;
use super::wire::Head;
use std::collections::BTreeMap;

/// What two servers' clocks, and the moments at which they are asked, may differ by.
pub(crate) const TOLERANCE_SECONDS: i64 = 20;

/// Headers that HTTP gives to each server's choice: when, how, and how long.
const FRAMING: [&str; 5] = ["date", "content-length", "transfer-encoding", "connection", "keep-alive"];
/// Numbers that depend on what else a server does: that they are there is compared.
const COUNTED: [&str; 2] = ["x-raft-index", "x-raft-term"];
/// Fields about time and chance: etcd counts reads of its own, and each server notices on its own that a watcher left.
const VARYING: [&str; 7] = ["startTime", "uptime", "getsSuccess", "getsFail", "watchers", "etcdserver", "etcdcluster"];

/// What is one server's own in what it says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// Names that stand for others.
    pub(crate) pairs: Vec<(String, &'static str)>,
    /// What the statistics counted before the first request: etcd's begin with its own writes.
    pub(crate) counted: BTreeMap<String, i64>,
}

impl Names {
    pub(crate) fn replace(&self, text: &str) -> String {
        self.pairs.iter().fold(text.to_owned(), |text, (own, name)| text.replace(own, name))
    }
}

/// An answer, ready to be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Sorted.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// Expirations and remaining times, in seconds, in the order in which they stand.
    pub(crate) seconds: Vec<i64>,
    /// The server ends the connection.
    pub(crate) closes: bool,
}

/// In few lines.
impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "  {}", self.status)?;
        for (name, value) in self.headers.iter().filter(|(name, _)| !name.starts_with("access-control")) {
            write!(f, " {name}={value}")?;
        }
        let cors = self.headers.iter().filter(|(name, _)| name.starts_with("access-control")).count();
        write!(f, ", {cors} of CORS, {:?}, closes: {}\n  {}", self.seconds, self.closes, self.body.escape_debug())
    }
}

impl Answer {
    /// Normalises an answer. Children are sorted, unless the request asked for that.
    pub(crate) fn new(head: &Head, body: &[u8], closes: bool, is_sorted: bool, names: &Names) -> Self {
        let mut headers: Vec<_> =
            head.headers.iter().filter(|(name, _)| !FRAMING.contains(&name.as_str())).cloned().collect();
        headers.sort();
        for (name, value) in &mut headers {
            if COUNTED.contains(&name.as_str()) && value.parse::<u64>().is_ok() {
                "a number".clone_into(value);
            }
            *value = names.replace(value);
        }
        let mut answer = Self { status: head.status, headers, closes, ..Self::default() };
        answer.body = answer.normal_body(body, is_sorted, names);
        answer
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    fn normal_body(&mut self, body: &[u8], is_sorted: bool, names: &Names) -> String {
        let Ok(text) = std::str::from_utf8(body) else { return format!("(no UTF-8) {}", body.escape_ascii()) };
        let line = |line: &str| {
            let (json, end) = line.strip_suffix('\n').map_or((line, ""), |json| (json, "\n"));
            let Some(mut raw) = Raw::parse(json) else { return names.replace(line) };
            self.normalise(&mut raw, is_sorted, names);
            format!("{}{end}", names.replace(&raw.to_string()))
        };
        text.split_inclusive('\n').map(line).collect()
    }

    fn normalise(&mut self, raw: &mut Raw, is_sorted: bool, names: &Names) {
        match raw {
            Raw::Scalar(_) => {}
            Raw::Array(elements) => elements.iter_mut().for_each(|element| self.normalise(element, is_sorted, names)),
            Raw::Object(fields) => {
                for (name, value) in fields {
                    if name == "nodes" && !is_sorted {
                        let Raw::Array(nodes) = value else { continue };
                        nodes.sort_by_key(|node| node.field("key").map(Raw::to_string));
                    }
                    let Some(scalar) = value.scalar().map(str::to_owned) else {
                        self.normalise(value, is_sorted, names);
                        continue;
                    };
                    let seconds = match name.as_str() {
                        "expiration" => seconds(&scalar),
                        "ttl" => scalar.parse().ok(),
                        _ => None,
                    };
                    if let (Some(before), Ok(count)) = (names.counted.get(name), scalar.parse::<i64>()) {
                        *value = Raw::Scalar((count - before).to_string());
                    }
                    if let Some(seconds) = seconds {
                        self.seconds.push(seconds);
                        *value = Raw::Scalar("\"a time\"".to_owned());
                    } else if VARYING.contains(&name.as_str()) && scalar != "\"not_decided\"" {
                        *value = Raw::Scalar("\"varying\"".to_owned());
                    }
                }
            }
        }
    }

    /// True when nothing but the clock differs.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let close = |(a, b): (&i64, &i64)| a.abs_diff(*b) <= TOLERANCE_SECONDS as u64;
        let same_times =
            self.seconds.len() == other.seconds.len() && self.seconds.iter().zip(&other.seconds).all(close);
        let rest = |answer: &Self| Self { seconds: Vec::new(), ..answer.clone() };
        same_times && rest(self) == rest(other)
    }
}

/// Seconds since 1970 of a quoted time as Go writes it in UTC: nanoseconds without zeros at the end.
fn seconds(quoted: &str) -> Option<i64> {
    let text = quoted.strip_prefix('"')?.strip_suffix("Z\"")?;
    let (text, fraction) = text.split_once('.').unwrap_or((text, "1"));
    let is_fraction = (1..=9).contains(&fraction.len()) && !fraction.ends_with('0');
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i64>().ok();
    let form = text.len() == 19 && is_fraction && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let marks = [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")];
    if !form || marks.iter().any(|(at, mark)| text.get(*at..at + 1) != Some(mark)) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    // Days of the proleptic Gregorian calendar, with years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + number(11, 13)?) * 60 + number(14, 16)?) * 60 + number(17, 19)?)
}

#[test]
fn times_are_read_as_go_writes_them() {
    assert_eq!(seconds("\"1970-01-01T00:00:00Z\""), Some(0));
    assert_eq!(seconds("\"2026-11-28T10:47:50.473051031Z\""), Some(1_795_862_870));
    assert_eq!(seconds("\"2318-03-12T23:59:59.5Z\""), Some(10_987_919_999));
    for flawed in [
        "2026-11-28T10:47:50Z",
        "\"2026-11-28T10:47:50.10Z\"",
        "\"2026-11-28 10:47:50Z\"",
        "\"2026-11-28T10:47:50+00:00\"",
    ] {
        assert_eq!(seconds(flawed), None, "{flawed}");
    }
}

//! Events and errors as Go's `encoding/json` writes them.

use go::json::Escapes;
use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};
use std::io;
use store::v2::{Event, KEYS, NodeView, Step, Walk};

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Appends a string in quotes.
pub(super) fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    go::json::write_string(out, bytes, Escapes::Hex);
}

/// A value of text, numbers and lists.
pub(super) fn encode(value: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::new();
    match value.serialize(&mut Serializer::with_formatter(&mut out, GoStrings)) {
        Ok(()) => out,
        // Invariant: text, numbers and lists can be written.
        Err(_) => Vec::new(),
    }
}

/// Strings with the escapes of Go. All else is the same.
struct GoStrings;

impl GoStrings {
    fn write(writer: &mut (impl io::Write + ?Sized), fragment: &[u8]) -> io::Result<()> {
        let mut escaped = String::new();
        go::json::push_escaped(&mut escaped, fragment, Escapes::Hex);
        writer.write_all(escaped.as_bytes())
    }
}

impl Formatter for GoStrings {
    fn write_string_fragment<W: io::Write + ?Sized>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        Self::write(writer, fragment.as_bytes())
    }

    fn write_char_escape<W: io::Write + ?Sized>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        let byte = match escape {
            CharEscape::Quote => b'"',
            CharEscape::ReverseSolidus => b'\\',
            CharEscape::Solidus => b'/',
            CharEscape::Backspace => 8,
            CharEscape::FormFeed => 12,
            CharEscape::LineFeed => b'\n',
            CharEscape::CarriageReturn => b'\r',
            CharEscape::Tab => b'\t',
            CharEscape::AsciiControl(byte) => byte,
        };
        Self::write(writer, &[byte])
    }
}

/// Appends a change and the end of its line.
pub(super) fn event(out: &mut Vec<u8>, event: &Event, with_nodes: bool) {
    out.extend(b"{\"action\":\"");
    out.extend(event.action.name().as_bytes());
    out.push(b'"');
    if with_nodes {
        out.extend(b",\"node\":");
        node(out, &event.node);
        if let Some(before) = &event.prev_node {
            out.extend(b",\"prevNode\":");
            node(out, before);
        }
    }
    out.extend(b"}\n");
}

/// What was read, on its way: encoded piece by piece.
pub(super) struct Listing {
    steps: Walk,
    is_begun: bool,
    /// The indexes of the directories that are not at their end, the outermost first.
    open: Vec<(u64, u64)>,
    /// Nothing has been written of the innermost one.
    is_first: bool,
}

impl Listing {
    pub(super) fn new(steps: Walk) -> Self {
        Self { steps, is_begun: false, open: Vec::new(), is_first: true }
    }

    /// Appends the next piece: `bytes` of it, and as much as the last node is over that. True if more nodes are to come.
    pub(super) fn encode(&mut self, out: &mut Vec<u8>, bytes: usize) -> bool {
        let end = out.len() + bytes;
        if !std::mem::replace(&mut self.is_begun, true) {
            out.extend(b"{\"action\":\"get\",\"node\":");
        }
        while out.len() < end || self.steps.is_over() {
            let Some(step) = self.steps.next() else {
                out.extend(b"}\n");
                return false;
            };
            if !matches!(step, Step::Leave) && !std::mem::take(&mut self.is_first) {
                out.push(b',');
            }
            match step {
                Step::Node(view) => node(out, &view),
                Step::Enter(view) => {
                    fields(out, &view);
                    out.extend(b",\"nodes\":[");
                    self.open.push((view.modified_index, view.created_index));
                    self.is_first = true;
                }
                Step::Leave => {
                    out.push(b']');
                    // Invariant: what is left was entered.
                    indexes(out, self.open.pop().unwrap_or_default());
                }
            }
        }
        true
    }
}

/// Appends a node without what is in it.
fn node(out: &mut Vec<u8>, node: &NodeView) {
    let begin = out.len();
    fields(out, node);
    indexes(out, (node.modified_index, node.created_index));
    // Nothing has been written of a node that is nothing, or its indexes alone.
    match out.get_mut(begin) {
        Some(comma @ b',') => *comma = b'{',
        Some(b'}') => out.insert(begin, b'{'),
        _ => {}
    }
}

/// Appends what comes before the list of nodes, with the brace if there is anything.
fn fields(out: &mut Vec<u8>, node: &NodeView) {
    let begin = out.len();
    let key = node.key.strip_prefix(KEYS.as_bytes()).unwrap_or(&node.key);
    if !key.is_empty() {
        out.extend(b",\"key\":");
        string(out, key);
    }
    if let Some(value) = &node.value {
        out.extend(b",\"value\":");
        string(out, value);
    }
    if node.is_dir {
        out.extend(b",\"dir\":true");
    }
    if node.expiration != 0 {
        out.extend(b",\"expiration\":\"");
        out.extend(time(node.expiration).as_bytes());
        out.push(b'"');
    }
    number(out, "ttl", node.ttl);
    // In the place of the first comma.
    if let Some(comma) = out.get_mut(begin) {
        *comma = b'{';
    }
}

/// Appends the end of a node.
fn indexes(out: &mut Vec<u8>, (modified, created): (u64, u64)) {
    number(out, "modifiedIndex", modified as i64);
    number(out, "createdIndex", created as i64);
    out.push(b'}');
}

/// Appends a number, unless it is 0.
fn number(out: &mut Vec<u8>, name: &str, number: i64) {
    if number != 0 {
        out.extend(b",\"");
        out.extend(name.as_bytes());
        out.extend(b"\":");
        out.extend(itoa::Buffer::new().format(number).as_bytes());
    }
}

/// A time in RFC 3339 with what it has of a second, UTC; from nanoseconds since 1970.
pub(super) fn time(nanos: i64) -> String {
    let (seconds, fraction) = (nanos.div_euclid(NANOS_PER_SECOND), nanos.rem_euclid(NANOS_PER_SECOND));
    let (days, second) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if fraction != 0 {
        text.push_str(format!(".{fraction:09}").trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Year, month and day of the days since 1970: years begin in March, so that the odd day comes last.
fn date(days: i64) -> (i64, i64, i64) {
    // Since the first of March of the year 0.
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_within_values_are_those_of_go() {
        let names = ["plain", "a\"b\\c/\n\r\t\u{8}\u{c}\u{1}\u{7f}", "<é>&\u{2028}"];
        let mut expected = b"[".to_vec();
        for (at, name) in names.iter().enumerate() {
            expected.extend(if at == 0 { &b""[..] } else { b"," });
            string(&mut expected, name.as_bytes());
        }
        expected.push(b']');
        assert_eq!(String::from_utf8(encode(&names)).unwrap(), String::from_utf8(expected).unwrap());
    }

    #[test]
    fn times_are_those_of_go() {
        for (nanos, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59.999999999Z"),
            (951_782_400 * NANOS_PER_SECOND + 120_000_000, "2000-02-29T00:00:00.12Z"),
            (1_735_689_599 * NANOS_PER_SECOND, "2024-12-31T23:59:59Z"),
            (i64::MAX, "2262-04-11T23:47:16.854775807Z"),
            (i64::MIN, "1677-09-21T00:12:43.145224192Z"),
        ] {
            assert_eq!(time(nanos), expected);
        }
    }

    #[test]
    fn nothing_but_indexes_is_an_object() {
        for (view, expected) in [
            (NodeView::default(), "{}"),
            (NodeView { created_index: 4, ..NodeView::default() }, "{\"createdIndex\":4}"),
        ] {
            let mut out = b"x".to_vec();
            node(&mut out, &view);
            assert_eq!(String::from_utf8(out).unwrap(), format!("x{expected}"));
        }
    }
}

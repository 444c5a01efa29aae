//! Events and errors as Go's `encoding/json` writes them.

use store::v2::{Event, KEYS, NodeView};

const NANOS_PER_SECOND: i64 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// What Go puts in the place of bytes that are no UTF-8.
const REPLACEMENT: &[u8] = br"\ufffd";

/// Appends a string in quotes.
pub(super) fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        let text = chunk.valid();
        let mut written = 0;
        for (at, character) in text.char_indices() {
            let escape: &[u8] = match character {
                '"' => br#"\""#,
                '\\' => br"\\",
                '\n' => br"\n",
                '\r' => br"\r",
                '\t' => br"\t",
                '<' => br"\u003c",
                '>' => br"\u003e",
                '&' => br"\u0026",
                '\u{2028}' => br"\u2028",
                '\u{2029}' => br"\u2029",
                '\0'..'\x20' => b"",
                _ => continue,
            };
            out.extend(&text.as_bytes()[written..at]);
            if escape.is_empty() {
                out.extend(format!("\\u{:04x}", character as u32).bytes());
            } else {
                out.extend(escape);
            }
            written = at + character.len_utf8();
        }
        out.extend(&text.as_bytes()[written..]);
        for _ in chunk.invalid() {
            out.extend(REPLACEMENT);
        }
    }
    out.push(b'"');
}

/// Appends a change and the end of its line.
pub(super) fn event(out: &mut Vec<u8>, event: &Event, with_nodes: bool) {
    out.extend(b"{\"action\":\"");
    out.extend(event.action.name().bytes());
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

/// What was read, on its way: encoded piece by piece, and given up as it is.
pub(super) struct Listing {
    /// None once it is begun.
    first: Option<NodeView>,
    /// The directories that are not at their end, the outermost first.
    open: Vec<Open>,
}

struct Open {
    children: std::vec::IntoIter<NodeView>,
    is_first: bool,
    indexes: (u64, u64),
}

impl Listing {
    pub(super) fn new(read: NodeView) -> Self {
        Self { first: Some(read), open: Vec::new() }
    }

    /// Appends the next piece: `bytes` of it, and as much as the node is over that. True if more is to come.
    pub(super) fn encode(&mut self, out: &mut Vec<u8>, bytes: usize) -> bool {
        let end = out.len() + bytes;
        if let Some(first) = self.first.take() {
            out.extend(b"{\"action\":\"get\",\"node\":");
            self.node(out, first);
        }
        while let Some(directory) = self.open.last_mut() {
            if out.len() >= end {
                return true;
            }
            if let Some(child) = directory.children.next() {
                if !std::mem::take(&mut directory.is_first) {
                    out.push(b',');
                }
                self.node(out, child);
            } else {
                out.push(b']');
                indexes(out, directory.indexes);
                self.open.pop();
            }
        }
        out.extend(b"}\n");
        false
    }

    /// A node whole, or the beginning of a directory that is not empty.
    fn node(&mut self, out: &mut Vec<u8>, mut node: NodeView) {
        if node.nodes.is_empty() {
            return self::node(out, &node);
        }
        fields(out, &node);
        out.extend(b",\"nodes\":[");
        let children = std::mem::take(&mut node.nodes).into_iter();
        self.open.push(Open { children, is_first: true, indexes: (node.modified_index, node.created_index) });
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
        out.extend(time(node.expiration).bytes());
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
        out.extend(name.bytes());
        out.extend(b"\":");
        out.extend(number.to_string().bytes());
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
    fn strings_are_those_of_go() {
        for (bytes, expected) in [
            (&b"plain"[..], r#""plain""#),
            (b"a\"b\\c\n\r\t", r#""a\"b\\c\n\r\t""#),
            (b"\x00\x08\x0c\x1f\x7f", "\"\\u0000\\u0008\\u000c\\u001f\x7f\""),
            (b"<a>&", r#""\u003ca\u003e\u0026""#),
            ("é\u{2028}\u{2029}😀".as_bytes(), "\"é\\u2028\\u2029😀\""),
            (b"a\xff\xfeb\xe2\x28", r#""a\ufffd\ufffdb\ufffd(""#),
        ] {
            let mut out = Vec::new();
            string(&mut out, bytes);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
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

    fn view(key: &[u8], nodes: Vec<NodeView>) -> NodeView {
        let is_dir = !nodes.is_empty();
        let value = (!is_dir).then(|| "v".into());
        NodeView { key: key.into(), value, is_dir, nodes, modified_index: 7, created_index: 5, ..NodeView::default() }
    }

    fn pieces(view: NodeView, bytes: usize) -> Vec<String> {
        let mut listing = Listing::new(view);
        let mut pieces = Vec::new();
        loop {
            let mut piece = Vec::new();
            let more = listing.encode(&mut piece, bytes);
            pieces.push(String::from_utf8(piece).unwrap());
            if !more {
                return pieces;
            }
        }
    }

    #[test]
    fn a_root_that_is_empty_is_a_directory() {
        let root = NodeView { key: b"/1".as_slice().into(), is_dir: true, ..NodeView::default() };
        assert_eq!(pieces(root, 1), ["{\"action\":\"get\",\"node\":{\"dir\":true}}\n"]);
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

    #[test]
    fn the_pieces_of_a_listing_are_the_listing() {
        let deep =
            view(b"/1/b", vec![view(b"/1/b/c", vec![view(b"/1/b/c/d", Vec::new())]), view(b"/1/b/e", Vec::new())]);
        let root = || view(b"/1", vec![view(b"/1/a", Vec::new()), deep.clone(), view(b"/1/f", Vec::new())]);
        let indexes = "\"modifiedIndex\":7,\"createdIndex\":5}";
        let file = |key: &str| format!("{{\"key\":\"{key}\",\"value\":\"v\",{indexes}");
        let dir = |key: &str, nodes: &[String]| {
            format!("{{\"key\":\"{key}\",\"dir\":true,\"nodes\":[{}],{indexes}", nodes.join(","))
        };
        let b = dir("/b", &[dir("/b/c", &[file("/b/c/d")]), file("/b/e")]);
        let nodes = [file("/a"), b, file("/f")].join(",");
        let expected = format!("{{\"action\":\"get\",\"node\":{{\"dir\":true,\"nodes\":[{nodes}],{indexes}}}\n");
        for bytes in [1, 50, 120, 10_000] {
            let pieces = pieces(root(), bytes);
            assert_eq!(pieces.concat(), expected);
            assert_eq!(pieces.len() == 1, bytes == 10_000);
        }
    }
}

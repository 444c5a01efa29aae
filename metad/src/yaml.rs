//! YAML as go-yaml 2 wrote it when metad was made: block style, its order of keys, its quotes, its line breaks.

use base64::Engine as _;
use std::borrow::Cow;
use std::cmp::Ordering;

/// Blanks of one level.
const INDENT: usize = 2;
/// Columns after which a line is broken at the next blank.
const WIDTH: usize = 80;
/// Bytes of a name up to which it stands in one line with its value.
const MAX_SIMPLE_KEY: usize = 128;
/// Bytes of base64 in a line.
const BASE64_LINE: usize = 70;

/// Writes a document: first what [`Writer::scalar`] and [`Writer::map`] are told, then [`Writer::finish`].
#[derive(Default)]
pub(crate) struct Writer {
    out: Vec<u8>,
    /// Characters in the current line.
    column: usize,
    /// The last thing was a blank, an indicator that stands for one, or the begin of a line.
    whitespace: bool,
    /// Nothing but indentation is in the current line.
    indention: bool,
    /// Of the mapping at hand.
    indent: Option<usize>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self { whitespace: true, indention: true, ..Self::default() }
    }

    /// The document.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        if self.column > 0 {
            self.line_break();
        }
        self.out
    }

    fn put(&mut self, c: char) {
        self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        self.column += 1;
    }

    fn line_break(&mut self) {
        self.out.push(b'\n');
        self.column = 0;
    }

    fn write_indent(&mut self, indent: usize) {
        if !self.indention || self.column > indent || (self.column == indent && !self.whitespace) {
            self.line_break();
        }
        while self.column < indent {
            self.put(' ');
        }
        self.whitespace = true;
        self.indention = true;
    }

    fn indicator(&mut self, text: &str, needs_blank: bool, is_indention: bool) {
        if needs_blank && !self.whitespace {
            self.put(' ');
        }
        text.chars().for_each(|c| self.put(c));
        self.whitespace = false;
        self.indention &= is_indention;
    }

    /// A mapping: `entries` in any order, and how the value of one is written.
    pub(crate) fn map<V>(&mut self, mut entries: Vec<(&[u8], V)>, mut write: impl FnMut(&mut Self, V)) {
        if entries.is_empty() {
            self.indicator("{", true, false);
            self.indicator("}", false, false);
            return;
        }
        entries.sort_by(|(left, _), (right, _)| order(left, right));
        let outer = self.indent;
        let indent = outer.map_or(0, |indent| indent + INDENT);
        self.indent = Some(indent);
        for (name, value) in entries {
            self.write_indent(indent);
            let key = Scalar::of(name);
            if key.multiline || key.text.len() + key.tag().len() > MAX_SIMPLE_KEY {
                self.indicator("?", true, true);
                self.write_scalar(&key, false);
                self.write_indent(indent);
                self.indicator(":", true, true);
            } else {
                self.write_scalar(&key, true);
                self.indicator(":", false, false);
            }
            write(self, value);
        }
        self.indent = outer;
    }

    /// A text.
    pub(crate) fn scalar(&mut self, text: &[u8]) {
        self.write_scalar(&Scalar::of(text), false);
    }

    /// What is no text, as it stands.
    pub(crate) fn verbatim(&mut self, text: &str) {
        self.indicator(text, true, false);
    }

    /// A list, and how an element is written.
    pub(crate) fn list<V>(&mut self, elements: Vec<V>, mut write: impl FnMut(&mut Self, V)) {
        if elements.is_empty() {
            self.indicator("[", true, false);
            self.indicator("]", false, false);
            return;
        }
        let outer = self.indent;
        // go-yaml does not indent a list in a mapping, but one in a list.
        let indent = outer.map_or(0, |indent| if self.indention { indent + INDENT } else { indent });
        self.indent = Some(indent);
        for element in elements {
            self.write_indent(indent);
            self.indicator("-", true, true);
            write(self, element);
        }
        self.indent = outer;
    }

    /// A list of mappings, whose lines are written already.
    pub(crate) fn items(&mut self, items: &[Vec<String>]) {
        if items.is_empty() {
            self.indicator("[", true, false);
            self.indicator("]", false, false);
            return;
        }
        // go-yaml does not indent a list in a mapping.
        let indent = self.indent.unwrap_or_default();
        for item in items {
            for (at, line) in item.iter().enumerate() {
                self.write_indent(indent);
                let mark = if at == 0 { "- " } else { "  " };
                self.indicator(&format!("{mark}{line}"), false, false);
            }
        }
    }

    fn write_scalar(&mut self, scalar: &Scalar, is_key: bool) {
        let outer = self.indent;
        let indent = outer.map_or(INDENT, |indent| indent + INDENT);
        if scalar.is_binary {
            self.indicator(scalar.tag(), true, false);
        }
        match scalar.style(is_key) {
            Style::Plain => self.plain(&scalar.text, indent, !is_key),
            Style::Single => self.single(&scalar.text, indent, !is_key),
            Style::Double => self.double(&scalar.text, indent, !is_key),
            Style::Literal => self.literal(&scalar.text, indent),
        }
    }

    fn plain(&mut self, text: &str, indent: usize, may_break: bool) {
        if !self.whitespace {
            self.put(' ');
        }
        self.spaced(text, indent, false, |_, next| may_break && next != Some(' '));
        self.whitespace = false;
        self.indention = false;
    }

    /// Characters, broken at blanks where the line is long and `may_break` says so of the place and what follows.
    fn spaced(
        &mut self,
        text: &str,
        indent: usize,
        doubles_quotes: bool,
        may_break: impl Fn(usize, Option<char>) -> bool,
    ) {
        let (mut chars, mut after_blank, mut after_break) = (text.char_indices().peekable(), false, false);
        while let Some((at, c)) = chars.next() {
            let next = chars.peek().map(|(_, next)| *next);
            if is_break(c) {
                // Only those that are no line feed come here.
                self.put(c);
                (self.column, self.indention, after_break) = (0, true, true);
                continue;
            }
            if std::mem::take(&mut after_break) {
                self.write_indent(indent);
            }
            if c == ' ' && !after_blank && self.column > WIDTH && may_break(at, next) {
                self.write_indent(indent);
            } else {
                if c == '\'' && doubles_quotes {
                    self.put('\'');
                }
                self.put(c);
            }
            after_blank = c == ' ';
            if c != ' ' {
                self.indention = false;
            }
        }
    }

    fn single(&mut self, text: &str, indent: usize, may_break: bool) {
        self.indicator("'", true, false);
        let last = text.len().saturating_sub(1);
        self.spaced(text, indent, true, |at, next| may_break && at > 0 && at < last && next != Some(' '));
        self.indicator("'", false, false);
    }

    fn double(&mut self, text: &str, indent: usize, may_break: bool) {
        self.indicator("\"", true, false);
        let (mut chars, mut after_blank, last) = (text.char_indices().peekable(), false, text.len().saturating_sub(1));
        // go-yaml looks for the mark at the begin of the text, wherever it is.
        let is_marked = text.starts_with('\u{feff}');
        while let Some((at, c)) = chars.next() {
            if is_marked || !is_printable(c) || is_break(c) || matches!(c, '"' | '\\') {
                self.escape(c);
                after_blank = false;
            } else if c == ' ' {
                if may_break && !after_blank && self.column > WIDTH && at > 0 && at < last {
                    self.write_indent(indent);
                    if chars.peek().is_some_and(|(_, next)| *next == ' ') {
                        self.put('\\');
                    }
                } else {
                    self.put(' ');
                }
                after_blank = true;
            } else {
                self.put(c);
                after_blank = false;
            }
        }
        self.indicator("\"", false, false);
    }

    fn escape(&mut self, c: char) {
        let text = match c {
            '\0' => "\\0".to_owned(),
            '\x07' => "\\a".to_owned(),
            '\x08' => "\\b".to_owned(),
            '\t' => "\\t".to_owned(),
            '\n' => "\\n".to_owned(),
            '\x0b' => "\\v".to_owned(),
            '\x0c' => "\\f".to_owned(),
            '\r' => "\\r".to_owned(),
            '\x1b' => "\\e".to_owned(),
            '"' | '\\' => format!("\\{c}"),
            '\u{85}' => "\\N".to_owned(),
            '\u{a0}' => "\\_".to_owned(),
            '\u{2028}' => "\\L".to_owned(),
            '\u{2029}' => "\\P".to_owned(),
            c if c <= '\u{ff}' => format!("\\x{:02X}", u32::from(c)),
            c if c <= '\u{ffff}' => format!("\\u{:04X}", u32::from(c)),
            c => format!("\\U{:08X}", u32::from(c)),
        };
        text.chars().for_each(|c| self.put(c));
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.indicator("|", true, false);
        if text.starts_with(|c| c == ' ' || is_break(c)) {
            self.indicator(&INDENT.to_string(), false, false);
        }
        let mut back = text.chars().rev();
        match (back.next().is_some_and(is_break), back.next()) {
            (false, _) => self.indicator("-", false, false),
            (true, None) => self.indicator("+", false, false),
            (true, Some(c)) if is_break(c) => self.indicator("+", false, false),
            (true, Some(_)) => {}
        }
        self.line_break();
        self.indention = true;
        self.whitespace = true;
        let mut after_break = true;
        for c in text.chars() {
            if is_break(c) {
                if c == '\n' {
                    self.line_break();
                } else {
                    self.put(c);
                    self.column = 0;
                }
                self.indention = true;
            } else {
                if after_break {
                    self.write_indent(indent);
                }
                self.put(c);
                self.indention = false;
            }
            after_break = is_break(c);
        }
    }
}

/// A number as every reader of YAML takes it for one: with a point before an exponent, and a sign in that. What else JSON
/// has without quotes is the same in YAML.
pub(crate) fn number(json: &str) -> Cow<'_, str> {
    let is_number = json.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    let Some((digits, exponent)) = json.split_once(['e', 'E']).filter(|_| is_number) else { return json.into() };
    let point = if digits.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with(['+', '-']) { "" } else { "+" };
    format!("{digits}{point}e{sign}{exponent}").into()
}

/// A text as it stands in a line.
pub(crate) fn inline(text: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.indent = Some(0);
    writer.scalar(text);
    let mut out = writer.finish();
    if out.ends_with(b"\n") {
        out.pop();
    }
    out
}

#[derive(Clone, Copy, PartialEq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

/// A text, and how it may be written.
struct Scalar {
    text: String,
    is_binary: bool,
    wanted: Style,
    multiline: bool,
    plain_allowed: bool,
    single_allowed: bool,
    block_allowed: bool,
}

impl Scalar {
    fn of(bytes: &[u8]) -> Self {
        let (text, is_binary) = match std::str::from_utf8(bytes) {
            Ok(text) => (text.to_owned(), false),
            Err(_) => (base64_lines(bytes), true),
        };
        let wanted = if !is_binary && (is_other_type(&text) || is_base60(&text)) {
            Style::Double
        } else if text.contains('\n') {
            Style::Literal
        } else {
            Style::Plain
        };
        let mut scalar = Self {
            text: String::new(),
            is_binary,
            wanted,
            multiline: text.contains(is_break),
            plain_allowed: true,
            single_allowed: true,
            block_allowed: !text.is_empty(),
        };
        scalar.analyze(&text);
        scalar.text = text;
        scalar
    }

    fn tag(&self) -> &'static str {
        if self.is_binary { "!!binary" } else { "" }
    }

    fn analyze(&mut self, text: &str) {
        let chars: Vec<char> = text.chars().collect();
        let mut indicators = text.starts_with("---") || text.starts_with("...");
        let (mut special, mut space_break, mut break_space) = (false, false, false);
        let is_blank = |at: usize| chars.get(at).is_none_or(|c| matches!(c, ' ' | '\t' | '\0') || is_break(*c));
        for (at, &c) in chars.iter().enumerate() {
            let before = at.checked_sub(1).map(|before| chars[before]);
            indicators |= match (at, c) {
                (0, '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`') => {
                    true
                }
                (0, '?' | ':' | '-') | (_, ':') => is_blank(at + 1),
                (_, '#') => is_blank(at - 1),
                _ => false,
            };
            special |= !is_printable(c);
            break_space |= c == ' ' && before.is_some_and(is_break);
            space_break |= is_break(c) && before == Some(' ');
        }
        let edge = |c: Option<&char>| c.is_some_and(|c| *c == ' ' || is_break(*c));
        self.plain_allowed = !(indicators || edge(chars.first()) || edge(chars.last()) || self.multiline);
        if chars.last() == Some(&' ') {
            self.block_allowed = false;
        }
        if break_space {
            (self.plain_allowed, self.single_allowed) = (false, false);
        }
        if space_break || special {
            (self.plain_allowed, self.single_allowed, self.block_allowed) = (false, false, false);
        }
    }

    fn style(&self, is_key: bool) -> Style {
        let mut style = self.wanted;
        if is_key && self.multiline {
            style = Style::Double;
        }
        if style == Style::Plain && (!self.plain_allowed || (self.text.is_empty() && is_key)) {
            style = Style::Single;
        }
        if style == Style::Single && !self.single_allowed || style == Style::Literal && (!self.block_allowed || is_key)
        {
            style = Style::Double;
        }
        style
    }
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && c != '\u{feff}'
}

fn base64_lines(bytes: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(bytes);
    if text.len() < BASE64_LINE {
        return text;
    }
    let lines = text.as_bytes().chunks(BASE64_LINE);
    lines.map(|line| String::from_utf8_lossy(line).into_owned() + "\n").collect()
}

/// True if a reader would take the text for something else, and it has to be quoted.
fn is_other_type(text: &str) -> bool {
    const WORDS: [&str; 39] = [
        "", "~", "null", "Null", "NULL", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", "n",
        "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF", ".nan", ".NaN", ".NAN", ".inf", ".Inf",
        ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF",
    ];
    if WORDS.contains(&text) {
        return true;
    }
    match text.as_bytes().first() {
        Some(b'.') => is_float(text),
        Some(b'+' | b'-' | b'0'..=b'9') => {
            let plain = text.replace('_', "");
            let unsigned = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
            is_integer(unsigned, plain.len() > unsigned.len()) || is_float(&plain) || is_binary_number(&plain)
        }
        _ => false,
    }
}

/// Go's `ParseInt` or `ParseUint` with base 0 takes it.
fn is_integer(unsigned: &str, is_signed: bool) -> bool {
    let lower = unsigned.to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    let most = if is_signed { i64::MAX as u64 + 1 } else { u64::MAX };
    !digits.starts_with(['+', '-']) && u64::from_str_radix(digits, radix).is_ok_and(|number| number <= most)
}

fn is_binary_number(plain: &str) -> bool {
    let digits = plain.strip_prefix("0b").or_else(|| plain.strip_prefix("-0b"));
    digits.is_some_and(|digits| u64::from_str_radix(digits, 2).is_ok())
}

/// Go's `ParseFloat` takes it, without an error for its size.
fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let lower = unsigned.to_ascii_lowercase();
    if matches!(lower.as_str(), "inf" | "infinity" | "nan") {
        return lower != "nan" || unsigned.len() == text.len();
    }
    if let Some(hexadecimal) = lower.strip_prefix("0x") {
        return is_hexadecimal_float(hexadecimal);
    }
    let is_number = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | '+' | '-');
    lower.chars().all(is_number) && lower.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Behind `0x`: digits with or without a point, and a power of two, which is required.
fn is_hexadecimal_float(text: &str) -> bool {
    let Some((digits, exponent)) = text.split_once('p') else { return false };
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let is_digits = digits.chars().all(|c| c.is_ascii_hexdigit() || c == '.') && digits.matches('.').count() <= 1;
    is_digits
        && digits.chars().any(|c| c.is_ascii_hexdigit())
        && exponent.len() <= 3
        && exponent.parse::<u16>().is_ok_and(|exponent| exponent < 900)
}

/// A number with colons, as older readers take for sixties.
fn is_base60(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let Some((first, rest)) = text.split_once(':') else { return false };
    let is_first =
        first.starts_with(|c: char| c.is_ascii_digit()) && first.chars().all(|c| c.is_ascii_digit() || c == '_');
    let (sixties, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let is_sixty = |part: &str| matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']);
    is_first && sixties.split(':').all(is_sixty) && fraction.chars().all(|c| c.is_ascii_digit() || c == '_')
}

/// go-yaml's order of keys: letters behind other characters, numbers by their size.
fn order(left: &[u8], right: &[u8]) -> Ordering {
    let left: Vec<char> = String::from_utf8_lossy(left).chars().collect();
    let right: Vec<char> = String::from_utf8_lossy(right).chars().collect();
    let Some(at) = left.iter().zip(&right).position(|(a, b)| a != b) else { return left.len().cmp(&right.len()) };
    let (a, b) = (left[at], right[at]);
    match (a.is_alphabetic(), b.is_alphabetic()) {
        (true, true) => return a.cmp(&b),
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let number = |chars: &[char]| {
        let digits = chars[at..].iter().take_while(|c| c.is_ascii_digit());
        let add = |(number, len): (i64, usize), c: &char| {
            (number.wrapping_mul(10).wrapping_add(i64::from(u32::from(*c) - u32::from('0'))), len + 1)
        };
        digits.fold((0, 0), add)
    };
    number(&left).cmp(&number(&right)).then(a.cmp(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> String {
        let mut writer = Writer::new();
        writer.map(vec![(b"k", text)], |writer, text| writer.scalar(text.as_bytes()));
        String::from_utf8(writer.finish()).unwrap()
    }

    /// What the go-yaml of metad's time writes for these.
    #[test]
    fn texts_are_quoted_as_go_yaml_does() {
        for (text, expected) in [
            ("a", "a"),
            ("", "\"\""),
            ("1", "\"1\""),
            ("192.168.1.1", "192.168.1.1"),
            ("1.5", "\"1.5\""),
            ("1e3", "\"1e3\""),
            ("0x1F", "\"0x1F\""),
            ("010", "\"010\""),
            ("089", "\"089\""),
            ("1_000", "\"1_000\""),
            ("true", "\"true\""),
            ("n", "\"n\""),
            ("~", "\"~\""),
            ("1:30", "\"1:30\""),
            ("1:90", "1:90"),
            ("a: b", "'a: b'"),
            ("a:b", "a:b"),
            ("- a", "'- a'"),
            ("-a", "-a"),
            ("it's", "it's"),
            ("'a'", "'''a'''"),
            (" a", "' a'"),
            ("a #b", "'a #b'"),
            ("a\tb", "\"a\\tb\""),
            ("a\nb", "|-\n  a\n  b"),
            ("a\n", "|\n  a"),
            ("a\n\n", "|+\n  a\n"),
            (" a\nb", "|2-\n   a\n  b"),
            ("a \nb", "\"a \\nb\""),
            ("\u{1f600}", "\"\\U0001F600\""),
            ("\u{e9}", "\u{e9}"),
        ] {
            assert_eq!(one(text), format!("k: {expected}\n"), "{text:?}");
        }
    }

    #[test]
    fn keys_are_in_natural_order_and_maps_nest() {
        let mut writer = Writer::new();
        let keys = ["b", "a10", "a2", "a", "1", "10", "2", "_", "B"];
        writer.map(keys.iter().map(|key| (key.as_bytes(), *key)).collect(), |writer, key| {
            if key == "b" {
                writer.map(vec![(b"x".as_slice(), ""), (b"n", "")], |writer, _| {
                    writer.map(Vec::<(&[u8], &str)>::new(), |_, _| {});
                });
            } else {
                writer.scalar(b"v");
            }
        });
        let out = String::from_utf8(writer.finish()).unwrap();
        let expected = "_: v\n\"1\": v\n\"2\": v\n\"10\": v\nB: v\na: v\na2: v\na10: v\nb:\n  \"n\": {}\n  x: {}\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn long_lines_are_broken_at_blanks() {
        let text = "word ".repeat(20);
        let out = one(text.trim_end());
        let expected = format!("k: {}\n  {}\n", "word ".repeat(16).trim_end(), "word ".repeat(4).trim_end());
        assert_eq!(out, expected);
    }
}

//! Keys, values and columns as a person reads them.

use go::strconv::quote;

use std::fmt::Write as _;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Bytes as text if they are printable, else in quotes with Go's escapes, so that nothing reaches the terminal that it
/// would obey.
pub(crate) fn show(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if is_printable(text) && !text.starts_with('"') => text.to_owned(),
        _ => quote(bytes),
    }
}

/// True if a text is one line, without control characters and without what turns the direction of the text.
fn is_printable(text: &str) -> bool {
    text.chars().all(|c| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    })
}

/// A text without what a terminal would obey: that is written as Go's escapes, without quotes around it.
pub(crate) fn escape(text: &str) -> String {
    if is_printable(text) {
        return text.to_owned();
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_printable(c.encode_utf8(&mut [0; 4])) {
            escaped.push(c);
        } else {
            let quoted = quote(c.encode_utf8(&mut [0; 4]).as_bytes());
            escaped.push_str(quoted.trim_matches('"'));
        }
    }
    escaped
}

/// Adds formatted text to a string, which cannot fail.
pub(crate) fn push(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).ok();
}

/// Columns that a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// A text of at most so many columns; a longer one ends with a mark.
pub(crate) fn cut(text: &str, columns: usize, has_unicode: bool) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mark = if has_unicode { "…" } else { "..." };
    let room = columns.saturating_sub(width(mark));
    let mut cut = String::new();
    let mut taken = 0;
    for c in text.chars() {
        taken += c.width().unwrap_or(0);
        if taken > room {
            break;
        }
        cut.push(c);
    }
    cut.push_str(mark);
    cut
}

/// Where the text of a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A text with spaces beside it, so that it takes at least so many columns.
pub(crate) fn pad(text: &str, columns: usize, align: Align) -> String {
    let spaces = " ".repeat(columns.saturating_sub(width(text)));
    match align {
        Align::Left => format!("{text}{spaces}"),
        Align::Right => format!("{spaces}{text}"),
    }
}

/// `1 key`, `2 keys`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {many}") }
}

/// Breaks the lines of a text that are longer than so many columns. What stands behind the last gap of two spaces, or behind
/// a tab, is the text of the line, and goes on below where it begins; so does what stands behind a label like `Error: `.
pub(crate) fn fit(text: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns else { return text.to_owned() };
    let lines = text.split('\n').map(|line| {
        let start = text_start(line);
        let indent = column_of(&line[..start]);
        if indent + width(&line[start..]) <= columns {
            return line.to_owned();
        }
        format!("{}{}", &line[..start], wrap(&line[start..], Some(columns), indent))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Lines of prose in a page that are longer are taken to go on below.
const PROSE_COLUMNS: usize = 90;

/// A page whose prose is one line for each paragraph, for [`fit`]: it is written in lines for wide pages, and lines of a
/// narrow terminal would each have a short one below them.
pub(crate) fn flow(page: &str) -> String {
    let is_prose = |line: &str| {
        line.strip_prefix('\t').is_some_and(|text| {
            text.starts_with(|c: char| c.is_alphanumeric() || "`(".contains(c))
                && !text.contains(['\t'])
                && !text.contains("  ")
        })
    };
    let mut flowing = String::with_capacity(page.len());
    let mut before: Option<&str> = None;
    for line in page.split('\n') {
        match before {
            Some(before) if is_prose(before) && width(before) > PROSE_COLUMNS && is_prose(line) => {
                push(&mut flowing, format_args!(" {}", line.trim_start()));
            }
            Some(_) => push(&mut flowing, format_args!("\n{line}")),
            None => flowing.push_str(line),
        }
        before = Some(line);
    }
    flowing
}

/// Where the text of a line begins, in bytes.
fn text_start(line: &str) -> usize {
    let gap = line.rfind('\t').map(|at| at + 1).max(line.rfind("  ").map(|at| at + 2)).unwrap_or_default();
    let label = LABELS.iter().find(|label| line.starts_with(**label)).map(|label| label.len());
    gap.max(label.unwrap_or_default())
}

/// What lines begin with whose text stands behind it.
const LABELS: &[&str] = &["Error: ", "warning: "];

/// The column behind a text, with a tab stop at every eighth.
fn column_of(text: &str) -> usize {
    text.split_inclusive('\t').fold(0, |column, cell| {
        let column = column + width(cell.trim_end_matches('\t'));
        if cell.ends_with('\t') { (column + 1).next_multiple_of(8) } else { column }
    })
}

/// Breaks a text between words into lines of at most so many columns, each but the first behind an indent.
pub(crate) fn wrap(text: &str, columns: Option<usize>, indent: usize) -> String {
    let Some(columns) = columns else { return text.to_owned() };
    let room = columns.saturating_sub(indent).max(20);
    let (mut wrapped, mut taken) = (String::new(), 0);
    for word in text.split(' ') {
        let next = width(word);
        if taken > 0 && taken + 1 + next > room {
            push(&mut wrapped, format_args!("\n{}", " ".repeat(indent)));
            taken = 0;
        } else if taken > 0 {
            wrapped.push(' ');
            taken += 1;
        }
        wrapped.push_str(word);
        taken += next;
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_flow_and_lists_do_not() {
        let long = "word ".repeat(19);
        let page = format!("D:\n\t{long}end\n\tof it.\n\tNext\n\nO:\n  -a\t{long}\n\tname  {long}\n\tname  b\n");
        let expected = page.replacen("end\n\tof", "end of", 1);
        assert_eq!(flow(&page), expected);
        let lines = fit(&flow(&page), Some(60));
        assert!(
            lines.starts_with("D:\n\tword word") && lines.contains("word end of\n        it.\n\tNext\n"),
            "{lines}"
        );
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        for (bytes, expected) in [
            (&b"plain /key"[..], "plain /key"),
            ("größe".as_bytes(), "größe"),
            (b"", ""),
            (b"a\nb", r#""a\nb""#),
            (b"\x1b[31mred", r#""\x1b[31mred""#),
            (b"\xff\xfe", r#""\xff\xfe""#),
            (b"\"quoted\"", r#""\"quoted\"""#),
            ("a\u{202e}b".as_bytes(), r#""a\u202eb""#),
        ] {
            assert_eq!(show(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn nothing_that_is_hidden_passes() {
        for c in (0..=u32::from(char::MAX)).filter_map(char::from_u32) {
            let text = c.to_string();
            if !is_printable(&text) {
                assert!(!quote(text.as_bytes()).contains(c) && !escape(&text).contains(c), "{c:?}");
            }
        }
        assert_eq!(escape("a\u{7}\"b\u{202e}"), "a\\a\"b\\u202e");
        assert_eq!(show("\u{7}".as_bytes()), r#""\a""#);
    }

    #[test]
    fn texts_are_cut_and_padded_by_columns() {
        assert_eq!(cut("abcdef", 6, true), "abcdef");
        assert_eq!(cut("abcdefg", 6, true), "abcde…");
        assert_eq!(cut("abcdefg", 6, false), "abc...");
        assert_eq!(cut("漢字漢字", 6, true), "漢字…");
        assert_eq!(pad("漢", 4, Align::Left), "漢  ");
        assert_eq!(pad("7", 3, Align::Right), "  7");
    }

    #[test]
    fn what_goes_on_stands_below_its_beginning() {
        for (line, expected) in [
            ("short", "short"),
            ("Error: one two three four five six", "Error: one two three four five\n       six"),
            ("  do:   one two three four five six", "  do:   one two three four\n        five six"),
            ("--flag\tone two three four five", "--flag\tone two three four\n        five"),
            ("--flag    one two three four five", "--flag    one two three four\n          five"),
            ("a b\nc d", "a b\nc d"),
        ] {
            assert_eq!(fit(line, Some(30)), expected, "{line:?}");
            assert_eq!(fit(line, None), line);
        }
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrap("one two three four five six", Some(24), 2), "one two three four\n  five six");
        assert_eq!(wrap("one two", None, 2), "one two");
        assert_eq!(
            wrap("a-word-that-is-longer-than-the-line-is x", Some(24), 2),
            "a-word-that-is-longer-than-the-line-is\n  x"
        );
    }
}

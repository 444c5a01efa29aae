//! Keys, values and columns as a person reads them.

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

/// Bytes in quotes, as Go's `%q` writes them.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::with_capacity(bytes.len() + 2);
    quoted.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => quoted.push_str("\\\""),
                '\\' => quoted.push_str("\\\\"),
                '\n' => quoted.push_str("\\n"),
                '\r' => quoted.push_str("\\r"),
                '\t' => quoted.push_str("\\t"),
                c if is_printable(c.encode_utf8(&mut [0; 4])) => quoted.push(c),
                c if u32::from(c) < 0x80 => push(&mut quoted, format_args!("\\x{:02x}", u32::from(c))),
                c => push(&mut quoted, format_args!("\\u{:04x}", u32::from(c))),
            }
        }
        for byte in chunk.invalid() {
            push(&mut quoted, format_args!("\\x{byte:02x}"));
        }
    }
    quoted.push('"');
    quoted
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
    fn texts_are_cut_and_padded_by_columns() {
        assert_eq!(cut("abcdef", 6, true), "abcdef");
        assert_eq!(cut("abcdefg", 6, true), "abcde…");
        assert_eq!(cut("abcdefg", 6, false), "abc...");
        assert_eq!(cut("漢字漢字", 6, true), "漢字…");
        assert_eq!(pad("漢", 4, Align::Left), "漢  ");
        assert_eq!(pad("7", 3, Align::Right), "  7");
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

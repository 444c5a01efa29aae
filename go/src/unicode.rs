//! Characters as Go sees them: bytes that are not UTF-8 are U+FFFD, one each.

/// The first character and its width in bytes.
pub fn decode(text: &[u8]) -> Option<(char, usize)> {
    let first = *text.first()?;
    if first < 0x80 {
        return Some((char::from(first), 1));
    }
    let head = &text[..text.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(valid) => valid,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
    };
    match valid.chars().next() {
        Some(c) => Some((c, c.len_utf8())),
        None => Some((char::REPLACEMENT_CHARACTER, 1)),
    }
}

/// True if [`decode`] had to make U+FFFD of a byte.
pub fn is_invalid((c, width): (char, usize)) -> bool {
    c == char::REPLACEMENT_CHARACTER && width == 1
}

/// The characters of a text with their widths.
pub fn chars(text: &[u8]) -> impl Iterator<Item = (char, usize)> + '_ {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (c, width) = decode(rest)?;
        rest = &rest[width..];
        Some((c, width))
    })
}

/// Number of characters.
pub fn count(text: &[u8]) -> usize {
    chars(text).count()
}

/// True for letters.
pub fn is_letter(c: char) -> bool {
    c.is_alphabetic()
}

/// True for numbers.
pub fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || (!c.is_ascii() && c.is_numeric())
}

/// True for letters, marks, numbers, punctuation, symbols and the ASCII space.
pub fn is_print(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    // The standard library's Debug format has the table. Behind another character it also keeps marks.
    let mut text = String::from("a");
    text.push(c);
    text.escape_debug().nth(1) == Some(c)
}

/// A character as Go's `%#U` writes it.
pub fn describe(c: Option<char>) -> String {
    match c {
        // Go's end of input is the character -1.
        None => "U+FFFFFFFFFFFFFFFF".to_owned(),
        Some(c) if is_print(c) => format!("U+{:04X} '{c}'", u32::from(c)),
        Some(c) => format!("U+{:04X}", u32::from(c)),
    }
}

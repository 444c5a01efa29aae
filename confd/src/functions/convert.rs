//! Go's `strings`, where it does not do what Rust does.

use crate::template::Value;

/// The characters of a text; bytes that are not UTF-8 stay as they are.
fn chars(text: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    for chunk in text.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(c) = rest.chars().next() {
            let (head, tail) = rest.split_at(c.len_utf8());
            found.push(head.as_bytes());
            rest = tail;
        }
        found.extend(chunk.invalid().chunks(1));
    }
    found
}

/// Go's `strings.Split`: an empty separator splits after each character.
pub(super) fn split<'t>(text: &'t [u8], separator: &[u8]) -> Vec<&'t [u8]> {
    if separator.is_empty() {
        return chars(text);
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(separator.len()).position(|window| window == separator) {
        parts.push(&rest[..at]);
        rest = &rest[at + separator.len()..];
    }
    parts.push(rest);
    parts
}

/// Go's `strings.Replace`: a negative count means all, an empty text stands before and behind each character.
pub(super) fn replace(text: &[u8], old: &[u8], new: &[u8], count: i64) -> Vec<u8> {
    let mut left = if count < 0 { i64::MAX } else { count };
    let mut out = Vec::with_capacity(text.len());
    if old.is_empty() {
        for c in chars(text) {
            if left > 0 {
                out.extend_from_slice(new);
                left -= 1;
            }
            out.extend_from_slice(c);
        }
        if left > 0 {
            out.extend_from_slice(new);
        }
        return out;
    }
    let mut rest = text;
    while left > 0 {
        let Some(at) = rest.windows(old.len()).position(|window| window == old) else { break };
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(new);
        rest = &rest[at + old.len()..];
        left -= 1;
    }
    out.extend_from_slice(rest);
    out
}

/// Each character mapped to one.
pub(super) fn map_case(text: &[u8], map: impl Fn(char) -> char) -> Value {
    String::from_utf8_lossy(text).chars().map(map).collect::<String>().into()
}

/// The words of a name: separators and changes of case divide it.
fn words(name: &str) -> Vec<String> {
    let chars: Vec<char> = name.chars().collect();
    let mut words = Vec::new();
    let mut word = String::new();
    for (at, &c) in chars.iter().enumerate() {
        if matches!(c, '_' | '-' | ' ') {
            words.push(std::mem::take(&mut word));
            continue;
        }
        let begins_word = chars.get(at + 1).is_some_and(|next| next.is_lowercase());
        if c.is_uppercase() && !word.is_empty() && (begins_word || !chars[at - 1].is_uppercase()) {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// As Go, which has one letter for each.
fn lowercase(word: &str) -> String {
    word.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect()
}

/// `http_server` of `HTTPServer`.
pub(super) fn separated(name: &str, separator: char) -> String {
    let lower: Vec<String> = words(name).iter().map(|word| lowercase(word)).collect();
    lower.join(&separator.to_string())
}

/// `httpServer` of `HTTPServer`.
pub(super) fn camelcase(name: &str) -> String {
    let mut out = String::new();
    for (number, word) in words(name).iter().enumerate() {
        let lower = lowercase(word);
        let mut chars = lower.chars();
        match chars.next() {
            Some(first) if number > 0 => {
                out.push(first.to_uppercase().next().unwrap_or(first));
                out.push_str(chars.as_str());
            }
            _ => out.push_str(&lower),
        }
    }
    out
}

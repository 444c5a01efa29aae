//! Go's `path` package, and its regular expressions as far as they differ from ours.

use regex::bytes::{Regex, RegexBuilder};

/// Go's `path.Clean`.
pub(crate) fn clean(path: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        return b".".to_vec();
    }
    let rooted = path[0] == b'/';
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/", joined.as_slice()].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

/// Go's `path.Dir`.
pub(super) fn dir(path: &[u8]) -> Vec<u8> {
    let end = path.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    clean(&path[..end])
}

/// Go's `path.Base`.
pub(super) fn base(path: &[u8]) -> &[u8] {
    if path.is_empty() {
        return b".";
    }
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let begin = path[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    if end == 0 { b"/" } else { &path[begin..end] }
}

/// A pattern of Go's `path.Match` that is malformed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadPattern;

impl BadPattern {
    pub(super) const TEXT: &'static str = "syntax error in pattern";
}

/// Go's `path.Match`: `*` and `?` never match a slash. That a pattern is malformed is noticed as far as it is read.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    let (mut pattern, mut name) = (pattern, name);
    'pattern: while !pattern.is_empty() {
        let stars = pattern.iter().take_while(|&&byte| byte == b'*').count();
        let (chunk, rest) = chunk(&pattern[stars..]);
        pattern = rest;
        if stars > 0 && chunk.is_empty() {
            return Ok(!name.contains(&b'/'));
        }
        if let Some(after) = match_chunk(chunk, name)?
            && (after.is_empty() || !pattern.is_empty())
        {
            name = after;
            continue;
        }
        if stars > 0 {
            for begin in 0..name.len() {
                if name[begin] == b'/' {
                    break;
                }
                if let Some(after) = match_chunk(chunk, &name[begin + 1..])? {
                    if pattern.is_empty() && !after.is_empty() {
                        continue;
                    }
                    name = after;
                    continue 'pattern;
                }
            }
        }
        // The rest of the pattern may still be malformed.
        while !pattern.is_empty() {
            let stars = pattern.iter().take_while(|&&byte| byte == b'*').count();
            let (chunk, rest) = self::chunk(&pattern[stars..]);
            match_chunk(chunk, b"")?;
            pattern = rest;
        }
        return Ok(false);
    }
    Ok(name.is_empty())
}

/// The part of a pattern up to the next star outside of a class.
fn chunk(pattern: &[u8]) -> (&[u8], &[u8]) {
    let mut in_class = false;
    let mut at = 0;
    while at < pattern.len() {
        match pattern[at] {
            b'\\' if at + 1 < pattern.len() => at += 1,
            b'[' => in_class = true,
            b']' => in_class = false,
            b'*' if !in_class => break,
            _ => {}
        }
        at += 1;
    }
    pattern.split_at(at.min(pattern.len()))
}

/// What is left of a name behind a chunk that matches at its beginning.
fn match_chunk<'n>(chunk: &[u8], name: &'n [u8]) -> Result<Option<&'n [u8]>, BadPattern> {
    let (mut chunk, mut name) = (chunk, name);
    let mut failed = false;
    while let Some(&first) = chunk.first() {
        failed |= name.is_empty();
        match first {
            b'[' => {
                let mut c = None;
                if !failed {
                    let (found, width) = first_char(name);
                    c = Some(found);
                    name = &name[width..];
                }
                let (matched, rest) = match_class(&chunk[1..], c)?;
                failed |= !matched;
                chunk = rest;
            }
            b'?' => {
                if !failed {
                    failed = name[0] == b'/';
                    name = &name[first_char(name).1..];
                }
                chunk = &chunk[1..];
            }
            byte => {
                let (byte, width) = match (byte, chunk.get(1)) {
                    (b'\\', Some(&escaped)) => (escaped, 2),
                    (b'\\', None) => return Err(BadPattern),
                    _ => (byte, 1),
                };
                if !failed {
                    failed = name[0] != byte;
                    name = &name[1..];
                }
                chunk = &chunk[width..];
            }
        }
    }
    Ok((!failed).then_some(name))
}

/// A class behind its bracket: whether it has the character, and what follows it.
fn match_class(class: &[u8], c: Option<char>) -> Result<(bool, &[u8]), BadPattern> {
    let negated = class.first() == Some(&b'^');
    let mut rest = if negated { &class[1..] } else { class };
    let mut matched = false;
    let mut ranges = 0;
    loop {
        if rest.first() == Some(&b']') && ranges > 0 {
            return Ok((matched != negated && c.is_some(), &rest[1..]));
        }
        let (low, after) = class_char(rest)?;
        rest = after;
        let mut high = low;
        if rest.first() == Some(&b'-') {
            (high, rest) = class_char(&rest[1..])?;
        }
        matched |= c.is_some_and(|c| (low..=high).contains(&c));
        ranges += 1;
    }
}

fn class_char(class: &[u8]) -> Result<(char, &[u8]), BadPattern> {
    let class = match class {
        [] | [b'-' | b']', ..] => return Err(BadPattern),
        [b'\\', rest @ ..] => rest,
        class => class,
    };
    if class.is_empty() {
        return Err(BadPattern);
    }
    let (c, width) = first_char(class);
    // A class that is not closed ends here.
    if class.len() == width {
        return Err(BadPattern);
    }
    Ok((c, &class[width..]))
}

fn first_char(text: &[u8]) -> (char, usize) {
    let head = &text[..text.len().min(4)];
    let valid = match std::str::from_utf8(head) {
        Ok(valid) => valid,
        Err(error) => std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default(),
    };
    valid.chars().next().map_or((char::REPLACEMENT_CHARACTER, 1), |c| (c, c.len_utf8()))
}

/// Go's limit for `{n}`.
const MAX_REPEAT: u64 = 1000;

/// A regular expression of Go. The error is Go's text.
pub(super) fn regex(pattern: &[u8]) -> Result<Regex, String> {
    let pattern = String::from_utf8_lossy(pattern);
    if let Some(operators) = nested_repetition(&pattern) {
        return Err(format!("error parsing regexp: invalid nested repetition operator: `{operators}`"));
    }
    if let Some(count) = invalid_repeat(&pattern) {
        return Err(format!("error parsing regexp: invalid repeat count: `{count}`"));
    }
    RegexBuilder::new(&ascii_classes(&pattern)).size_limit(10 << 20).build().map_err(|error| {
        let text = error.to_string();
        let class = pattern.rfind('[').map_or("", |at| &pattern[at..]);
        let reason = if text.contains("unclosed character class") {
            format!("missing closing ]: `{class}`")
        } else if text.contains("unclosed group") {
            format!("missing closing ): `{pattern}`")
        } else if text.contains("unopened group") {
            format!("unexpected ): `{pattern}`")
        } else if text.contains("repetition operator missing expression") {
            let operator = pattern.chars().find(|c| "*+?{".contains(*c)).unwrap_or('*');
            format!("missing argument to repetition operator: `{operator}`")
        } else if text.contains("incomplete escape") {
            "trailing backslash at end of expression: ``".to_owned()
        } else {
            format!("invalid expression: `{pattern}`")
        };
        format!("error parsing regexp: {reason}")
    })
}

/// A repetition of a repetition, which Go refuses.
fn nested_repetition(pattern: &str) -> Option<String> {
    let mut in_class = false;
    let mut before: Option<char> = None;
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
                before = None;
            }
            '[' => in_class = true,
            ']' => {
                in_class = false;
                before = None;
            }
            '*' | '+' | '?' if !in_class => {
                match before {
                    // One question mark makes a repetition lazy.
                    Some(_) if c == '?' => before = Some('!'),
                    Some(operator) => return Some(format!("{}{c}", if operator == '!' { '?' } else { operator })),
                    None => before = Some(c),
                }
                if c == '?' && before == Some('!') && matches!(chars.peek(), Some('*' | '+' | '?')) {
                    return chars.peek().map(|next| format!("?{next}"));
                }
            }
            // `(?` is no repetition.
            '(' if !in_class => {
                if chars.peek() == Some(&'?') {
                    chars.next();
                }
                before = None;
            }
            _ => before = None,
        }
    }
    None
}

/// A count that Go refuses: above a thousand, or from more to less.
fn invalid_repeat(pattern: &str) -> Option<&str> {
    let mut in_class = false;
    let mut chars = pattern.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '[' => in_class = true,
            ']' => in_class = false,
            '{' if !in_class => {
                let count = pattern[at..].split_inclusive('}').next().unwrap_or_default();
                let Some((least, most)) = repeat_bounds(count) else { continue };
                if least > MAX_REPEAT || most.is_some_and(|most| most > MAX_REPEAT || most < least) {
                    return Some(count);
                }
            }
            _ => {}
        }
    }
    None
}

/// `{2}`, `{2,}` and `{2,5}`. Anything else in braces is text, numbers with zeros in front included.
fn repeat_bounds(count: &str) -> Option<(u64, Option<u64>)> {
    let bound = |digits: &str| {
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        let has_zeros = digits.len() > 1 && digits.starts_with('0');
        (is_number && !digits.is_empty() && !has_zeros).then(|| digits.parse().unwrap_or(u64::MAX))
    };
    let count = count.strip_prefix('{')?.strip_suffix('}')?;
    match count.split_once(',') {
        None => Some((bound(count)?, None)),
        Some((least, "")) => Some((bound(least)?, None)),
        Some((least, most)) => Some((bound(least)?, Some(bound(most)?))),
    }
}

/// `\d`, `\w` and `\s` mean ASCII in Go.
fn ascii_classes(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut in_class = false;
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '[' => in_class = true,
            ']' => in_class = false,
            '\\' => {
                let escaped = chars.next();
                let class = match escaped {
                    Some('d') => "0-9",
                    Some('w') => "0-9A-Za-z_",
                    Some('s') => "\\t\\n\\x0C\\r ",
                    Some('D') if !in_class => "^0-9",
                    Some('W') if !in_class => "^0-9A-Za-z_",
                    Some('S') if !in_class => "^\\t\\n\\x0C\\r ",
                    _ => {
                        out.push(c);
                        out.extend(escaped);
                        continue;
                    }
                };
                let (open, close) = if in_class { ("", "") } else { ("[", "]") };
                out.extend([open, class, close]);
                continue;
            }
            _ => {}
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_go() {
        for (path, cleaned, directory, name) in [
            ("", ".", ".", "."),
            ("/", "/", "/", "/"),
            ("a", "a", ".", "a"),
            ("/a/b/", "/a/b", "/a/b", "b"),
            ("/a//b/../c", "/a/c", "/a", "c"),
            ("../x", "../x", "..", "x"),
            ("a/../..", "..", ".", ".."),
            ("/..", "/", "/", ".."),
            ("///", "/", "/", "/"),
        ] {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let path = path.as_bytes();
            assert_eq!(
                (text(&clean(path)), text(&dir(path)), text(base(path))),
                (cleaned.to_owned(), directory.to_owned(), name.to_owned())
            );
        }
    }

    #[test]
    fn patterns_are_those_of_go() {
        for (pattern, name, expected) in [
            ("abc", "abc", Ok(true)),
            ("*", "abc", Ok(true)),
            ("*c", "abc", Ok(true)),
            ("a*", "a", Ok(true)),
            ("a*", "ab/c", Ok(false)),
            ("a*/b", "abc/b", Ok(true)),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", Ok(true)),
            ("a*b?c*x", "abxbbxdbxebxczzx", Ok(true)),
            ("ab[c]", "abc", Ok(true)),
            ("ab[e-g]", "abc", Ok(false)),
            ("ab[^e-g]", "abc", Ok(true)),
            ("a\\*b", "a*b", Ok(true)),
            ("a[^a][^a][^a]b", "a\u{263a}b", Ok(false)),
            ("a?b", "a\u{263a}b", Ok(true)),
            ("[a-\u{3b6}]*", "\u{3b1}", Ok(true)),
            ("a?b", "a/b", Ok(false)),
            ("[\\]a]", "]", Ok(true)),
            ("[]a]", "]", Err(BadPattern)),
            ("[-]", "-", Err(BadPattern)),
            ("[a-b-c]", "a", Err(BadPattern)),
            ("[", "a", Err(BadPattern)),
            ("a[", "a", Err(BadPattern)),
            ("a[", "ab", Err(BadPattern)),
            ("*x", "xxx", Ok(true)),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}

//! What Go's standard library reads and prints, as far as users of etcdctl see it: numbers and their errors, quoted text,
//! durations, lists.

const NANOS_PER_SECOND: f64 = 1e9;

/// `%q`: in double quotes, with escapes for what cannot be printed.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '"' { out.push_str("\\\"") } else { escape(&mut out, c) }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}

/// `%q` of one character.
pub(crate) fn quote_char(c: char) -> String {
    let mut out = "'".to_owned();
    if c == '\'' {
        out.push_str("\\'");
    } else {
        escape(&mut out, c);
    }
    out.push('\'');
    out
}

fn escape(out: &mut String, c: char) {
    match c {
        '\\' => out.push_str("\\\\"),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        c if is_print(c) => out.push(c),
        c => {
            let code = u32::from(c);
            out.push_str(&match code {
                0..0x20 | 0x7f => format!("\\x{code:02x}"),
                0x20..0x1_0000 => format!("\\u{code:04x}"),
                _ => format!("\\U{code:08x}"),
            });
        }
    }
}

/// True for letters, marks, numbers, signs and the space.
fn is_print(c: char) -> bool {
    // Behind a letter nothing is escaped that can be printed.
    c == ' ' || c.is_ascii_graphic() || !c.is_ascii() && format!("a{c}").escape_debug().nth(1) != Some('\\')
}

/// Reads a quoted text at the beginning, as `%q` of a scan does. Returns it and what is behind it.
pub(crate) fn unquote(text: &str) -> Option<(Vec<u8>, &str)> {
    let text = text.trim_start_matches([' ', '\t']);
    if let Some(raw) = text.strip_prefix('`') {
        let end = raw.find('`')?;
        return Some((raw.as_bytes()[..end].to_vec(), &raw[end + 1..]));
    }
    let mut out = Vec::new();
    let mut chars = text.strip_prefix('"')?.chars();
    loop {
        match chars.next()? {
            '"' => return Some((out, chars.as_str())),
            '\n' => return None,
            '\\' => unescape(&mut chars, &mut out)?,
            c => push(&mut out, c),
        }
    }
}

fn push(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn unescape(chars: &mut std::str::Chars<'_>, out: &mut Vec<u8>) -> Option<()> {
    let c = chars.next()?;
    let mut digits = |count: usize, radix, first: Option<char>| {
        let taken: String = first.into_iter().chain(chars.take(count)).collect();
        let is_whole = taken.chars().count() == count + usize::from(first.is_some());
        u32::from_str_radix(&taken, radix).ok().filter(|_| is_whole)
    };
    match c {
        'a' => out.push(7),
        'b' => out.push(8),
        'f' => out.push(0xc),
        'n' => out.push(b'\n'),
        'r' => out.push(b'\r'),
        't' => out.push(b'\t'),
        'v' => out.push(0xb),
        '\\' | '"' => push(out, c),
        'x' => out.push(u8::try_from(digits(2, 16, None)?).ok()?),
        '0'..='7' => out.push(u8::try_from(digits(2, 8, Some(c))?).ok()?),
        'u' => push(out, char::from_u32(digits(4, 16, None)?)?),
        'U' => push(out, char::from_u32(digits(8, 16, None)?)?),
        _ => return None,
    }
    Some(())
}

/// `strconv.ParseInt` with 64 bits.
///
/// # Errors
/// Go's text.
pub(crate) fn parse_int(text: &str, base: u32) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let error = |why: &str| format!("strconv.ParseInt: parsing {}: {why}", quote(text.as_bytes()));
    let magnitude = unsigned(digits, base).map_err(error)?;
    let value = if negative { -i128::from(magnitude) } else { i128::from(magnitude) };
    i64::try_from(value).map_err(|_| error(OUT_OF_RANGE))
}

/// `strconv.ParseUint` with 64 bits.
///
/// # Errors
/// Go's text.
pub(crate) fn parse_uint(text: &str, base: u32) -> Result<u64, String> {
    unsigned(text, base).map_err(|why| format!("strconv.ParseUint: parsing {}: {why}", quote(text.as_bytes())))
}

const OUT_OF_RANGE: &str = "value out of range";
const INVALID: &str = "invalid syntax";

/// Base 0 means that the number says it itself.
fn unsigned(text: &str, base: u32) -> Result<u64, &'static str> {
    let (base, digits) = match (base, text.as_bytes()) {
        (0, [b'0', b'x' | b'X', ..]) => (16, text[2..].replace('_', "")),
        (0, [b'0', b'b' | b'B', ..]) => (2, text[2..].replace('_', "")),
        (0, [b'0', b'o' | b'O', ..]) => (8, text[2..].replace('_', "")),
        (0, [b'0', _, ..]) => (8, text[1..].replace('_', "")),
        (0, _) => (10, text.to_owned()),
        (base, _) => (base, text.to_owned()),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return Err(INVALID);
    }
    u64::from_str_radix(&digits, base).map_err(|_| OUT_OF_RANGE)
}

/// `strconv.ParseBool`.
///
/// # Errors
/// Go's text.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: {INVALID}", quote(text.as_bytes()))),
    }
}

/// `time.ParseDuration`, in nanoseconds.
///
/// # Errors
/// Go's text.
pub(crate) fn parse_duration(text: &str) -> Result<i64, String> {
    let quoted = quote(text.as_bytes());
    let invalid = || format!("time: invalid duration {quoted}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(end);
        if !number.contains(|c: char| c.is_ascii_digit()) {
            return Err(invalid());
        }
        let number: f64 = number.parse().map_err(|_| invalid())?;
        let end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        let seconds = match unit {
            "" => return Err(format!("time: missing unit in duration {quoted}")),
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => {
                return Err(format!("time: unknown unit {} in duration {quoted}", quote(unit.as_bytes())));
            }
        };
        nanos += number * seconds * NANOS_PER_SECOND;
        rest = behind;
    }
    if nanos > i64::MAX as f64 {
        return Err(invalid());
    }
    let nanos = nanos.round() as i64;
    Ok(if negative { -nanos } else { nanos })
}

/// How Go prints a duration: `1.5ms`, `2m3s`.
pub(crate) fn duration(duration: std::time::Duration) -> String {
    let nanos = duration.as_nanos();
    let fraction = |value: u128, unit: u128| {
        let (whole, rest) = (value / unit, value % unit);
        let digits = unit.ilog10() as usize;
        let rest = format!("{rest:0digits$}");
        let rest = rest.trim_end_matches('0');
        if rest.is_empty() || digits == 0 { whole.to_string() } else { format!("{whole}.{rest}") }
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let seconds = format!("{}s", fraction(nanos % 60_000_000_000, 1_000_000_000));
            let minutes = nanos / 60_000_000_000;
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// A line of values with commas between them, where quotes hold a value together.
///
/// # Errors
/// Go's text about quotes that do not fit.
pub(crate) fn read_csv(line: &str) -> Result<Vec<String>, String> {
    if line.is_empty() {
        return Ok(Vec::new());
    }
    let mut values = Vec::new();
    let mut rest = line;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut value = String::new();
            let mut tail = quoted;
            loop {
                let end = tail.find('"').ok_or_else(|| {
                    let column = line.len() + 1;
                    format!("parse error on line 1, column {column}: extraneous or missing \" in quoted-field")
                })?;
                value.push_str(&tail[..end]);
                tail = &tail[end + 1..];
                let Some(more) = tail.strip_prefix('"') else { break };
                value.push('"');
                tail = more;
            }
            values.push(value);
            match tail.strip_prefix(',') {
                Some(next) => rest = next,
                None if tail.is_empty() => return Ok(values),
                None => return Err("parse error on line 1: extraneous or missing \" in quoted-field".to_owned()),
            }
            continue;
        }
        let (value, next) = rest.split_once(',').map_or((rest, None), |(value, next)| (value, Some(next)));
        if let Some(at) = value.find('"') {
            let column = line.len() - rest.len() + at + 1;
            return Err(format!("parse error on line 1, column {column}: bare \" in non-quoted-field"));
        }
        values.push(value.to_owned());
        match next {
            Some(next) => rest = next,
            None => return Ok(values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn texts_are_quoted_as_go_quotes_them() {
        for (text, quoted) in [
            (&b"foo"[..], r#""foo""#),
            (b"a\"b\\", r#""a\"b\\""#),
            (b"\x00\x07\x08\x0c\n\r\t\x0b\x1f\x7f", r#""\x00\a\b\f\n\r\t\v\x1f\x7f""#),
            (b"\xff\xc3", r#""\xff\xc3""#),
            ("é日\u{85}\u{feff}".as_bytes(), "\"é日\\u0085\\ufeff\""),
        ] {
            assert_eq!(quote(text), quoted);
            assert_eq!(unquote(quoted).unwrap(), (text.to_vec(), ""));
        }
        assert_eq!(quote_char('Z'), "'Z'");
        assert_eq!(unquote(r#" "\101\u00e9" rest"#).unwrap(), ("Aé".as_bytes().to_vec(), " rest"));
        for bad in ["", "a", "\"", "\"a", r#""\q""#, r#""\x1""#] {
            assert_eq!(unquote(bad), None, "{bad}");
        }
    }

    #[test]
    fn numbers_and_their_errors_are_gos() {
        let bad = |text: &str, why: &str| Err(format!("strconv.ParseInt: parsing \"{text}\": {why}"));
        for (text, base, expected) in [
            ("12", 10, Ok(12)),
            ("-12", 10, Ok(-12)),
            ("+1", 10, Ok(1)),
            ("ff", 16, Ok(255)),
            ("0x10", 0, Ok(16)),
            ("010", 0, Ok(8)),
            ("0", 0, Ok(0)),
            ("", 10, bad("", INVALID)),
            ("zz", 16, bad("zz", INVALID)),
            ("--1", 10, bad("--1", INVALID)),
            ("9223372036854775808", 10, bad("9223372036854775808", OUT_OF_RANGE)),
        ] {
            assert_eq!(parse_int(text, base), expected, "{text}");
        }
        assert_eq!(parse_uint("-1", 16).unwrap_err(), "strconv.ParseUint: parsing \"-1\": invalid syntax");
    }

    #[test]
    fn durations_are_read_and_printed() {
        for (text, nanos) in [
            ("5s", 5_000_000_000),
            ("1m30s", 90_000_000_000),
            ("100ms", 100_000_000),
            ("1.5s", 1_500_000_000),
            ("0", 0),
            ("-1s", -1_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(nanos), "{text}");
        }
        for (text, error) in [
            ("5", "missing unit in duration \"5\""),
            ("5q", "unknown unit \"q\" in duration \"5q\""),
            ("", "invalid duration \"\""),
            ("s", "invalid duration \"s\""),
        ] {
            assert_eq!(parse_duration(text).unwrap_err(), format!("time: {error}"));
        }
        for (nanos, text) in [
            (0, "0s"),
            (999, "999ns"),
            (1_500, "1.5µs"),
            (3_423_987, "3.423987ms"),
            (2_000_000_000, "2s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn lists_are_read_with_their_quotes() {
        assert_eq!(read_csv("a,b"), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(read_csv("\"a,b\",c"), Ok(vec!["a,b".to_owned(), "c".to_owned()]));
        assert_eq!(read_csv(""), Ok(vec![]));
        assert!(read_csv("a\"b").is_err() && read_csv("\"a").is_err());
    }
}

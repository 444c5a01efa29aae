//! Go's texts of numbers and strings, both ways, with Go's errors.

use crate::unicode;
use std::fmt::{self, Write as _};

/// A string in double quotes, as Go's `%q` writes it.
pub fn quote(text: &[u8]) -> String {
    quote_with(text, b'"', false)
}

/// [`quote`] with all but ASCII escaped, as `%+q` writes it.
pub fn quote_ascii(text: &[u8]) -> String {
    quote_with(text, b'"', true)
}

fn quote_with(text: &[u8], quote: u8, ascii_only: bool) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(char::from(quote));
    let mut rest = text;
    while let Some((c, width)) = unicode::decode(rest) {
        if unicode::is_invalid((c, width)) {
            // Cannot fail: it writes to a string.
            let _infallible = write!(out, "\\x{:02x}", rest[0]);
        } else {
            escape(&mut out, c, quote, ascii_only);
        }
        rest = &rest[width..];
    }
    out.push(char::from(quote));
    out
}

fn escape(out: &mut String, c: char, quote: u8, ascii_only: bool) {
    if c == char::from(quote) || c == '\\' {
        out.push('\\');
        out.push(c);
        return;
    }
    if (c.is_ascii() || !ascii_only) && unicode::is_print(c) {
        out.push(c);
        return;
    }
    let short = match c {
        '\x07' => "\\a",
        '\x08' => "\\b",
        '\x0c' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\x0b' => "\\v",
        _ => "",
    };
    out.push_str(short);
    let code = u32::from(c);
    let _infallible = match code {
        _ if !short.is_empty() => Ok(()),
        ..0x20 | 0x7f => write!(out, "\\x{code:02x}"),
        ..0x1_0000 => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
}

/// A character in single quotes.
pub fn quote_char(c: char, ascii_only: bool) -> String {
    let mut out = String::from("'");
    escape(&mut out, c, b'\'', ascii_only);
    out.push('\'');
    out
}

/// True if a string can be written in back quotes.
pub fn can_backquote(text: &[u8]) -> bool {
    unicode::chars(text).all(|(c, width)| {
        !unicode::is_invalid((c, width)) && c != '\u{feff}' && (c == '\t' || (c >= ' ' && c != '`' && c != '\x7f'))
    })
}

/// The value of a literal of Go, with its quotes. None is Go's `invalid syntax`.
pub fn unquote(literal: &[u8]) -> Option<Vec<u8>> {
    let (&quote, rest) = literal.split_first()?;
    let (&last, inner) = rest.split_last()?;
    if quote != last {
        return None;
    }
    if quote == b'`' {
        return Some(inner.iter().copied().filter(|&byte| byte != b'\r').collect());
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while !rest.is_empty() {
        let (piece, after) = unquote_char(rest, quote)?;
        piece.push_to(&mut out);
        rest = after;
    }
    Some(out)
}

/// Reads a quoted text at the beginning, as `%q` of a scan does. Returns it and what is behind it.
pub fn scan_quoted(text: &str) -> Option<(Vec<u8>, &str)> {
    let text = text.trim_start_matches([' ', '\t']);
    if let Some(raw) = text.strip_prefix('`') {
        let (raw, behind) = raw.split_once('`')?;
        return Some((raw.as_bytes().to_vec(), behind));
    }
    let mut out = Vec::new();
    let mut rest = text.strip_prefix('"')?;
    loop {
        if let Some(behind) = rest.strip_prefix('"') {
            return Some((out, behind));
        }
        let (piece, after) = unquote_char(rest.as_bytes(), b'"')?;
        piece.push_to(&mut out);
        rest = rest.get(rest.len() - after.len()..)?;
    }
}

/// What one character or escape of a literal stands for.
pub enum Piece {
    /// A byte, which need not be a character.
    Byte(u8),
    /// A character.
    Char(char),
}

impl Piece {
    fn push_to(self, out: &mut Vec<u8>) {
        match self {
            Self::Byte(byte) => out.push(byte),
            Self::Char(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// The first character of a literal's inside, and what follows it.
pub fn unquote_char(text: &[u8], quote: u8) -> Option<(Piece, &[u8])> {
    let (c, width) = unicode::decode(text)?;
    if c == char::from(quote) || c == '\n' {
        return None;
    }
    if c != '\\' {
        // Go keeps bytes that are not UTF-8 as they are.
        let piece = if unicode::is_invalid((c, width)) { Piece::Byte(text[0]) } else { Piece::Char(c) };
        return Some((piece, &text[width..]));
    }
    let (&kind, rest) = text[1..].split_first()?;
    let simple = match kind {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'\\' => b'\\',
        b'\'' | b'"' if kind == quote => kind,
        b'x' => return hex(rest, 2).and_then(|(code, rest)| Some((Piece::Byte(u8::try_from(code).ok()?), rest))),
        b'u' => return hex(rest, 4).and_then(|(code, rest)| Some((Piece::Char(char::from_u32(code)?), rest))),
        b'U' => return hex(rest, 8).and_then(|(code, rest)| Some((Piece::Char(char::from_u32(code)?), rest))),
        b'0'..=b'7' => {
            let digits = text.get(1..4)?;
            let code = digits.iter().try_fold(0_u32, |code, digit| match digit {
                b'0'..=b'7' => Some(code * 8 + u32::from(digit - b'0')),
                _ => None,
            })?;
            return Some((Piece::Byte(u8::try_from(code).ok()?), &text[4..]));
        }
        _ => return None,
    };
    Some((Piece::Char(char::from(simple)), rest))
}

fn hex(text: &[u8], digits: usize) -> Option<(u32, &[u8])> {
    let number = std::str::from_utf8(text.get(..digits)?).ok()?;
    if !number.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    Some((u32::from_str_radix(number, 16).ok()?, &text[digits..]))
}

/// What Go says about a text that is no such number, or no truth. Displayed, it is Go's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumError<'t> {
    /// The function of Go that failed.
    pub function: &'static str,
    /// What it was given.
    pub text: &'t [u8],
    /// `invalid syntax` or `value out of range`.
    pub reason: &'static str,
}

impl fmt::Display for NumError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "strconv.{}: parsing {}: {}", self.function, quote(self.text), self.reason)
    }
}

impl std::error::Error for NumError<'_> {}

impl From<NumError<'_>> for String {
    fn from(error: NumError<'_>) -> Self {
        error.to_string()
    }
}

const INVALID: &str = "invalid syntax";
const OUT_OF_RANGE: &str = "value out of range";

/// Go's `strconv.ParseBool`.
///
/// # Errors
/// If it is neither true nor false.
pub fn parse_bool(text: &[u8]) -> Result<bool, NumError<'_>> {
    match text {
        b"1" | b"t" | b"T" | b"TRUE" | b"true" | b"True" => Ok(true),
        b"0" | b"f" | b"F" | b"FALSE" | b"false" | b"False" => Ok(false),
        _ => Err(NumError { function: "ParseBool", text, reason: INVALID }),
    }
}

/// Go's `strconv.Atoi`.
///
/// # Errors
/// If it is no such number.
pub fn atoi(text: &[u8]) -> Result<i64, NumError<'_>> {
    parse_int(text, 10).map_err(|error| NumError { function: "Atoi", ..error })
}

/// Go's `strconv.ParseInt` with 64 bits. With base 0 the prefix tells the base, and digits may be set apart with `_`.
///
/// # Errors
/// If it is no such number.
pub fn parse_int(text: &[u8], base: u32) -> Result<i64, NumError<'_>> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    let error = |reason| NumError { function: "ParseInt", text, reason };
    let magnitude = unsigned(digits, base).map_err(error)?;
    let number = if negative { 0_i64.checked_sub_unsigned(magnitude) } else { i64::try_from(magnitude).ok() };
    number.ok_or_else(|| error(OUT_OF_RANGE))
}

/// Go's `strconv.ParseUint` with 64 bits, otherwise as [`parse_int`].
///
/// # Errors
/// If it is no such number; with a sign, it is none.
pub fn parse_uint(text: &[u8], base: u32) -> Result<u64, NumError<'_>> {
    unsigned(text, base).map_err(|reason| NumError { function: "ParseUint", text, reason })
}

fn unsigned(text: &[u8], base: u32) -> Result<u64, &'static str> {
    let lower = text.to_ascii_lowercase();
    let may_have_underscores = base == 0;
    if may_have_underscores && !underscores_are_fine(&lower) {
        return Err(INVALID);
    }
    let (base, digits) = match (base, lower.as_slice()) {
        (0, [b'0', b'x', rest @ ..]) => (16, rest),
        (0, [b'0', b'b', rest @ ..]) => (2, rest),
        (0, [b'0', b'o', rest @ ..]) => (8, rest),
        (0, [b'0', rest @ ..]) if !rest.is_empty() => (8, rest),
        (0, all) => (10, all),
        (base, all) => (base, all),
    };
    let digits = digits.iter().filter(|&&byte| byte != b'_' || !may_have_underscores);
    let digits: String = digits.map(|&byte| char::from(byte)).collect();
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return Err(INVALID);
    }
    u64::from_str_radix(&digits, base).map_err(|_| OUT_OF_RANGE)
}

/// True if every `_` stands between digits, or behind the prefix of a base.
fn underscores_are_fine(lower: &[u8]) -> bool {
    let unsigned = lower.strip_prefix(b"+").or_else(|| lower.strip_prefix(b"-")).unwrap_or(lower);
    let (mut before, digits) = match unsigned {
        [b'0', b'x' | b'b' | b'o', rest @ ..] => (b'0', rest),
        all => (b'.', all),
    };
    let is_hex = unsigned.starts_with(b"0x");
    let is_digit = |byte: u8| byte.is_ascii_digit() || (is_hex && byte.is_ascii_hexdigit());
    for &byte in digits {
        if byte == b'_' && !is_digit(before) {
            return false;
        }
        if before == b'_' && !is_digit(byte) {
            return false;
        }
        before = byte;
    }
    before != b'_'
}

/// Go's `strconv.ParseFloat` with 64 bits, also for hexadecimal numbers.
///
/// # Errors
/// If it is no such number.
pub fn parse_float(text: &[u8]) -> Result<f64, NumError<'_>> {
    float(text).map_err(|reason| NumError { function: "ParseFloat", text, reason })
}

fn float(text: &[u8]) -> Result<f64, &'static str> {
    let lower = text.to_ascii_lowercase();
    let unsigned = lower.strip_prefix(b"+").or_else(|| lower.strip_prefix(b"-")).unwrap_or(&lower);
    if lower.contains(&b'_') {
        if !underscores_are_fine(&lower) {
            return Err(INVALID);
        }
        return float(&lower.iter().copied().filter(|&byte| byte != b'_').collect::<Vec<_>>());
    }
    if let Some(digits) = unsigned.strip_prefix(b"0x") {
        let magnitude = parse_hex_float(digits).ok_or(INVALID)?;
        return Ok(if lower.starts_with(b"-") { -magnitude } else { magnitude });
    }
    let text = std::str::from_utf8(&lower).map_err(|_| INVALID)?;
    let number: f64 = text.parse().map_err(|_| INVALID)?;
    if number.is_infinite() && !text.contains("inf") {
        return Err(OUT_OF_RANGE);
    }
    Ok(number)
}

/// `1.8p3`, without sign and prefix. The exponent is not optional.
fn parse_hex_float(text: &[u8]) -> Option<f64> {
    let at = text.iter().position(|&byte| byte == b'p')?;
    let exponent: i32 = std::str::from_utf8(&text[at + 1..]).ok()?.parse().ok()?;
    let mut mantissa = 0.0_f64;
    let mut scale = exponent.clamp(-5000, 5000);
    let mut seen_point = false;
    let mut digits = 0;
    for &byte in &text[..at] {
        match char::from(byte).to_digit(16) {
            Some(digit) => {
                digits += 1;
                mantissa = mantissa * 16.0 + f64::from(digit);
                scale -= if seen_point { 4 } else { 0 };
            }
            None if byte == b'.' && !seen_point => seen_point = true,
            None => return None,
        }
    }
    (digits > 0).then(|| mantissa * 2.0_f64.powi(scale))
}

/// Decimals that a float can have, and some more.
const MAX_DECIMALS: usize = 1100;

/// Go's `strconv.FormatFloat`: `format` is one of `eEfgG`, and without a precision as many digits as are needed to read the
/// same number again.
pub fn format_float(number: f64, format: char, precision: Option<usize>) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number < 0.0 { "-Inf" } else { "+Inf" }.to_owned();
    }
    // No number has more decimals than this that are not zero, and the standard library takes no more than 65535.
    let shown = precision.map(|precision| precision.min(MAX_DECIMALS));
    let zeros = "0".repeat(precision.unwrap_or_default() - shown.unwrap_or_default());
    match (format, shown) {
        ('f' | 'F', Some(shown)) => format!("{number:.shown$}{zeros}"),
        ('f' | 'F', None) => format!("{number}"),
        ('e' | 'E', Some(shown)) => {
            scientific(&format!("{number:.shown$e}").replace('e', &format!("{zeros}e")), format)
        }
        ('e' | 'E', None) => scientific(&format!("{number:e}"), format),
        (_, shown) => general(number, shown, if format == 'G' { 'E' } else { 'e' }),
    }
}

/// `1.5e7` as Go writes it, `1.5e+07`.
fn scientific(text: &str, letter: char) -> String {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}{letter}{sign}{exponent:0>2}")
}

/// The shorter of both forms, as `%g` chooses it.
fn general(number: f64, precision: Option<usize>, letter: char) -> String {
    let significant = precision.map(|precision| precision.max(1));
    let text = match significant {
        Some(significant) => format!("{number:.*e}", significant - 1),
        None => format!("{number:e}"),
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    // Zeros at the end say nothing.
    let mantissa = if mantissa.contains('.') { mantissa.trim_end_matches('0').trim_end_matches('.') } else { mantissa };
    let digits = mantissa.bytes().filter(u8::is_ascii_digit).count();
    let mut limit = significant.unwrap_or(6);
    if significant.is_some() && limit > digits && i32::try_from(digits).is_ok_and(|digits| digits > exponent) {
        limit = digits;
    }
    if exponent < -4 || i32::try_from(limit).is_ok_and(|limit| exponent >= limit) {
        return scientific(&format!("{mantissa}e{exponent}"), letter);
    }
    let decimals = i32::try_from(digits).unwrap_or(i32::MAX) - 1 - exponent;
    match significant {
        Some(_) => format!("{number:.*}", usize::try_from(decimals).unwrap_or_default()),
        None => format!("{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(scan_quoted(quoted).unwrap(), (text.to_vec(), ""));
        }
        assert_eq!(quote_char('Z', false), "'Z'");
        assert_eq!(scan_quoted(r#" "\101\u00e9" rest"#).unwrap(), ("Aé".as_bytes().to_vec(), " rest"));
        for bad in ["", "a", "\"", "\"a", "`a", "\"\n\"", r#""\q""#, r#""\x1""#, r#""\x+1""#, r#""\'""#] {
            assert_eq!(scan_quoted(bad), None, "{bad}");
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
            ("-0B1_01", 0, Ok(-5)),
            ("0o_17", 0, Ok(15)),
            ("1_000", 0, Ok(1000)),
            ("1_000", 10, bad("1_000", INVALID)),
            ("1__0", 0, bad("1__0", INVALID)),
            ("_1", 0, bad("_1", INVALID)),
            ("-9223372036854775808", 10, Ok(i64::MIN)),
            ("", 10, bad("", INVALID)),
            ("zz", 16, bad("zz", INVALID)),
            ("--1", 10, bad("--1", INVALID)),
            ("9223372036854775808", 10, bad("9223372036854775808", OUT_OF_RANGE)),
        ] {
            assert_eq!(parse_int(text.as_bytes(), base).map_err(String::from), expected, "{text}");
        }
        assert_eq!(parse_uint(b"-1", 16).unwrap_err().to_string(), "strconv.ParseUint: parsing \"-1\": invalid syntax");
    }

    #[test]
    fn floats_may_have_underscores_between_digits() {
        for (text, expected) in [
            ("1_0.5", Some(10.5)),
            ("1_23.50_0_0e+1_2", Some(1.235e14)),
            ("0x_1p4", Some(16.0)),
            ("-1_0.5", Some(-10.5)),
            ("+_1.5", None),
            ("1_e5", None),
            ("1e_5", None),
            ("0b1_0", None),
            ("in_f", None),
        ] {
            assert_eq!(parse_float(text.as_bytes()).ok(), expected, "{text}");
        }
    }
}

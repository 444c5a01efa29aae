//! Literal numbers, which take their type from their text and from where they are used.

use super::ast::Number;
use go::strconv::{self, Piece};

/// `'a'`
pub(super) fn character(literal: &[u8]) -> Result<Number, String> {
    let shown = || String::from_utf8_lossy(literal).into_owned();
    let (piece, rest) = strconv::unquote_char(&literal[1..], b'\'').ok_or("invalid syntax")?;
    if rest != b"'" {
        return Err(format!("malformed character constant: {}", shown()));
    }
    let code = match piece {
        Piece::Byte(byte) => i64::from(byte),
        Piece::Char(c) => i64::from(u32::from(c)),
    };
    Ok(Number { text: shown(), int: Some(code), is_uint: true, float: Some(code as f64), complex: None })
}

/// `1+2i`
pub(super) fn complex(literal: &[u8]) -> Result<Number, String> {
    let text = String::from_utf8_lossy(literal).into_owned();
    let bad = || "syntax error scanning complex number".to_owned();
    let body = text.strip_suffix('i').ok_or_else(bad)?;
    // The sign between both parts is the last one that is not part of an exponent.
    let at = body
        .char_indices()
        .skip(1)
        .filter(|&(at, c)| matches!(c, '+' | '-') && !matches!(body.as_bytes()[at - 1], b'e' | b'E' | b'p' | b'P'))
        .map(|(at, _)| at)
        .last()
        .ok_or_else(bad)?;
    let parse = |part: &str| strconv::parse_float(part.as_bytes()).map_err(|_| bad());
    Ok(with_complex(text.clone(), parse(&body[..at])?, parse(&body[at..])?))
}

fn with_complex(text: String, real: f64, imaginary: f64) -> Number {
    let mut number = Number { text, complex: Some((real, imaginary)), ..Number::default() };
    if imaginary == 0.0 {
        number.float = Some(real);
        number.int = integral(real);
        number.is_uint = real >= 0.0 && number.int.is_some();
    }
    number
}

/// A float that is an integer.
fn integral(float: f64) -> Option<i64> {
    let int = float as i64;
    let is_same = (int as f64).partial_cmp(&float) == Some(std::cmp::Ordering::Equal);
    (is_same && float.abs() < 9_223_372_036_854_775_808.0).then_some(int)
}

/// `12`, `0x1F`, `1e3`, `2i`
pub(super) fn number(literal: &[u8]) -> Result<Number, String> {
    let text = String::from_utf8_lossy(literal).into_owned();
    if let Some(imaginary) = literal.strip_suffix(b"i").and_then(|part| strconv::parse_float(part).ok()) {
        return Ok(with_complex(text, 0.0, imaginary));
    }
    let mut number = Number { text, ..Number::default() };
    let uint = strconv::parse_uint(literal, 0).ok();
    number.int = strconv::parse_int(literal, 0).ok();
    number.is_uint = uint.is_some() || number.int == Some(0);
    if let Some(int) = number.int {
        number.float = Some(int as f64);
    } else if let Some(uint) = uint {
        number.float = Some(uint as f64);
    } else if let Ok(float) = strconv::parse_float(literal) {
        if !literal.iter().any(|byte| b".eEpP".contains(byte)) {
            return Err(format!("integer overflow: {}", strconv::quote(literal)));
        }
        number.float = Some(float);
        number.int = integral(float);
        number.is_uint = float >= 0.0 && number.int.is_some();
    } else {
        return Err(format!("illegal number syntax: {}", strconv::quote(literal)));
    }
    Ok(number)
}

impl Number {
    /// True if the text says that it is a float: a point or an exponent, and neither hexadecimal nor a character.
    pub(super) fn looks_like_float(&self) -> bool {
        let is_hex = (self.text.starts_with("0x") || self.text.starts_with("0X")) && !self.text.contains(['p', 'P']);
        !is_hex && !self.text.starts_with('\'') && self.text.contains(['.', 'e', 'E', 'p', 'P'])
    }
}

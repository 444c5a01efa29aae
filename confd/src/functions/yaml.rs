//! YAML as Go's yaml.v2 writes it.

use crate::template::{Object, Value};
use go::strconv;
use std::cmp::Ordering;

/// Lines go on below behind this column.
const WIDTH: usize = 80;

/// A document with a new line at its end.
pub(super) fn encode(value: &Value) -> Result<String, String> {
    let mut out = String::new();
    write(&mut out, value, 0, false)?;
    if !out.ends_with('\n') {
        out.push('\n');
    }
    Ok(out)
}

/// Writes a value. `after_key` means that something stands on the line already.
fn write(out: &mut String, value: &Value, indent: usize, after_key: bool) -> Result<(), String> {
    super::fits(out.len() as u128)?;
    let space = if after_key { " " } else { "" };
    match value {
        Value::List(list) => {
            let items = list.to_vec();
            if items.is_empty() {
                out.push_str(space);
                out.push_str("[]\n");
                return Ok(());
            }
            if after_key {
                out.push('\n');
            }
            for item in &items {
                out.push_str(&" ".repeat(indent));
                out.push('-');
                write_item(out, item, indent)?;
            }
        }
        Value::Map(map) => {
            let entries: Vec<(String, Value)> = map
                .entries
                .iter()
                .map(|(key, value)| (String::from_utf8_lossy(key).into_owned(), value.clone()))
                .collect();
            let entries = sorted(entries);
            write_entries(out, &entries, indent, after_key)?;
        }
        Value::Object(object) if object.integer().is_none() && object.string().is_none() => {
            write_entries(out, &fields(&**object), indent, after_key)?;
        }
        scalar => {
            out.push_str(space);
            let line = out.rfind('\n').map_or(0, |newline| newline + 1);
            // What stands before an item of a list is written later.
            let column = out[line..].chars().count().max(indent);
            out.push_str(&self::scalar(scalar, column, indent)?);
            out.push('\n');
        }
    }
    Ok(())
}

/// The fields of a struct; yaml.v2 writes their names small.
fn fields(object: &dyn Object) -> Vec<(String, Value)> {
    object.fields().into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect()
}

fn write_entries(out: &mut String, entries: &[(String, Value)], indent: usize, after_key: bool) -> Result<(), String> {
    if entries.is_empty() {
        out.push_str(if after_key { " {}\n" } else { "{}\n" });
        return Ok(());
    }
    if after_key {
        out.push('\n');
    }
    for (key, value) in entries {
        out.push_str(&" ".repeat(indent));
        out.push_str(&text(key, None, indent));
        out.push(':');
        // A list stands at the level of its key.
        let below = if matches!(value, Value::List(_)) { indent } else { indent + 2 };
        write(out, value, below, true)?;
    }
    Ok(())
}

/// Sorts by [`natural`], which knows circles ("10", "1x", "2"): sorting of the standard library may panic at them.
fn sorted(mut entries: Vec<(String, Value)>) -> Vec<(String, Value)> {
    if entries.len() < 2 {
        return entries;
    }
    let mut right = sorted(entries.split_off(entries.len() / 2)).into_iter().peekable();
    let mut merged = Vec::with_capacity(entries.len() + right.len());
    for left in sorted(entries) {
        while let Some(before) = right.next_if(|right| natural(&right.0, &left.0).is_lt()) {
            merged.push(before);
        }
        merged.push(left);
    }
    merged.extend(right);
    merged
}

/// The order of keys: letters behind everything else, and digits as the numbers they are.
fn natural(left: &str, right: &str) -> Ordering {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let Some(at) = left.iter().zip(&right).position(|(left, right)| left != right) else {
        return left.len().cmp(&right.len());
    };
    let (a, b) = (left[at], right[at]);
    if a.is_alphabetic() || b.is_alphabetic() {
        return a.is_alphabetic().cmp(&b.is_alphabetic()).then(a.cmp(&b));
    }
    let number = |chars: &[char]| {
        let digits = chars[at..].iter().map_while(|c| c.to_digit(10));
        let value = digits.clone().fold(0_i64, |sum, digit| sum.wrapping_mul(10).wrapping_add(i64::from(digit)));
        (value, digits.count())
    };
    number(&left).cmp(&number(&right)).then(a.cmp(&b))
}

/// What follows a dash: maps and lists begin on the same line.
fn write_item(out: &mut String, item: &Value, indent: usize) -> Result<(), String> {
    let mut inner = String::new();
    write(&mut inner, item, indent + 2, false)?;
    out.push(' ');
    out.push_str(inner.trim_start_matches(' '));
    Ok(())
}

fn scalar(value: &Value, column: usize, indent: usize) -> Result<String, String> {
    Ok(match value {
        Value::Absent | Value::Nil => "null".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) | Value::Int64(number) => number.to_string(),
        Value::Byte(byte) => byte.to_string(),
        Value::Float(number) => float(*number as f32),
        Value::Text(bytes) => text(&String::from_utf8_lossy(bytes), Some(column), indent),
        Value::Object(object) => object.string().unwrap_or_default(),
        other => return Err(format!("cannot marshal type: {}", other.type_name())),
    })
}

/// yaml.v2 has 32 bits for floats.
fn float(number: f32) -> String {
    if number.is_nan() {
        return ".nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { ".inf" } else { "-.inf" }.to_owned();
    }
    // The shortest digits that tell it from other floats of 32 bits are the shortest of what they say.
    let shortest = number.to_string().parse().unwrap_or(f64::from(number));
    strconv::format_float(shortest, 'g', None)
}

/// A string: plain if nothing can mistake it, in quotes otherwise, and a block if it has lines. It begins in `column` and
/// goes on in another line when it is long; a key, which has None, does not.
fn text(text: &str, column: Option<usize>, indent: usize) -> String {
    if is_other_type(text) {
        return strconv::quote(text.as_bytes());
    }
    if text.contains('\n') {
        let margin = " ".repeat(indent.max(2));
        let (mark, body) = match text.strip_suffix('\n') {
            Some(body) if body.ends_with('\n') => ("|+", body),
            Some(body) => ("|", body),
            None => ("|-", text),
        };
        let lines: Vec<String> = body
            .split('\n')
            .map(|line| if line.is_empty() { String::new() } else { format!("{margin}{line}") })
            .collect();
        return format!("{mark}\n{}", lines.join("\n"));
    }
    if text.chars().any(char::is_control) {
        return strconv::quote(text.as_bytes());
    }
    let indicators = ['-', '?', ':', ',', '[', ']', '{', '}', '#', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`'];
    let begins_badly = text.starts_with(indicators) && !is_plain_start(text);
    let is_ambiguous = text.contains(": ") || text.contains(" #") || text.ends_with(':');
    if begins_badly || is_ambiguous || text.starts_with(' ') || text.ends_with(' ') {
        let quoted = text.replace('\'', "''");
        return format!("'{}'", folded(&quoted, column.map(|column| column + 1), indent));
    }
    folded(text, column, indent)
}

/// Goes to another line at the first single space behind column 80, unless it has no column.
fn folded(text: &str, column: Option<usize>, indent: usize) -> String {
    let Some(mut column) = column else { return text.to_owned() };
    let margin = indent.max(2);
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ' ' && before != ' ' && column > WIDTH && chars.peek().is_some_and(|next| *next != ' ') {
            out.push('\n');
            out.push_str(&" ".repeat(margin));
            column = margin;
        } else {
            out.push(c);
            column += 1;
        }
        before = c;
    }
    out
}

/// `-x`, `?x` and `:x` are plain, unlike the indicators alone.
fn is_plain_start(text: &str) -> bool {
    text.starts_with(['-', '?', ':']) && text.chars().nth(1).is_some_and(|c| c != ' ') && !text.starts_with("---")
}

/// `[-+]?[0-9]*\.?[0-9]+([eE][-+][0-9]+)?`: an exponent has a sign.
fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.strip_prefix(['-', '+']).unwrap_or_default()),
        None => (unsigned, "0"),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or(("", mantissa));
    let are_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits(whole) && [fraction, exponent].into_iter().all(|text| !text.is_empty() && are_digits(text))
}

/// `1:30:00.5`, which other readers of YAML take for a number: hours, minutes and seconds.
fn is_base_60(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mut parts = unsigned.split(':');
    let first = parts.next().unwrap_or_default();
    let begins =
        first.starts_with(|c: char| c.is_ascii_digit()) && first.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let mut rest: Vec<&str> = parts.collect();
    let Some(last) = rest.pop() else { return false };
    let (last, fraction) = last.split_once('.').unwrap_or((last, ""));
    rest.push(last);
    let is_sixtieth = |part: &&str| {
        let digits = part.bytes().all(|byte| byte.is_ascii_digit());
        digits && (part.len() == 1 || (part.len() == 2 && part.as_bytes()[0] < b'6'))
    };
    begins && rest.iter().all(is_sixtieth) && fraction.bytes().all(|b| b.is_ascii_digit() || b == b'_')
}

/// A plain text that YAML would read as a number, a truth or nothing.
fn is_other_type(text: &str) -> bool {
    let words = ["", "~", "null", "Null", "NULL", "y", "Y", "n", "N", "yes", "Yes", "YES", "no", "No", "NO", "true"];
    let more = ["True", "TRUE", "false", "False", "FALSE", "on", "On", "ON", "off", "Off", "OFF"];
    let floats = [".inf", ".Inf", ".INF", "+.inf", "-.inf", ".nan", ".NaN", ".NAN"];
    let is_number = || {
        let plain = text.replace('_', "");
        match text.bytes().next() {
            Some(b'.') => strconv::parse_float(text.as_bytes()).is_ok(),
            Some(b'0'..=b'9' | b'+' | b'-') => {
                strconv::parse_int(plain.as_bytes(), 0).is_ok()
                    || strconv::parse_uint(plain.as_bytes(), 0).is_ok()
                    || is_float(&plain)
                    || is_base_60(text)
            }
            _ => false,
        }
    };
    words.contains(&text) || more.contains(&text) || floats.contains(&text) || is_number()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_a_circle_are_all_there() {
        let names = ["10", "1x", "2", "9", "a10", "a9", "_", "é", "A"];
        let entries: Vec<_> = (0..100)
            .flat_map(|n| names.map(|name| (if n == 0 { name.to_owned() } else { format!("{name}{n}") }, Value::Nil)))
            .collect();
        let mut found: Vec<String> = sorted(entries.clone()).into_iter().map(|(name, _)| name).collect();
        found.sort();
        let mut expected: Vec<String> = entries.into_iter().map(|(name, _)| name).collect();
        expected.sort();
        assert_eq!(found, expected);
        let few = ["b", "_", "a10", "a9", "1"].map(|name| (name.to_owned(), Value::Nil)).to_vec();
        let few: Vec<String> = sorted(few).into_iter().map(|(name, _)| name).collect();
        assert_eq!(few, ["_", "1", "a9", "a10", "b"]);
    }
}

//! YAML as Go's yaml.v2 writes it.

use crate::template::{Object, Value};
use go::strconv;

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
            write_entries(out, &entries, indent, after_key)?;
        }
        Value::Object(object) if object.integer().is_none() && object.string().is_none() => {
            write_entries(out, &fields(&**object), indent, after_key)?;
        }
        scalar => {
            out.push_str(space);
            out.push_str(&self::scalar(scalar, indent)?);
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
        out.push_str(&text(key, indent));
        out.push(':');
        // A list stands at the level of its key.
        let below = if matches!(value, Value::List(_)) { indent } else { indent + 2 };
        write(out, value, below, true)?;
    }
    Ok(())
}

/// What follows a dash: maps and lists begin on the same line.
fn write_item(out: &mut String, item: &Value, indent: usize) -> Result<(), String> {
    let mut inner = String::new();
    write(&mut inner, item, indent + 2, false)?;
    out.push(' ');
    out.push_str(inner.trim_start_matches(' '));
    Ok(())
}

fn scalar(value: &Value, indent: usize) -> Result<String, String> {
    Ok(match value {
        Value::Absent | Value::Nil => "null".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Int(number) | Value::Int64(number) => number.to_string(),
        Value::Byte(byte) => byte.to_string(),
        Value::Float(number) if number.is_nan() => ".nan".to_owned(),
        Value::Float(number) if number.is_infinite() => if *number > 0.0 { ".inf" } else { "-.inf" }.to_owned(),
        Value::Float(number) => strconv::format_float(*number, 'g', None),
        Value::Text(bytes) => text(&String::from_utf8_lossy(bytes), indent),
        Value::Object(object) => object.string().unwrap_or_default(),
        other => return Err(format!("cannot marshal type: {}", other.type_name())),
    })
}

/// A string: plain if nothing can mistake it, in quotes otherwise, and a block if it has lines.
fn text(text: &str, indent: usize) -> String {
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
    let is_ambiguous = text.contains(": ") || text.contains(" #") || text.ends_with(':') || text == "=";
    if begins_badly || is_ambiguous || text.starts_with(' ') || text.ends_with(' ') {
        return format!("'{}'", text.replace('\'', "''"));
    }
    text.to_owned()
}

/// `-x`, `?x` and `:x` are plain, unlike the indicators alone.
fn is_plain_start(text: &str) -> bool {
    text.starts_with(['-', '?', ':']) && text.chars().nth(1).is_some_and(|c| c != ' ') && !text.starts_with("---")
}

/// A plain text that YAML would read as a number, a truth or nothing.
fn is_other_type(text: &str) -> bool {
    let words = ["", "~", "null", "Null", "NULL", "y", "Y", "n", "N", "yes", "Yes", "YES", "no", "No", "NO", "true"];
    let more = ["True", "TRUE", "false", "False", "FALSE", "on", "On", "ON", "off", "Off", "OFF", "<<"];
    let floats = [".inf", ".Inf", ".INF", "+.inf", "-.inf", ".nan", ".NaN", ".NAN"];
    let is_number = || {
        let plain = text.replace('_', "");
        let starts = plain.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
        starts
            && (strconv::parse_int(plain.as_bytes(), 10).is_ok()
                || strconv::parse_float(plain.as_bytes()).is_ok()
                || strconv::parse_uint(plain.as_bytes(), 0).is_ok())
    };
    let is_date = || {
        let bytes = text.as_bytes();
        bytes.len() == 10
            && bytes
                .iter()
                .enumerate()
                .all(|(at, byte)| if at == 4 || at == 7 { *byte == b'-' } else { byte.is_ascii_digit() })
    };
    words.contains(&text) || more.contains(&text) || floats.contains(&text) || is_number() || is_date()
}

//! Where settings come from: the command line as Go's `flag` package reads it, and a YAML file.

use super::SettingsError;
use super::names::{self, FLAGS, Kind};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Values by the flag's name; a flag may be given several times.
pub(super) type Layer = BTreeMap<&'static str, Vec<String>>;

/// Longest file of settings.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Go's truths.
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// One dash or two, `-x v` or `-x=v`, and truths without a value. None if help is asked for.
pub(super) fn command_line(arguments: &[String]) -> Result<Option<Layer>, SettingsError> {
    let mut layer = Layer::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(body) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            // Go ignores what follows the first argument that is no flag; a forgotten dash is better told.
            return Err(SettingsError::Flag(format!("unexpected argument {argument:?}: flags begin with a dash")));
        };
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if matches!(name, "h" | "help") {
            return Ok(None);
        }
        let Some(flag) = names::flag_of(name) else {
            let hint = names::nearest(name).map_or_else(String::new, |hint| format!("; did you mean -{hint}?"));
            return Err(SettingsError::Flag(format!("flag provided but not defined: -{name}{hint}")));
        };
        let value = match (flag.kind, value) {
            (Kind::Bool, value) => {
                let value = value.unwrap_or_else(|| "true".to_owned());
                if parse_bool(&value).is_none() {
                    let message = format!("invalid boolean value {value:?} for -{name}: parse error");
                    return Err(SettingsError::Flag(message));
                }
                value
            }
            (_, Some(value)) => value,
            (_, None) => match rest.next() {
                Some(value) => value.clone(),
                None => return Err(SettingsError::Flag(format!("flag needs an argument: -{name}"))),
            },
        };
        let values = layer.entry(flag.name).or_default();
        if flag.kind != Kind::List {
            values.clear();
        }
        values.push(value);
    }
    Ok(Some(layer))
}

/// The settings of a file. Names that are none are told in `warnings`; metad passes them over in silence.
pub(super) fn file(path: &Path, warnings: &mut Vec<String>) -> Result<Layer, String> {
    let shown = path.display();
    let length = std::fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("{shown}: {length} bytes are too many for a file of settings"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    if text.trim().is_empty() {
        return Ok(Layer::new());
    }
    // Its errors show lines of the file, and there may be a password in it.
    let document: Value = serde_saphyr::from_str(&text).map_err(|_| format!("{shown}: it is not YAML"))?;
    let entries = match document {
        Value::Null => return Ok(Layer::new()),
        Value::Object(entries) => entries,
        _ => return Err(format!("{shown}: it must have lines `name: value`")),
    };
    let mut layer = Layer::new();
    for (name, value) in entries {
        // metad calls it `Group`, and documents `group`.
        let known = if name == "Group" { "group" } else { name.as_str() };
        let Some(flag) = FLAGS.iter().find(|flag| flag.name == known && !flag.is_flag_only) else {
            let hint = names::nearest(&name).map_or_else(String::new, |hint| format!("; did you mean {hint:?}?"));
            warnings.push(format!("{shown}: {name:?} is no setting{hint}"));
            continue;
        };
        layer.insert(flag.name, texts(value).map_err(|kind| format!("{shown}: {name} is {kind}"))?);
    }
    Ok(layer)
}

fn texts(value: Value) -> Result<Vec<String>, &'static str> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Bool(truth) => Ok(vec![truth.to_string()]),
        Value::Number(number) => Ok(vec![number.to_string()]),
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => {
            let one = |item| match texts(item)?.as_mut_slice() {
                [text] => Ok(std::mem::take(text)),
                _ => Err("a list within a list"),
            };
            items.into_iter().map(one).collect()
        }
        Value::Object(_) => Err("a mapping, and must be a value"),
    }
}

/// All flags that there are, for `-h`.
pub(super) fn help() -> String {
    let mut out = "Usage: metad [flags]\n\nFlags, over the file that -config names:\n".to_owned();
    for flag in FLAGS {
        let argument = if flag.kind == Kind::Bool { "" } else { " value" };
        out.extend(["  -", flag.name, argument, "\n    \t", flag.help]);
        if !flag.default.is_empty() {
            out.extend([" (default ", flag.default, ")"]);
        }
        out.push('\n');
    }
    out
}

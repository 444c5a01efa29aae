//! Where settings come from: the command line as Go's `flag` package reads it, and a YAML file.

use super::SettingsError;
use super::names::FLAGS;
use serde_json::Value;
use std::path::Path;
use terminal::flags::{self, Given, Kind, Parsed, Values as Layer};
use terminal::suggest::nearest;

/// Longest file of settings.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The command line; None if help is asked for.
pub(super) fn command_line(arguments: &[String]) -> Result<Option<Layer>, SettingsError> {
    let known: Vec<_> = FLAGS.iter().map(|flag| (flag.name, flag.kind)).collect();
    match flags::parse(arguments, &known).map_err(SettingsError::Flag)? {
        Parsed::Help => Ok(None),
        Parsed::Flags(Given { operands, program, values }) => match (operands.first(), program) {
            (None, None) => Ok(Some(values)),
            (Some(operand), _) => Err(SettingsError::Flag(flags::unexpected(operand))),
            (None, Some(_)) => Err(SettingsError::Flag(flags::unexpected("--"))),
        },
    }
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
            let hint = nearest(&name, FLAGS.iter().map(|flag| flag.name))
                .map_or_else(String::new, |hint| format!("; did you mean {hint:?}?"));
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

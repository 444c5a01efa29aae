//! Command lines as Go's `flag` package reads them: one dash or two, `-x v` or `-x=v`, and truths without a value.

use super::names::{self, FLAGS, Kind, State};
use super::{Layer, SettingsError, parse_bool};

/// What `-h` prints before the flags.
pub const USAGE: &str = "Usage: confd [flags]          keep files up to date\n       confd check [flags]    check the configuration\n       confd [flags] -- program [words]    and keep a program running that uses them";

pub(super) enum Parsed {
    Help,
    Flags(Layer),
}

pub(super) fn parse(arguments: &[String]) -> Result<Parsed, SettingsError> {
    let mut layer = Layer::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            let words: Vec<String> = rest.cloned().collect();
            if words.is_empty() {
                return Err(SettingsError::Flag("there is no program behind --".to_owned()));
            }
            layer.insert("exec", Vec::new());
            layer.insert(names::EXEC_WORDS, words);
            break;
        }
        let Some(body) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            // Go ignores what follows the first argument that is no flag; a forgotten dash is better told.
            return Err(SettingsError::Flag(format!("unexpected argument {argument:?}: flags begin with a dash")));
        };
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if matches!(name, "h" | "help") {
            return Ok(Parsed::Help);
        }
        let Some(flag) = names::flag_of(name) else {
            let hint = names::nearest(name, FLAGS.iter().map(|flag| flag.name));
            let hint = hint.map_or_else(String::new, |hint| format!("; did you mean -{hint}?"));
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
    // A truth that is off must win over another layer, but not count as asked for.
    if layer.get("version").is_some_and(|values| values.last().and_then(|value| parse_bool(value)) == Some(false)) {
        layer.remove("version");
    }
    Ok(Parsed::Flags(layer))
}

/// All flags that there are, for `-h`.
pub fn help() -> String {
    let mut out = format!("{USAGE}\n\nFlags, over CONFD_<FLAG> in the environment, over confd.toml:\n");
    for flag in FLAGS {
        if let State::Present(help) = flag.state {
            let argument = if flag.kind == Kind::Bool { "" } else { " value" };
            out.extend(["  -", flag.name, argument, "\n    \t", help, "\n"]);
        }
    }
    out
}

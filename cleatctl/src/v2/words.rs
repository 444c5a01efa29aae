//! Words to a command, its flags and its arguments, by the rules of etcdctl's library for the v2 API: flags with one or two
//! dashes, anywhere behind their command.

use super::{Command, Flag, Kind};
use crate::go;
use std::collections::BTreeMap;

/// Flags that were given, by their first names.
#[derive(Clone, Default)]
pub(super) struct Values(BTreeMap<&'static str, Vec<String>>);

impl Values {
    pub(super) fn switch(&self, name: &str) -> bool {
        self.0.get(name).and_then(|values| values.last()).is_some_and(|value| go::parse_bool(value) == Ok(true))
    }

    /// Empty if it was not given.
    pub(super) fn text(&self, name: &str) -> String {
        self.0.get(name).and_then(|values| values.last()).cloned().unwrap_or_default()
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.get(name).cloned().unwrap_or_default()
    }

    pub(super) fn int(&self, name: &str) -> i64 {
        go::parse_int(&self.text(name), 0).unwrap_or_default()
    }
}

/// Help is asked for, or a flag is wrong.
pub(super) enum Stop {
    Help,
    Bad(String),
}

/// Reads flags up to the first word that is none. Returns the words behind them.
pub(super) fn leading(flags: &[Flag], mut words: &[String], values: &mut Values) -> Result<Vec<String>, Stop> {
    while let Some((word, rest)) = words.split_first() {
        if word.len() < 2 || !word.starts_with('-') {
            break;
        }
        words = rest;
        if word == "--" {
            break;
        }
        let dashless = word.strip_prefix("--").unwrap_or(&word[1..]);
        if dashless.is_empty() || dashless.starts_with(['-', '=']) {
            return Err(Stop::Bad(format!("bad flag syntax: {word}")));
        }
        let (name, value) = match dashless.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (dashless, None),
        };
        let Some(flag) = flags.iter().find(|flag| flag.names.contains(&name)) else {
            let is_help = ["help", "h"].contains(&name);
            return Err(if is_help {
                Stop::Help
            } else {
                Stop::Bad(format!("flag provided but not defined: -{name}"))
            });
        };
        let value = match value {
            Some(value) => value,
            None if flag.kind == Kind::Bool => "true".to_owned(),
            None => {
                let (value, rest) =
                    words.split_first().ok_or_else(|| Stop::Bad(format!("flag needs an argument: -{name}")))?;
                words = rest;
                value.clone()
            }
        };
        check(flag, name, &value).map_err(Stop::Bad)?;
        values.0.entry(flag.names[0]).or_default().push(value);
    }
    Ok(words.to_vec())
}

fn check(flag: &Flag, name: &str, value: &str) -> Result<(), String> {
    let of_flag = go::quote(value.as_bytes());
    match flag.kind {
        Kind::Bool => {
            let error = |_| format!("invalid boolean value {of_flag} for -{name}: parse error");
            go::parse_bool(value).map(drop).map_err(error)
        }
        Kind::Int => {
            let error = |_| format!("invalid value {of_flag} for flag -{name}: parse error");
            go::parse_int(value, 0).map(drop).map_err(error)
        }
        Kind::Duration => {
            let error = |_| format!("invalid value {of_flag} for flag -{name}: parse error");
            go::parse_duration(value).map(drop).map_err(error)
        }
        Kind::Text | Kind::List => Ok(()),
    }
}

/// The same for a command, whose flags may stand behind its arguments: those from the first flag on are read first.
pub(super) fn of_command(command: &Command, words: &[String], values: &mut Values) -> Result<Vec<String>, Stop> {
    let end = words.iter().position(|word| word == "--");
    let before = end.unwrap_or(words.len());
    let first = words[..before].iter().position(|word| word.starts_with('-') && word != "-");
    let Some(first) = first else { return leading(command.flags, words, values) };
    let mut ordered = words[first..before].to_vec();
    ordered.extend_from_slice(&words[..first]);
    ordered.extend_from_slice(&words[before..]);
    leading(command.flags, &ordered, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        Flag { names: &["ttl"], kind: Kind::Int, help: "" },
        Flag { names: &["recursive", "r"], kind: Kind::Bool, help: "" },
    ];
    const COMMAND: Command = Command { name: "set", flags: FLAGS, ..Command::NONE };

    fn read(line: &str) -> Result<(Vec<String>, i64, bool), String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let mut values = Values::default();
        match of_command(&COMMAND, &words, &mut values) {
            Ok(args) => Ok((args, values.int("ttl"), values.switch("recursive"))),
            Err(Stop::Help) => Err("help".to_owned()),
            Err(Stop::Bad(why)) => Err(why),
        }
    }

    #[test]
    fn flags_stand_anywhere() {
        let args = |args: &[&str]| args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>();
        assert_eq!(read("/a 1 --ttl 50"), Ok((args(&["/a", "1"]), 50, false)));
        assert_eq!(read("-ttl=50 /a 1 -r"), Ok((args(&["/a", "1", "-r"]), 50, false)));
        assert_eq!(read("-r -- -dash 1"), Ok((args(&["-dash", "1"]), 0, true)));
        assert_eq!(read("/a -h"), Err("help".to_owned()));
        assert_eq!(read("/a --x"), Err("flag provided but not defined: -x".to_owned()));
        assert_eq!(read("--ttl"), Err("flag needs an argument: -ttl".to_owned()));
        assert_eq!(read("/a --ttl=x"), Err("invalid value \"x\" for flag -ttl: parse error".to_owned()));
    }
}

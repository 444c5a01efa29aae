//! Words to a command, its flags and its arguments, by the rules of etcdctl's library for the v2 API: flags with one or two
//! dashes, anywhere behind their command.

use super::{Command, Flag, Kind};
use go::{strconv, time};
use std::collections::BTreeMap;

/// Flags that were given, by their first names.
#[derive(Clone, Default)]
pub(super) struct Values(BTreeMap<&'static str, Vec<String>>);

impl Values {
    pub(super) fn switch(&self, name: &str) -> bool {
        self.0
            .get(name)
            .and_then(|values| values.last())
            .is_some_and(|value| strconv::parse_bool(value.as_bytes()) == Ok(true))
    }

    pub(super) fn is_given(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Empty if it was not given.
    pub(super) fn text(&self, name: &str) -> String {
        self.0.get(name).and_then(|values| values.last()).cloned().unwrap_or_default()
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.get(name).cloned().unwrap_or_default()
    }

    pub(super) fn int(&self, name: &str) -> i64 {
        strconv::parse_int(self.text(name).as_bytes(), 0).unwrap_or_default()
    }
}

/// Help is asked for, or a flag is wrong.
pub(super) enum Stop {
    Help,
    Bad(String),
    /// Two names of one flag.
    Twice(String),
}

/// The names of the flag for help, which everything has.
const HELP: [&str; 2] = ["help", "h"];

/// Reads flags up to the first word that is none, as the program and its groups do: that a flag is there twice counts
/// before what is wrong behind it. Returns the words behind the flags.
pub(super) fn leading(flags: &[Flag], words: &[String], values: &mut Values) -> Result<Vec<String>, Stop> {
    let mut given = Vec::new();
    let read = up_to_argument(flags, words, values, &mut given);
    not_twice(flags, &given)?;
    read
}

/// Adds the names of the flags that were read to `given`.
fn up_to_argument(
    flags: &[Flag],
    mut words: &[String],
    values: &mut Values,
    given: &mut Vec<String>,
) -> Result<Vec<String>, Stop> {
    let mut wants_help = false;
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
        let flag = flags.iter().find(|flag| flag.names.contains(&name));
        let kind = match flag {
            Some(flag) => flag.kind,
            None if HELP.contains(&name) => Kind::Bool,
            None => return Err(Stop::Bad(format!("flag provided but not defined: -{name}"))),
        };
        let value = match value {
            Some(value) => value,
            None if kind == Kind::Bool => "true".to_owned(),
            None => {
                let (value, rest) =
                    words.split_first().ok_or_else(|| Stop::Bad(format!("flag needs an argument: -{name}")))?;
                words = rest;
                value.clone()
            }
        };
        check(kind, name, &value).map_err(Stop::Bad)?;
        given.push(name.to_owned());
        match flag {
            Some(flag) => values.0.entry(flag.names[0]).or_default().push(value),
            None => wants_help = strconv::parse_bool(value.as_bytes()) == Ok(true),
        }
    }
    if wants_help { Err(Stop::Help) } else { Ok(words.to_vec()) }
}

fn not_twice(flags: &[Flag], given: &[String]) -> Result<(), Stop> {
    for names in flags.iter().map(|flag| flag.names).chain([&HELP[..]]) {
        let mut forms = names.iter().filter(|name| given.iter().any(|given| given == *name));
        if let (Some(first), Some(second)) = (forms.next(), forms.next()) {
            return Err(Stop::Twice(format!("Cannot use two forms of the same flag: {second} {first}")));
        }
    }
    Ok(())
}

fn check(kind: Kind, name: &str, value: &str) -> Result<(), String> {
    let of_flag = strconv::quote(value.as_bytes());
    match kind {
        Kind::Bool => {
            let error = |_| format!("invalid boolean value {of_flag} for -{name}: parse error");
            strconv::parse_bool(value.as_bytes()).map(drop).map_err(error)
        }
        Kind::Int => {
            let error = |_| format!("invalid value {of_flag} for flag -{name}: parse error");
            strconv::parse_int(value.as_bytes(), 0).map(drop).map_err(error)
        }
        Kind::Duration => {
            let error = |_| format!("invalid value {of_flag} for flag -{name}: parse error");
            time::parse_duration(value).map(drop).map_err(error)
        }
        Kind::Text | Kind::List => Ok(()),
    }
}

/// The same for a command, whose flags may stand behind its arguments: its own are read first, each with the word behind it
/// unless that is a flag, then `--`. What is wrong counts before what is there twice. To the library every flag may have a
/// value, so `ls -r / -p` reads no `-p`.
///
/// A command that `runs` another one gets `--` as an argument: what stands behind it is that one. etcdctl's does not, and takes
/// the last word of `exec-watch /key -- command` for the key.
pub(super) fn of_command(
    command: &Command,
    words: &[String],
    values: &mut Values,
    runs: bool,
) -> Result<Vec<String>, Stop> {
    let (mut first, mut rest, mut may_be_value) = (Vec::new(), Vec::new(), false);
    for (at, word) in words.iter().enumerate() {
        let is_flag = is_flag(command, word);
        if may_be_value && !is_flag {
            may_be_value = false;
            first.push(word.clone());
        } else if word == "--" {
            rest.insert(if runs { rest.len() } else { 0 }, word.clone());
            rest.extend_from_slice(&words[at + 1..]);
            break;
        } else if is_flag {
            may_be_value = !word.contains('=');
            first.push(word.clone());
        } else {
            rest.push(word.clone());
        }
    }
    first.append(&mut rest);
    let mut given = Vec::new();
    match up_to_argument(command.flags, &first, values, &mut given) {
        Err(Stop::Bad(why)) => Err(Stop::Bad(why)),
        read => not_twice(command.flags, &given).and(read),
    }
}

/// True if the word names a flag of the command, with up to three dashes.
fn is_flag(command: &Command, word: &str) -> bool {
    if !word.starts_with('-') || ["-", "--"].contains(&word) {
        return false;
    }
    let word = word.strip_prefix("--").unwrap_or(word);
    let word = word.strip_prefix('-').unwrap_or(word);
    let name = word.split('=').next().unwrap_or_default();
    command.flags.iter().map(|flag| flag.names).chain([&HELP[..]]).any(|names| names.contains(&name))
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
        match of_command(&COMMAND, &words, &mut values, false) {
            Ok(args) => Ok((args, values.int("ttl"), values.switch("recursive"))),
            Err(Stop::Help) => Err("help".to_owned()),
            Err(Stop::Bad(why) | Stop::Twice(why)) => Err(why),
        }
    }

    #[test]
    fn flags_stand_anywhere() {
        let args = |args: &[&str]| args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>();
        assert_eq!(read("/a 1 --ttl 50"), Ok((args(&["/a", "1"]), 50, false)));
        assert_eq!(read("-ttl=50 /a 1 -r"), Ok((args(&["/a", "1"]), 50, true)));
        assert_eq!(read("-r -- -dash 1"), Ok((args(&["-dash", "1"]), 0, true)));
        assert_eq!(read("/a -- -1"), Ok((args(&["/a", "-1"]), 0, false)));
        assert_eq!(read("-x 1 --"), Ok((args(&["-x", "1"]), 0, false)));
        assert_eq!(read("/a -h"), Err("help".to_owned()));
        assert_eq!(read("/a --help=false 1"), Ok((args(&["/a", "1"]), 0, false)));
        // What is no flag of the command is an argument, unless nothing stands before it.
        assert_eq!(read("/a --x"), Ok((args(&["/a", "--x"]), 0, false)));
        assert_eq!(read("/a -1 --ttl 5"), Ok((args(&["/a", "-1"]), 5, false)));
        assert_eq!(read("--x /a"), Err("flag provided but not defined: -x".to_owned()));
        assert_eq!(read("/a ---ttl=5"), Err("bad flag syntax: ---ttl=5".to_owned()));
        assert_eq!(read("-r /a --ttl 5"), Ok((args(&["/a", "--ttl", "5"]), 0, true)));
        assert_eq!(read("/a -r --recursive"), Err("Cannot use two forms of the same flag: r recursive".to_owned()));
        assert_eq!(read("/a -r --recursive --ttl=x"), Err("invalid value \"x\" for flag -ttl: parse error".to_owned()));
        assert_eq!(read("--ttl"), Err("flag needs an argument: -ttl".to_owned()));
        assert_eq!(read("/a --ttl=x"), Err("invalid value \"x\" for flag -ttl: parse error".to_owned()));
        assert_eq!(read("-h=x"), Err("invalid boolean value \"x\" for -h: parse error".to_owned()));
    }

    #[test]
    fn a_command_to_run_stands_behind_its_mark() {
        let words = ["-r=true", "/a", "--", "echo", "-r"].map(str::to_owned);
        let read = |runs| of_command(&COMMAND, &words, &mut Values::default(), runs).ok();
        assert_eq!(read(true).unwrap(), ["/a", "--", "echo", "-r"]);
        assert_eq!(read(false).unwrap(), ["/a", "echo", "-r"]);
    }
}

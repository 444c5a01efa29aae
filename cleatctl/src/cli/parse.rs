//! Words to a command, its flags and its arguments, by the rules of etcdctl 3.4 (the libraries cobra and pflag), oddities
//! included: scripts depend on them.

use super::{Command, Flag, HELP, Kind, Path, Personality, Values, suggest};
use crate::go;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// A command line that was understood.
pub(crate) struct Parsed {
    pub(crate) path: Path,
    pub(crate) values: Values,
    pub(crate) args: Vec<OsString>,
    /// The page is asked for, whatever else there is.
    pub(crate) wants_help: bool,
}

/// A command line that was not.
pub(crate) enum Refused {
    /// No command has this name. `etcdctl` says so twice.
    Command { text: String, path: Path },
    /// The command exists, and a flag is wrong. `etcdctl` prints the page of the command.
    Flag { text: String, path: Path, hint: Option<String> },
}

/// Reads the words behind the program's name.
///
/// # Errors
/// [`Refused`].
pub(crate) fn parse(root: &'static Command, personality: Personality, words: &[OsString]) -> Result<Parsed, Refused> {
    let (path, rest) = find(Path { personality, commands: vec![root] }, words.to_vec());
    // Only the program itself refuses words that are no command; groups answer with their page.
    if path.commands.len() == 1
        && let Some(unknown) = without_flags(&path, &rest).first()
    {
        let unknown = unknown.to_string_lossy().into_owned();
        let text = format!("unknown command {} for {}", go::quote(unknown.as_bytes()), go::quote(program(&path)));
        return Err(Refused::Command { text: text + &suggest::of_command(&path, &unknown), path });
    }
    let mut parsed = Parsed { path, values: Values::default(), args: Vec::new(), wants_help: false };
    let mut words = rest.into_iter();
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        if bytes.len() < 2 || bytes[0] != b'-' {
            parsed.args.push(word);
        } else if bytes == b"--" {
            parsed.args.extend(words.by_ref());
        } else {
            let read = if bytes[1] == b'-' {
                long(&mut parsed, &bytes[2..], &mut words)
            } else {
                short(&mut parsed, &bytes[1..], &mut words)
            };
            if let Err((text, hint)) = read {
                return Err(Refused::Flag { text, path: parsed.path, hint });
            }
        }
    }
    Ok(parsed)
}

fn program(path: &Path) -> &'static [u8] {
    path.personality.program().as_bytes()
}

/// Text and hint.
type Bad = (String, Option<String>);

fn long(parsed: &mut Parsed, name_and_value: &[u8], words: &mut impl Iterator<Item = OsString>) -> Result<(), Bad> {
    let text = String::from_utf8_lossy(name_and_value).into_owned();
    if text.starts_with(['-', '=']) {
        return Err((format!("bad flag syntax: --{text}"), None));
    }
    let equals = name_and_value.iter().position(|byte| *byte == b'=');
    let (name, value) = match equals {
        Some(at) => (&name_and_value[..at], Some(OsString::from_vec(name_and_value[at + 1..].to_vec()))),
        None => (name_and_value, None),
    };
    let name = String::from_utf8_lossy(name).into_owned();
    if name == HELP {
        return wants_help(parsed, value.as_deref());
    }
    let Some(flag) = parsed.path.flag(&name) else {
        return Err((format!("unknown flag: --{name}"), suggest::of_flag(&parsed.path, &name)));
    };
    let value = match value {
        Some(value) => value,
        None if flag.kind == Kind::Bool => "true".into(),
        None => words.next().ok_or_else(|| (format!("flag needs an argument: --{name}"), None))?,
    };
    set(parsed, flag, &value)
}

fn wants_help(parsed: &mut Parsed, value: Option<&OsStr>) -> Result<(), Bad> {
    let value = value.map_or_else(|| "true".into(), OsStr::to_string_lossy);
    let bad = |why| (format!("invalid argument {} for \"-h, --help\" flag: {why}", go::quote(value.as_bytes())), None);
    parsed.wants_help = go::parse_bool(&value).map_err(bad)?;
    Ok(())
}

fn short(parsed: &mut Parsed, letters: &[u8], words: &mut impl Iterator<Item = OsString>) -> Result<(), Bad> {
    let mut rest = letters;
    while let Some((&letter, after)) = rest.split_first() {
        let c = char::from(letter);
        let all = String::from_utf8_lossy(rest).into_owned();
        let flag = parsed.path.short(c);
        let is_help = flag.is_none() && c == 'h';
        let needs_value = flag.is_some_and(|flag| flag.kind != Kind::Bool);
        let value = match (after, needs_value) {
            _ if flag.is_none() && !is_help => {
                return Err((format!("unknown shorthand flag: {} in -{all}", go::quote_char(c)), None));
            }
            ([b'=', value @ ..], _) if !value.is_empty() => {
                rest = &[];
                OsString::from_vec(value.to_vec())
            }
            (_, false) => {
                rest = after;
                "true".into()
            }
            ([], true) => {
                rest = after;
                let missing = || (format!("flag needs an argument: {} in -{all}", go::quote_char(c)), None);
                words.next().ok_or_else(missing)?
            }
            (value, true) => {
                rest = &[];
                OsString::from_vec(value.to_vec())
            }
        };
        match flag {
            Some(flag) => set(parsed, flag, &value)?,
            None => wants_help(parsed, Some(&value))?,
        }
    }
    Ok(())
}

fn set(parsed: &mut Parsed, flag: &'static Flag, value: &OsStr) -> Result<(), Bad> {
    parsed.values.set(flag, value).map_err(|why| {
        let name = match flag.short {
            Some(short) => format!("-{short}, --{}", flag.name),
            None => format!("--{}", flag.name),
        };
        (format!("invalid argument {} for \"{name}\" flag: {why}", go::quote(value.as_bytes())), None)
    })
}

/// Goes down from group to command as long as a word names one.
pub(crate) fn find(mut path: Path, mut words: Vec<OsString>) -> (Path, Vec<OsString>) {
    loop {
        let Some(next) = without_flags(&path, &words).into_iter().next() else { return (path, words) };
        let Some(child) = child(&path, &next) else { return (path, words) };
        words = without_first(&path, words, &next);
        path.commands.push(child);
    }
}

/// The command of this name, or the only one whose name begins like that.
pub(crate) fn child(path: &Path, name: &OsStr) -> Option<&'static Command> {
    let name = name.to_str()?;
    if let Some(exact) = path.children().find(|child| child.name == name) {
        return Some(exact);
    }
    let mut begin = path.children().filter(|child| child.name.starts_with(name));
    begin.next().filter(|_| begin.next().is_none() && !name.is_empty())
}

/// True if the word is a flag that takes the next word as its value. One that is not known does, too.
fn takes_next(path: &Path, word: &[u8]) -> bool {
    if word.contains(&b'=') {
        return false;
    }
    let flag = match word {
        [b'-', b'-', name @ ..] => {
            let name = String::from_utf8_lossy(name);
            if name == HELP {
                return false;
            }
            path.flag(&name)
        }
        [b'-', b'h'] if path.short('h').is_none() => return false,
        [b'-', letter] => path.short(char::from(*letter)),
        _ => return false,
    };
    flag.is_none_or(|flag| flag.kind != Kind::Bool)
}

/// The words that are neither flags nor their values.
pub(crate) fn without_flags(path: &Path, words: &[OsString]) -> Vec<OsString> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let word = words[at].as_bytes();
        at += 1;
        if word == b"--" {
            break;
        } else if takes_next(path, word) {
            at += 1;
        } else if !word.is_empty() && word[0] != b'-' {
            found.push(words[at - 1].clone());
        }
    }
    found
}

/// The words without the first one that is `name` and no flag's value.
fn without_first(path: &Path, mut words: Vec<OsString>, name: &OsStr) -> Vec<OsString> {
    let mut at = 0;
    while at < words.len() {
        let word = words[at].as_bytes();
        if word == b"--" {
            break;
        } else if takes_next(path, word) {
            at += 2;
            continue;
        } else if !word.starts_with(b"-") && words[at] == name {
            words.remove(at);
            break;
        }
        at += 1;
    }
    words
}

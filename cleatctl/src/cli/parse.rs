//! Words to a command, its flags and its arguments, by the rules of etcdctl 3.4 (the libraries cobra and pflag), oddities
//! included: scripts depend on them.

use super::{Command, Flag, HELP, Kind, Path, Personality, Values, suggest};
use go::strconv::{self, NumError};
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
    // Of etcdctl only the program itself refuses words that are no command; its groups answer with their page.
    let is_group = path.command().run.is_none() && path.personality == Personality::Cleatctl;
    if (path.commands.len() == 1 || is_group)
        && let Some(unknown) = without_flags(&path, &rest).first()
    {
        let (typed, called) = (strconv::quote(unknown.as_bytes()), strconv::quote(called(&path).as_bytes()));
        let text = format!("unknown command {typed} for {called}");
        return Err(Refused::Command { text: text + &suggest::of_command(&path, &unknown.to_string_lossy()), path });
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

/// The program with the names of the commands.
pub(crate) fn called(path: &Path) -> String {
    format!("{} {}", path.personality.program(), path.name()).trim_end().to_owned()
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
        return Err((
            format!("unknown flag: --{name}"),
            suggest::of_flag(&parsed.path, &name).or_else(|| suggest::of_command_to_run(&parsed.path)),
        ));
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
    let bad = |why: NumError<'_>| {
        (format!("invalid argument {} for \"-h, --help\" flag: {why}", strconv::quote(value.as_bytes())), None)
    };
    parsed.wants_help = strconv::parse_bool(value.as_bytes()).map_err(bad)?;
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
                let text = format!("unknown shorthand flag: {} in -{all}", strconv::quote_char(c, false));
                return Err((text, suggest::of_command_to_run(&parsed.path)));
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
                let missing = || (format!("flag needs an argument: {} in -{all}", strconv::quote_char(c, false)), None);
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
        (format!("invalid argument {} for \"{name}\" flag: {why}", strconv::quote(value.as_bytes())), None)
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

/// The flag whose value is the word behind this one.
pub(crate) fn flag_before(path: &Path, word: &[u8]) -> Option<&'static Flag> {
    let flag = match word {
        [b'-', b'-', name @ ..] => path.flag(&String::from_utf8_lossy(name)),
        [b'-', letter] => path.short(char::from(*letter)),
        _ => None,
    };
    flag.filter(|flag| flag.kind != Kind::Bool)
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
                return takes_next_for_help(path);
            }
            path.flag(&name)
        }
        [b'-', b'h'] if path.short('h').is_none() => return takes_next_for_help(path),
        [b'-', letter] => path.short(char::from(*letter)),
        _ => return false,
    };
    flag.is_none_or(|flag| flag.kind != Kind::Bool)
}

/// etcdctl's library does not know the flag yet when it looks for the command: `etcdctl --help get` is the first page.
fn takes_next_for_help(path: &Path) -> bool {
    path.personality == Personality::Etcdctl
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::ROOT;

    #[test]
    fn a_group_refuses_what_is_no_command_of_it() {
        let words: Vec<OsString> = ["--endpoints", "a:1", "snapshot", "retsore", "file"].map(Into::into).to_vec();
        let Err(Refused::Command { text, .. }) = parse(&ROOT, Personality::Cleatctl, &words) else { panic!("taken") };
        assert!(text.starts_with("unknown command \"retsore\" for \"cleatctl snapshot\""), "{text}");
        assert!(text.contains("Did you mean this?\n\trestore\n"), "{text}");
        // etcdctl prints the page of the group.
        let Ok(parsed) = parse(&ROOT, Personality::Etcdctl, &words) else { panic!("refused") };
        assert_eq!(parsed.path.name(), "snapshot");
        assert_eq!(parsed.args, ["retsore", "file"]);
    }

    #[test]
    fn help_before_a_command_is_of_the_command() {
        for (words, of_cleatctl, of_etcdctl) in [
            (&["--help", "get"][..], "get", Some("")),
            (&["-h", "lease", "grant"], "lease grant", None),
            (&["lease", "--help", "grant"], "lease grant", Some("lease")),
            (&["--help=true", "get"], "get", Some("get")),
            (&["get", "--help", "k"], "get", Some("get")),
        ] {
            let words: Vec<OsString> = words.iter().map(Into::into).collect();
            let named = |personality| {
                let parsed = parse(&ROOT, personality, &words).ok()?;
                assert!(parsed.wants_help, "{words:?}");
                Some(parsed.path.name())
            };
            assert_eq!(named(Personality::Cleatctl).as_deref(), Some(of_cleatctl), "{words:?}");
            assert_eq!(named(Personality::Etcdctl).as_deref(), of_etcdctl, "{words:?}");
        }
    }
}

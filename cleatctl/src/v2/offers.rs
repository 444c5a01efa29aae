//! What a shell may offer where a command line for the v2 API is not complete.

use super::{COMMANDS, Command, Flag, GLOBAL, Kind, OUTPUTS, version_flag, without_api};
use crate::cli::Personality;
use crate::completion::{Offer, dashed, values};
use std::ffi::OsString;

/// The commands or flags that may stand behind some words, and the values that are known.
pub(crate) fn offers(personality: Personality, before: &[OsString], last: &str) -> Vec<Offer> {
    let before = before.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let place = Place::behind(&without_api(personality, before));
    if let Some(flag) = place.pending {
        return values("", values_of(flag));
    }
    if let Some((name, _)) = last.strip_prefix("--").and_then(|word| word.split_once('=')) {
        let flag = place.flags().find(|flag| flag.names.contains(&name));
        return flag.map(|flag| values(&dashed(name, true), values_of(flag))).unwrap_or_default();
    }
    if last.starts_with('-') && !place.is_behind_flags {
        let long = |flag: &Flag| {
            flag.names.iter().find(|name| name.len() > 1).map(|&name| dashed(name, flag.kind != Kind::Bool))
        };
        let mut offers: Vec<Offer> =
            place.flags().filter_map(|flag| Some((long(flag)?, flag.help.replace('`', "")))).collect();
        if place.command.is_none() {
            offers.push((dashed(version_flag().names[0], false), version_flag().help.to_owned()));
        }
        offers.push((dashed("help", false), "show help".to_owned()));
        return offers;
    }
    if place.has_arguments {
        return Vec::new();
    }
    place.commands().iter().map(|command| (command.name.to_owned(), command.about.to_owned())).collect()
}

fn values_of(flag: &Flag) -> &'static [&'static str] {
    if flag.names.contains(&"output") { OUTPUTS } else { &[] }
}

/// Where in a command line the next word stands.
struct Place {
    /// None before the first command.
    command: Option<&'static Command>,
    /// A word is an argument already.
    has_arguments: bool,
    /// `--` was given.
    is_behind_flags: bool,
    /// The next word is the value of this flag.
    pending: Option<&'static Flag>,
}

impl Place {
    fn behind(words: &[String]) -> Self {
        let mut place = Self { command: None, has_arguments: false, is_behind_flags: false, pending: None };
        for word in words {
            if place.pending.take().is_some() {
                continue;
            }
            if word == "--" {
                place.is_behind_flags = true;
            } else if word.len() > 1 && word.starts_with('-') && !place.is_behind_flags {
                let name = word.trim_start_matches('-');
                place.pending = place.flags().find(|flag| flag.kind != Kind::Bool && flag.names.contains(&name));
            } else if let Some(command) =
                place.commands().iter().find(|command| command.name == word && !place.has_arguments)
            {
                place.command = Some(command);
            } else {
                place.has_arguments = true;
            }
        }
        place
    }

    fn commands(&self) -> &'static [&'static Command] {
        self.command.map_or(COMMANDS, |command| command.commands)
    }

    /// Those of the program stand before its commands.
    fn flags(&self) -> impl Iterator<Item = &'static Flag> + use<> {
        self.command.map_or(GLOBAL, |command| command.flags).iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split(' ').collect();
        let (last, before) = words.split_last().unwrap();
        let before: Vec<OsString> = before.iter().map(Into::into).collect();
        let offers = offers(Personality::Cleatctl, &before, last).into_iter();
        offers.map(|(name, _)| name).filter(|name| name.starts_with(last)).collect()
    }

    #[test]
    fn commands_flags_and_formats_of_this_api_are_offered() {
        for (line, expected) in [
            ("--api 2 mk", &["mk", "mkdir"][..]),
            ("--endpoints http://a:1 set", &["set", "setdir"]),
            ("--api=2 member ", &["list", "add", "remove", "update"]),
            ("role gr", &["grant"]),
            ("ls --rec", &["--recursive"]),
            ("set /a 1 --sw", &["--swap-with-value=", "--swap-with-index="]),
            ("--output ", &["simple", "extended", "json"]),
            ("-o e", &["extended"]),
            ("--output=j", &["--output=json"]),
            ("--no", &["--no-sync"]),
            // Those of the program stand before the command.
            ("ls --no", &[]),
            ("ls -- --rec", &[]),
            ("get /a", &[]),
            ("snap", &[]),
        ] {
            assert_eq!(names(line), expected, "{line}");
        }
    }
}

//! The text of `cleat --help`, made from the table of flags.

use super::flags::{GROUPS, Kind, Support};
use std::fmt::Write as _;

/// Lines are wrapped here, so that the text is the same on every terminal.
const WIDTH: usize = 100;
const INDENT: &str = "      ";

const INTRODUCTION: &str = "\
cleat: a member of a Cleat cluster, serving etcd's v3 API

Usage: cleat [flags]
       cleat --version

Without flags, a cluster of one member serves clients on http://localhost:2379.

Every flag has an environment variable: ETCD_ and the flag's name in capitals, with _ for -
(--data-dir is ETCD_DATA_DIR). A flag wins over its variable, a variable over --config-file,
a YAML file whose keys are the names of the flags. Durations are written 1h30m, 10s, 100ms.
[not yet]: this release refuses to start when the flag is set to another value.
";

/// Writes the help text.
pub fn help() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (group, flags) in GROUPS {
        write!(text, "\n{group}:\n").expect("invariant: writing to a String cannot fail");
        for flag in *flags {
            let default = match flag.kind {
                _ if flag.default.is_empty() => String::new(),
                Kind::Text if flag.default.contains(' ') => format!(" '{}'", flag.default),
                _ => format!(" {}", flag.default),
            };
            let mark = if flag.support == Support::Unsupported { " [not yet]" } else { "" };
            write!(text, "  --{}{default}{mark}\n{}", flag.name, wrapped(&help_of(flag)))
                .expect("invariant: writing to a String cannot fail");
        }
    }
    text
}

fn help_of(flag: &super::flags::Flag) -> String {
    match (flag.kind, flag.support) {
        (Kind::OneOf(choices), _) if choices.len() > 1 => {
            let choices: Vec<_> = choices.iter().filter(|choice| !choice.is_empty()).copied().collect();
            format!("{} One of: {}.", flag.help, choices.join(", "))
        }
        (_, Support::Ignored(reason)) => format!("{} Without effect: {reason}.", flag.help),
        _ => flag.help.to_owned(),
    }
}

fn wrapped(help: &str) -> String {
    let mut text = String::new();
    let mut line = INDENT.to_owned();
    for word in help.split(' ') {
        if line.len() + 1 + word.len() > WIDTH {
            text += line.trim_end();
            text.push('\n');
            INDENT.clone_into(&mut line);
        }
        line += word;
        line.push(' ');
    }
    text += line.trim_end();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change of the flags shows up as a change of `help.txt`; write it with
    /// `cargo run -p cleat-server -- --help > server/src/config/help.txt`.
    #[test]
    fn the_help_text_is_as_recorded() {
        let (found, recorded) = (help(), include_str!("help.txt"));
        for (found, recorded) in found.lines().zip(recorded.lines()) {
            assert_eq!(found, recorded);
        }
        assert_eq!(found.len(), recorded.len());
    }

    #[test]
    fn lines_fit_the_width() {
        for line in help().lines() {
            assert!(line.len() <= WIDTH + 20, "{line}");
        }
    }
}

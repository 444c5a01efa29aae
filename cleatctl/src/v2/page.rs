//! Pages, in the form of etcdctl's library for the v2 API.

use super::words::Values;
use super::{COMMANDS, Command, Flag, GLOBAL, Kind, version_flag};
use crate::cli::Personality;
use crate::v3;
use go::strconv;

const HELP_ABOUT: &str = "Shows a list of commands or help for one command";

/// The page of the program.
pub(super) fn program(personality: Personality) -> String {
    let (name, version) = (personality.program(), v3::version::of(personality).0);
    let commands: Vec<_> = COMMANDS.iter().map(|command| (command.name.to_owned(), command.about.to_owned())).collect();
    let commands = [&*commands, &[("help, h".to_owned(), HELP_ABOUT.to_owned())]];
    let mut options: Vec<_> = GLOBAL.iter().map(option).collect();
    options.push(("--help, -h".to_owned(), "show help".to_owned()));
    options.push(option(&version_flag()));
    format!(
        "NAME:\n   {name} - A simple command line client for etcd.\n\nUSAGE:\n   {name} [global options] command [command options] \
         [arguments...]\n\nVERSION:\n   {version}\n\nCOMMANDS:\n{}\nGLOBAL OPTIONS:\n{}",
        aligned(&commands.concat()),
        aligned(&options)
    )
}

/// The program with the names of the commands.
pub(super) fn names(personality: Personality, path: &[&'static Command]) -> String {
    let names = path.iter().map(|command| command.name);
    [personality.program()].into_iter().chain(names).collect::<Vec<_>>().join(" ")
}

/// The page that `help` has of a group as of a command.
pub(super) fn short_of_group(personality: Personality, group: &'static Command) -> String {
    let name = names(personality, &[group]);
    format!("NAME:\n   {name} - {}\n\nUSAGE:\n   {name} [arguments...]\n", group.about)
}

/// The page that a group's own `help` has of the group.
pub(super) fn group(personality: Personality, path: &[&'static Command]) -> String {
    let (name, group) = (names(personality, path), path[path.len() - 1]);
    let commands: Vec<_> = group.commands.iter().map(|child| (child.name.to_owned(), child.about.to_owned())).collect();
    format!(
        "NAME:\n   {name} - {}\n\nUSAGE:\n   {name} [global options] command [command options] [arguments...]\n\nVERSION:\n   \
         {}\n\nCOMMANDS:\n{}\nGLOBAL OPTIONS:\n   --help, -h  show help\n",
        group.about,
        v3::version::of(personality).0,
        aligned(&commands)
    )
}

/// The page of the command that prints pages, of a group; the program's own has no name.
pub(super) fn help(called: &str) -> String {
    let name = if called.is_empty() { String::new() } else { format!("{called} help") };
    format!("NAME:\n   {name} - {HELP_ABOUT}\n\nUSAGE:\n   {name} [command]\n")
}

/// The page of a command, which stands behind the groups that it is in.
pub(super) fn command(personality: Personality, path: &[&'static Command]) -> String {
    command_with(personality, path, &Values::default())
}

/// As [`command`], for a line that gave these values: etcdctl's library tells those of a list as its default.
pub(super) fn command_with(personality: Personality, path: &[&'static Command], given: &Values) -> String {
    let command = path[path.len() - 1];
    let name = names(personality, path);
    let is_group = !command.commands.is_empty();
    let options = if command.flags.is_empty() { "" } else { " [command options]" };
    let usage = if is_group {
        " command [command options] [arguments...]".to_owned()
    } else {
        format!("{options} {}", command.usage)
    };
    let mut text = format!("NAME:\n   {name} - {}\n\nUSAGE:\n   {name}{usage}\n", command.about);
    if !command.description.is_empty() {
        text += &format!("\nDESCRIPTION:\n   {}\n", command.description);
    }
    if is_group {
        let commands: Vec<_> =
            command.commands.iter().map(|child| (child.name.to_owned(), child.about.to_owned())).collect();
        text += &format!("\nCOMMANDS:\n{}\nOPTIONS:\n   --help, -h  show help\n   \n", aligned(&commands));
    } else if !command.flags.is_empty() {
        text += &format!("\nOPTIONS:\n{}   \n", aligned(&options_of(personality, command, given)));
    }
    text
}

fn options_of(personality: Personality, command: &Command, given: &Values) -> Vec<(String, String)> {
    let told = |flag: &Flag| {
        let (names, mut help) = option(flag);
        let values = if flag.kind == Kind::List { given.all(flag.names[0]) } else { Vec::new() };
        let values: Vec<_> =
            values.iter().filter(|value| !value.is_empty()).map(|value| strconv::quote(value.as_bytes())).collect();
        if personality == Personality::Etcdctl && !values.is_empty() {
            help += &format!(" (default: {})", values.join(", "));
        }
        (names, help)
    };
    command.flags.iter().map(told).collect()
}

/// Names and help of a flag. What the help has in backquotes first is what the value is called.
fn option(flag: &Flag) -> (String, String) {
    let called = flag.help.split('`').nth(1);
    let value = match flag.kind {
        Kind::Bool => String::new(),
        // Of the flag that has several, etcdctl shows the default.
        _ if flag.names[0] == "output" => " simple".to_owned(),
        _ => format!(" {}", called.unwrap_or("value")),
    };
    let dashed = |name: &&str| format!("{}{name}{value}", if name.len() == 1 { "-" } else { "--" });
    let names: Vec<_> = flag.names.iter().map(dashed).collect();
    let default = match (flag.kind, flag.names[0]) {
        (Kind::Int, _) => " (default: 0)",
        (_, "output") => " (default: \"simple\")",
        (_, "timeout") => " (default: 2s)",
        (_, "total-timeout") => " (default: 5s)",
        _ => "",
    };
    (names.join(", "), format!("{}{default}", flag.help))
}

/// Two columns.
fn aligned(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines: Vec<_> = rows.iter().map(|(name, about)| format!("   {name:width$}  {about}\n")).collect();
    lines.concat()
}

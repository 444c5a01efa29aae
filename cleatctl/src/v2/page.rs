//! Pages, in the form of etcdctl's library for the v2 API.

use super::{COMMANDS, Command, Flag, GLOBAL, Kind, version_flag};
use crate::cli::Personality;
use crate::v3;

/// The page of the program.
pub(super) fn program(personality: Personality) -> String {
    let (name, version) = (personality.program(), v3::version::of(personality).0);
    let commands: Vec<_> = COMMANDS.iter().map(|command| (command.name.to_owned(), command.about.to_owned())).collect();
    let commands =
        [&*commands, &[("help, h".to_owned(), "Shows a list of commands or help for one command".to_owned())]];
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

/// The page of a command, which stands behind the groups that it is in.
pub(super) fn command(personality: Personality, path: &[&'static Command]) -> String {
    let command = path[path.len() - 1];
    let names: Vec<_> = [personality.program()].into_iter().chain(path.iter().map(|command| command.name)).collect();
    let name = names.join(" ");
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
        text += &format!("\nOPTIONS:\n{}   \n", aligned(&command.flags.iter().map(option).collect::<Vec<_>>()));
    }
    text
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

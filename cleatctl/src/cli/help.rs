//! The page of a command, in etcdctl's form.

use super::{Command, Flag, Group, HELP, Kind, Path, Personality, tab};
use go::strconv;
use std::fmt::Write as _;

/// The page of a command.
pub(crate) fn page(path: &Path, version: &str, api_version: &str) -> String {
    let mut text = String::new();
    // Writing to a text does not fail.
    let _written = write_page(&mut text, path, version, api_version);
    tab::align(&text)
}

/// Name, usage and options of a command, one below the other.
fn write_page(out: &mut String, path: &Path, version: &str, api_version: &str) -> std::fmt::Result {
    let command = path.command();
    let program = path.personality.program();
    let is_root = path.commands.len() == 1;
    let name = if is_root { program.to_owned() } else { path.name() };
    writeln!(out, "NAME:\n\t{name} - {}\n", command.about(path.personality))?;
    writeln!(out, "USAGE:\n\t{}", usage(path))?;
    if is_root {
        writeln!(out, "\nVERSION:\n\t{version}")?;
    }
    if path.children().next().is_some() {
        writeln!(out, "\nAPI VERSION:\n\t{api_version}\n")?;
        if is_root && path.personality == Personality::Cleatctl {
            groups(out, path)?;
        } else {
            writeln!(out, "\nCOMMANDS:")?;
            for (name, command) in runnable(path) {
                writeln!(out, "\t{name}\t{}", command.about(path.personality))?;
            }
        }
    }
    if !command.long.is_empty() {
        writeln!(out, "\nDESCRIPTION:")?;
        for line in command.long.trim_matches(['\n', '\t', ' ']).split('\n') {
            writeln!(out, "\t{}", line.replace("{program}", program))?;
        }
    }
    writeln!(out, "\nOPTIONS:")?;
    let own = Flag::switch(HELP, "").short('h');
    let mut local = path.local();
    local.push(&own);
    local.sort_by_key(|flag| flag.name);
    let last = if is_root { program } else { command.name };
    for flag in local {
        let help = if flag.name == HELP { format!("help for {last}") } else { flag.about() };
        option(out, flag, &help)?;
    }
    let inherited = path.inherited();
    if !inherited.is_empty() {
        writeln!(out, "\nGLOBAL OPTIONS:")?;
        for flag in inherited {
            option(out, flag, &flag.about())?;
        }
    }
    if is_root && path.personality == Personality::Cleatctl {
        writeln!(out, "\nENVIRONMENT:")?;
        writeln!(
            out,
            "\tEvery option as a variable, as ETCDCTL_COMMAND_TIMEOUT=10s; an option on the command line counts first."
        )?;
        writeln!(out, "\tETCDCTL_API=2 or --api 2 for the v2 API; NO_COLOR=1 for output without colours.")?;
    }
    writeln!(out)
}

/// The line of usage.
pub(crate) fn usage(path: &Path) -> String {
    let mut words = vec![path.personality.program()];
    words.extend(path.commands[1..].iter().map(|command| command.name));
    words.extend(Some(path.command().usage).filter(|usage| !usage.is_empty()));
    words.push("[flags]");
    words.join(" ")
}

/// Every command below that does something, with its name from there.
fn runnable(path: &Path) -> Vec<(String, &'static Command)> {
    all(path).into_iter().map(|(name, path)| (name, path.command())).collect()
}

/// The same with the whole path of each.
pub(crate) fn all(path: &Path) -> Vec<(String, Path)> {
    let mut found = Vec::new();
    for child in path.children() {
        let mut below = path.clone();
        below.commands.push(child);
        if child.run.is_some() {
            found.push((child.name.to_owned(), below.clone()));
        }
        found.extend(all(&below).into_iter().map(|(name, path)| (format!("{} {name}", child.name), path)));
    }
    found
}

/// Commands under headings, for people: `etcdctl` has one list.
fn groups(out: &mut String, path: &Path) -> std::fmt::Result {
    for (group, heading) in Group::ALL {
        let mut found = Vec::new();
        for child in path.children().filter(|child| child.group == group) {
            let mut below = path.clone();
            below.commands.push(child);
            found.extend(child.run.map(|_| (child.name.to_owned(), child)));
            found.extend(
                runnable(&below).into_iter().map(|(name, command)| (format!("{} {name}", child.name), command)),
            );
        }
        if !found.is_empty() {
            writeln!(out, "\n{heading}:")?;
        }
        for (name, command) in found {
            writeln!(out, "\t{name}\t{}", command.about(path.personality))?;
        }
    }
    Ok(())
}

fn option(out: &mut String, flag: &Flag, help: &str) -> std::fmt::Result {
    match flag.short {
        Some(short) => write!(out, "  -{short}, --{}", flag.name)?,
        None => write!(out, "      --{}", flag.name)?,
    }
    let default = flag.default;
    match flag.kind {
        Kind::Bool => write!(out, "[={default}]")?,
        Kind::String => write!(out, "={}", strconv::quote(default.as_bytes()))?,
        Kind::List => write!(out, "=[{default}]")?,
        Kind::Int | Kind::Uint | Kind::Duration => write!(out, "={default}")?,
    }
    writeln!(out, "\t{help}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_as_recorded() {
        fn pages(path: &Path, all: &mut String) {
            let page = page(path, "VERSION", "API");
            // The flags of every command stand on the first page.
            let own = page.split("\nGLOBAL OPTIONS:").next().unwrap();
            all.push_str(&format!("$ {} {} --help\n{own}\n", path.personality.program(), path.name()));
            for child in path.children() {
                let commands = [&path.commands[..], &[child]].concat();
                pages(&Path { personality: path.personality, commands }, all);
            }
        }
        let mut all = String::new();
        pages(&Path { personality: Personality::Cleatctl, commands: vec![&crate::commands::ROOT] }, &mut all);
        crate::people::snapshots::assert_recorded("pages", &all);
    }
}

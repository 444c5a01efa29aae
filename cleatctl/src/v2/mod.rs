//! etcdctl's commands for the v2 API, with its own rules for words (`words.rs`) and pages (`page.rs`): `keys.rs` are those of
//! keys, `cluster.rs` those of members, `accounts.rs` those of users and roles.

mod accounts;
mod advice;
mod cluster;
mod connection;
mod debug;
mod keys;
mod offers;
mod page;
mod words;

pub(crate) use offers::offers;

use crate::cli::{Personality, suggest};
use crate::failure::Failure;
use crate::program::show_page;
use crate::{print, v3};
use std::ffi::OsString;
use std::pin::Pin;
use words::{Stop, Values};

/// Exit codes, which are others than those of the v3 commands.
mod code {
    pub(super) const BAD_ARGS: u8 = 1;
    pub(super) const BAD_CONNECTION: u8 = 2;
    pub(super) const UNKNOWN: u8 = 3;
    pub(super) const SERVER: u8 = 4;
    pub(super) const UNHEALTHY: u8 = 5;
}

/// The command, in the program and in each of its groups, that prints the page of another one.
const HELP: [&str; 2] = ["help", "h"];

type Running = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// A command, or a group of them.
struct Command {
    name: &'static str,
    /// What stands behind the name in the line of usage.
    usage: &'static str,
    about: &'static str,
    description: &'static str,
    flags: &'static [Flag],
    commands: &'static [&'static Self],
    run: Option<fn(Call) -> Running>,
}

impl Command {
    const NONE: Self = Self { name: "", usage: "", about: "", description: "", flags: &[], commands: &[], run: None };
}

/// A flag; the first of its names is the one that counts.
struct Flag {
    names: &'static [&'static str],
    kind: Kind,
    help: &'static str,
}

/// What a flag's value is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Text,
    Int,
    Duration,
    List,
}

const fn flag(names: &'static [&'static str], kind: Kind, help: &'static str) -> Flag {
    Flag { names, kind, help }
}

/// The formats of `--output`, as its help has them.
const OUTPUTS: &[&str] = &["simple", "extended", "json"];

const GLOBAL: &[Flag] = &[
    flag(&["debug"], Kind::Bool, "output cURL commands which can be used to reproduce the request"),
    flag(&["no-sync"], Kind::Bool, "don't synchronize cluster information before sending request"),
    flag(&["output", "o"], Kind::Text, "output response in the given format (simple, `extended` or `json`)"),
    flag(&["discovery-srv", "D"], Kind::Text, "domain name to query for SRV records describing cluster endpoints"),
    flag(&["insecure-discovery"], Kind::Bool, "accept insecure SRV records describing cluster endpoints"),
    flag(&["peers", "C"], Kind::Text, "DEPRECATED - \"--endpoints\" should be used instead"),
    flag(&["endpoint"], Kind::Text, "DEPRECATED - \"--endpoints\" should be used instead"),
    flag(
        &["endpoints"],
        Kind::Text,
        "a comma-delimited list of machine addresses in the cluster (default: \"http://127.0.0.1:2379,http://127.0.0.1:4001\")",
    ),
    flag(&["cert-file"], Kind::Text, "identify HTTPS client using this SSL certificate file"),
    flag(&["key-file"], Kind::Text, "identify HTTPS client using this SSL key file"),
    flag(&["ca-file"], Kind::Text, "verify certificates of HTTPS-enabled servers using this CA bundle"),
    flag(&["username", "u"], Kind::Text, "provide username[:password] and prompt if password is not supplied."),
    flag(&["timeout"], Kind::Duration, "connection timeout per request"),
    flag(&["total-timeout"], Kind::Duration, "timeout for the command execution (except watch)"),
];

static COMMANDS: &[&Command] = &[
    &cluster::BACKUP,
    &cluster::HEALTH,
    &keys::MK,
    &keys::MKDIR,
    &keys::RM,
    &keys::RMDIR,
    &keys::GET,
    &keys::LS,
    &keys::SET,
    &keys::SETDIR,
    &keys::UPDATE,
    &keys::UPDATEDIR,
    &keys::WATCH,
    &keys::EXEC_WATCH,
    &cluster::MEMBER,
    &accounts::USER,
    &accounts::ROLE,
    &accounts::AUTH,
];

/// One run of one command.
struct Call {
    personality: Personality,
    global: Values,
    values: Values,
    args: Vec<String>,
}

impl Call {
    /// The global output format.
    fn output(&self) -> String {
        if self.global.is_given("output") { self.global.text("output") } else { "simple".to_owned() }
    }
}

/// Says something on standard error, and ends with this exit code.
fn fail(code: u8, text: &str) -> Failure {
    tell!("{text}");
    Failure::silent(code)
}

/// The same in the form of most commands.
fn error(code: u8, text: &str) -> Failure {
    fail(code, &format!("Error:  {text}"))
}

/// Runs the command that the words behind the program's name say.
pub(crate) fn run(personality: Personality, words: Vec<OsString>) -> Result<(), Failure> {
    // The API has texts alone.
    let words: Vec<String> = words.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let words = without_api(personality, words);
    let mut global = Values::default();
    let globals: Vec<Flag> = GLOBAL.iter().map(|flag| Flag { ..*flag }).chain([version_flag()]).collect();
    let rest = match words::leading(&globals, &words, &mut global) {
        Ok(rest) => rest,
        Err(stop) => {
            return stopped(personality, stop, ["Incorrect Usage. ", "\n\n", "\n"], &page::program(personality));
        }
    };
    if global.switch("version") {
        let program = personality.program();
        return print::line(&format!("{program} version: {}\nAPI version: 2", v3::version::of(personality).0));
    }
    let Some((name, rest)) = rest.split_first() else { return show_page(personality, &page::program(personality)) };
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) => run_command(personality, &global, &[command], rest),
        None if HELP.contains(&name.as_str()) => help(personality, rest),
        None => Err(unknown(personality, name, COMMANDS)),
    }
}

fn version_flag() -> Flag {
    flag(&["version", "v"], Kind::Bool, "print the version")
}

/// `--api` was read before.
fn without_api(personality: Personality, mut words: Vec<String>) -> Vec<String> {
    if personality == Personality::Cleatctl {
        words.retain(|word| !word.starts_with("--api="));
        if let Some(at) = words.iter().position(|word| word == "--api") {
            words.drain(at..words.len().min(at + 2));
        }
    }
    words
}

/// The page of a command of the program, by its name.
fn help(personality: Personality, words: &[String]) -> Result<(), Failure> {
    let Some(name) = words.first() else { return show_page(personality, &page::program(personality)) };
    match COMMANDS.iter().find(|command| command.name == name) {
        // etcdctl says of a group here no more than that there is one.
        Some(command) if personality == Personality::Etcdctl && command.run.is_none() => {
            show_page(personality, &page::short_of_group(personality, command))
        }
        Some(command) => show_page(personality, &page::command(personality, &[command])),
        None if HELP.contains(&name.as_str()) => show_page(personality, &page::help("")),
        None => Err(unknown(personality, name, COMMANDS)),
    }
}

/// The page of a command of a group, by its name.
fn help_in_group(personality: Personality, path: &[&'static Command], words: &[String]) -> Result<(), Failure> {
    let group = path[path.len() - 1];
    let Some(name) = words.first() else { return show_page(personality, &page::group(personality, path)) };
    match group.commands.iter().find(|command| command.name == name) {
        Some(command) => show_page(personality, &page::command(personality, &[path, &[*command]].concat())),
        None if HELP.contains(&name.as_str()) => show_page(personality, &page::help(&page::names(personality, path))),
        None => Err(unknown(personality, name, group.commands)),
    }
}

/// Ends with a page: what stands before it, and behind the reason for a wrong flag and for one that is there twice, is the
/// library's.
fn stopped(
    personality: Personality,
    stop: Stop,
    [beginning, end, end_twice]: [&str; 3],
    page: &str,
) -> Result<(), Failure> {
    let (why, said) = match stop {
        Stop::Help => return show_page(personality, page),
        Stop::Bad(why) => (format!("{beginning}{why}{end}"), why),
        Stop::Twice(why) => (format!("{why}{end_twice}"), why),
    };
    show_page(personality, &format!("{why}{page}"))?;
    Err(fail(code::BAD_ARGS, &said))
}

/// The failure for a word that is no command. etcdctl says of none what may have been meant.
fn unknown(personality: Personality, name: &str, commands: &[&Command]) -> Failure {
    let near = suggest::near(name, commands.iter().map(|command| command.name));
    let hint = match personality {
        Personality::Cleatctl if !near.is_empty() => format!("; did you mean {}?", near.join(" or ")),
        _ => String::new(),
    };
    fail(code::UNKNOWN, &format!("No help topic for '{name}'{hint}"))
}

/// How the page of a command begins behind a wrong flag, see [`stopped`].
const OF_COMMAND: [&str; 3] = ["Incorrect Usage: ", "\n\n", "\n\n"];

fn run_command(
    personality: Personality,
    global: &Values,
    path: &[&'static Command],
    words: &[String],
) -> Result<(), Failure> {
    let command = path[path.len() - 1];
    let mut values = Values::default();
    // The words of a group are another command's.
    let read = if command.run.is_some() {
        let runs = personality == Personality::Cleatctl && command.name == keys::EXEC_WATCH.name;
        words::of_command(command, words, &mut values, runs)
    } else {
        words::leading(command.flags, words, &mut values)
    };
    let page = || page::command_with(personality, path, &values);
    let args = match read {
        Ok(args) => args,
        Err(Stop::Twice(why)) if command.run.is_some() => {
            return stopped(personality, Stop::Bad(why), OF_COMMAND, &page());
        }
        Err(stop) if command.run.is_some() => return stopped(personality, stop, OF_COMMAND, &page()),
        Err(stop) => return stopped(personality, stop, ["Incorrect Usage. ", "\n\n", "\n\n"], &page()),
    };
    let Some(begin) = command.run else {
        let Some((name, rest)) = args.split_first() else { return show_page(personality, &page()) };
        return match command.commands.iter().find(|child| child.name == name) {
            Some(child) => run_command(personality, global, &[path, &[*child]].concat(), rest),
            None if HELP.contains(&name.as_str()) => help_in_group(personality, path, rest),
            None => Err(unknown(personality, name, command.commands)),
        };
    };
    crate::program::on_this_thread(begin(Call { personality, global: global.clone(), values, args }))
}

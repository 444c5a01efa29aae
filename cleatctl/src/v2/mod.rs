//! etcdctl's commands for the v2 API, with its own rules for words (`words.rs`) and pages (`page.rs`): `keys.rs` are those of
//! keys, `cluster.rs` those of members, `accounts.rs` those of users and roles.

mod accounts;
mod cluster;
mod connection;
mod keys;
mod page;
mod words;

use crate::cli::Personality;
use crate::failure::Failure;
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
        Some(self.global.text("output")).filter(|output| !output.is_empty()).unwrap_or_else(|| "simple".to_owned())
    }
}

/// Says something on standard error, and ends with this exit code.
fn fail(code: u8, text: &str) -> Failure {
    eprintln!("{text}");
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
        Err(Stop::Help) => return print::out(page::program(personality).as_bytes()),
        Err(Stop::Bad(why)) => {
            print::out(format!("Incorrect Usage. {why}\n\n{}", page::program(personality)).as_bytes())?;
            return Err(fail(code::BAD_ARGS, &why));
        }
    };
    if global.switch("version") {
        let program = personality.program();
        return print::line(&format!("{program} version: {}\nAPI version: 2", v3::version::of(personality).0));
    }
    let Some((name, rest)) = rest.split_first() else { return print::out(page::program(personality).as_bytes()) };
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) => run_command(personality, &global, &[command], rest),
        None if ["help", "h"].contains(&name.as_str()) => help(personality, rest),
        None => Err(fail(code::UNKNOWN, &format!("No help topic for '{name}'"))),
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

fn help(personality: Personality, words: &[String]) -> Result<(), Failure> {
    let Some(name) = words.first() else { return print::out(page::program(personality).as_bytes()) };
    match COMMANDS.iter().find(|command| command.name == name) {
        Some(command) => print::out(page::command(personality, &[command]).as_bytes()),
        None => Err(fail(code::UNKNOWN, &format!("No help topic for '{name}'"))),
    }
}

fn run_command(
    personality: Personality,
    global: &Values,
    path: &[&'static Command],
    words: &[String],
) -> Result<(), Failure> {
    let command = path[path.len() - 1];
    let page = || page::command(personality, path);
    let mut values = Values::default();
    // The words of a group are another command's.
    let read = if command.run.is_some() {
        words::of_command(command, words, &mut values)
    } else {
        words::leading(command.flags, words, &mut values)
    };
    let args = match read {
        Ok(args) => args,
        Err(Stop::Help) => return print::out(page().as_bytes()),
        Err(Stop::Bad(why)) => {
            print::out(format!("Incorrect Usage: {why}\n\n{}", page()).as_bytes())?;
            return Err(fail(code::BAD_ARGS, &why));
        }
    };
    let Some(begin) = command.run else {
        let Some((name, rest)) = args.split_first() else { return print::out(page().as_bytes()) };
        return match command.commands.iter().find(|child| child.name == name) {
            Some(child) => run_command(personality, global, &[path, &[*child]].concat(), rest),
            None => Err(fail(code::UNKNOWN, &format!("No help topic for '{name}'"))),
        };
    };
    crate::on_this_thread(begin(Call { personality, global: global.clone(), values, args }))
}

//! The program `cleatctl`: which API and which personality a command line is for, and how it ends.

use crate::cli::parse::{Parsed, Refused};
use crate::cli::{Path, Personality, help};
use crate::context::Context;
use crate::failure::{Failure, code};
use crate::people::Terminal;
use crate::{cli, commands, completion, people, print, progress, v2, v3};
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

/// Runs the program until it ends. `words` is its command line, the name by which it was called first.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_default();
    let personality = match std::path::Path::new(&name).file_name() {
        Some(name) if name == "etcdctl" => Personality::Etcdctl,
        _ => Personality::Cleatctl,
    };
    if personality == Personality::Etcdctl {
        progress::show_none();
    }
    let words: Vec<OsString> = words.collect();
    if let [ask, rest @ ..] = &*words
        && ask == completion::ASK
    {
        return exit(personality, completion::answer(personality, rest));
    }
    let ended = match api(personality, &words).as_ref().and_then(|api| api.to_str()) {
        Some("3" | "") | None => run(personality, words),
        Some("2") => v2::run(personality, words),
        Some(other) => {
            tell!("unsupported API version {other}");
            Err(Failure::silent(code::ERROR))
        }
    };
    exit(personality, ended)
}

/// Says why it failed, if it did.
fn exit(personality: Personality, ended: Result<(), Failure>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(text) = &failure.text {
                let told = match &failure.call {
                    Some(call) if personality == Personality::Cleatctl => people::explain(call, text),
                    _ => text.clone(),
                };
                let columns = Terminal::width_of_errors().filter(|_| personality == Personality::Cleatctl);
                tell!("{}", people::fit(&format!("Error: {told}"), columns));
            }
            ExitCode::from(failure.code)
        }
    }
}

/// The API that is asked for: by `--api` before the environment, which `etcdctl` looks at alone.
pub(crate) fn api(personality: Personality, words: &[OsString]) -> Option<OsString> {
    let before_end = words.iter().take_while(|word| *word != "--");
    let given = before_end.clone().zip(words.iter().skip(1)).find(|(flag, _)| *flag == "--api").map(|(_, api)| api);
    let joined = before_end.filter_map(|word| word.to_str()?.strip_prefix("--api=")).last();
    match personality {
        Personality::Cleatctl => given.map(OsString::as_os_str).or(joined.map(OsStr::new)).map(OsStr::to_owned),
        Personality::Etcdctl => None,
    }
    .or_else(|| std::env::var_os("ETCDCTL_API"))
}

fn run(personality: Personality, words: Vec<OsString>) -> Result<(), Failure> {
    match cli::parse::parse(&commands::ROOT, personality, &words) {
        Ok(Parsed { path, values, args, wants_help }) => match path.command().run {
            Some(run) if !wants_help => on_this_thread(run(Context::new(path, values, args, words))),
            _ => print_page(&path),
        },
        Err(Refused::Command { text, path }) => {
            let hint = format!("Run '{} --help' for usage.", cli::parse::called(&path));
            tell!("Error: {text}\n{hint}");
            // etcdctl's library says it, and then etcdctl.
            Err(if path.personality == Personality::Etcdctl {
                Failure::new(code::ERROR, text)
            } else {
                Failure::silent(code::ERROR)
            })
        }
        // etcdctl prints the page between the two, which hides what is wrong.
        Err(Refused::Flag { text, path, hint }) if path.personality == Personality::Cleatctl => {
            let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
            Err(Failure::new(
                code::ERROR,
                format!("{text}{hint}\nRun '{} --help' for usage.", cli::parse::called(&path)),
            ))
        }
        Err(Refused::Flag { text, path, .. }) => {
            tell!("Error: {text}");
            print_page(&path)?;
            tell!("");
            Err(Failure::new(code::ERROR, text))
        }
    }
}

pub(crate) fn print_page(path: &Path) -> Result<(), Failure> {
    let (version, api_version) = v3::version::of(path.personality);
    show_page(path.personality, &help::page(path, version, api_version))
}

/// Prints a page; for people with lines that fit into their terminal.
pub(crate) fn show_page(personality: Personality, page: &str) -> Result<(), Failure> {
    let columns = Terminal::detect().width.filter(|_| personality == Personality::Cleatctl);
    let page = columns.map_or_else(|| page.to_owned(), |_| people::flow(page));
    print::out(people::fit(&page, columns).as_bytes())
}

/// Runs a command on this thread.
pub(crate) fn on_this_thread(running: cli::Running) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(running);
    // Nobody waits for a prompt that was interrupted.
    runtime.shutdown_background();
    ended
}

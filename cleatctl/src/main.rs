//! `cleatctl`: etcdctl's commands, flags and environment, for Cleat and etcd; and what is done to files offline.
//!
//! `cli` reads the command line, `commands` has them all, `context` is what each is given, `failure` how it ends, `print`
//! has etcdctl's output formats. `v3` are etcdctl's commands, `snapshot`, `migrate` and `migrate_v2` work on whole stores,
//! `people` are the commands that etcdctl has not. Called as `etcdctl`, this program is etcdctl.

#![allow(
    clippy::format_push_string,
    clippy::needless_for_each,
    reason = "what is printed is put together from short texts and lists of lines"
)]

mod cli;
mod commands;
mod completion;
mod context;
mod environment;
mod failure;
mod founder;
mod globals;
mod go;
mod migrate;
mod migrate_v2;
mod offline;
mod password;
mod people;
mod print;
mod progress;
mod snapshot;
mod srv;
mod v2;
mod v3;

use crate::cli::parse::{Parsed, Refused};
use crate::cli::{Path, Personality, help};
use crate::context::Context;
use crate::failure::{Failure, code};
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next().unwrap_or_default();
    let personality = match std::path::Path::new(&name).file_name() {
        Some(name) if name == "etcdctl" => Personality::Etcdctl,
        _ => Personality::Cleatctl,
    };
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
            eprintln!("unsupported API version {other}");
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
                eprintln!("Error: {told}");
            }
            ExitCode::from(failure.code)
        }
    }
}

/// The API that is asked for: by `--api` before the environment, which `etcdctl` looks at alone.
fn api(personality: Personality, words: &[OsString]) -> Option<OsString> {
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
            let program = path.personality.program();
            let hint = format!("Run '{program} --help' for usage.");
            eprintln!("Error: {text}\n{hint}");
            // etcdctl's library says it, and then etcdctl.
            Err(if path.personality == Personality::Etcdctl {
                Failure::new(code::ERROR, text)
            } else {
                Failure::silent(code::ERROR)
            })
        }
        Err(Refused::Flag { text, path, hint }) => {
            let is_etcdctl = path.personality == Personality::Etcdctl;
            if is_etcdctl {
                eprintln!("Error: {text}");
            }
            print_page(&path)?;
            if is_etcdctl {
                eprintln!();
                return Err(Failure::new(code::ERROR, text));
            }
            Err(Failure::new(code::ERROR, hint.map_or_else(|| text.clone(), |hint| format!("{text}; {hint}"))))
        }
    }
}

pub(crate) fn print_page(path: &Path) -> Result<(), Failure> {
    let (version, api_version) = v3::version::of(path.personality);
    print::out(help::page(path, version, api_version).as_bytes())
}

/// Runs a command on this thread.
fn on_this_thread(running: cli::Running) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(running);
    // Nobody waits for a prompt that was interrupted.
    runtime.shutdown_background();
    ended
}

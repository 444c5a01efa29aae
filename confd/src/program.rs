//! The program `confd`: flags, exit codes and the runtime around the rest.

use crate::check;
use crate::runner::{self, End};
use crate::settings::{self, Request, Settings, SettingsError};
use crate::template::Limits;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;
use terminal::{complain, print};

/// Of Go's programs, for flags; and with `-noop -diff`, as `diff` has 1.
const TWO: u8 = 2;

/// Runs the program until it ends. `words` is its command line, the name by which it was called first.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = words.into_iter().map(|word| word.to_string_lossy().into_owned());
    let name = words.next().unwrap_or_else(|| "confd".to_owned());
    let arguments: Vec<String> = words.collect();
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    match Settings::parse(&arguments, &environment) {
        Ok(Request::Help) => print(&settings::help()),
        Ok(Request::Version) => print(&format!("confd {} (Cleat)\n", env!("CARGO_PKG_VERSION"))),
        Ok(Request::Check(settings)) => report(&settings, &environment),
        Ok(Request::Run(settings)) => run(&name, settings, environment),
        Err(SettingsError::Flag(error)) => {
            complain(&format!("{error}\n{}", settings::USAGE));
            ExitCode::from(TWO)
        }
        Err(SettingsError::Value(error)) => {
            complain(&format!("confd: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn report(settings: &Settings, environment: &BTreeMap<String, String>) -> ExitCode {
    let checked = on_large_stack({
        let (settings, environment) = (settings.clone(), environment.clone());
        move || check::check(&settings, &environment)
    });
    let Some((resources, problems)) = checked else { return ExitCode::FAILURE };
    if problems.is_empty() {
        return print(&format!("{resources} template resources are right\n"));
    }
    for problem in &problems {
        complain(problem);
    }
    ExitCode::FAILURE
}

/// Templates within templates need more than the usual stack.
fn on_large_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let thread = std::thread::Builder::new().stack_size(Limits::STACK_BYTES).spawn(work);
    thread.ok()?.join().ok()
}

fn run(name: &str, settings: Settings, environment: BTreeMap<String, String>) -> ExitCode {
    terminal::log::start(name, "confd", &settings.log_level, settings.json_log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_stack_size(Limits::STACK_BYTES)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(runner::run(settings, environment));
            // What still blocks is not waited for.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(error.to_string()),
    };
    match ended {
        Ok(End::Success) => ExitCode::SUCCESS,
        Ok(End::WouldChange) => ExitCode::from(TWO),
        Ok(End::Program(code)) => ExitCode::from(code),
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

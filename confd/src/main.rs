//! `confd`: flags, exit codes and the runtime around the library.

use confd::runner::{self, End};
use confd::settings::{self, Request, Settings, SettingsError};
use confd::template::Limits;
use confd::{check, log};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Of Go's programs, for flags; and with `-noop -diff`, as `diff` has 1.
const TWO: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect();
    match Settings::parse(&arguments, &environment) {
        Ok(Request::Help) => print(&settings::help()),
        Ok(Request::Version) => print(&format!("confd {} (Cleat)\n", env!("CARGO_PKG_VERSION"))),
        Ok(Request::Check(settings)) => report(&settings, &environment),
        Ok(Request::Run(settings)) => run(settings, environment),
        Err(SettingsError::Flag(error)) => {
            eprintln!("{error}\n{}", settings::USAGE);
            ExitCode::from(TWO)
        }
        Err(SettingsError::Value(error)) => {
            eprintln!("confd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Nobody is left to tell if stdout is gone.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
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
        eprintln!("{problem}");
    }
    ExitCode::FAILURE
}

/// Templates within templates need more than the usual stack.
fn on_large_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let thread = std::thread::Builder::new().stack_size(Limits::STACK_BYTES).spawn(work);
    thread.ok()?.join().ok()
}

fn run(settings: Settings, environment: BTreeMap<String, String>) -> ExitCode {
    log::start(&settings.log_level, settings.log_format);
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

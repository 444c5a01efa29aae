//! The program `metad`: flags, exit codes and the runtime around the rest.

use crate::serve::{self, End};
use crate::settings::{self, Request, Settings, SettingsError};
use rustix::process::{Signal, getpid};
use std::ffi::OsString;
use std::process::ExitCode;
use terminal::{complain, print};

/// Of Go's programs, for flags.
const BAD_FLAGS: u8 = 2;

/// Runs the program until it ends. `words` is its command line, the name by which it was called first.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut words = words.into_iter().map(|word| word.to_string_lossy().into_owned());
    let name = words.next().unwrap_or_else(|| "metad".to_owned());
    let arguments: Vec<String> = words.collect();
    match settings::parse(&arguments) {
        Ok(Request::Help(text)) => print(&text),
        Ok(Request::Version) => print(&format!("Metad Version: {} (Cleat)\n", env!("CARGO_PKG_VERSION"))),
        Ok(Request::Run(settings)) => run(&name, *settings),
        Err(SettingsError::Flag(error)) => {
            complain(&format!("{error}\nmetad -h lists the flags"));
            ExitCode::from(BAD_FLAGS)
        }
        Err(SettingsError::Value(error)) => {
            complain(&format!("metad: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(name: &str, settings: Settings) -> ExitCode {
    terminal::log::start(name, "metad", settings.log_level, settings.json_log);
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(serve::run(settings));
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(error.to_string()),
    };
    match ended {
        Ok(end) => {
            raise(end);
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Ends by the signal that asked for it, as metad does, so that the parent learns of it. The first process of a system
/// cannot, and ends with 0.
fn raise(end: End) {
    let signal = match end {
        End::Interrupted => Signal::INT,
        End::Terminated => Signal::TERM,
    };
    if !getpid().is_init()
        && let Err(error) = signal_hook::low_level::emulate_default_handler(signal.as_raw())
    {
        tracing::warn!(%error, "cannot end by the signal");
    }
}

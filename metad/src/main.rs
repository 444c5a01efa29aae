//! `metad`: flags, exit codes and the runtime around the library.

use metad::log;
use metad::serve::{self, End};
use metad::settings::{self, Request, Settings, SettingsError};
use rustix::process::{Signal, getpid};
use std::io::Write as _;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Of Go's programs, for flags.
const BAD_FLAGS: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    match settings::parse(&arguments) {
        Ok(Request::Help(text)) => print(&text),
        Ok(Request::Version) => print(&format!("Metad Version: {} (Cleat)\n", env!("CARGO_PKG_VERSION"))),
        Ok(Request::Run(settings)) => run(*settings),
        Err(SettingsError::Flag(error)) => {
            eprintln!("{error}\nmetad -h lists the flags");
            ExitCode::from(BAD_FLAGS)
        }
        Err(SettingsError::Value(error)) => {
            eprintln!("metad: {error}");
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

fn run(settings: Settings) -> ExitCode {
    log::start(settings.log_level, settings.json_log);
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

//! What our programs have in common where people meet them: command lines as Go's programs read them, names that may
//! have been meant, words on stdout and stderr, and log lines as confd and metad write them.
//!
//! Whose stdout or stderr is a pipe that nobody reads any more goes on: a failure to write ends no program.

pub mod flags;
pub mod log;
pub mod suggest;

use std::io::Write as _;
use std::process::ExitCode;

/// Prints what was asked for. The exit code of a program that has nothing else to do: a failure if stdout is gone, since
/// nobody is left to tell.
pub fn print(text: &str) -> ExitCode {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Writes a line to stderr, as `eprintln!`, which panics if nobody reads it.
pub fn complain(text: &str) {
    let line = format!("{text}\n");
    let _nobody_may_read = std::io::stderr().lock().write_all(line.as_bytes());
}

//! Asks for a password, on a terminal without showing it.

use anyhow::{Context as _, Result, bail, ensure};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::process::exit;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Longest line that is read; etcd hashes 72 bytes of it.
const LINE_BYTES_MAX: u64 = 4096;

/// Of a command that was interrupted, as shells tell it.
const INTERRUPTED: i32 = 130;

/// Reads a line of standard input, with a prompt. The prompt goes to standard error: standard output is for what was
/// asked for.
///
/// # Errors
/// There is no line, or the wait was interrupted.
pub(crate) async fn ask(prompt: &str) -> Result<String> {
    ask_on(prompt, false).await
}

/// The same with the prompt on standard output, where etcdctl has it.
///
/// # Errors
/// As [`ask`].
pub(crate) async fn ask_openly(prompt: &str) -> Result<String> {
    ask_on(prompt, true).await
}

async fn ask_on(prompt: &str, openly: bool) -> Result<String> {
    let hidden = Hidden::begin();
    let mut interrupts = if hidden.is_some() { Some(signal(SignalKind::interrupt())?) } else { None };
    if openly {
        say(prompt)?;
    } else {
        let mut stderr = io::stderr();
        stderr.write_all(prompt.as_bytes())?;
        stderr.flush()?;
    }
    let read = tokio::select! {
        read = tokio::task::spawn_blocking(read_line) => read?,
        () = interrupted(&mut interrupts) => Err(anyhow::anyhow!("interrupted")),
    };
    // The end of the line that was typed is not shown.
    if openly {
        say("\n")?;
    } else if hidden.is_some() {
        tell!("");
    }
    // Nothing gives the signal its default back: from here on this does what that did.
    if interrupts.is_some() {
        tokio::spawn(async move {
            interrupted(&mut interrupts).await;
            end();
        });
    }
    read
}

fn say(text: &str) -> Result<()> {
    crate::print::out(text.as_bytes()).map_err(|failure| anyhow::anyhow!(failure.text.unwrap_or_default()))
}

/// Waits for the next interrupt; for ever without a terminal.
async fn interrupted(interrupts: &mut Option<Signal>) {
    match interrupts {
        Some(interrupts) => drop(interrupts.recv().await),
        None => std::future::pending().await,
    }
}

#[allow(clippy::exit, reason = "whatever goes on has no place to hear of it, as with the signal's default")]
fn end() {
    exit(INTERRUPTED);
}

fn read_line() -> Result<String> {
    let mut line = Vec::new();
    let read = io::stdin().lock().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
    ensure!(
        read.context("cannot read the password")? > 0,
        "no password: write it on standard input, or set ETCDCTL_PASSWORD"
    );
    while matches!(line.last(), Some(b'\r' | b'\n')) {
        line.pop();
    }
    // The error of the conversion would show it.
    let Ok(password) = String::from_utf8(line) else { bail!("the password is not UTF-8") };
    Ok(password)
}

/// The terminal shows nothing of what is typed until this is dropped.
struct Hidden(Termios);

impl Hidden {
    /// None if standard input is no terminal.
    fn begin() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden).ok()?;
        Some(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // Nobody is left to tell if the terminal is gone.
        tcsetattr(io::stdin(), OptionalActions::Flush, &self.0).ok();
    }
}

//! Commands for people, beyond etcdctl's: what changed and when, keys as a tree or as files, how the cluster is and what to
//! do about it.
//!
//! Each file is one command: it reads facts through the client, and pure functions make the output of them for a
//! [`Terminal`], which tests compare with recorded output (`snapshots/`).

mod advice;
mod commands;
pub(crate) mod destructive;
mod diff;
mod doctor;
mod edit;
mod history;
mod lines;
mod pages;
mod revert;
mod status;
mod terminal;
mod text;
mod transfer;
mod tree;

#[cfg(test)]
pub(crate) mod snapshots;

pub(crate) use advice::{FlagNames, MAY_BE_DONE, cause, cause_of, explain, failure, of_answer, of_connection};
pub(crate) use commands::{DIFF, DOCTOR, EDIT, EXPORT, HISTORY, IMPORT, REVERT, STATUS, TREE};

pub(crate) use terminal::{Terminal, has_unicode};
pub(crate) use text::{escape, fit, flow};

use anyhow::Result;
use base64::Engine as _;
use client::{Client, Options};
use std::fmt;
use std::io::{self, Write as _};
use std::time::Duration;

/// Output for people, or for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Whom a command asks, and where its output goes.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) options: Options,
    pub(crate) format: Format,
    pub(crate) terminal: Terminal,
}

impl Session {
    /// A client of the cluster.
    ///
    /// # Errors
    /// The endpoints or the certificates cannot be used.
    fn client(&self) -> Result<Client> {
        Ok(Client::new(&self.options)?)
    }

    fn request_timeout(&self) -> Duration {
        self.options.request_timeout
    }
}

/// Nobody reads the output any more, as behind `head`. It ends a command that only shows something, and is no failure of it:
/// [`advice::ended`].
#[derive(Debug)]
struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads the output any more")
    }
}

impl std::error::Error for ReaderGone {}

/// Prints text.
///
/// # Errors
/// It cannot be written, or [`ReaderGone`].
fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        Err(error) => Err(anyhow::Error::from(error).context("cannot write the output")),
    }
}

/// Says something on standard error, in lines that fit into a person's terminal.
pub(crate) fn say(text: &str) {
    tell!("{}", fit(text, Terminal::width_of_errors()));
}

/// Prints text, for a command that has more to do than to show it: that is done, whoever reads.
///
/// # Errors
/// It cannot be written.
fn print_in_passing(text: &str) -> Result<()> {
    match print(text) {
        Err(error) if error.is::<ReaderGone>() => Ok(()),
        printed => printed,
    }
}

/// Bytes in JSON, as etcdctl writes them.
fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

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
mod snapshots;

pub(crate) use advice::explain;
pub(crate) use commands::{DIFF, DOCTOR, EDIT, EXPORT, HISTORY, IMPORT, REVERT, STATUS, TREE};

use crate::people::terminal::Terminal;
use anyhow::{Result, bail};
use base64::Engine as _;
use client::{Client, Options};
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

    /// Refuses a format that the command has not.
    fn only_text(&self, command: &str) -> Result<()> {
        if self.format == Format::Json {
            bail!("{command} has no JSON; leave --write-out out");
        }
        Ok(())
    }
}

/// Prints text. A reader that has gone, such as `head`, is no error.
fn print(text: &str) -> Result<()> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Bytes in JSON, as etcdctl writes them.
fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

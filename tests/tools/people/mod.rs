//! `cleatctl`'s commands for people, against Cleat and etcd alike.

mod keys;
mod sight;
mod terminal;
mod transfer;

use crate::restore::command;
use anyhow::{Result, ensure};
use harness::tool::run;
use harness::{Output, Server};
use std::time::Duration;

/// A machine that does other things as well gets there, too.
const DEADLINE: Duration = Duration::from_mins(1);

/// Runs a command against a server, with an environment and standard input.
async fn outcome(server: &Server, args: &[&str], environment: &[(&str, &str)], stdin: &str) -> Result<Output> {
    let mut command = command(&[])?;
    command.arg("--endpoints").arg(server.endpoint()).args(args).envs(environment.iter().copied());
    command.current_dir(server.scratch());
    run(command.into(), stdin.as_bytes(), DEADLINE).await
}

/// What a command prints that succeeds.
async fn says(server: &Server, args: &[&str]) -> Result<String> {
    let output = outcome(server, args, &[], "").await?;
    ensure!(output.code == Some(0) && output.stderr.is_empty(), "{args:?}: {output:?}");
    Ok(output.stdout)
}

/// Standard error of a command that fails with a code.
async fn fails(server: &Server, args: &[&str], code: i32) -> Result<String> {
    let output = outcome(server, args, &[], "").await?;
    ensure!(output.code == Some(code), "{args:?}: {output:?}");
    Ok(output.stderr)
}

/// Both texts are equal.
fn same(found: &str, expected: &str) -> Result<()> {
    ensure!(found == expected, "found\n{found}\nexpected\n{expected}");
    Ok(())
}

//! The differential test: the same requests to etcd and to Cleat, answers compared field by field.
//!
//! Random sequences over a small alphabet go to both servers in the same order. [`answer`] says what is
//! normalised before comparing, [`ledger`] which differences are accepted and why. Watch events are compared
//! per watcher, as one ordered sequence.
//!
//! - `CLEAT_SEED=n` replays one sequence; `CLEAT_FIRST_SEED=n` runs the same sequences each time, from that seed on;
//!   `CLEAT_DIFF_OPS=n` sets the number of requests of a run.
//! - `CLEAT_BIN` and `ETCD_BIN` choose the servers: pointing both at etcd shows that the test is quiet on equal
//!   servers, pointing them at two releases that it is not on different ones.

mod answer;
mod auth;
mod compare;
mod concurrency;
mod gateway;
mod gateway_users;
mod generate;
mod ledger;
mod op;
mod pair;
mod run;
mod show;
mod side;
mod v2;
mod watch;

use anyhow::Result;
use ledger::Ledger;
use pair::Pair;
use run::{Failure, Plan};
use std::sync::Arc;
use tokio::runtime::Runtime;

#[test]
fn random_requests_are_answered_as_etcd_does() -> Result<()> {
    let plan = Plan::from_env()?;
    let ledger = Arc::new(Ledger::default());
    let failures = Runtime::new()?.block_on(run::run::<Pair>(plan, Arc::clone(&ledger)))?;
    eprintln!("accepted differences:\n{}", ledger.report());
    let shown: Vec<String> = failures.iter().map(Failure::to_string).collect();
    assert!(failures.is_empty(), "{} kinds of differences:\n{}", failures.len(), shown.join("\n"));
    Ok(())
}

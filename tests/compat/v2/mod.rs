//! The differential test of the v2 API: the same HTTP requests to etcd 3.4 and to Cleat, answers compared byte by byte.
//!
//! Random sequences of all methods with all parameters, right and wrong, go to both servers in the same order: keys,
//! directories, hidden keys, races, keys that expire, members, statistics, users and roles. Watches are open meanwhile, and
//! what they get is compared. [`answer`] says what is normalised, [`ledger`] which differences are accepted and why.
//! Servers, runs and environment variables are those of the test of the v3 API.

mod answer;
mod auth;
mod duel;
mod generate;
mod json;
mod ledger;
mod op;
mod side;
mod wire;
mod world;

use crate::run::{self, Failure, Plan};
use anyhow::Result;
use duel::Duel;
use ledger::Ledger;
use std::sync::Arc;
use tokio::runtime::Runtime;

#[test]
fn random_v2_requests_are_answered_as_etcd_does() -> Result<()> {
    let plan = Plan::from_env()?;
    let ledger = Arc::new(Ledger::default());
    let failures = Runtime::new()?.block_on(run::run::<Duel>(plan, Arc::clone(&ledger)))?;
    eprintln!("accepted differences:\n{}", ledger.report());
    let shown: Vec<String> = failures.iter().map(Failure::to_string).collect();
    assert!(failures.is_empty(), "{} kinds of differences:\n{}", failures.len(), shown.join("\n"));
    Ok(())
}

#[test]
fn users_may_do_in_v2_what_they_may_in_etcd() -> Result<()> {
    let runtime = Runtime::new()?;
    for seed in harness::seeds::seeds(1)? {
        eprintln!("CLEAT_SEED={seed}");
        runtime.block_on(auth::run(seed))?;
    }
    Ok(())
}

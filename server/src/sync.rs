//! Channels whose order of waking the simulation must know: tokio's, except in tests.

#[cfg(test)]
pub(crate) use crate::simulation::watch;
#[cfg(not(test))]
pub(crate) use tokio::sync::watch;

//! A client of etcd's v2 API, for etcd up to 3.5 and for Cleat.
//!
//! [`Client`] sends one request at a time, each over a connection of its own, to the endpoint that worked last. As in the
//! client of the v3 API:
//!
//! - **A read goes to the next endpoint** when one fails, does not answer in its share of the time, or answers with 5xx.
//!   **A write does so only when it provably never left this process.** etcd's own library is bolder: it repeats every
//!   write but the creation of a key, and so may undo what somebody else wrote in between.
//! - **Redirects are followed.** User and password go to endpoints of the cluster alone.
//! - **A watch** ([`Watch`]) hands out every event once and in order, however often it polls, for as long as the server
//!   remembers the events; when it does not, the watch reads the present state and says so.
//! - **Errors** have etcd's code, message, cause and index ([`Error::Answered`]).

mod client;
mod error;
mod keys;
mod node;
mod watch;

pub use crate::options::User;
pub use client::{Client, Options};
pub use error::{Error, code};
pub use keys::{Condition, Delete, Get, Put, segment};
pub use node::{Event, Member, Node, Response};
pub use watch::{Change, Watch};

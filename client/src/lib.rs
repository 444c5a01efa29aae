//! The client of etcd's v3 API that every tool of this project uses, for Cleat and etcd alike.
//!
//! [`Client`] has one connection for each endpoint, made when it is first needed, and sends the messages of `api`
//! over the one that worked last. What it adds to the generated clients:
//!
//! - **Failover that is safe.** A read goes to the next endpoint when one fails. A write does so only when it
//!   provably never left this process; otherwise the caller gets [`Error::Lost`] and decides, because the write may
//!   have been done.
//! - **Bounds.** Every call ends within [`Options::request_timeout`], with its retries and their pauses.
//! - **Watches that resume** ([`Watch`]): a lost connection is made again and the watch goes on behind the last
//!   revision that was seen.
//! - **A mirror of a prefix** ([`Mirror`]): all keys, and then what happens to them, for tools that keep a copy.
//! - **Users**: a token is fetched for [`Options::user`], and again when it has ended.
//! - **Errors** that name the endpoint and keep etcd's text ([`Error`]).
//!
//! [`v2`] is a client of the v2 API, over [`http`].
//!
//! [`message`] builds the requests.
//!
//! `bytes` fields of answers are slices of the receive buffer: copy what is kept for long.

mod auth;
mod call;
mod calls;
mod certificate;
mod client;
mod connector;
mod endpoint;
mod error;
pub mod http;
pub mod message;
mod mirror;
mod observe;
mod options;
mod snapshot;
mod tls;
pub mod v2;
mod watch;

pub use call::Effect;
pub use certificate::shown_certificate;
pub use client::{Client, Listing};
pub use endpoint::without_user;
pub use error::{Error, Oversize};
pub use mirror::{Mirror, Update};
pub use options::{Options, TlsOptions, User};
pub use snapshot::{Download, SnapshotPlace};
pub use watch::{Events, Watch, WatchOptions};

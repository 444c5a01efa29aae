//! Watching keys: who is told of a change, when, and from which revision on.
//!
//! - [`hub`]: every watcher of this member by key and range. The state machine publishes each applied change to it,
//!   which puts the change into the mailboxes of the streams that watch it, and never waits.
//! - [`index`] and [`intervals`]: which watchers does a key concern.
//! - [`stream`]: the watchers of one client stream; turns its mail into responses, and reads from the store what a
//!   watcher missed because it starts in the past or its stream was slow.
//! - [`outbox`]: the stream's responses on their way out.
//! - [`next_delete`]: a wait for keys to go, for who needs no events.
//! - [`stats`]: the counts that metrics show.
//!
//! A watcher is *synced* when everything up to the hub's revision was put into its stream's mailbox, else *unsynced*.
//! The gRPC side is `v3/watch.rs`.

pub(crate) mod hub;
mod index;
mod intervals;
pub(crate) mod next_delete;
mod outbox;
pub(crate) mod stats;
pub(crate) mod stream;

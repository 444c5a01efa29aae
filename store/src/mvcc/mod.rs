//! Multi-version keys, as etcd v3 keeps them.
//!
//! REVISIONS. A fresh store is at revision 1. Every write transaction that changes something makes the next
//! revision (*main*); its changes are numbered from 0 (*sub*). A put stores the whole key-value under its revision, a
//! delete stores a tombstone. Nothing is changed in place, so a reader that fixed its revision sees one consistent
//! state however long it takes.
//!
//! WHERE A KEY-VALUE IS
//!
//! ```text
//!   apply --> tail (memory, not yet in redb) --flush--> redb, table revisions
//!        \--> index (memory): key -> last change, older changes, and a cache slot for the last key-value
//! ```
//!
//! The log makes a change durable before it is applied, so apply only writes memory. The flush copies the tail to
//! redb in one transaction together with the applied position, and trims it after the commit. A read looks into the
//! cache slot, the tail and redb, in this order; the view of redb that is taken under the state lock holds whatever the
//! tail no longer does. An answer that would take too much memory is not built but read while it is sent (`large`).
//!
//! GENERATIONS. etcd keeps a list of generations for each key; here a tombstone in the list of changes is the
//! boundary.
//!
//! COMPACTION first moves the compacted revision (part of the replicated state: reads below it are refused at once),
//! then walks the index in bounded steps, and the flush deletes what the walk dropped. How far that has come differs
//! between members and is visible to nobody: `HashKV` leaves out what a finished compaction would have removed.
//!
//! Not here: sessions, permissions, time, the network.

pub(crate) mod compact;
pub(crate) mod events;
pub(crate) mod hash;
pub(crate) mod index;
pub(crate) mod key_range;
pub(crate) mod large;
pub(crate) mod range;
pub(crate) mod revision;
pub(crate) mod state;
pub(crate) mod tail;
pub(crate) mod txn;
pub(crate) mod write;

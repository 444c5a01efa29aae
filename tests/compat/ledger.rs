//! Every accepted difference between etcd 3.4 and Cleat, with its reason, and what is not asked at all.
//!
//! An [`Entry`] looks at one request and both answers. When its condition applies it makes the answers equal
//! in exactly the part that it explains, and says so; whatever is left is a failure. Entries that never
//! applied in a run are reported, so that the ledger does not outlive its reasons.

use crate::answer::Answer;
use crate::op::Op;
use crate::pair::World;
use std::sync::atomic::{AtomicU64, Ordering};
use tonic::Code;

/// Erases what it explains from both answers (etcd's first); true when there was something to erase.
type Erase = fn(&Op, &mut Answer, &mut Answer) -> bool;

/// One accepted difference.
struct Entry {
    name: &'static str,
    reason: &'static str,
    erase: Erase,
}

const ENTRIES: [Entry; 2] = [
    Entry {
        name: "undecodable request: text",
        reason: "the text names the decoder's internals; the code is the same",
        erase: undecodable_text,
    },
    Entry {
        name: "status: fields newer than 3.4",
        reason: "storage version, quota and downgrade state were added to Status after 3.4",
        erase: newer_status_fields,
    },
];

fn undecodable_text(op: &Op, etcd: &mut Answer, cleat: &mut Answer) -> bool {
    let (Op::Raw { .. }, Answer::Error { code: Code::Internal, message }, Answer::Error { code: Code::Internal, message: ours }) =
        (op, etcd, cleat)
    else {
        return false;
    };
    let applies = message != ours && message.starts_with("grpc: error unmarshalling request");
    if applies {
        message.clone_from(ours);
    }
    applies
}

fn newer_status_fields(_: &Op, etcd: &mut Answer, cleat: &mut Answer) -> bool {
    let (Answer::Status(_), Answer::Status(ours)) = (etcd, cleat) else { return false };
    let newer = !ours.storage_version.is_empty() || ours.db_size_quota != 0 || ours.downgrade_info.is_some();
    ours.storage_version.clear();
    ours.db_size_quota = 0;
    ours.downgrade_info = None;
    newer
}

/// The entries, and how often each one applied.
#[derive(Default)]
pub(crate) struct Ledger {
    hits: [AtomicU64; ENTRIES.len()],
}

impl Ledger {
    /// Erases every accepted difference from two answers.
    pub(crate) fn erase(&self, op: &Op, etcd: &mut Answer, cleat: &mut Answer) {
        for (entry, hits) in ENTRIES.iter().zip(&self.hits) {
            if (entry.erase)(op, etcd, cleat) {
                hits.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// One line per entry.
    pub(crate) fn report(&self) -> String {
        let lines = ENTRIES.iter().zip(&self.hits).map(|(entry, hits)| match hits.load(Ordering::Relaxed) {
            0 => format!("never applied: {} ({})", entry.name, entry.reason),
            n => format!("{n} times: {}", entry.name),
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Requests that are left out, because etcd 3.4 itself answers by chance or not at all.
pub(crate) fn not_asked(op: &Op, world: &World) -> bool {
    match op {
        // etcd keeps or drops the delete at the compacted revision depending on how far its background
        // compaction has come.
        Op::WatchCreate { request, .. } => {
            world.resolve(request.start_revision) == world.revisions.compacted && world.compacted_at_delete
        }
        _ => false,
    }
}

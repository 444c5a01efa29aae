//! Every accepted difference between etcd 3.4 and Cleat, with its reason, and what is not asked at all.
//!
//! An [`Entry`] looks at one request and both answers. When its condition applies it makes the answers equal
//! in exactly the part that it explains, and says so; whatever is left is a failure. Entries that never
//! applied in a run are reported, so that the ledger does not outlive its reasons.

use crate::answer::Answer;
use crate::op::Op;
use crate::pair::World;
use api::etcdserverpb::TxnRequest;
use api::etcdserverpb::request_op::Request;
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

const ENTRIES: [Entry; 3] = [
    Entry {
        name: "malformed method path: code",
        reason: "etcd's gRPC library answers ResourceExhausted, newer releases of it Unimplemented",
        erase: malformed_path_code,
    },
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
    let (
        Op::Raw { .. },
        Answer::Error { code: Code::Internal, message },
        Answer::Error { code: Code::Internal, message: ours },
    ) = (op, etcd, cleat)
    else {
        return false;
    };
    let applies = message != ours && message.starts_with("grpc: error unmarshalling request");
    if applies {
        message.clone_from(ours);
    }
    applies
}

fn malformed_path_code(op: &Op, etcd: &mut Answer, cleat: &mut Answer) -> bool {
    let (Op::Raw { .. }, Answer::Error { code, message }, Answer::Error { code: ours, .. }) = (op, etcd, cleat) else {
        return false;
    };
    let applies = message.starts_with("malformed method name") && *ours == Code::Unimplemented;
    if applies {
        *code = *ours;
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
    let compacted = world.revisions.compacted;
    match op {
        Op::WatchCreate { request, .. } => {
            let start = world.resolve(request.start_revision);
            // etcd keeps or drops the delete at the compacted revision depending on how far its background
            // compaction has come.
            let by_chance = start == compacted && world.compacted_at_delete;
            // A watcher that a compaction ended keeps its id until it is cancelled as well, so the id can not
            // be used again in the meantime.
            let keeps_id = request.watch_id != 0 && start != 0 && start < compacted;
            // On a store that was never compacted, etcd reads nothing for a start at -1 and forgets the past of
            // all watchers that are catching up at the time.
            let forgets = start == -1 && compacted == 0;
            by_chance || keeps_id || forgets
        }
        // etcd checks that a put with `ignore_value` or `ignore_lease` has a key to keep something of before it
        // runs the transaction. When the transaction deletes the key first, the server panics.
        Op::Txn(txn) => {
            has_op(txn, &|op| matches!(op, Request::RequestDeleteRange(_)))
                && has_op(txn, &|op| matches!(op, Request::RequestPut(put) if put.ignore_value || put.ignore_lease))
        }
        // The same watcher as above: cancelling it is answered a second time.
        Op::WatchCancel { slot, id } => world.ended_by_compaction.contains(&(*slot, *id)),
        _ => false,
    }
}

/// True when some operation of the transaction, at any depth, is like that.
fn has_op(txn: &TxnRequest, like: &dyn Fn(&Request) -> bool) -> bool {
    txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref()).any(|op| match op {
        Request::RequestTxn(inner) => has_op(inner, like),
        op => like(op),
    })
}

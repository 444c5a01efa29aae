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

const ENTRIES: [Entry; 6] = [
    Entry {
        name: "hash: compacted revision",
        reason: "etcd 3.4 refuses to hash at the compacted revision itself, newer releases and Cleat answer",
        erase: hash_at_compaction,
    },
    Entry {
        name: "alarm: header",
        reason: "etcd 3.4 leaves the header of alarm answers out, newer releases and Cleat send it",
        erase: alarm_header,
    },
    Entry {
        name: "hash: revision",
        reason: "the revision that a hash was computed at was added to HashKV after 3.4",
        erase: hash_revision,
    },
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

fn alarm_header(_: &Op, etcd: &mut Answer, cleat: &mut Answer) -> bool {
    let (Answer::Alarm(theirs), Answer::Alarm(ours)) = (etcd, cleat) else { return false };
    let applies = theirs.header.is_none() && ours.header.is_some();
    if applies {
        ours.header = None;
    }
    applies
}

fn hash_revision(_: &Op, etcd: &mut Answer, cleat: &mut Answer) -> bool {
    let (Answer::HashKv(theirs), Answer::HashKv(ours)) = (etcd, cleat) else { return false };
    let applies = theirs.hash_revision == 0 && ours.hash_revision != 0;
    if applies {
        ours.hash_revision = 0;
    }
    applies
}

fn hash_at_compaction(_: &Op, etcd: &mut Answer, cleat: &mut Answer) -> bool {
    let (Answer::Error { code: Code::OutOfRange, message }, Answer::HashKv(ours)) = (&*etcd, &*cleat) else {
        return false;
    };
    let applies = message.ends_with("has been compacted") && ours.hash_revision == ours.compact_revision;
    if applies {
        cleat.clone_from(etcd);
    }
    applies
}

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

/// Requests that are left out, because etcd 3.4 itself answers by chance or not at all, or because the answer is
/// one that newer releases took back.
pub(crate) fn not_asked(op: &Op, world: &World) -> bool {
    if world.no_space && not_asked_without_space(op) {
        return true;
    }
    let compacted = world.revisions.compacted;
    match op {
        Op::WatchCreate { slot, request } => {
            let (start, id) = (world.resolve(request.start_revision), request.watch_id);
            // etcd keeps or drops the delete at the compacted revision depending on how far its background
            // compaction has come.
            let by_chance = start == compacted && world.compacted_at_delete;
            // A watcher that a compaction ended keeps its id until it is cancelled as well, so the id can not
            // be used again in the meantime.
            let keeps_id = id != 0 && start != 0 && start < compacted;
            let kept = world.ended_by_compaction.contains(&(*slot, id));
            // On a store that was never compacted, etcd reads nothing for a negative start, and forgets the past
            // of all watchers that are catching up at the time.
            let forgets = start < 0 && compacted == 0;
            by_chance || keeps_id || kept || forgets
        }
        // The same watcher as above: cancelling it is answered a second time.
        Op::WatchCancel { slot, id } => world.ended_by_compaction.contains(&(*slot, *id)),
        // While a watcher waits for a revision that is still to come, newer releases report no progress for its
        // stream, because a client would take it for that watcher's as well. 3.4 does.
        Op::WatchProgress(slot) => world.waits_for_future.contains(slot),
        // etcd checks that a put with `ignore_value` or `ignore_lease` has a key to keep something of before it
        // runs the transaction. When the transaction deletes the key first, the server panics.
        Op::Txn(txn) => {
            has_op(txn, &|op| matches!(op, Request::RequestDeleteRange(_)))
                && has_op(txn, &|op| matches!(op, Request::RequestPut(put) if put.ignore_value || put.ignore_lease))
        }
        _ => false,
    }
}

/// Requests that are left out while a NOSPACE alarm is raised.
fn not_asked_without_space(op: &Op) -> bool {
    let is_put = |op: &Request| matches!(op, Request::RequestPut(_));
    match op {
        // etcd 3.4 does not look for puts in nested transactions, and lets them pass.
        Op::Txn(txn) => {
            let own = txn.success.iter().chain(&txn.failure).filter_map(|op| op.request.as_ref()).any(is_put);
            !own && has_op(txn, &is_put)
        }
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

//! Prints requests in one short line, as a reader of a failure wants them.

use crate::op::{Op, show_lease, show_revision};
use api::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, compare,
    request_op,
};
use std::fmt::{Display, Formatter, Result, Write as _};

const SHOWN_BYTES: usize = 40;

/// Bytes as a Rust literal, cut when long.
fn bytes(value: &[u8]) -> String {
    match value.get(..SHOWN_BYTES) {
        Some(head) if value.len() > SHOWN_BYTES => format!("\"{}\"...{} bytes", head.escape_ascii(), value.len()),
        _ => format!("\"{}\"", value.escape_ascii()),
    }
}

fn range_of(key: &[u8], end: &[u8]) -> String {
    if end.is_empty() { bytes(key) } else { format!("[{}, {})", bytes(key), bytes(end)) }
}

/// Appends ` name` for a set flag.
fn flags(out: &mut String, flags: &[(&str, bool)]) {
    for (name, _) in flags.iter().filter(|(_, set)| *set) {
        out.push(' ');
        out.push_str(name);
    }
}

/// Appends ` name=value` for a value that is not 0.
fn numbers(out: &mut String, numbers: &[(&str, i64)]) {
    for (name, value) in numbers.iter().filter(|(_, value)| *value != 0) {
        write!(out, " {name}={}", show_revision(*value)).expect("writing to a string");
    }
}

fn range(r: &RangeRequest) -> String {
    let mut out = format!("range {}", range_of(&r.key, &r.range_end));
    numbers(
        &mut out,
        &[
            ("limit", r.limit),
            ("rev", r.revision),
            ("order", r.sort_order.into()),
            ("target", r.sort_target.into()),
            ("min_mod", r.min_mod_revision),
            ("max_mod", r.max_mod_revision),
            ("min_create", r.min_create_revision),
            ("max_create", r.max_create_revision),
        ],
    );
    flags(&mut out, &[("serializable", r.serializable), ("keys_only", r.keys_only), ("count_only", r.count_only)]);
    out
}

fn put(p: &PutRequest) -> String {
    let mut out = format!("put {} = {}", bytes(&p.key), bytes(&p.value));
    if p.lease != 0 {
        write!(out, " lease={}", show_lease(p.lease)).expect("writing to a string");
    }
    flags(&mut out, &[("prev_kv", p.prev_kv), ("ignore_value", p.ignore_value), ("ignore_lease", p.ignore_lease)]);
    out
}

fn delete(d: &DeleteRangeRequest) -> String {
    let mut out = format!("delete {}", range_of(&d.key, &d.range_end));
    flags(&mut out, &[("prev_kv", d.prev_kv)]);
    out
}

fn compare(c: &Compare) -> String {
    let target = compare::CompareTarget::try_from(c.target)
        .map_or_else(|_| format!("target {}", c.target), |t| t.as_str_name().to_lowercase());
    let result = match c.result {
        0 => "=".to_owned(),
        1 => ">".to_owned(),
        2 => "<".to_owned(),
        3 => "!=".to_owned(),
        other => format!("result {other}"),
    };
    let value = match &c.target_union {
        None => "(unset)".to_owned(),
        Some(compare::TargetUnion::Version(v)) => format!("version {v}"),
        Some(compare::TargetUnion::CreateRevision(v)) => format!("create {}", show_revision(*v)),
        Some(compare::TargetUnion::ModRevision(v)) => format!("mod {}", show_revision(*v)),
        Some(compare::TargetUnion::Value(v)) => format!("value {}", bytes(v)),
        Some(compare::TargetUnion::Lease(v)) => format!("lease {}", show_lease(*v)),
    };
    format!("{target}({}) {result} {value}", range_of(&c.key, &c.range_end))
}

fn request_op(op: &RequestOp) -> String {
    match &op.request {
        None => "(unset)".to_owned(),
        Some(request_op::Request::RequestRange(r)) => range(r),
        Some(request_op::Request::RequestPut(p)) => put(p),
        Some(request_op::Request::RequestDeleteRange(d)) => delete(d),
        Some(request_op::Request::RequestTxn(t)) => txn(t),
    }
}

const SHOWN_ITEMS: usize = 8;

fn list<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    let mut shown: Vec<String> = items.iter().take(SHOWN_ITEMS).map(show).collect();
    if items.len() > SHOWN_ITEMS {
        shown.push(format!("... {} in all", items.len()));
    }
    shown.join("; ")
}

fn txn(t: &TxnRequest) -> String {
    format!(
        "txn if {{{}}} then {{{}}} else {{{}}}",
        list(&t.compare, compare),
        list(&t.success, request_op),
        list(&t.failure, request_op)
    )
}

pub(crate) fn watch(slot: usize, w: &WatchCreateRequest) -> String {
    let mut out = format!("watch#{slot} create {}", range_of(&w.key, &w.range_end));
    numbers(&mut out, &[("id", w.watch_id), ("start", w.start_revision)]);
    if !w.filters.is_empty() {
        write!(out, " filters={:?}", w.filters).expect("writing to a string");
    }
    flags(&mut out, &[("prev_kv", w.prev_kv), ("progress_notify", w.progress_notify), ("fragment", w.fragment)]);
    out
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Range(r) => f.write_str(&range(r)),
            Self::Put(p) => f.write_str(&put(p)),
            Self::Delete(d) => f.write_str(&delete(d)),
            Self::Txn(t) => f.write_str(&txn(t)),
            Self::Compact(c) => {
                write!(f, "compact {}{}", show_revision(c.revision), if c.physical { " physical" } else { "" })
            }
            Self::Grant(g) => write!(f, "lease grant id={} ttl={}", g.id, g.ttl),
            Self::Revoke(id) => write!(f, "lease revoke {}", show_lease(*id)),
            Self::TimeToLive { id, keys } => {
                write!(f, "lease timetolive {}{}", show_lease(*id), if *keys { " keys" } else { "" })
            }
            Self::Leases => f.write_str("lease list"),
            Self::KeepAlive(ids) => write!(f, "lease keepalive {}", list(ids, |id| show_lease(*id))),
            Self::HashKv(revision) => write!(f, "hashkv {}", show_revision(*revision)),
            Self::Members => f.write_str("member list"),
            Self::Status => f.write_str("status"),
            Self::Alarm(a) => write!(f, "alarm action={} alarm={} member={}", a.action, a.alarm, a.member_id),
            Self::Defragment => f.write_str("defragment"),
            Self::MemberAdd(m) => write!(f, "member add {:?} learner={}", m.peer_urls, m.is_learner),
            Self::MemberRemove(id) => write!(f, "member remove {id}"),
            Self::MemberUpdate(m) => write!(f, "member update {} {:?}", m.id, m.peer_urls),
            Self::MemberPromote(id) => write!(f, "member promote {id}"),
            Self::MoveLeader(id) => write!(f, "move leader {id}"),
            Self::WatchOpen(slot) => write!(f, "watch#{slot} open"),
            Self::WatchCreate { slot, request } => f.write_str(&watch(*slot, request)),
            Self::WatchCancel { slot, id } => write!(f, "watch#{slot} cancel {id}"),
            Self::WatchProgress(slot) => write!(f, "watch#{slot} progress"),
            Self::WatchNothing(slot) => write!(f, "watch#{slot} (unset)"),
            Self::Concurrency(call) => write!(f, "{call}"),
            Self::Raw { path, payload, what } => write!(f, "raw {what}: {path} {}", bytes(payload)),
        }
    }
}

//! The space quota: refuse what would exceed it, raise NOSPACE, and clear it once there is space again.
//!
//! What counts is what keys and values take ([`Reader::stored_bytes`](store::Reader::stored_bytes)), the same on
//! every member, not the size of this member's file: free space inside the file is reused.

use crate::node::Node;
use api::cleatpb::command::Op;
use api::error::Error;
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::request_op::Request;
use api::etcdserverpb::{AlarmRequest, AlarmType, PutRequest, RequestOp, TxnRequest};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What a put costs beside its key and value. etcd's figure.
const PUT_OVERHEAD: u64 = 256;

/// What a lease costs. etcd's figure.
pub(crate) const LEASE_COST: u64 = 64;

/// The alarm is cleared when this share of the quota is free again, so that it does not flap.
const CLEAR_AT_FREE: f64 = 0.05;

const WATCH_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Quota {
    /// `None` for no limit.
    limit_bytes: Option<u64>,
    /// The alarm was raised here, not by an operator, and is ours to clear.
    raised: AtomicBool,
}

impl Quota {
    /// Takes an alarm that this member raised before a restart for its own.
    pub(crate) fn new(limit_bytes: Option<u64>, node: &Node) -> Self {
        let raised = is_raised(node);
        Self { limit_bytes, raised: AtomicBool::new(raised) }
    }

    /// The limit in bytes, 0 for none.
    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes.unwrap_or(0)
    }

    /// Lets a request of this cost pass.
    ///
    /// # Errors
    /// It would exceed the quota. The alarm is raised first, so that every member refuses alike.
    pub(crate) async fn admit(&self, node: &Node, cost: u64) -> Result<(), Error> {
        let Some(limit) = self.limit_bytes else { return Ok(()) };
        if cost == 0 || node.reader().stored_bytes() + cost < limit {
            return Ok(());
        }
        if !is_raised(node) {
            self.raise(node, limit).await?;
        }
        Err(Error::NoSpace)
    }

    /// Clears the alarm once compaction or deletes made space, and raises it when more is stored than this member's
    /// quota, which others let in: theirs is larger, or was. Runs until the member stops.
    pub(crate) async fn watch_space(self: Arc<Self>, node: Node, stop: CancellationToken) {
        let Some(limit) = self.limit_bytes else { return };
        let clear_below = (limit as f64 * (1.0 - CLEAR_AT_FREE)) as u64;
        // Told once each time, so that an operator's word stands.
        let mut was_over = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            let stored = node.reader().stored_bytes();
            let is_over = stored >= limit;
            let changed = if is_over && !was_over && !is_raised(&node) {
                self.raise(&node, limit).await
            } else if self.raised.load(Ordering::Relaxed) && stored < clear_below {
                self.clear(&node, limit).await
            } else {
                Ok(())
            };
            match changed {
                Ok(()) => was_over = is_over,
                Err(error) => tracing::warn!(%error, "cannot change the alarm NOSPACE, trying again"),
            }
        }
    }

    async fn raise(&self, node: &Node, limit: u64) -> Result<(), Error> {
        let stored_bytes = node.reader().stored_bytes();
        tracing::warn!(quota_bytes = limit, stored_bytes, "out of space, raising NOSPACE");
        self.raised.store(true, Ordering::Relaxed);
        node.propose_own(alarm(node, AlarmAction::Activate)).await.map(drop)
    }

    async fn clear(&self, node: &Node, limit: u64) -> Result<(), Error> {
        node.propose_own(alarm(node, AlarmAction::Deactivate)).await?;
        self.raised.store(false, Ordering::Relaxed);
        let stored_bytes = node.reader().stored_bytes();
        tracing::info!(quota_bytes = limit, stored_bytes, "space is back, cleared NOSPACE");
        Ok(())
    }
}

fn is_raised(node: &Node) -> bool {
    let me = node.identity().member_id;
    node.reader().alarms(AlarmType::Nospace as i32).iter().any(|alarm| alarm.member_id == me)
}

fn alarm(node: &Node, action: AlarmAction) -> Op {
    let member_id = node.identity().member_id;
    Op::Alarm(AlarmRequest { action: action as i32, member_id, alarm: AlarmType::Nospace as i32 })
}

/// What a put adds.
pub(crate) fn put_cost(request: &PutRequest) -> u64 {
    PUT_OVERHEAD + request.key.len() as u64 + request.value.len() as u64
}

/// What a transaction adds: the dearer of its branches.
pub(crate) fn txn_cost(request: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| {
        let cost = |op: &RequestOp| match &op.request {
            Some(Request::RequestPut(put)) => put_cost(put),
            Some(Request::RequestTxn(nested)) => txn_cost(nested),
            _ => 0,
        };
        ops.iter().map(cost).sum::<u64>()
    };
    branch(&request.success).max(branch(&request.failure))
}

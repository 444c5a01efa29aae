//! The clock of TTLs: while this member leads, it proposes that what has expired goes.

use crate::node::Node;
use crate::wall_clock;
use api::cleatpb::V2Request;
use api::cleatpb::command::Op;
use api::cleatpb::v2_request::Method;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often it looks. etcd's figure.
const INTERVAL: Duration = Duration::from_millis(500);

/// Runs until the member stops. What is proposed is bound to the term, so that the clock of a deposed leader counts for
/// nothing.
pub(crate) async fn run(node: Node, stop: CancellationToken) {
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let leads_in = node.leads_in();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let Some(term) = *leads_in.borrow() else { continue };
        let now = wall_clock::unix_nanos();
        if node.reader().v2_next_expiration() > now {
            continue;
        }
        let request = V2Request { method: Method::Expire as i32, path: "/".into(), now, ..V2Request::default() };
        let proposed = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            proposed = node.propose_in(term, Op::V2(request)) => proposed,
        };
        if let Err(error) = proposed {
            tracing::debug!(%error, "cannot remove expired v2 keys now, trying again");
        }
    }
}

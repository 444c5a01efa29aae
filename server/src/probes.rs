//! What probes ask of this member: [`HealthChecks`] over its node, which answer before there is one, too. A member without
//! data may wait long until it knows who it is, and must not be restarted for it.

use crate::assembly::Place;
use crate::health::{Alarm, HealthChecks};
use crate::node::Node;
use api::error::Error;
use api::etcdserverpb::{AlarmType, RangeRequest};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// What checks look at while a member starts, serves and ends.
pub(crate) struct Probed {
    /// None until the log and the store are open.
    pub(crate) node: OnceLock<Node>,
    /// Whether it is part of a cluster.
    pub(crate) place: Place,
    /// False once it ends: gRPC health checks and `/readyz` send clients elsewhere.
    pub(crate) serving: watch::Sender<bool>,
}

impl Probed {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { node: OnceLock::new(), place: Place::default(), serving: watch::Sender::new(true) })
    }

    /// The checks.
    pub(crate) fn checks(self: &Arc<Self>) -> HealthChecks {
        let [leader, learner, alarms, local, current, place, serving] = std::array::from_fn(|_| Arc::clone(self));
        HealthChecks {
            has_leader: Box::new(move || leader.node.get().is_some_and(|node| node.leader() != 0)),
            is_learner: Box::new(move || learner.node.get().is_some_and(Node::is_learner)),
            alarms: Box::new(move || alarms.node.get().map(raised).unwrap_or_default()),
            // Without a store there is none that could fail.
            serializable_read: Box::new(move || {
                Box::pin(std::future::ready(local.node.get().map_or(Ok(()), read_something)))
            }),
            linearizable_read: Box::new(move || {
                let probed = Arc::clone(&current);
                Box::pin(async move { probed.read_current().await })
            }),
            found_its_place: Box::new(move || place.place.check()),
            serves: Box::new(move || *serving.serving.borrow()),
        }
    }

    async fn read_current(&self) -> Result<(), String> {
        // One that waits for its cluster has no leader, and a read would only wait, too.
        let node = self.node.get().filter(|_| self.place.check().is_ok());
        let node = node.ok_or_else(|| Error::NoLeader.to_string())?;
        node.read_barrier().await.map_err(|error| error.to_string())?;
        read_something(node)
    }
}

fn raised(node: &Node) -> Vec<Alarm> {
    let known = |alarm: i32| match AlarmType::try_from(alarm) {
        Ok(AlarmType::Nospace) => Some(Alarm::NoSpace),
        Ok(AlarmType::Corrupt) => Some(Alarm::Corrupt),
        _ => None,
    };
    node.reader().alarms(AlarmType::None as i32).iter().filter_map(|member| known(member.alarm)).collect()
}

/// Reads a key that need not exist, as etcd's checks do.
fn read_something(node: &Node) -> Result<(), String> {
    let request = RangeRequest { key: "health".into(), limit: 1, ..Default::default() };
    node.reader().range(&request).map(drop).map_err(|error| error.to_string())
}

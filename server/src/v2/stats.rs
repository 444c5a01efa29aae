//! `/v2/stats`: what this member counts.

use super::{JSON, V2, json, refused_method};
use crate::config::parse::show;
use crate::node::Node;
use crate::peer::traffic::PeersTraffic;
use crate::wall_clock;
use axum::response::Response;
use http::{Method, StatusCode, header};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::v2::Count;

/// See the module.
pub(super) struct Stats {
    name: String,
    id: u64,
    started: i64,
    /// The leader as it was last seen, and since when.
    leader: Mutex<(u64, i64, Instant)>,
    traffic: Arc<PeersTraffic>,
}

impl Stats {
    pub(super) fn new(name: String, node: &Node, traffic: Arc<PeersTraffic>) -> Self {
        let now = wall_clock::unix_nanos();
        let leader = Mutex::new((node.leader(), now, Instant::now()));
        Self { name, id: node.identity().member_id, started: now, leader, traffic }
    }

    /// Answers for `which` behind `/v2/stats/`; nothing for what is not counted.
    pub(super) fn serve(&self, v2: &V2, method: &Method, which: &[u8]) -> Option<Response> {
        let write: fn(&Self, &V2) -> Option<Vec<u8>> = match which {
            b"self" => |stats, v2| Some(stats.of_self(v2)),
            b"leader" => Self::of_leader,
            b"store" => |_, v2| Some(of_store(v2)),
            _ => return None,
        };
        if let Some(refused) = refused_method(method, "GET") {
            return Some(refused);
        }
        let Some(body) = write(self, v2) else {
            return Some(v2.message(StatusCode::FORBIDDEN, "not current leader"));
        };
        let mut response = Response::new(body.into());
        response.headers_mut().insert(header::CONTENT_TYPE, JSON);
        Some(response)
    }

    fn of_self(&self, v2: &V2) -> Vec<u8> {
        let leader = v2.node.leader();
        let state = match leader {
            0 => "StateCandidate",
            id if id == self.id => "StateLeader",
            _ => "StateFollower",
        };
        let (since, uptime) = self.leader_since(leader);
        let leader = if leader == 0 { String::new() } else { format!("{leader:x}") };
        let (sent, received) = self.traffic.appends();
        let mut body = b"{\"name\":".to_vec();
        json::string(&mut body, self.name.as_bytes());
        let rest = format!(
            ",\"id\":\"{:x}\",\"state\":\"{state}\",\"startTime\":\"{}\",\"leaderInfo\":{{\"leader\":\"{leader}\",\
             \"uptime\":\"{}\",\"startTime\":\"{}\"}},\"recvAppendRequestCnt\":{received},\"sendAppendRequestCnt\":{sent}}}",
            self.id,
            json::time(self.started),
            show(uptime),
            json::time(since),
        );
        body.extend(rest.bytes());
        body
    }

    /// Since when the leader leads, as far as anybody asked here.
    fn leader_since(&self, leader: u64) -> (i64, Duration) {
        let mut seen = self.leader.lock();
        if seen.0 != leader {
            *seen = (leader, wall_clock::unix_nanos(), Instant::now());
        }
        (seen.1, seen.2.elapsed())
    }

    /// The followers, while this member leads.
    fn of_leader(&self, v2: &V2) -> Option<Vec<u8>> {
        if !v2.node.is_leader() {
            return None;
        }
        let mut body = format!("{{\"leader\":\"{:x}\",\"followers\":{{", self.id).into_bytes();
        let stored = v2.node.membership();
        let others = stored.membership().nodes().map(|(id, _)| *id).filter(|id| *id != self.id);
        for (place, id) in others.enumerate() {
            let seen = self.traffic.of(id).map(|peer| peer.latency()).unwrap_or_default();
            let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
            let comma = if place == 0 { "" } else { "," };
            let follower = format!(
                "{comma}\"{id:x}\":{{\"latency\":{{\"current\":{},\"average\":{},\"standardDeviation\":{},\
                 \"minimum\":{},\"maximum\":{}}},\"counts\":{{\"fail\":{},\"success\":{}}}}}",
                ms(seen.current),
                ms(seen.average()),
                ms(seen.standard_deviation()),
                ms(seen.minimum),
                ms(seen.maximum),
                seen.failures,
                seen.successes,
            );
            body.extend(follower.bytes());
        }
        body.extend(b"}}");
        Some(body)
    }
}

fn of_store(v2: &V2) -> Vec<u8> {
    let stats = v2.node.reader().v2_stats();
    let pair =
        |name: &str, count: Count| format!("\"{name}Success\":{},\"{name}Fail\":{},", count.succeeded, count.failed);
    let (level, all) = (stats.gets, stats.recursive_gets);
    let gets = Count { succeeded: level.succeeded + all.succeeded, failed: level.failed + all.failed };
    let counts = [
        pair("gets", gets),
        pair("sets", stats.sets),
        pair("delete", stats.deletes),
        pair("update", stats.updates),
        pair("create", stats.creates),
        pair("compareAndSwap", stats.swaps),
        pair("compareAndDelete", stats.compared_deletes),
    ];
    let rest = format!("\"expireCount\":{},\"watchers\":{}}}", stats.expired, v2.hub.len());
    format!("{{{}{rest}", counts.concat()).into_bytes()
}

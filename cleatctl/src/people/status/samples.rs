//! Facts for tests: a cluster with nothing to do, and one with everything to do.

use super::facts::{Admission, Certificate, Facts, Member, Seen, Stranger};
use super::metrics::{LOG_SYNC, Metrics};
use api::etcdserverpb::{ResponseHeader, StatusResponse};

const SECONDS_OF_DAY: i64 = 86_400;

/// 2026-11-28 14:00:00.
pub(crate) const NOW: i64 = 1_795_874_400;
const QUOTA_BYTES: u64 = 2 << 30;

fn member(id: u64, name: &str, applied: u64, sync_seconds: f64) -> Member {
    let status = StatusResponse {
        header: Some(ResponseHeader {
            cluster_id: 0xcdf8_1818_e326_8ae7,
            member_id: id,
            revision: 120_400,
            raft_term: 4,
        }),
        version: "3.5.21".to_owned(),
        db_size: 64 << 20,
        db_size_in_use: 48 << 20,
        leader: 2,
        raft_index: 130_007,
        raft_term: 4,
        raft_applied_index: applied,
        ..StatusResponse::default()
    };
    let (url, peer_url) = (format!("https://10.0.0.{id}:2379"), format!("https://10.0.0.{id}:2380"));
    let seen = Seen {
        endpoint: url.clone(),
        status,
        program: Some("cleat 0.1.0".to_owned()),
        metrics: Ok(with_sync(sync_seconds, QUOTA_BYTES)),
        clock_ahead_seconds: Some(0),
    };
    Member {
        id,
        name: name.to_owned(),
        is_learner: false,
        peer_urls: vec![peer_url.clone()],
        client_urls: vec![url.clone()],
        seen: Ok(seen),
        certificates: vec![Certificate { url: url.clone(), ends: Ok(NOW + 89 * SECONDS_OF_DAY + 5) }],
        peer_ports: vec![(peer_url.clone(), Ok(()))],
        admissions: vec![(url, Admission::Refused), (peer_url, Admission::Refused)],
    }
}

/// Three members with nothing to do.
pub(crate) fn healthy() -> Facts {
    let members = vec![
        member(1, "node-a", 130_007, 0.002),
        member(2, "node-b", 130_007, 0.004),
        member(3, "node-c", 130_002, 0.001),
    ];
    Facts { now: NOW, members, is_auth_enabled: Some(false), ..Facts::default() }
}

fn change(member: &mut Member, change: impl FnOnce(&mut Seen)) {
    change(member.seen.as_mut().unwrap());
}

/// Everything that can be wrong at once.
pub(crate) fn troubled() -> Facts {
    let mut facts = healthy();
    facts.members[0].seen = Err("connection refused".to_owned());
    change(&mut facts.members[1], |seen| {
        seen.status.db_size = 2_000 << 20;
        seen.status.db_size_in_use = 300 << 20;
        seen.metrics = Ok(with_sync(0.256, QUOTA_BYTES));
        seen.clock_ahead_seconds = Some(-7);
    });
    change(&mut facts.members[2], |seen| {
        seen.status.raft_applied_index = 120_000;
        seen.program = Some("cleat 0.2.0".to_owned());
        seen.metrics = Err("404 Not Found".to_owned());
    });
    facts.members[1].certificates[0].ends = Ok(NOW - SECONDS_OF_DAY);
    facts.members[2]
        .certificates
        .push(Certificate { url: "https://10.0.0.3:2380".to_owned(), ends: Err("no answer within 2s".to_owned()) });
    let mut learner = member(0x8e9e_05c5_2164_694d, "a-member-with-a-very-long-name-of-its-own", 130_007, 0.016);
    learner.is_learner = true;
    change(&mut learner, |seen| seen.status.is_learner = true);
    facts.members.push(learner);
    let mut added = member(5, "", 0, 0.0);
    added.seen = Err("it has no client URL".to_owned());
    (added.client_urls, added.certificates) = (Vec::new(), Vec::new());
    facts.members.push(added);
    facts.alarms = vec![(2, "NOSPACE".to_owned()), (3, "CORRUPT".to_owned())];
    facts.silent_endpoints = vec![("10.0.0.9:2379".to_owned(), "no route to host".to_owned())];
    facts.strangers = vec![Stranger { endpoint: "10.0.0.8:2379".to_owned(), id: 0x99, other_cluster: None }];
    facts
}

/// A member whose slowest syncs took so many seconds.
pub(crate) fn with_sync(seconds: f64, quota_bytes: u64) -> Metrics {
    Metrics::parse(&format!(
        "# TYPE {LOG_SYNC} histogram\n{LOG_SYNC}_bucket{{le=\"{seconds}\"}} 1000\n{LOG_SYNC}_bucket{{le=\"+Inf\"}} 1000\n\
         {LOG_SYNC}_sum 1\n{LOG_SYNC}_count 1000\netcd_server_quota_backend_bytes {quota_bytes}\n"
    ))
}

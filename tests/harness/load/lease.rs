//! One client that takes leases, attaches keys, and then renews, revokes or forgets them.

use super::client::{failure, perform};
use super::{CALL_DEADLINE, Connection, LEASED, MAX_OPS, RETRY_PAUSE, Shared};
use crate::Client;
use crate::history::{Action, LeaseAction, LeaseOp, Op, Outcome};
use api::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest};
use futures::StreamExt;
use rand::Rng;
use rand::rngs::SmallRng;
use rand::{SeedableRng, random};
use std::time::Duration;
use tonic::Status;

/// The least that etcd grants with an election timeout of a second.
const TTL: i64 = 2;
const KEYS: usize = 2;
/// Often enough that one lost renewal does not end the lease.
const RENEW_EVERY: Duration = Duration::from_millis(600);
const MAX_RENEWALS: usize = 6;
/// Client numbers of the load's other clients are below.
const FIRST_NUMBER: usize = 1000;

/// What a client did with its leases.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) leases: Vec<LeaseOp>,
    pub(super) ops: Vec<Op>,
}

/// Takes one lease after the other until the load stops.
pub(super) async fn run(mut shared: Shared, number: usize) -> Record {
    let mut record = Record::default();
    let mut rng = SmallRng::seed_from_u64(random());
    let mut connection = Connection::new(&shared.endpoints, number);
    let mut count = 0;
    while !shared.is_stopping() && record.ops.len() < MAX_OPS {
        count += 1;
        let renewals = rng.random_range(0..=MAX_RENEWALS);
        let revokes = rng.random_bool(0.5);
        let life = Life { number, count, renewals, revokes };
        if life.live(&mut shared, &mut connection, &mut record).await.is_none() {
            connection.lost(true);
            shared.pause(RETRY_PAUSE).await;
        }
    }
    record
}

/// The plan of one lease.
struct Life {
    number: usize,
    count: u64,
    renewals: usize,
    revokes: bool,
}

impl Life {
    /// `None` when the lease was left to itself because an answer did not come.
    async fn live(&self, shared: &mut Shared, connection: &mut Connection, record: &mut Record) -> Option<()> {
        let mut client = connection.client().await?;
        let call = shared.now();
        let grant = client.lease.lease_grant(LeaseGrantRequest { ttl: TTL, id: 0 });
        let grant = tokio::time::timeout(CALL_DEADLINE, grant).await.ok()?.ok()?.into_inner();
        let lease = grant.id;
        let note = |record: &mut Record, call, ret, action, confirmed| {
            record.leases.push(LeaseOp { lease, call, ret, action, confirmed });
        };
        note(record, call, shared.now(), LeaseAction::Renew { ttl: grant.ttl }, true);
        for key in 0..KEYS {
            self.attach(lease, key, shared, connection, record).await?;
        }
        for _ in 0..self.renewals {
            shared.pause(RENEW_EVERY).await;
            let call = shared.now();
            let renewed = tokio::time::timeout(CALL_DEADLINE, renew(&client, lease)).await;
            let ttl = match &renewed {
                Ok(Ok(0)) => return Some(()),
                Ok(Ok(ttl)) => *ttl,
                Ok(Err(_)) | Err(_) => grant.ttl,
            };
            let confirmed = matches!(renewed, Ok(Ok(_)));
            note(record, call, shared.now(), LeaseAction::Renew { ttl }, confirmed);
            if !confirmed {
                return None;
            }
        }
        if self.revokes {
            let call = shared.now();
            let request = LeaseRevokeRequest { id: lease };
            let revoked = tokio::time::timeout(CALL_DEADLINE, client.lease.lease_revoke(request)).await;
            let confirmed = matches!(revoked, Ok(Ok(_)));
            note(record, call, shared.now(), LeaseAction::Revoke, confirmed);
        }
        Some(())
    }

    async fn attach(
        &self,
        lease: i64,
        key: usize,
        shared: &Shared,
        connection: &mut Connection,
        record: &mut Record,
    ) -> Option<()> {
        let value = format!("lease-{}-{}-{key}", self.number, self.count);
        let key = format!("{LEASED}{}/{key}", self.number);
        let action = Action::Put { key, value, lease, want_prev: false };
        let client = connection.client().await?;
        let call = shared.now();
        let outcome = match tokio::time::timeout(shared.patience, perform(client, &action)).await {
            Ok(Ok(answer)) => Outcome::Ok(answer),
            Ok(Err(status)) => failure(&status),
            Err(_) => Outcome::Unknown("no answer in time".to_owned()),
        };
        let (client, endpoint) = (FIRST_NUMBER + self.number, connection.endpoint());
        let op = Op { client, endpoint, call, ret: shared.now(), action, outcome };
        let answered = op.answer().is_some();
        record.ops.push(op);
        answered.then_some(())
    }
}

/// One keepalive; 0 when the lease is gone.
async fn renew(client: &Client, lease: i64) -> Result<i64, Status> {
    let request = LeaseKeepAliveRequest { id: lease };
    let requests = futures::stream::iter([request]).chain(futures::stream::pending());
    let mut answers = client.lease.clone().lease_keep_alive(requests).await?.into_inner();
    let answer = answers.message().await?;
    answer.map(|answer| answer.ttl).ok_or_else(|| Status::unavailable("the stream ended"))
}

//! Keepalives of many leases: each client has one stream and renews its leases in turn.

use std::sync::Arc;
use std::time::Duration;

use api::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseRevokeRequest};
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use prost::Message as _;
use tokio::time::Instant;

use super::{Client, ClientLoop, Context, Traffic, Watchdog};
use crate::connection::{CallError, Connection, MessageStream, Method, frame};
use crate::wire;

/// Time to live of the leases, in seconds: longer than any run, and short enough that they go when revoking fails.
const TTL_SECONDS: i64 = 600;
/// How long a client may take to revoke its leases when the run is over.
const REVOKE_DEADLINE: Duration = Duration::from_secs(2);
/// `LeaseKeepAliveResponse.TTL`; absent when the lease is unknown.
const TTL_FIELD: u32 = 3;

/// Traffic of keepalives.
pub(crate) struct Keepalive {
    /// Leases of all clients together.
    pub(crate) leases: usize,
    /// How many clients share them.
    pub(crate) clients: usize,
}

impl Traffic for Keepalive {
    fn prepare(&self, client: Client) -> BoxFuture<'static, Result<ClientLoop, CallError>> {
        let count = (client.index..self.leases).step_by(self.clients).count().max(1);
        async move {
            let Client { connection, endpoint, context, .. } = client;
            let grant = Method::new(&endpoint, "/etcdserverpb.Lease/LeaseGrant");
            let revoke = Method::new(&endpoint, "/etcdserverpb.Lease/LeaseRevoke");
            let keepalive = Method::new(&endpoint, "/etcdserverpb.Lease/LeaseKeepAlive");
            let mut watchdog = Watchdog::new(context.deadline);
            let mut leases = Vec::with_capacity(count);
            for _ in 0..count {
                let request = frame(&LeaseGrantRequest { ttl: TTL_SECONDS, ..Default::default() });
                let reply = watchdog.guard(connection.call(&grant, request)).await?;
                let granted = LeaseGrantResponse::decode(reply)
                    .map_err(|error| CallError::Unexpected(format!("cannot decode a lease grant: {error}")))?;
                leases.push(granted.id);
            }
            Ok(drive(connection, keepalive, revoke, leases, context).boxed())
        }
        .boxed()
    }
}

/// The loop of one client.
async fn drive(connection: Connection, keepalive: Method, revoke: Method, leases: Vec<i64>, context: Arc<Context>) {
    let mut watchdog = Watchdog::new(context.deadline);
    let requests: Vec<Bytes> = leases.iter().map(|&id| frame(&LeaseKeepAliveRequest { id })).collect();
    let mut stream = None;
    let mut turn = 0;
    while let Some((_, start)) = context.turn().await {
        let request = requests[turn % requests.len()].clone();
        turn += 1;
        let renewal = renew(&connection, &keepalive, &mut stream, request);
        let outcome = watchdog.guard(renewal).await;
        if outcome.is_err() {
            // A failed or late stream would give the next request an earlier answer.
            stream = None;
        }
        if !context.record(outcome, start, 1).await {
            return;
        }
    }
    let end = Instant::now() + REVOKE_DEADLINE;
    for id in leases {
        let call = connection.call(&revoke, frame(&LeaseRevokeRequest { id }));
        if tokio::time::timeout_at(end, call).await.is_err() {
            return;
        }
    }
}

/// Sends one keepalive and waits for its answer, on a new stream when there is none.
async fn renew(
    connection: &Connection,
    method: &Method,
    stream: &mut Option<MessageStream>,
    request: Bytes,
) -> Result<(), CallError> {
    let stream = match stream {
        Some(open) => {
            open.send(request);
            open
        }
        None => stream.insert(connection.stream(method, request).await?),
    };
    let mut ttl = None;
    while ttl.is_none() {
        let each = |message: &[u8]| {
            let found = wire::fields(message).find(|(field, _)| *field == TTL_FIELD);
            ttl = Some(matches!(found, Some((_, wire::Value::Number(1..)))));
            Ok(())
        };
        if !stream.receive(each).await? {
            return Err(CallError::Unexpected("the server ended the keepalive stream".to_owned()));
        }
    }
    match ttl {
        Some(true) => Ok(()),
        _ => Err(CallError::Unexpected("the lease is unknown to the server".to_owned())),
    }
}

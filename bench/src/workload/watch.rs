//! Watch fan-out and delivery latency: watchers on one key or on as many keys, and writers that put them.
//!
//! Every put carries the moment it was sent, on the generator's own clock; a watcher reads it from the event, so an
//! event's latency runs from the put's start to the event's arrival. Writers wait while too many events are on their
//! way ([`Deliveries`]): the run measures what the server sustains and not how long a queue can grow.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::etcdserverpb::watch_request::RequestUnion;
use api::etcdserverpb::{PutRequest, WatchCreateRequest, WatchRequest};
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::keys::KeySpace;
use super::{Client, ClientLoop, Context, Stage, Traffic, Watchdog};
use crate::connection::{CallError, Connection, MessageStream, Method, frame};
use crate::wire;

/// Fields of `WatchResponse`.
const WATCH_ID_FIELD: u32 = 2;
const CREATED_FIELD: u32 = 3;
const CANCELED_FIELD: u32 = 4;
const EVENTS_FIELD: u32 = 11;
/// `Event.kv` and `KeyValue.value`.
const KV_FIELD: u32 = 2;
const VALUE_FIELD: u32 = 5;
/// Bytes of a value that hold the moment of its put.
pub(crate) const STAMP_BYTES: usize = 8;

/// How many events are on their way, shared by watchers and writers.
pub(crate) struct Deliveries {
    epoch: Instant,
    expected: AtomicU64,
    delivered: AtomicU64,
    fan_out: u64,
    window: u64,
    room: Notify,
}

impl Deliveries {
    /// Each put causes `fan_out` events, and the events of `puts` puts may be on their way.
    pub(crate) fn new(fan_out: u64, puts: u64) -> Self {
        Self {
            epoch: Instant::now(),
            expected: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            fan_out,
            window: fan_out * puts,
            room: Notify::new(),
        }
    }

    fn has_room(&self) -> bool {
        let under_way = self.expected.load(Ordering::Acquire).saturating_sub(self.delivered.load(Ordering::Acquire));
        under_way + self.fan_out <= self.window
    }

    /// Waits until the events of one more put may be on their way, and counts them.
    async fn reserve(&self) {
        loop {
            // Registered before the check, so that a delivery in between is not missed.
            let room = self.room.notified();
            if self.has_room() {
                self.expected.fetch_add(self.fan_out, Ordering::AcqRel);
                return;
            }
            room.await;
        }
    }

    fn deliver(&self, events: u64) {
        self.delivered.fetch_add(events, Ordering::AcqRel);
        if self.has_room() {
            self.room.notify_waiters();
        }
    }

    /// Forgets what was expected and never came.
    fn give_up(&self) {
        self.delivered.store(self.expected.load(Ordering::Acquire), Ordering::Release);
        self.room.notify_waiters();
    }
}

/// Traffic of watchers: each client is a stream with a share of them.
pub(crate) struct Watchers {
    /// Which keys; watcher `i` watches key `i` modulo their count.
    pub(crate) keys: KeySpace,
    /// Watchers of all streams together.
    pub(crate) count: usize,
    /// Streams they are spread over.
    pub(crate) streams: usize,
    /// Shared with the writers.
    pub(crate) deliveries: Arc<Deliveries>,
}

impl Traffic for Watchers {
    fn is_passive(&self) -> bool {
        true
    }

    fn prepare(&self, client: Client) -> BoxFuture<'static, Result<ClientLoop, CallError>> {
        let own = (client.index..self.count).step_by(self.streams);
        let requests: Vec<Bytes> = own.map(|watcher| self.create_request(watcher as u64)).collect();
        let deliveries = self.deliveries.clone();
        async move {
            let Client { connection, endpoint, context, .. } = client;
            let method = Method::new(&endpoint, "/etcdserverpb.Watch/Watch");
            // An error of one watcher would otherwise leave the others waiting for events that never come.
            let mut watchdog = Watchdog::new(context.deadline.max(Duration::from_secs(30)));
            let stream = watchdog.guard(create(&connection, &method, requests)).await?;
            Ok(receive(stream, deliveries, context).boxed())
        }
        .boxed()
    }
}

impl Watchers {
    fn create_request(&self, watcher: u64) -> Bytes {
        let key = self.keys.key(watcher % self.keys.count);
        let create = WatchCreateRequest { key, ..Default::default() };
        frame(&WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) })
    }
}

/// Opens a stream, creates its watchers and waits until the server has confirmed each.
async fn create(connection: &Connection, method: &Method, requests: Vec<Bytes>) -> Result<MessageStream, CallError> {
    let count = requests.len();
    let mut requests = requests.into_iter();
    let first = requests.next().ok_or_else(|| CallError::Unexpected("a stream needs a watcher".to_owned()))?;
    let mut stream = connection.stream(method, first).await?;
    for request in requests {
        stream.send(request);
    }
    let mut created = HashSet::with_capacity(count);
    while created.len() < count {
        let is_open = stream
            .receive(|message| {
                let (mut id, mut is_created, mut is_canceled) = (0, false, false);
                for field in wire::fields(message) {
                    match field {
                        (WATCH_ID_FIELD, wire::Value::Number(number)) => id = number,
                        (CREATED_FIELD, wire::Value::Number(1)) => is_created = true,
                        (CANCELED_FIELD, wire::Value::Number(1)) => is_canceled = true,
                        _ => {}
                    }
                }
                if is_canceled {
                    return Err(CallError::Unexpected("the server cancelled a new watcher".to_owned()));
                }
                if is_created {
                    created.insert(id);
                }
                Ok(())
            })
            .await?;
        if !is_open {
            return Err(CallError::Unexpected("the server ended the watch stream".to_owned()));
        }
    }
    Ok(stream)
}

/// The loop of one stream: counts events and their latencies until it is dropped.
async fn receive(mut stream: MessageStream, deliveries: Arc<Deliveries>, context: Arc<Context>) {
    loop {
        let mut events = 0;
        let mut arrival = None;
        let outcome = stream.receive(|message| {
            for (field, value) in wire::fields(message) {
                match (field, value) {
                    (EVENTS_FIELD, wire::Value::Bytes(event)) => {
                        events += 1;
                        let Some(sent) = stamp(event) else { continue };
                        if context.stage.is(Stage::Measured) {
                            // All events of one frame have arrived together.
                            let arrival = *arrival.get_or_insert_with(|| deliveries.epoch.elapsed());
                            context.recorder.success(arrival.saturating_sub(sent), 1);
                        }
                    }
                    (CANCELED_FIELD, wire::Value::Number(1)) => {
                        return Err(CallError::Unexpected("the server cancelled a watcher".to_owned()));
                    }
                    _ => {}
                }
            }
            Ok(())
        });
        let error = match outcome.await {
            Ok(true) => {
                deliveries.deliver(events);
                continue;
            }
            Ok(false) => CallError::Unexpected("the server ended the watch stream".to_owned()),
            Err(error) => error,
        };
        return context.recorder.failure(&error);
    }
}

/// The moment of the put that an event carries.
fn stamp(event: &[u8]) -> Option<Duration> {
    let value = wire::bytes_field(wire::bytes_field(event, KV_FIELD)?, VALUE_FIELD)?;
    value.first_chunk::<STAMP_BYTES>().map(|bytes| Duration::from_nanos(u64::from_le_bytes(*bytes)))
}

/// Traffic of the puts that cause the events.
pub(crate) struct Writers {
    /// Which keys.
    pub(crate) keys: KeySpace,
    /// What follows the stamp in every value.
    pub(crate) value: Bytes,
    /// Shared with the watchers.
    pub(crate) deliveries: Arc<Deliveries>,
    /// The same seed gives the same keys.
    pub(crate) seed: u64,
}

impl Traffic for Writers {
    fn prepare(&self, client: Client) -> BoxFuture<'static, Result<ClientLoop, CallError>> {
        let random = SmallRng::seed_from_u64(self.seed.wrapping_add(client.index as u64));
        let (keys, value) = (self.keys.clone(), self.value.clone());
        let deliveries = self.deliveries.clone();
        async move {
            let method = Method::new(&client.endpoint, "/etcdserverpb.KV/Put");
            Ok(write(client, method, keys, value, deliveries, random).boxed())
        }
        .boxed()
    }
}

/// The loop of one writer.
async fn write(
    client: Client,
    method: Method,
    keys: KeySpace,
    value: Bytes,
    deliveries: Arc<Deliveries>,
    mut random: SmallRng,
) {
    let Client { connection, context, .. } = client;
    let mut watchdog = Watchdog::new(context.deadline);
    let paced = context.pace.is_paced();
    while let Some((call, start)) = context.turn().await {
        let room = tokio::time::timeout(context.deadline, deliveries.reserve());
        let Some(room) = context.unless_over(room).await else { return };
        if room.is_err() {
            deliveries.give_up();
            let lost = CallError::Unexpected(format!("events did not arrive within {:?}", context.deadline));
            context.recorder.failure(&lost);
            continue;
        }
        // With a rate the put was due at `start`; without one it starts when there is room.
        let start = if paced { start } else { Instant::now() };
        let mut stamped = BytesMut::from(&*value);
        let nanos = (start.saturating_duration_since(deliveries.epoch)).as_nanos() as u64;
        stamped[..STAMP_BYTES].copy_from_slice(&nanos.to_le_bytes());
        let key = keys.key(keys.choose(call, &mut random));
        let request = frame(&PutRequest { key, value: stamped.freeze(), ..Default::default() });
        let outcome = watchdog.guard(connection.call(&method, request)).await;
        if outcome.is_err() {
            // No event follows a failed put.
            deliveries.deliver(deliveries.fan_out);
        }
        if !context.record(outcome, start, 1).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use api::mvccpb::{Event, KeyValue};
    use prost::Message as _;

    use super::*;

    #[test]
    fn an_event_carries_its_stamp() {
        let mut value = 1_234_u64.to_le_bytes().to_vec();
        value.extend_from_slice(b"rest");
        let event = |value: Vec<u8>| {
            let kv = KeyValue { key: Bytes::from_static(b"k"), value: value.into(), ..Default::default() };
            Event { kv: Some(kv), ..Default::default() }.encode_to_vec()
        };
        assert_eq!(stamp(&event(value)), Some(Duration::from_nanos(1_234)));
        assert_eq!(stamp(&event(b"short".to_vec())), None);
    }

    #[tokio::test(start_paused = true)]
    async fn writers_wait_for_room() {
        let deliveries = Deliveries::new(10, 2);
        deliveries.reserve().await;
        deliveries.reserve().await;
        let third = || tokio::time::timeout(Duration::from_secs(1), deliveries.reserve());
        assert!(third().await.is_err(), "the window is full");
        deliveries.deliver(9);
        assert!(third().await.is_err(), "an event of the first put is on its way");
        deliveries.deliver(1);
        assert!(third().await.is_ok());
        assert!(third().await.is_err());
        deliveries.give_up();
        assert!(third().await.is_ok());
    }
}

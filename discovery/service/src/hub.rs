//! What long polls wait for: one watch of the store for all of them.
//!
//! [`follow`] publishes what the watch sees; the latest events are kept, so that a poll for an index that is already
//! there is answered at once. What is older than the kept events is read from the store as it is now: registrations
//! are not overwritten by members, so nothing that a starting member waits for is missed, not even when the service
//! was restarted in between. (etcd answers such a poll with error 401, which would end the member.)

use crate::registry::{Registry, Token, registration};
use crate::v2::{Event, Node};
use api::mvccpb::event::EventType;
use client::Events;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Events kept; etcd's figure.
const HISTORY: usize = 1000;

/// Polls that may wait at once. One holds a connection and a few hundred bytes.
const MAX_WAITERS: usize = 10_000;

/// Polls that may wait for one token at once: each of its members, several times.
const MAX_TOKEN_WAITERS: usize = 500;

/// Pause before the store is asked again after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Events of all tokens, and who waits for them.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// In the order of revisions.
    events: VecDeque<Published>,
    /// Every event from this revision up to `revision` is among `events`.
    complete_from: i64,
    /// The store's revision up to which everything is known.
    revision: i64,
    waiting: HashMap<Token, Waiting>,
    waiters: usize,
}

#[derive(Debug)]
struct Published {
    token: Token,
    member: String,
    revision: i64,
    event: Arc<Event>,
}

#[derive(Debug, Default)]
struct Waiting {
    notify: Arc<Notify>,
    waiters: usize,
}

/// What a poll waits for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) token: Token,
    /// None for any member.
    pub(crate) member: Option<String>,
    /// Lowest index.
    pub(crate) from: i64,
}

/// What is known about what a poll wants.
enum Known {
    Event(Arc<Event>),
    /// There is none up to now.
    Nothing,
    /// It may have been before the kept events.
    BeforeHistory,
}

/// A place among the waiters, free again on drop.
#[derive(Debug)]
pub(crate) struct Waiter {
    hub: Arc<Hub>,
    token: Token,
    notify: Arc<Notify>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.hub.state.lock();
        state.waiters -= 1;
        if let Some(waiting) = state.waiting.get_mut(&self.token) {
            waiting.waiters -= 1;
            if waiting.waiters == 0 {
                state.waiting.remove(&self.token);
            }
        }
    }
}

impl Hub {
    /// One that knows nothing before [`follow`] tells it.
    pub(crate) fn new() -> Self {
        let state = State {
            events: VecDeque::with_capacity(HISTORY),
            complete_from: i64::MAX,
            revision: 0,
            waiting: HashMap::new(),
            waiters: 0,
        };
        Self { state: Mutex::new(state) }
    }

    /// Up to where everything is known.
    pub(crate) fn revision(&self) -> i64 {
        self.state.lock().revision
    }

    /// How many polls wait.
    pub(crate) fn waiters(&self) -> usize {
        self.state.lock().waiters
    }

    /// Takes a place; None if there is none left.
    pub(crate) fn enter(self: &Arc<Self>, token: &Token) -> Option<Waiter> {
        let mut state = self.state.lock();
        if state.waiters >= MAX_WAITERS {
            return None;
        }
        let waiting = state.waiting.entry(token.clone()).or_default();
        if waiting.waiters >= MAX_TOKEN_WAITERS {
            return None;
        }
        waiting.waiters += 1;
        let notify = Arc::clone(&waiting.notify);
        state.waiters += 1;
        Some(Waiter { hub: Arc::clone(self), token: token.clone(), notify })
    }

    fn find(&self, wanted: &Wanted) -> Known {
        let state = self.state.lock();
        if wanted.from < state.complete_from {
            return Known::BeforeHistory;
        }
        let is_wanted = |published: &&Published| {
            published.revision >= wanted.from
                && published.token == wanted.token
                && wanted.member.as_ref().is_none_or(|member| *member == published.member)
        };
        match state.events.iter().find(is_wanted) {
            Some(published) => Known::Event(Arc::clone(&published.event)),
            None => Known::Nothing,
        }
    }

    /// Forgets everything; what comes next is complete from behind this revision.
    fn reset(&self, revision: i64) {
        let mut state = self.state.lock();
        state.events.clear();
        state.complete_from = revision + 1;
        state.revision = revision;
        for waiting in state.waiting.values() {
            waiting.notify.notify_waiters();
        }
    }

    fn publish(&self, events: &Events) {
        let published: Vec<Published> = events.events.iter().filter_map(published).collect();
        let mut state = self.state.lock();
        state.revision = state.revision.max(events.revision);
        for published in published {
            if state.events.len() == HISTORY
                && let Some(forgotten) = state.events.pop_front()
            {
                state.complete_from = forgotten.revision + 1;
            }
            if let Some(waiting) = state.waiting.get(&published.token) {
                waiting.notify.notify_waiters();
            }
            state.events.push_back(published);
        }
    }
}

impl Waiter {
    /// The first event that is wanted, however long that takes. A failure of the store makes it wait for the next
    /// event; the time of a poll is bounded by who calls.
    pub(crate) async fn wait(&self, registry: &Registry, mut wanted: Wanted) -> Event {
        loop {
            let notified = self.notify.notified();
            let mut notified = std::pin::pin!(notified);
            // From here on a notice is not missed.
            notified.as_mut().enable();
            match self.hub.find(&wanted) {
                Known::Event(event) => return (*event).clone(),
                Known::Nothing => notified.await,
                Known::BeforeHistory => {
                    match registry.read(&wanted.token).await {
                        Ok(Ok(entry)) => {
                            if let Some(node) = first_of(entry.registrations(), &wanted) {
                                return Event::create(node);
                            }
                            wanted.from = wanted.from.max(entry.revision + 1);
                        }
                        Ok(Err(revision)) => wanted.from = wanted.from.max(revision + 1),
                        Err(error) => tracing::warn!(%error, "the store did not answer"),
                    }
                    if matches!(self.hub.find(&wanted), Known::BeforeHistory) {
                        // The store cannot be followed yet: it does not answer, or has just been lost.
                        tokio::select! {
                            () = notified => {}
                            () = tokio::time::sleep(RETRY_PAUSE) => {}
                        }
                    }
                }
            }
        }
    }
}

/// The oldest of the nodes that is wanted.
fn first_of(mut nodes: Vec<Node>, wanted: &Wanted) -> Option<Node> {
    let path = wanted.member.as_ref().map(|member| wanted.token.member_path(member));
    nodes.retain(|node| node.modified_index >= wanted.from && path.as_ref().is_none_or(|path| *path == node.key));
    nodes.into_iter().min_by_key(|node| node.modified_index)
}

/// The v2 event of a change in the store, if it is about a registration.
fn published(event: &api::mvccpb::Event) -> Option<Published> {
    let kv = event.kv.as_ref()?;
    let (token, member) = registration(&kv.key)?;
    let path = token.member_path(member);
    let old = event.prev_kv.as_ref().map(|old| Node::file(path.clone(), old));
    let v2 = match event.r#type() {
        // How a new one was asked for is not stored; members ask with `prevExist=false`.
        EventType::Put if old.is_none() => Event::create(Node::file(path, kv)),
        EventType::Put => Event::set(Node::file(path, kv), old),
        EventType::Delete => Event::delete(old?, kv.mod_revision),
    };
    let member = member.to_owned();
    Some(Published { token, member, revision: kv.mod_revision, event: Arc::new(v2) })
}

/// Follows the store for as long as the service runs.
pub(crate) async fn follow(hub: Arc<Hub>, registry: Registry, stop: CancellationToken) {
    let work = async {
        loop {
            // Returns only with an error; the watch itself hides lost connections.
            if let Err(error) = watch(&hub, &registry).await {
                tracing::warn!(%error, "cannot follow the store, trying again");
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    };
    stop.run_until_cancelled(work).await;
}

async fn watch(hub: &Hub, registry: &Registry) -> Result<(), client::Error> {
    let revision = registry.revision().await?;
    let mut watch = registry.watch(revision + 1).await?;
    hub.reset(revision);
    loop {
        hub.publish(&watch.next().await?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::mvccpb::KeyValue;

    fn token(digit: char) -> Token {
        Token::parse(&digit.to_string().repeat(32)).unwrap()
    }

    fn registered(token: &Token, member: &str, revision: i64) -> Events {
        let key = format!("/_etcd/registry/{token}/members/{member}");
        let kv = KeyValue { key: key.into(), mod_revision: revision, ..KeyValue::default() };
        Events { revision, events: vec![api::mvccpb::Event { kv: Some(kv), ..api::mvccpb::Event::default() }] }
    }

    fn found(hub: &Hub, token: &Token, member: Option<&str>, from: i64) -> Result<Option<i64>, &'static str> {
        match hub.find(&Wanted { token: token.clone(), member: member.map(str::to_owned), from }) {
            Known::Event(event) => Ok(Some(event.node.modified_index)),
            Known::Nothing => Ok(None),
            Known::BeforeHistory => Err("before"),
        }
    }

    #[test]
    fn events_are_found_by_token_member_and_index() {
        let (hub, a, b) = (Hub::new(), token('a'), token('b'));
        assert_eq!(found(&hub, &a, None, 1), Err("before"));
        hub.reset(5);
        for (token, member, revision) in [(&a, "m1", 6), (&b, "m1", 7), (&a, "m2", 8)] {
            hub.publish(&registered(token, member, revision));
        }
        for (token, member, from, expected) in [
            (&a, None, 5, Err("before")),
            (&a, None, 6, Ok(Some(6))),
            (&a, None, 7, Ok(Some(8))),
            (&a, Some("m2"), 6, Ok(Some(8))),
            (&b, Some("m2"), 6, Ok(None)),
            (&a, None, 9, Ok(None)),
        ] {
            assert_eq!(found(&hub, token, member, from), expected, "{token} {member:?} {from}");
        }
        for n in 0..HISTORY as i64 {
            hub.publish(&registered(&b, "m", 10 + n));
        }
        assert_eq!((found(&hub, &a, None, 8), found(&hub, &a, None, 9)), (Err("before"), Ok(None)));
        assert_eq!(found(&hub, &b, None, 9), Ok(Some(10)));
    }

    #[test]
    fn waiters_are_bounded_and_leave_nothing_behind() {
        let hub = Arc::new(Hub::new());
        let places: Vec<_> = (0..MAX_TOKEN_WAITERS).map(|_| hub.enter(&token('a')).unwrap()).collect();
        assert!(hub.enter(&token('a')).is_none() && hub.enter(&token('b')).is_some());
        drop(places);
        assert!(hub.waiters() == 0 && hub.state.lock().waiting.is_empty());
    }
}

//! What long polls wait for: one watch of the store for all of them.
//!
//! [`follow`] publishes what the watch sees; the latest events are kept, so that a poll for an index that is already
//! there is answered at once. What is older than the kept events is read from the store as it is now: registrations
//! are not overwritten by members, so nothing that a starting member waits for is missed, not even when the service
//! was restarted in between. (etcd answers such a poll with error 401, which would end the member.) A token is read once
//! for all its polls: a store that comes back is not asked by each of them.

use crate::pace::Pace;
use crate::registry::{Registry, Token, registration};
use crate::v2::{Event, Node};
use api::mvccpb::event::EventType;
use client::Events;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Events kept; etcd's figure.
const HISTORY: usize = 1000;

/// Polls that may wait at once. One holds a connection and a few hundred bytes, those for one token together what the
/// token was at the last reading.
const MAX_WAITERS: usize = 10_000;

/// Polls that may wait for one token at once: each of its members, several times.
const MAX_TOKEN_WAITERS: usize = 500;

/// Pause before the store is asked again after a failure.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Events of all tokens, and who waits for them.
#[derive(Debug)]
pub(crate) struct Hub {
    state: Mutex<State>,
    /// Log lines about a store that does not answer.
    silence: Pace,
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
    /// Held by the poll that reads; the others wait for what it finds.
    read: Arc<AsyncMutex<Option<Reading>>>,
    waiters: usize,
}

/// What the store said about a token.
#[derive(Debug)]
struct Reading {
    at: Instant,
    /// The store's; None if it did not answer.
    revision: Option<i64>,
    registrations: Vec<Node>,
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
    read: Arc<AsyncMutex<Option<Reading>>>,
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
        Self { state: Mutex::new(state), silence: Pace::default() }
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
        let (notify, read) = (Arc::clone(&waiting.notify), Arc::clone(&waiting.read));
        state.waiters += 1;
        Some(Waiter { hub: Arc::clone(self), token: token.clone(), notify, read })
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

    /// True if reading again would tell nothing new, or is too early.
    fn is_enough(&self, reading: &Reading) -> bool {
        let complete_from = self.state.lock().complete_from;
        match reading.revision {
            // What came behind it is among the events.
            Some(revision) if complete_from != i64::MAX => revision + 1 >= complete_from,
            // The store does not answer, or is not followed yet.
            _ => reading.at.elapsed() < RETRY_PAUSE,
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
    pub(crate) async fn wait(&self, registry: &Registry, wanted: Wanted) -> Event {
        let read = async || {
            Ok(match registry.read(&self.token).await? {
                Ok(entry) => (entry.revision, entry.registrations()),
                Err(revision) => (revision, Vec::new()),
            })
        };
        self.wait_with(read, wanted).await
    }

    /// `read` asks the store for its revision and the registrations of the token.
    async fn wait_with<F>(&self, read: impl Fn() -> F, mut wanted: Wanted) -> Event
    where
        F: Future<Output = Result<(i64, Vec<Node>), client::Error>>,
    {
        loop {
            let notified = self.notify.notified();
            let mut notified = std::pin::pin!(notified);
            // From here on a notice is not missed.
            notified.as_mut().enable();
            match self.hub.find(&wanted) {
                Known::Event(event) => return (*event).clone(),
                Known::Nothing => notified.await,
                Known::BeforeHistory => {
                    if let Some(node) = self.look(&read, &mut wanted).await {
                        return Event::create(node);
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

    /// Reads the token, or takes what another poll has just read. If nothing in it is wanted, what is wanted comes
    /// behind it.
    async fn look<F>(&self, read: impl Fn() -> F, wanted: &mut Wanted) -> Option<Node>
    where
        F: Future<Output = Result<(i64, Vec<Node>), client::Error>>,
    {
        let mut last = self.read.lock().await;
        let reading = match last.take() {
            Some(reading) if self.hub.is_enough(&reading) => reading,
            _ => match read().await {
                Ok((revision, registrations)) => {
                    Reading { at: Instant::now(), revision: Some(revision), registrations }
                }
                Err(error) => {
                    if self.hub.silence.is_due() {
                        tracing::warn!(%error, "the store did not answer");
                    }
                    Reading { at: Instant::now(), revision: None, registrations: Vec::new() }
                }
            },
        };
        let reading = last.insert(reading);
        let found = first_of(&reading.registrations, wanted).cloned();
        if let Some(revision) = reading.revision {
            wanted.from = wanted.from.max(revision + 1);
        }
        found
    }
}

/// The oldest of the nodes that is wanted.
fn first_of<'a>(nodes: &'a [Node], wanted: &Wanted) -> Option<&'a Node> {
    let path = wanted.member.as_ref().map(|member| wanted.token.member_path(member));
    let is_wanted =
        |node: &&Node| node.modified_index >= wanted.from && path.as_ref().is_none_or(|path| *path == node.key);
    nodes.iter().filter(is_wanted).min_by_key(|node| node.modified_index)
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
    let pace = Pace::default();
    let work = async {
        loop {
            // Returns only with an error; the watch itself hides lost connections.
            if let Err(error) = watch(&hub, &registry).await
                && pace.is_due()
            {
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
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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

    #[tokio::test(start_paused = true)]
    async fn a_token_is_read_once_for_all_its_polls() {
        const POLLS: usize = 50;
        let (hub, reads) = (Arc::new(Hub::new()), Arc::new(AtomicUsize::new(0)));
        let is_away = Arc::new(AtomicBool::new(true));
        let polls: Vec<_> = (0..POLLS)
            .map(|n| {
                let waiter = hub.enter(&token('a')).unwrap();
                let (reads, is_away) = (Arc::clone(&reads), Arc::clone(&is_away));
                tokio::spawn(async move {
                    // They come one after the other, as members do.
                    tokio::time::sleep(Duration::from_millis(17 * n as u64)).await;
                    let read = async || {
                        reads.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        if is_away.load(Ordering::Relaxed) {
                            Err(client::Error::NoEndpoints)
                        } else {
                            Ok((8, Vec::new()))
                        }
                    };
                    waiter.wait_with(read, Wanted { token: token('a'), member: None, from: 1 }).await
                })
            })
            .collect();
        tokio::time::sleep(10 * RETRY_PAUSE).await;
        let failed = reads.swap(0, Ordering::Relaxed);
        assert!((5..=11).contains(&failed), "{failed} reads of a store that is away");
        is_away.store(false, Ordering::Relaxed);
        hub.reset(8);
        hub.publish(&registered(&token('a'), "m", 9));
        for poll in polls {
            let poll = tokio::time::timeout(10 * RETRY_PAUSE, poll).await.expect("the event is there");
            assert_eq!(poll.unwrap().node.modified_index, 9);
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1);
    }
}

//! Simple tokens: 16 random letters, a dot, and the index of the log entry of the login, as etcd's.
//!
//! Every member learns of a login when it applies it, so a token is good on all of them. The log and the memory have
//! only its SHA-256: who reads them can log in nowhere. A token comes to its end when it is not used for a while, when
//! its user is deleted or gets another password, when authentication is disabled, and when the member restarts.

use crate::steady_clock::SteadyClock;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::Rng;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Tokens kept. Beyond it, whoever has most loses the one that was not used for longest: it logs in again.
const TOKENS_MAX: usize = 100_000;

/// Letters before the dot. etcd's number.
const LETTERS: usize = 16;

type Sum = [u8; 32];

/// A new token without its index.
pub(crate) fn prefix() -> String {
    const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut random = rand::rng();
    (0..LETTERS).map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())])).collect()
}

/// What a token is known by.
pub(crate) fn sum(prefix: &str) -> Bytes {
    Bytes::copy_from_slice(&Sha256::digest(prefix))
}

/// The index in a token; none for what has not the form of one.
pub(crate) fn index(token: &str) -> Option<u64> {
    let (prefix, index) = token.split_once('.')?;
    if prefix.is_empty() || index.contains('.') { None } else { index.parse().ok() }
}

/// The tokens that are good.
pub(crate) struct SimpleTokens {
    clock: SteadyClock,
    ttl: Duration,
    max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tokens: HashMap<Sum, Token>,
    /// How many each user has.
    users: HashMap<String, usize>,
}

struct Token {
    user: String,
    index: u64,
    ends: Instant,
}

impl SimpleTokens {
    pub(crate) fn new(clock: SteadyClock, ttl: Duration) -> Self {
        Self { clock, ttl, max: TOKENS_MAX, state: Mutex::default() }
    }

    /// Takes a token that was given out.
    pub(crate) fn add(&self, user: &str, token_sum: &[u8], index: u64) {
        // Only a member makes them, so another length is no token.
        let Ok(sum) = Sum::try_from(token_sum) else { return };
        let now = self.clock.now();
        let mut state = self.state.lock();
        if state.tokens.len() >= self.max {
            state.make_room(now);
        }
        let token = Token { user: user.to_owned(), index, ends: now + self.ttl };
        // The same letters twice are the later login's.
        if let Some(old) = state.tokens.insert(sum, token) {
            state.discount(&old.user);
        }
        *state.users.entry(user.to_owned()).or_default() += 1;
    }

    /// Whose a token is; it lives on from now.
    pub(crate) fn user(&self, token: &str) -> Option<String> {
        let (prefix, _) = token.split_once('.')?;
        let sum: Sum = Sha256::digest(prefix).into();
        let now = self.clock.now();
        let mut state = self.state.lock();
        let found = state.tokens.get_mut(&sum).filter(|found| index(token) == Some(found.index))?;
        if found.ends <= now {
            state.remove(&sum);
            return None;
        }
        found.ends = now + self.ttl;
        Some(found.user.clone())
    }

    /// Forgets the tokens of a user.
    pub(crate) fn revoke(&self, user: &str) {
        let mut state = self.state.lock();
        if state.users.remove(user).is_some() {
            state.tokens.retain(|_, token| token.user != user);
        }
    }

    /// Forgets all tokens.
    pub(crate) fn clear(&self) {
        *self.state.lock() = State::default();
    }
}

impl State {
    fn remove(&mut self, sum: &Sum) {
        if let Some(token) = self.tokens.remove(sum) {
            self.discount(&token.user);
        }
    }

    fn discount(&mut self, user: &str) {
        if let Some(count) = self.users.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                self.users.remove(user);
            }
        }
    }

    /// Forgets what has ended, or else the oldest token of whoever has most.
    fn make_room(&mut self, now: Instant) {
        let before = self.tokens.len();
        let ended: Vec<Sum> = self.tokens.iter().filter(|(_, t)| t.ends <= now).map(|(sum, _)| *sum).collect();
        for sum in &ended {
            self.remove(sum);
        }
        if self.tokens.len() < before {
            return;
        }
        let Some(most) = self.users.iter().max_by_key(|(_, count)| **count).map(|(user, _)| user.clone()) else {
            return;
        };
        // A sixteenth of them at once: to look for the oldest takes a walk through all.
        let mut own: Vec<(Instant, Sum)> =
            self.tokens.iter().filter(|(_, t)| t.user == most).map(|(sum, t)| (t.ends, *sum)).collect();
        own.sort_unstable();
        for (_, sum) in own.iter().take(own.len() / 16 + 1) {
            self.remove(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(max: usize) -> SimpleTokens {
        SimpleTokens { max, ..SimpleTokens::new(SteadyClock::default(), Duration::from_mins(5)) }
    }

    #[test]
    fn tokens_have_etcds_form() {
        let token = format!("{}.17", prefix());
        assert_eq!(token.len(), 19);
        assert!(token[..16].chars().all(|c| c.is_ascii_alphabetic()));
        assert_eq!(index(&token), Some(17));
        for bad in ["", "a", "a.", "a.b", "a.1.2", ".1", "a.-1", "a.99999999999999999999999"] {
            assert_eq!(index(bad), None, "{bad}");
        }
        assert_ne!(prefix(), prefix());
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_lives_while_it_is_used() {
        let tokens = tokens(10);
        tokens.add("ann", &sum("abc"), 7);
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(299)).await;
            assert_eq!(tokens.user("abc.7").as_deref(), Some("ann"));
        }
        assert_eq!(tokens.user("abc.8"), None, "another index");
        assert_eq!(tokens.user("abd.7"), None);
        tokio::time::advance(Duration::from_mins(5)).await;
        assert_eq!(tokens.user("abc.7"), None);
        assert!(tokens.state.lock().users.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_end_with_their_user() {
        let tokens = tokens(10);
        tokens.add("ann", &sum("a"), 1);
        tokens.add("bob", &sum("b"), 2);
        tokens.revoke("ann");
        assert_eq!((tokens.user("a.1"), tokens.user("b.2").as_deref()), (None, Some("bob")));
        tokens.clear();
        assert_eq!(tokens.user("b.2"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_most_makes_room() {
        let tokens = tokens(20);
        tokens.add("bob", &sum("bob"), 1);
        for n in 0..100 {
            tokio::time::advance(Duration::from_secs(1)).await;
            tokens.add("ann", &sum(&format!("ann{n}")), n);
            assert!(tokens.state.lock().tokens.len() <= 20);
        }
        assert_eq!(tokens.user("bob.1").as_deref(), Some("bob"));
        assert_eq!(tokens.user("ann99.99").as_deref(), Some("ann"));
        assert_eq!(tokens.user("ann0.0"), None);
        let state = tokens.state.lock();
        assert_eq!(state.users.values().sum::<usize>(), state.tokens.len());
    }
}

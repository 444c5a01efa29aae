//! One call to whichever endpoint works, and what may be tried again.
//!
//! The rule: a write is sent once. It goes to another endpoint only after a failure that proves that no server has
//! seen it. Reads may be repeated. Both end within the request timeout.

use crate::client::{Client, Connection, Line};
use crate::error::{Error, Oversize};
use prost::Message;
use rand::Rng;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

/// More rounds over all endpoints than this help nobody, however long the request timeout is.
const MAX_ROUNDS: usize = 16;

/// Tokens that one call uses up. A fresh one is refused only when users and roles change all the time.
const TOKENS_PER_CALL: usize = 3;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// What asking twice does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: it may be repeated.
    Read,
    /// Possibly something else than asking once.
    Write,
}

/// What a failed attempt says of the next one.
pub(crate) trait Failure {
    /// Another endpoint, or a later attempt, may do better.
    fn may_pass(&self) -> bool;
    /// No server saw the request.
    fn is_unseen(&self) -> bool;
    /// The attempt ran out of time.
    fn is_timeout(&self) -> bool;
}

/// The attempts of one call: their times, and which of them may follow.
pub(crate) struct Attempts<E> {
    effect: Effect,
    deadline: Instant,
    made: usize,
    earlier: Option<E>,
}

impl<E: Failure> Attempts<E> {
    /// Those of a call that ends within `limit`.
    pub(crate) fn new(effect: Effect, limit: Duration) -> Self {
        Self { effect, deadline: Instant::now() + limit, made: 0, earlier: None }
    }

    /// How long the next one may take, at one of so many endpoints.
    pub(crate) fn time(&self, endpoints: usize) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.effect {
            // An endpoint that hangs must leave time for those that were not asked.
            Effect::Read => left / u32::try_from(endpoints.saturating_sub(self.made).max(1)).unwrap_or(u32::MAX),
            Effect::Write => left,
        }
    }

    /// Waits for the next one after a failure.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn after(&mut self, error: E, endpoints: usize) -> Result<(), E> {
        // A read that ran out of time while it was repeated failed for the reason that made it repeat. For a write the
        // last attempt is what matters: it may have been done.
        let error = match self.earlier.take() {
            Some(earlier) if error.is_timeout() && self.effect == Effect::Read => earlier,
            _ => error,
        };
        let is_repeatable = match self.effect {
            Effect::Read => error.may_pass(),
            Effect::Write => error.is_unseen(),
        };
        self.made += 1;
        if !is_repeatable || self.made >= MAX_ROUNDS * endpoints {
            return Err(error);
        }
        let rest = if self.made.is_multiple_of(endpoints) { pause(self.made / endpoints) } else { Duration::ZERO };
        if Instant::now() + rest >= self.deadline {
            return Err(error);
        }
        self.earlier = Some(error);
        sleep(rest).await;
        Ok(())
    }
}

impl Client {
    /// Sends a request until a server answers or nothing more may be tried.
    pub(crate) async fn call<Q, A, S, F>(&self, effect: Effect, request: Q, send: S) -> Result<A, Error>
    where
        Q: Clone + Message,
        S: Fn(Line, Q) -> F,
        F: Future<Output = Result<A, Status>>,
    {
        self.call_telling(effect, request, send).await.map(|(answer, _)| answer)
    }

    /// Like [`Client::call`], and tells who answered.
    pub(crate) async fn call_telling<Q, A, S, F>(
        &self,
        effect: Effect,
        request: Q,
        send: S,
    ) -> Result<(A, &Connection), Error>
    where
        Q: Clone + Message,
        S: Fn(Line, Q) -> F,
        F: Future<Output = Result<A, Status>>,
    {
        self.check_size(&request)?;
        let limit = self.request_timeout();
        let endpoints = self.connections().len();
        let (mut attempts, mut tokens) = (Attempts::new(effect, limit), 0);
        loop {
            let connection = self.current();
            let is_sent = AtomicBool::new(false);
            let sent = async {
                let token = self.login().sign_in(&connection.channel).await.map_err(|status| (0, status))?;
                is_sent.store(true, Ordering::Relaxed);
                let answer = send(self.line(connection), request.clone()).await;
                answer.map_err(|status| (token, status))
            };
            let error = match timeout(attempts.time(endpoints), sent).await {
                Ok(Ok(answer)) => return Ok((answer, connection)),
                Ok(Err((token, status))) => {
                    if token > 0 && tokens < TOKENS_PER_CALL && self.login().is_stale(token, status.message()) {
                        tokens += 1;
                        continue;
                    }
                    Error::of_call(effect, &connection.endpoint, &status)
                }
                Err(_) => Error::Timeout { endpoint: connection.endpoint.clone(), limit, effect },
            };
            let error = if is_sent.into_inner() { error } else { unsent(effect, &connection.endpoint, error) };
            if error.may_pass() {
                self.leave(connection.index);
            }
            attempts.after(error, endpoints).await?;
        }
    }

    /// What is too large is not sent.
    fn check_size(&self, request: &impl Message) -> Result<(), Error> {
        let (bytes, limit) = (request.encoded_len(), self.max_request_bytes());
        if bytes <= limit {
            return Ok(());
        }
        let (bytes, limit) = (bytes as u64, limit as u64);
        Err(Error::TooLarge { endpoint: self.current().endpoint.clone(), message: Oversize::Request, bytes, limit })
    }

    /// Like [`Client::call`], of a read at one endpoint only, and once.
    pub(crate) async fn call_one<A, S, F>(&self, connection: &Connection, send: S) -> Result<A, Error>
    where
        S: Fn(Line) -> F,
        F: Future<Output = Result<A, Status>>,
    {
        let limit = self.request_timeout();
        let sent = async {
            for _ in 0..TOKENS_PER_CALL {
                let token = self.login().sign_in(&connection.channel).await?;
                match send(self.line(connection)).await {
                    Err(status) if token > 0 && self.login().is_stale(token, status.message()) => {}
                    answer => return answer,
                }
            }
            send(self.line(connection)).await
        };
        match timeout(limit, sent).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(Error::of_call(Effect::Read, &connection.endpoint, &status)),
            Err(_) => Err(Error::Timeout { endpoint: connection.endpoint.clone(), limit, effect: Effect::Read }),
        }
    }
}

/// What a failed sign-in says of the call that it was for, which was never sent. A refusal is one of the call as well.
fn unsent(effect: Effect, endpoint: &str, error: Error) -> Error {
    match error {
        // The time of a read may be over for another reason, see [`Attempts::after`].
        Error::Timeout { .. } if effect == Effect::Read => error,
        Error::Timeout { limit, .. } => {
            let reason = format!("no answer to the sign-in within {limit:?}");
            Error::Unreachable { endpoint: endpoint.to_owned(), reason }
        }
        Error::Lost { reason, .. } | Error::Answered { code: Code::Unavailable, text: reason, .. } => {
            Error::Unreachable { endpoint: endpoint.to_owned(), reason: format!("the sign-in failed: {reason}") }
        }
        _ => error,
    }
}

/// The pause after a round of failures, counted from 1: twice as long each time, and shortened by chance, so that
/// clients of a server that comes back do not all ask at once.
pub(crate) fn pause(round: usize) -> Duration {
    let doublings = u32::try_from(round.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    pause_between((FIRST_PAUSE * 2_u32.pow(doublings)).min(MAX_PAUSE))
}

/// At least half of the longest pause, by chance.
pub(crate) fn pause_between(longest: Duration) -> Duration {
    longest.mul_f64(rand::rng().random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_whose_sign_in_failed_was_never_sent() {
        let (endpoint, limit) = ("a:1", Duration::from_secs(1));
        let effect = Effect::Write;
        let lost = || Error::Lost { endpoint: endpoint.to_owned(), reason: "cut".to_owned(), effect };
        let timeout = || Error::Timeout { endpoint: endpoint.to_owned(), limit, effect };
        let answered = |code| Error::Answered { endpoint: endpoint.to_owned(), code, text: "why".to_owned(), effect };
        for error in [lost(), timeout(), answered(Code::Unavailable)] {
            let error = unsent(Effect::Write, endpoint, error);
            assert!(error.is_unseen() && error.may_pass() && !error.may_be_done(), "{error}");
        }
        let refused = unsent(Effect::Write, endpoint, answered(Code::InvalidArgument));
        assert!(matches!(refused, Error::Answered { .. }) && !refused.may_pass(), "{refused}");
        assert!(unsent(Effect::Read, endpoint, timeout()).is_timeout());
    }

    #[test]
    fn pauses_grow_to_their_limit() {
        for (round, longest_ms) in [(1, 50), (2, 100), (3, 200), (5, 800), (6, 1000), (usize::MAX, 1000)] {
            let longest = Duration::from_millis(longest_ms);
            let pause = pause(round);
            assert!(pause >= longest / 2 && pause <= longest, "{round}: {pause:?}");
        }
    }
}

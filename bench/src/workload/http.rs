//! Clients of HTTP/1.1, each with a connection of its own, that make one call after the other: the v2 API's keys.

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::keys::KeySpace;
use super::{Client, ClientLoop, Traffic, Watchdog};
use crate::connection::{CallError, Endpoint};
use crate::http1::{Connection, request};

/// The type of what the v2 API is sent.
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";
/// Bytes of a form that need no escape.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Reads or writes of single keys of the v2 API.
#[derive(Clone)]
pub(crate) struct V2Keys {
    /// Which keys.
    pub(crate) keys: KeySpace,
    /// What is written, as part of a form; without it keys are read.
    pub(crate) value: Option<Bytes>,
    /// The same seed gives the same keys.
    pub(crate) seed: u64,
}

/// A value of so many bytes that a form need not escape.
pub(crate) fn form_value(size: usize, seed: u64) -> Bytes {
    super::keys::value(size, seed).iter().map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()]).collect()
}

impl V2Keys {
    fn request(&self, endpoint: &Endpoint, call: u64, random: &mut SmallRng) -> Vec<u8> {
        let key = self.keys.key(self.keys.choose(call, random));
        let path = format!("/v2/keys/{}", String::from_utf8_lossy(&key));
        match &self.value {
            Some(value) => request("PUT", endpoint, &path, FORM, &format!("value={}", String::from_utf8_lossy(value))),
            None => request("GET", endpoint, &path, FORM, ""),
        }
    }
}

impl Traffic<Connection> for V2Keys {
    fn prepare(&self, client: Client<Connection>) -> BoxFuture<'static, Result<ClientLoop, CallError>> {
        let source = self.clone();
        async move { Ok(drive(client, source).boxed()) }.boxed()
    }
}

/// The loop of one client.
async fn drive(client: Client<Connection>, source: V2Keys) {
    let Client { mut connection, endpoint, index, context } = client;
    let mut random = SmallRng::seed_from_u64(source.seed.wrapping_add(index as u64));
    let mut watchdog = Watchdog::new(context.deadline);
    while let Some((call, start)) = context.turn().await {
        let bytes = source.request(&endpoint, call, &mut random);
        let outcome = watchdog.guard(connection.call(&bytes)).await.map_err(ended);
        if !context.record(outcome, start, 1).await {
            return;
        }
    }
}

/// An answer that is late would be taken for that of the next request.
pub(crate) fn ended(error: CallError) -> CallError {
    match error {
        CallError::Deadline(_) => CallError::Lost(error.to_string()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_and_written() {
        let keys = KeySpace { prefix: Bytes::from_static(b"bench/"), key_size: 8, count: 10, is_sequential: true };
        let endpoint: Endpoint = "127.0.0.1:2379".parse().expect("an endpoint");
        let mut random = SmallRng::seed_from_u64(1);
        let mut text = |value| {
            let source = V2Keys { keys: keys.clone(), value, seed: 1 };
            String::from_utf8(source.request(&endpoint, 7, &mut random)).expect("text")
        };
        let get = text(None);
        assert!(get.starts_with("GET /v2/keys/bench/07 HTTP/1.1\r\nHost: 127.0.0.1:2379\r\n"), "{get}");
        assert!(get.ends_with("\r\n\r\n") && !get.contains("Content"), "{get}");
        let put = text(Some(form_value(5, 1)));
        let (head, body) = put.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("PUT ") && head.ends_with("Content-Length: 11"), "{put}");
        assert!(body.len() == 11 && body.starts_with("value="), "{put}");
    }

    #[test]
    fn a_late_answer_ends_the_client() {
        let late = ended(CallError::Deadline(std::time::Duration::from_secs(1)));
        assert_eq!(late, CallError::Lost("no answer within 1s".to_owned()));
    }
}

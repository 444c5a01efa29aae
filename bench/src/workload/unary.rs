//! Clients that make one call after the other: put, range and txn differ only in their [`RequestSource`].

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::{Client, ClientLoop, Context, Traffic, Watchdog};
use crate::connection::{CallError, Connection, Method};

/// A check of what a reply gives: its length or its message.
type ReplyCheck<'a, T> = Box<dyn Fn(T) -> Result<(), CallError> + Send + Sync + 'a>;

/// What a check of a reply needs.
pub(crate) enum Check<'a> {
    /// Only its length, so that the reply's bytes need not be kept.
    Length(ReplyCheck<'a, usize>),
    /// The message.
    Message(ReplyCheck<'a, Bytes>),
}

/// Makes the requests of a method and checks its replies.
pub(crate) trait RequestSource: Send + Sync {
    /// The method's path.
    fn path(&self) -> &'static str;

    /// Operations that one call counts for.
    fn operations_per_call(&self) -> u64 {
        1
    }

    /// The framed request of call `call`.
    fn request(&self, call: u64, random: &mut SmallRng) -> Bytes;

    /// How a reply is checked: with as little work as proves that it is an answer to the request.
    fn check(&self) -> Check<'_>;
}

/// Traffic of unary calls.
pub(crate) struct Unary<S> {
    /// Makes the requests.
    pub(crate) source: Arc<S>,
    /// The same seed gives the same keys.
    pub(crate) seed: u64,
}

impl<S: RequestSource + 'static> Traffic for Unary<S> {
    fn prepare(&self, client: Client) -> BoxFuture<'static, Result<ClientLoop, CallError>> {
        let source = self.source.clone();
        let random = SmallRng::seed_from_u64(self.seed.wrapping_add(client.index as u64));
        async move {
            let method = Method::new(&client.endpoint, source.path());
            Ok(drive(client.connection, method, source, random, client.context).boxed())
        }
        .boxed()
    }
}

/// The loop of one client.
async fn drive<S: RequestSource>(
    connection: Connection,
    method: Method,
    source: Arc<S>,
    mut random: SmallRng,
    context: Arc<Context>,
) {
    let check = source.check();
    let mut watchdog = Watchdog::new(context.deadline);
    while let Some((call, start)) = context.turn().await {
        let request = source.request(call, &mut random);
        let outcome = match &check {
            Check::Length(check) => watchdog.guard(connection.call_for_length(&method, request)).await.and_then(check),
            Check::Message(check) => watchdog.guard(connection.call(&method, request)).await.and_then(check),
        };
        if !context.record(outcome, start, source.operations_per_call()).await {
            return;
        }
    }
}

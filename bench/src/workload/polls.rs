//! Long polls, all of which one write ends: how long it takes until the last of them has its answer.
//!
//! A round: every poll is sent; for a while nothing happens, so that all of them wait; then comes the write. What counts
//! is the time from its start. The same connections poll again in the next round, which begins when all have been answered:
//! new polls are no part of what is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::http::{FORM, ended};
use super::{Client, ClientLoop, Context, Group, Load, Traffic, Watchdog};
use crate::connection::{CallError, Endpoint};
use crate::http1::{Connection, request};

/// In the body of a write, a number that no write had before, of other runs neither: so that it changes something.
const NUMBER: &str = "{n}";

/// The key that is polled for.
const V2_KEY: &str = "/v2/keys/bench/polls";

/// The polls and the write that ends them.
#[derive(Clone, Debug)]
pub(crate) struct PollPlan {
    /// How many.
    pub(crate) polls: usize,
    /// What they get, such as `/v2/keys/a?wait=true`.
    pub(crate) path: String,
    /// How long all polls wait before the write.
    pub(crate) settle: Duration,
    /// The write.
    pub(crate) write: Write,
}

impl PollPlan {
    /// Polls for one key of the v2 API.
    pub(crate) fn v2(polls: usize) -> Self {
        let (path, write_path) = (format!("{V2_KEY}?wait=true"), V2_KEY.to_owned());
        let write =
            Write { endpoint: None, path: write_path, content_type: FORM.to_owned(), body: format!("value={NUMBER}") };
        Self { polls, path, settle: Duration::from_secs(1), write }
    }
}

/// A request that ends the polls.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// Where it goes, if not where the polls go.
    pub(crate) endpoint: Option<Endpoint>,
    pub(crate) path: String,
    pub(crate) content_type: String,
    /// With a number that is new for each `{n}`.
    pub(crate) body: String,
}

/// What the polls and the writer know of each other.
struct Rounds {
    plan: PollPlan,
    /// The number of the round, from 1.
    round: watch::Sender<u64>,
    /// Polls that were sent and answered, in all rounds together.
    sent: AtomicU64,
    answered: AtomicU64,
    /// When the write of the latest round began.
    begin: Mutex<Instant>,
    /// A count has reached its next multiple.
    reached: Notify,
}

impl Rounds {
    /// Counts one more, and tells the writer when these were all.
    fn count(&self, of: &AtomicU64) {
        let count = of.fetch_add(1, Ordering::AcqRel) + 1;
        if count.is_multiple_of(self.plan.polls as u64) {
            self.reached.notify_one();
        }
    }

    /// Waits until all polls of `round`, from 1, are counted.
    async fn all(&self, of: &AtomicU64, round: u64) {
        while of.load(Ordering::Acquire) < round * self.plan.polls as u64 {
            self.reached.notified().await;
        }
    }
}

/// The two groups: rounds, whose latency is that of the last answer, and the polls, which are what is counted.
pub(crate) fn groups(name: &str, plan: PollPlan) -> Vec<Group> {
    let polls = plan.polls;
    let rounds = Arc::new(Rounds {
        plan,
        round: watch::Sender::new(0),
        sent: AtomicU64::new(0),
        answered: AtomicU64::new(0),
        begin: Mutex::new(Instant::now()),
        reached: Notify::new(),
    });
    let group = |name: String, unit, clients, is_counted, traffic: Arc<dyn Traffic<Connection>>| Group {
        name,
        unit,
        connections: clients,
        clients,
        rate: None,
        is_counted,
        traffic: Load::Http(traffic),
    };
    vec![
        group(format!("{name}: last answer"), "round", 1, false, Arc::new(Writer(Arc::clone(&rounds)))),
        group(format!("{name}: answers"), "answer", polls, true, Arc::new(Pollers(rounds))),
    ]
}

struct Pollers(Arc<Rounds>);

impl Traffic<Connection> for Pollers {
    fn prepare(&self, client: Client<Connection>) -> BoxFuture<'static, Result<ClientLoop, CallError>> {
        let rounds = Arc::clone(&self.0);
        async move { Ok(poll(client, rounds).boxed()) }.boxed()
    }

    fn is_passive(&self) -> bool {
        true
    }
}

/// The loop of one client that polls.
async fn poll(client: Client<Connection>, rounds: Arc<Rounds>) {
    let Client { mut connection, endpoint, context, .. } = client;
    let get = request("GET", &endpoint, &rounds.plan.path, "", "");
    let mut round = rounds.round.subscribe();
    for number in 1.. {
        if round.wait_for(|round| *round >= number).await.is_err() {
            return;
        }
        let sent = connection.send(&get).await;
        rounds.count(&rounds.sent);
        let outcome = match sent {
            Ok(()) => connection.answer().await,
            lost => lost,
        };
        let begin = *rounds.begin.lock();
        if !context.record(outcome, begin, 1).await {
            return;
        }
        rounds.count(&rounds.answered);
    }
}

struct Writer(Arc<Rounds>);

impl Traffic<Connection> for Writer {
    fn prepare(&self, client: Client<Connection>) -> BoxFuture<'static, Result<ClientLoop, CallError>> {
        let rounds = Arc::clone(&self.0);
        async move {
            let Client { connection, endpoint, context, .. } = client;
            let own = rounds.plan.write.endpoint.clone();
            let (connection, endpoint) = match own {
                Some(own) => (Connection::open(&own).await?, own),
                None => (connection, endpoint),
            };
            Ok(write(connection, endpoint, context, rounds).boxed())
        }
        .boxed()
    }
}

/// The loop of the client that writes.
async fn write(mut connection: Connection, endpoint: Endpoint, context: Arc<Context>, rounds: Arc<Rounds>) {
    let Write { path, content_type, body, .. } = &rounds.plan.write;
    let mut watchdog = Watchdog::new(context.deadline);
    let first = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    while let Some((number, _)) = context.turn().await {
        let round = number + 1;
        rounds.round.send_replace(round);
        let ready = watchdog.guard(rounds.all(&rounds.sent, round).map(Ok)).await;
        if ready.is_ok() && context.unless_over(tokio::time::sleep(rounds.plan.settle)).await.is_none() {
            return;
        }
        let body = body.replace(NUMBER, &(first + u128::from(round)).to_string());
        let bytes = request("PUT", &endpoint, path, content_type, &body);
        let start = Instant::now();
        *rounds.begin.lock() = start;
        let answered = rounds.answered.load(Ordering::Acquire);
        let outcome = match ready {
            Ok(()) if answered > number * rounds.plan.polls as u64 => {
                Err(CallError::Lost("a poll was answered before the write".to_owned()))
            }
            Ok(()) => watchdog.guard(connection.call(&bytes)).await,
            late => late,
        };
        let outcome = match outcome {
            Ok(()) => watchdog.guard(rounds.all(&rounds.answered, round).map(Ok)).await,
            failed => failed,
        };
        if !context.record(outcome.map_err(ended), start, 1).await {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::{Length, Run, run};
    use indicatif::ProgressBar;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::broadcast;

    /// Answers a GET when a PUT has come, but not the first.
    async fn serve(mut socket: TcpStream, writes: broadcast::Sender<()>) {
        let mut written = writes.subscribe();
        let mut bytes = [0; 1024];
        while let Ok(length @ 1..) = socket.read(&mut bytes).await {
            if bytes.starts_with(b"PUT") {
                let text = String::from_utf8_lossy(&bytes[..length]);
                let number = text.rsplit_once("value=n").map(|(_, number)| number.parse::<u128>());
                assert!(matches!(number, Some(Ok(1..))), "{text}");
                writes.send(()).expect("polls");
            } else {
                written.recv().await.expect("a write");
            }
            socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("a client");
        }
    }

    #[tokio::test]
    async fn rounds_end_with_the_last_answer() {
        const POLLS: usize = 20;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint: Endpoint = listener.local_addr().expect("bound").to_string().parse().expect("an endpoint");
        let (writes, _) = broadcast::channel(4);
        let server = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, writes.clone()));
            }
        });
        let plan = PollPlan {
            polls: POLLS,
            path: "/?wait=true".to_owned(),
            settle: Duration::from_millis(100),
            write: Write {
                endpoint: None,
                path: "/".to_owned(),
                content_type: String::new(),
                body: "value=n{n}".to_owned(),
            },
        };
        let run = Run {
            endpoints: vec![endpoint],
            threads: 2,
            deadline: Duration::from_secs(20),
            server_pids: Vec::new(),
            length: Length::Total(2),
            groups: groups("polls", plan),
        };
        let outcome = run::execute(run, &ProgressBar::hidden()).await.expect("a run");
        server.abort();
        let [rounds, answers] = &outcome.groups[..] else { panic!("two groups") };
        assert_eq!((rounds.summary.operations, rounds.summary.errors), (2, 0), "{:?}", rounds.summary.first_error);
        assert_eq!((answers.summary.operations, answers.summary.errors), (2 * POLLS as u64, 0));
        assert!(answers.summary.max_us <= rounds.summary.max_us + 1_000.0);
        assert_eq!(outcome.counted_operations(), 2 * POLLS as u64);
    }
}

//! The workload of a leader that ends: how long nobody acknowledges a put.
//!
//! ```text
//! puts through the others   a a a a a a . . . . . . . . . . . a a a a a
//! leader                  serves       | signal   | process has ended
//! outage                               <--------------------->
//! ```
//! Puts are sent at a steady pace whether earlier ones are answered or not, because those that the leader took with it
//! are answered late or never. The outage is the longest time between two acknowledgements from the signal until a put
//! that was sent after the process had ended is acknowledged: a leader that hands over before it ends has none.

use std::pin::pin;
use std::time::Duration;

use anyhow::bail;
use api::etcdserverpb::PutRequest;
use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt as _};
use indicatif::ProgressBar;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::cluster::Cluster;
use super::plan::Metric;
use super::report::Spread;
use super::servers::Ending;
use super::session::{Figures, VALUE_BYTES, keys};
use crate::args::CompareArgs;
use crate::connection::{CallError, Connection, Endpoint, Method, frame};
use crate::workload::keys::value;

/// Between two puts to one endpoint: the resolution of outages.
const PUT_INTERVAL: Duration = Duration::from_millis(5);
/// Puts to one endpoint that may wait for their answer; more than this many are not sent before older ones end.
const MAX_WAITING: usize = 4_096;
/// Answers that are not looked at yet; when there are more, the puts wait.
const ANSWERS: usize = 1_024;
/// Keys that are put.
const KEYS: u64 = 1_000;
/// Acknowledgements before a leader is ended: connections are warm, members are in step.
const WARM_PUTS: u64 = 100;

/// Ends as many leaders as `args` say, one after the other, and starts each again.
pub(super) async fn measure(
    args: &CompareArgs,
    cluster: &mut Cluster,
    ending: Ending,
    progress: &ProgressBar,
) -> anyhow::Result<Figures> {
    let election_timeout = Duration::from_millis(args.election_timeout);
    let mut outages = Vec::new();
    for number in 1..=args.failovers {
        progress.set_message(format!("leader {number} of {}", args.failovers));
        let (leader, _) = cluster.leader().await?;
        let outage = outage(args, cluster, leader, ending).await?;
        outages.push(outage.div_duration_f64(election_timeout));
        cluster.member(leader).respawn()?;
        cluster.await_reads().await?;
    }
    let longest = Spread::of(outages.clone()).map(|spread| (Metric::OutageMax, spread.max));
    Ok(outages.into_iter().map(|outage| (Metric::Outage, outage)).chain(longest).collect())
}

/// Ends the member `leader` under load.
async fn outage(args: &CompareArgs, cluster: &mut Cluster, leader: usize, ending: Ending) -> anyhow::Result<Duration> {
    let endpoints: Vec<Endpoint> = cluster.others(leader).iter().map(|member| member.endpoint().clone()).collect();
    let limit = Duration::from_secs_f64(args.start_timeout);
    let mut load = Load::start(&endpoints, args).await?;
    load.warm(Instant::now() + limit).await?;
    let mut gaps = Gaps::new(Instant::now());
    let deadline = Instant::now() + limit;
    let mut ended = pin!(cluster.member(leader).end(ending));
    loop {
        tokio::select! {
            status = &mut ended, if gaps.end.is_none() => {
                status?;
                gaps.end = Some(Instant::now());
            }
            acknowledged = load.next(deadline) => {
                if let Some(outage) = gaps.add(&acknowledged?) {
                    return Ok(outage);
                }
            }
        }
    }
}

/// A put that was answered.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    sent: Instant,
    at: Instant,
}

/// The time without acknowledgements.
struct Gaps {
    /// When the signal was sent.
    begin: Instant,
    /// When the process had ended.
    end: Option<Instant>,
    last: Instant,
    longest: Duration,
}

impl Gaps {
    fn new(begin: Instant) -> Self {
        Self { begin, end: None, last: begin, longest: Duration::ZERO }
    }

    /// Adds an acknowledgement; returns the longest gap when it shows that the outage is over.
    fn add(&mut self, put: &Acknowledged) -> Option<Duration> {
        if put.at < self.begin {
            return None;
        }
        self.longest = self.longest.max(put.at.saturating_duration_since(self.last));
        self.last = self.last.max(put.at);
        self.end.is_some_and(|end| put.sent > end).then_some(self.longest)
    }
}

/// Puts at a steady pace; dropping it ends them.
struct Load {
    answers: mpsc::Receiver<Result<Acknowledged, CallError>>,
    last_error: Option<CallError>,
    // Dropped with the rest: aborts the tasks.
    _clients: JoinSet<()>,
}

impl Load {
    async fn start(endpoints: &[Endpoint], args: &CompareArgs) -> Result<Self, CallError> {
        let (sender, answers) = mpsc::channel(ANSWERS);
        let mut clients = JoinSet::new();
        for endpoint in endpoints {
            let client = Client {
                connection: Connection::open(endpoint).await?,
                method: Method::new(endpoint, "/etcdserverpb.KV/Put"),
                value: value(VALUE_BYTES, args.seed),
                deadline: Duration::from_secs_f64(args.deadline),
            };
            clients.spawn(client.put_steadily(sender.clone()));
        }
        Ok(Self { answers, last_error: None, _clients: clients })
    }

    /// Waits until the load is served.
    async fn warm(&mut self, deadline: Instant) -> anyhow::Result<()> {
        for _ in 0..WARM_PUTS {
            self.next(deadline).await?;
        }
        Ok(())
    }

    /// The next acknowledgement; failed puts are part of the outage, and the next ones follow them.
    async fn next(&mut self, deadline: Instant) -> anyhow::Result<Acknowledged> {
        loop {
            match tokio::time::timeout_at(deadline, self.answers.recv()).await {
                Ok(Some(Ok(acknowledged))) => return Ok(acknowledged),
                Ok(Some(Err(error))) => self.last_error = Some(error),
                Ok(None) => bail!("the clients that put have ended"),
                Err(_) => match &self.last_error {
                    Some(error) => bail!("no put was acknowledged any more (see --start-timeout): {error}"),
                    None => bail!("no put was acknowledged any more (see --start-timeout)"),
                },
            }
        }
    }
}

/// One connection that puts.
struct Client {
    connection: Connection,
    method: Method,
    value: Bytes,
    deadline: Duration,
}

impl Client {
    async fn put_steadily(self, answers: mpsc::Sender<Result<Acknowledged, CallError>>) {
        let mut due = tokio::time::interval(PUT_INTERVAL);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = FuturesUnordered::new();
        let keys = keys(KEYS);
        let mut number = 0;
        loop {
            tokio::select! {
                _ = due.tick(), if waiting.len() < MAX_WAITING => {
                    waiting.push(self.put(keys.key(number % KEYS)));
                    number += 1;
                }
                Some(answer) = waiting.next() => {
                    if answers.send(answer).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn put(&self, key: Bytes) -> Result<Acknowledged, CallError> {
        let request = PutRequest { key, value: self.value.clone(), ..Default::default() };
        let sent = Instant::now();
        let call = self.connection.call_for_length(&self.method, frame(&request));
        tokio::time::timeout(self.deadline, call).await.map_err(|_| CallError::Deadline(self.deadline))??;
        Ok(Acknowledged { sent, at: Instant::now() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_the_longest_gap_until_the_others_serve() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let mut gaps = Gaps::new(at(100));
        assert_eq!(gaps.add(&Acknowledged { sent: at(80), at: at(90) }), None, "before the signal");
        assert_eq!(gaps.add(&Acknowledged { sent: at(99), at: at(110) }), None);
        gaps.end = Some(at(120));
        assert_eq!(gaps.add(&Acknowledged { sent: at(115), at: at(400) }), None, "sent before the process had ended");
        let over = gaps.add(&Acknowledged { sent: at(390), at: at(500) });
        assert_eq!(over, Some(Duration::from_millis(290)));
    }
}

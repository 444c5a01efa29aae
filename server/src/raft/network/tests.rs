//! A member that takes requests and does not answer them.

use super::*;
use crate::raft::double::Double;
use crate::raft::types::log_id;
use futures::future::pending;
use std::collections::BTreeMap;

struct Only(Arc<dyn PeerApi>);

impl Transport for Only {
    fn peer(&self, _: u64) -> Option<Arc<dyn PeerApi>> {
        Some(Arc::clone(&self.0))
    }

    fn set_members(&self, _: &BTreeMap<u64, Vec<String>>) {}
}

/// Answers the first so many of a stream's requests, each after a while, and takes the rest.
fn answers(count: usize, after: Duration) -> Target {
    let on_append = move |requests: BoxStream<'static, AppendRequest>| {
        let answers = requests.enumerate().then(move |(number, _)| async move {
            if number >= count {
                pending::<()>().await;
            }
            tokio::time::sleep(after).await;
            Ok(wire::to_appended(&Ok(Some(log_id(1, number as u64)))))
        });
        answers.boxed()
    };
    let peer = Double { on_append: Some(Box::new(on_append)), ..Double::default() };
    let transport = Arc::new(Only(Arc::new(peer)));
    let (traffic, catch_ups) = (PeersTraffic::detached(1), CatchUps::default());
    Target { transport, traffic, catch_ups, majority: Majority::default(), id: 2, conversation: None }
}

fn request(index: u64) -> AppendEntriesRequest<TypeConfig> {
    let vote = Vote::new_committed(1, 1);
    AppendEntriesRequest { vote, prev_log_id: Some(log_id(1, index)), entries: Vec::new(), leader_commit: None }
}

fn option() -> RPCOption {
    RPCOption::new(Duration::from_secs(1))
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_requests_are_not_answered_ends() {
    let slow = UNANSWERED_MAX * 2 / 3;
    let mut target = answers(3, slow);
    // The stream is there for longer than an answer may take before anything is asked.
    let idle = stream::once(Box::pin(async {
        tokio::time::sleep(UNANSWERED_MAX * 3).await;
        request(0)
    }));
    let rest = stream::unfold(1, |index| Box::pin(async move { Some((request(index), index + 1)) }));
    let begun = Instant::now();
    let mut results = target.stream_append(idle.chain(rest), option()).await.unwrap();
    for number in 1..=3 {
        let result = results.next().await.unwrap();
        assert!(matches!(result, Ok(Ok(_))), "{number}: {result:?}");
    }
    let last = tokio::time::timeout(UNANSWERED_MAX * 2, results.next()).await.unwrap().unwrap();
    assert!(matches!(&last, Err(RPCError::Network(error)) if error.to_string().contains("not answered")), "{last:?}");
    let took = begun.elapsed();
    assert_eq!(took.as_secs(), (UNANSWERED_MAX * 3 + slow * 3 + UNANSWERED_MAX).as_secs());
    assert!(results.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_is_not_answered_ends() {
    let mut target = answers(0, Duration::ZERO);
    let begun = Instant::now();
    let asked = tokio::time::timeout(UNANSWERED_MAX * 2, target.append_entries(request(0), option())).await.unwrap();
    assert!(matches!(&asked, Err(RPCError::Network(_))), "{asked:?}");
    assert_eq!(begun.elapsed().as_secs(), UNANSWERED_MAX.as_secs());
}

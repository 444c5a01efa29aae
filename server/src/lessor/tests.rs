//! The clock on tokio's paused time, with a list in place of the log.

use super::*;
use std::sync::Arc;
use store::Reply;

const ELECTION: Duration = Duration::from_secs(1);

/// Answers proposals: applies revocations and checkpoints to the lessor, or fails.
const TERM: u64 = 7;

#[derive(Default)]
struct Log {
    revoked: Mutex<Vec<(i64, Instant)>>,
    checkpoints: Mutex<Vec<LeaseCheckpoint>>,
    failures_left: Mutex<u32>,
    /// The next revocation is followed by a grant of the same id for so long, and then answered so.
    granted_again: Mutex<Option<(i64, Result<Reply, Error>)>>,
}

fn proposer(log: &Arc<Log>, lessor: &Arc<Lessor>) -> Propose {
    let (log, lessor) = (Arc::clone(log), Arc::clone(lessor));
    Box::new(move |op, term| {
        assert_eq!(term, TERM);
        let (log, lessor) = (Arc::clone(&log), Arc::clone(&lessor));
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if *log.failures_left.lock() > 0 {
                *log.failures_left.lock() -= 1;
                return Err(Error::Timeout);
            }
            match op {
                Op::LeaseRevoke(request) => {
                    lessor.observe(&[Notice::LeaseRevoked { id: request.id }]);
                    log.revoked.lock().push((request.id, Instant::now()));
                    if let Some((ttl, result)) = log.granted_again.lock().take() {
                        lessor.observe(&[Notice::LeaseGranted { id: request.id, ttl }]);
                        return Ok(Outcome { revision: 1, result });
                    }
                }
                Op::LeaseCheckpoint(request) => {
                    for LeaseCheckpoint { id, remaining_ttl } in request.checkpoints {
                        lessor.observe(&[Notice::LeaseCheckpointed { id, remaining_ttl }]);
                        log.checkpoints.lock().push(LeaseCheckpoint { id, remaining_ttl });
                    }
                }
                other => panic!("unexpected {other:?}"),
            }
            Ok(Outcome { revision: 1, result: Ok(Reply::LeaseRevoke) })
        })
    })
}

struct Running {
    lessor: Arc<Lessor>,
    log: Arc<Log>,
    propose: Propose,
    stop: CancellationToken,
    clock: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(leases: &[(i64, i64, i64)]) -> Self {
        let (lessor, log, stop) =
            (Arc::new(Lessor::new(ELECTION, SteadyClock::default())), Arc::<Log>::default(), CancellationToken::new());
        let leases: Vec<_> = leases
            .iter()
            .map(|(id, ttl, remaining_ttl)| (*id, Lease { ttl: *ttl, remaining_ttl: *remaining_ttl }))
            .collect();
        lessor.promote(TERM, || leases);
        let (task, propose, token) = (Arc::clone(&lessor), proposer(&log, &lessor), stop.clone());
        let clock = tokio::spawn(async move { task.run(propose, token).await });
        let propose = proposer(&log, &lessor);
        Self { lessor, log, propose, stop, clock }
    }

    fn grant(&self, id: i64, ttl: i64) {
        self.lessor.observe(&[Notice::LeaseGranted { id, ttl }]);
    }

    fn revoked(&self) -> Vec<i64> {
        self.log.revoked.lock().iter().map(|(id, _)| *id).collect()
    }

    async fn end(self) {
        self.stop.cancel();
        self.clock.await.unwrap();
    }
}

async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn leases_expire_in_time_and_in_order() {
    let running = Running::start(&[]);
    running.grant(1, 5);
    running.grant(2, 3);
    running.grant(3, 10);
    assert_eq!(running.lessor.by_expiry().unwrap(), [2, 1, 3]);
    pass(2.9).await;
    assert!(running.revoked().is_empty());
    assert_eq!(running.lessor.remaining(1, TERM), Ok(Some((5, 2))));
    pass(0.2).await;
    assert_eq!(running.revoked(), [2]);
    assert_eq!(running.lessor.remaining(2, TERM), Ok(None));
    pass(3.0).await;
    assert_eq!(running.revoked(), [2, 1]);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn keepalives_push_the_expiry_forward() {
    let running = Running::start(&[]);
    running.grant(1, 5);
    for _ in 0..10 {
        pass(4.0).await;
        assert_eq!(running.lessor.renew(1, TERM, &running.propose).await, Ok(5));
    }
    assert_eq!(running.lessor.renew(9, TERM, &running.propose).await, Err(Error::LeaseNotFound));
    pass(5.1).await;
    assert_eq!(running.revoked(), [1]);
    running.lessor.demote();
    assert_eq!(running.lessor.renew(1, TERM, &running.propose).await, Err(Error::NotLeader));
    assert_eq!(running.lessor.by_expiry(), None);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_keepalive_waits_for_the_revocation_under_way() {
    let running = Running::start(&[]);
    *running.log.failures_left.lock() = 2;
    running.grant(1, 2);
    pass(2.5).await;
    assert!(running.revoked().is_empty());
    let asked = Instant::now();
    assert_eq!(running.lessor.renew(1, TERM, &running.propose).await, Err(Error::LeaseNotFound));
    // Two failures, each tried again after three seconds.
    assert!((5.0..6.0).contains(&asked.elapsed().as_secs_f64()), "{:?}", asked.elapsed());
    running.end().await;
}

/// The store has forgotten the lease, and somebody grants it again before the clock hears of that.
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_granted_again_meanwhile_lives_and_ends() {
    for answer in [Ok(Reply::LeaseRevoke), Err(Error::LeaseNotFound)] {
        let running = Running::start(&[]);
        *running.log.granted_again.lock() = Some((5, answer));
        running.grant(1, 2);
        pass(2.5).await;
        assert_eq!(running.revoked(), [1]);
        assert_eq!(running.lessor.renew(1, TERM, &running.propose).await, Ok(5));
        pass(4.9).await;
        assert_eq!(running.revoked(), [1]);
        pass(0.2).await;
        assert_eq!(running.revoked(), [1, 1], "it ends when its time is over");
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_extends_to_the_full_or_checkpointed_time() {
    let running = Running::start(&[(1, 10, 0), (2, 1000, 5)]);
    assert_eq!(running.lessor.by_expiry().unwrap(), [2, 1]);
    pass(5.9).await;
    assert!(running.revoked().is_empty());
    pass(0.2).await;
    assert_eq!(running.revoked(), [2]);
    pass(5.0).await;
    assert_eq!(running.revoked(), [2, 1]);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn long_leases_are_checkpointed_and_a_keepalive_undoes_it() {
    let running = Running::start(&[]);
    running.grant(1, 3600);
    running.grant(2, 100);
    pass(301.0).await;
    assert_eq!(*running.log.checkpoints.lock(), [LeaseCheckpoint { id: 1, remaining_ttl: 3300 }]);
    assert_eq!(running.lessor.renew(1, TERM, &running.propose).await, Ok(3600));
    assert_eq!(running.log.checkpoints.lock()[1], LeaseCheckpoint { id: 1, remaining_ttl: 0 });
    assert_eq!(running.lessor.renew(1, TERM, &running.propose).await, Ok(3600));
    assert_eq!(running.log.checkpoints.lock().len(), 2);
    running.end().await;
}

/// A new leader would start from the checkpoint, so whoever is told the full time must have undone it.
#[tokio::test(start_paused = true)]
async fn a_keepalive_waits_for_the_checkpoint_under_way() {
    // A checkpoint whose answer is lost may be applied nonetheless.
    for fails in [0, 1] {
        let running = Running::start(&[]);
        running.grant(1, 310);
        *running.log.failures_left.lock() = fails;
        // It is proposed now, and takes a millisecond.
        pass(300.0).await;
        tokio::task::yield_now().await;
        assert!(running.log.checkpoints.lock().is_empty(), "it is under way");
        assert_eq!(running.lessor.renew(1, TERM, &running.propose).await, Ok(310));
        let last = running.log.checkpoints.lock().last().copied();
        assert_eq!(last, Some(LeaseCheckpoint { id: 1, remaining_ttl: 0 }), "{fails} failures");
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn mass_expiry_is_bounded_in_rate() {
    let running = Running::start(&[]);
    let notices: Vec<_> = (1..=5000).map(|id| Notice::LeaseGranted { id, ttl: 2 }).collect();
    running.lessor.observe(&notices);
    let begun = Instant::now();
    pass(12.0).await;
    let mut times: Vec<f64> = running.log.revoked.lock().iter().map(|(_, at)| (*at - begun).as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    assert_eq!(times.len(), 5000);
    let in_a_second = times.windows(1200).map(|window| window[1199] - window[0]).fold(f64::MAX, f64::min);
    assert!(in_a_second > 0.99, "{in_a_second}");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_promotion_spreads_what_would_expire_at_once() {
    let leases: Vec<_> = (1..=3000).map(|id| (id, 10, 0)).collect();
    let running = Running::start(&leases);
    pass(11.95).await;
    assert_eq!(running.revoked().len(), SMOOTH_PER_SECOND);
    pass(3.0).await;
    assert_eq!(running.revoked().len(), 3000);
    running.end().await;
}

#[test]
fn minimum_ttl_is_one_and_a_half_elections() {
    for (millis, expected) in [(1000, 2), (5000, 8), (100, 1)] {
        assert_eq!(Lessor::new(Duration::from_millis(millis), SteadyClock::default()).minimum_ttl(), expected);
    }
}

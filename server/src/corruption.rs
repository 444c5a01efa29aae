//! Whether all members hold the same data: they compare hashes of their history at a start, now and then, and after
//! compactions.
//!
//! Members that have applied the same log up to a revision, and the same compactions, have the same hash of it
//! ([`store::Reader::hash_kv`]). If one has another, its database is not what the log made of it. Checksums do not see
//! that: what is wrong was written so. A majority is believed; without one, nobody knows who is right.
//!
//! Only like is compared with like: a member that is behind, is away, or has applied another compaction meanwhile is asked
//! again, and then left out. A hash reads everything, on a thread of its own, while requests go on; at most one at a time
//! is made for other members.

use crate::config::CorruptionChecks;
use crate::node::{Node, peer_failure};
use crate::peer::PeerError;
use api::cleatpb::command::Op;
use api::error::Error;
use api::etcdserverpb::alarm_request::AlarmAction;
use api::etcdserverpb::{AlarmRequest, AlarmType, HashKvRequest};
use futures::future::join_all;
use std::collections::BTreeMap;
use std::time::Duration;
use store::{HashKv, ReadError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a member is asked that is busy or behind. Members that start together ask each other.
const TRIES: usize = 30;

/// How often all are asked, while some could not be compared.
const ROUNDS: usize = 5;

/// Between two tries, or rounds.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest check. A member that reads its data for longer is left out.
const DEADLINE: Duration = Duration::from_mins(10);

/// After a check, so many times as long as it took no other is begun: comparing takes at most a fiftieth of the time.
const REST: u32 = 50;

/// In place of a member's id in the alarm when nobody knows who is right. As in etcd.
const NOBODY: u64 = 0;

/// This member's data is not that of the others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the data of this member is not that of the others: at revision {revision} its hash is {own:08x}, and {others}; remove \
     it from the cluster, add it again and start it with --initial-cluster-state=existing and an empty data directory \
     (--experimental-initial-corrupt-check=false starts it as it is)"
)]
pub struct Mismatch {
    revision: i64,
    own: u32,
    others: String,
}

/// The hashes that were compared, by member.
#[derive(Debug)]
struct Compared {
    revision: i64,
    hashes: BTreeMap<u64, u32>,
    /// All members of the cluster, compared or not.
    members: usize,
}

/// Who is wrong.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// All others who were compared are a majority of the cluster, and agree.
    Wrong(Vec<u64>),
    /// No majority agrees.
    Unknown,
}

impl Compared {
    fn verdict(&self) -> Verdict {
        let mut by_hash: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for (id, hash) in &self.hashes {
            by_hash.entry(*hash).or_default().push(*id);
        }
        if by_hash.len() < 2 {
            return Verdict::Same;
        }
        match by_hash.iter().find(|(_, ids)| 2 * ids.len() > self.members) {
            Some((right, _)) => {
                let wrong = self.hashes.iter().filter(|(_, hash)| *hash != right);
                Verdict::Wrong(wrong.map(|(id, _)| *id).collect())
            }
            None => Verdict::Unknown,
        }
    }

    /// Every hash beside the member's id.
    fn told(&self) -> String {
        let told: Vec<_> = self.hashes.iter().map(|(id, hash)| format!("{id:x} has {hash:08x}")).collect();
        told.join(", ")
    }
}

/// Hashes this member's data, 0 for its newest revision.
///
/// # Errors
/// A compacted or future revision, or the member cannot read its data.
pub(crate) async fn hash(node: &Node, revision: i64) -> Result<HashKv, Error> {
    let reader = node.reader().clone();
    match crate::blocking::run(move || reader.hash_kv(revision)).await {
        Ok(Ok(hash)) => Ok(hash),
        Ok(Err(ReadError::Rejected(rejection))) => Err(rejection),
        Ok(Err(ReadError::Fault(fault))) => {
            tracing::error!(error = %fault, "cannot read the store");
            Err(Error::Corrupt)
        }
        Err(_) => Err(Error::Stopped),
    }
}

/// What a member said.
enum Answer {
    Hash {
        hash: u32,
        compacted: i64,
    },
    /// It forgot the revision.
    Compacted,
    Nothing(Error),
}

/// Asks a member for its hash at a revision.
async fn ask(node: &Node, id: u64, revision: i64) -> Answer {
    let mut tries = 0;
    loop {
        tries += 1;
        let request = HashKvRequest { revision };
        let answer = match node.peer(id) {
            Some(peer) => peer.hash_kv(request).await,
            None => Err(PeerError::NotSent("it is not known".to_owned())),
        };
        match answer {
            Ok(answer) if answer.hash_revision == revision => {
                return Answer::Hash { hash: answer.hash, compacted: answer.compact_revision };
            }
            Ok(_) | Err(PeerError::Refused(Error::Compacted)) => return Answer::Compacted,
            Err(PeerError::Refused(Error::FutureRevision | Error::TooManyRequests)) if tries < TRIES => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Answer::Nothing(peer_failure(&error)),
        }
    }
}

/// Compares the data of all members that can be compared. They all read it at the same time.
///
/// # Errors
/// This member can not hash its own.
async fn compare(node: &Node) -> Result<Compared, Error> {
    let me = node.identity().member_id;
    let mut rounds = 0;
    loop {
        rounds += 1;
        let revision = node.reader().revision();
        let all: Vec<u64> = node.membership().membership().nodes().map(|(id, _)| *id).collect();
        let others = all.iter().copied().filter(|id| *id != me);
        let others = join_all(others.map(|id| async move { (id, ask(node, id, revision).await) }));
        let (own, answers) = tokio::join!(biased; hash(node, revision), others);
        let own = match own {
            Ok(own) => own,
            // Just now.
            Err(Error::Compacted) if rounds < ROUNDS => continue,
            Err(error) => return Err(error),
        };
        let mut hashes = BTreeMap::from([(me, own.hash)]);
        let mut to_ask_again = false;
        for (id, answer) in answers {
            let remote = format_args!("{id:x}");
            match answer {
                Answer::Hash { hash, compacted } if compacted == own.compacted => drop(hashes.insert(id, hash)),
                Answer::Hash { .. } | Answer::Compacted => to_ask_again = true,
                Answer::Nothing(error) => tracing::debug!(remote_member_id = remote, %error, "no hash to compare"),
            }
        }
        let compared = Compared { revision: own.revision, hashes, members: all.len() };
        let is_final = match compared.verdict() {
            Verdict::Same => !to_ask_again,
            Verdict::Wrong(_) => true,
            // Another one may decide it.
            Verdict::Unknown => compared.hashes.len() == compared.members,
        };
        if is_final || rounds == ROUNDS {
            return Ok(compared);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Compares, and says what came of it.
///
/// # Errors
/// There is nothing to compare, or the alarm could not be raised.
async fn check(node: &Node) -> Result<(), Error> {
    let compared = compare(node).await?;
    let wrong = match compared.verdict() {
        Verdict::Same => {
            let (members, left_out) = (compared.hashes.len(), compared.members - compared.hashes.len());
            tracing::info!(
                revision = compared.revision,
                members,
                left_out,
                "compared the members' data: it is the same"
            );
            return Ok(());
        }
        Verdict::Wrong(ids) => ids,
        Verdict::Unknown => vec![NOBODY],
    };
    report(node, &compared, wrong).await
}

/// Raises the alarm for every member that is wrong.
///
/// # Errors
/// It could not be raised.
async fn report(node: &Node, compared: &Compared, wrong: Vec<u64>) -> Result<(), Error> {
    tracing::error!(
        revision = compared.revision,
        hashes = compared.told(),
        wrong = ?wrong.iter().map(|id| format!("{id:x}")).collect::<Vec<_>>(),
        "the members' data is not the same, raising CORRUPT for who is wrong, or for member 0 when nobody knows"
    );
    for id in wrong {
        raise(node, id).await?;
    }
    Ok(())
}

async fn raise(node: &Node, member_id: u64) -> Result<(), Error> {
    let alarm = AlarmType::Corrupt as i32;
    if node.reader().alarms(alarm).iter().any(|raised| raised.member_id == member_id) {
        return Ok(());
    }
    let action = AlarmAction::Activate as i32;
    node.propose(Op::Alarm(AlarmRequest { action, member_id, alarm })).await?.result.map(drop)
}

/// Compares this member's data with the others' before it serves clients. Who can not be compared in the time of a request
/// is left to later checks, and so is a store that was received from another member a moment ago: its checksums were
/// looked at, and who waits for a member that was far behind should not wait for this.
///
/// # Errors
/// Its data is another, or nobody knows whose is right.
pub(crate) async fn check_at_start(node: &Node) -> Result<(), Mismatch> {
    if node.is_alone() || node.reader().is_replaced() {
        return Ok(());
    }
    let checked = tokio::time::timeout(node.limits().request_timeout, compare(node)).await;
    let compared = match checked.unwrap_or(Err(Error::Timeout)) {
        Ok(compared) => compared,
        Err(error) => {
            tracing::warn!(%error, "cannot compare this member's data with the others' before it serves");
            return Ok(());
        }
    };
    let me = node.identity().member_id;
    match compared.verdict() {
        Verdict::Same => Ok(()),
        Verdict::Wrong(ids) if !ids.contains(&me) => {
            if let Err(error) = report(node, &compared, ids).await {
                tracing::warn!(%error, "cannot raise CORRUPT, the next check does");
            }
            Ok(())
        }
        Verdict::Wrong(_) | Verdict::Unknown => Err(Mismatch {
            revision: compared.revision,
            own: compared.hashes.get(&me).copied().unwrap_or_default(),
            others: compared.told(),
        }),
    }
}

/// Compares while this member leads, until it stops.
pub(crate) async fn watch(node: Node, checks: CorruptionChecks, stop: CancellationToken) {
    let Some(tick) = [checks.interval, checks.after_compaction].into_iter().flatten().min() else { return };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = keep_checking(&node, checks, tick) => {}
    }
}

async fn keep_checking(node: &Node, checks: CorruptionChecks, tick: Duration) {
    // The compaction that was compared, or that this member started with.
    let mut compared_at = node.reader().compacted_and_revision().0;
    let mut last = Instant::now();
    let mut rested = last;
    loop {
        tokio::time::sleep(tick).await;
        let compacted = node.reader().compacted_and_revision().0;
        let is_due = checks.interval.is_some_and(|interval| last.elapsed() >= interval)
            || checks.after_compaction.is_some() && compacted > compared_at;
        let began = Instant::now();
        if !is_due || began < rested || node.is_alone() || !node.is_leader() {
            continue;
        }
        match tokio::time::timeout(DEADLINE, check(node)).await.unwrap_or(Err(Error::Timeout)) {
            Ok(()) => (last, compared_at) = (began, compacted),
            Err(error) => tracing::warn!(%error, "cannot compare the members' data, trying again"),
        }
        rested = Instant::now() + REST * began.elapsed();
    }
}

#[cfg(test)]
mod tests {
    use super::{Compared, Verdict};

    fn verdict(members: usize, hashes: &[(u64, u32)]) -> Verdict {
        Compared { revision: 1, hashes: hashes.iter().copied().collect(), members }.verdict()
    }

    #[test]
    fn a_majority_is_believed() {
        assert_eq!(verdict(3, &[(1, 7), (2, 7), (3, 7)]), Verdict::Same);
        assert_eq!(verdict(3, &[(1, 7)]), Verdict::Same, "nobody to compare with");
        assert_eq!(verdict(3, &[(1, 7), (2, 8), (3, 7)]), Verdict::Wrong(vec![2]));
        assert_eq!(verdict(3, &[(1, 8), (2, 7), (3, 7)]), Verdict::Wrong(vec![1]));
        assert_eq!(verdict(5, &[(1, 8), (2, 7), (3, 7), (4, 7), (5, 9)]), Verdict::Wrong(vec![1, 5]));
    }

    #[test]
    fn two_against_one_is_no_majority_of_five() {
        assert_eq!(verdict(5, &[(1, 8), (2, 7), (3, 7)]), Verdict::Unknown);
        assert_eq!(verdict(2, &[(1, 8), (2, 7)]), Verdict::Unknown);
        assert_eq!(verdict(3, &[(1, 8), (2, 7)]), Verdict::Unknown);
        assert_eq!(verdict(3, &[(1, 8), (2, 7), (3, 9)]), Verdict::Unknown);
    }
}

//! Calls of the Lock and Election services. A generated sequence asks with one lease at a time and removes its keys
//! afterwards, so that no call waits for another.

use crate::answer::Answer;
use crate::op::{Op, Resolver};
use api::etcdserverpb::{DeleteRangeRequest, ResponseHeader};
use api::mvccpb::KeyValue;
use api::v3electionpb::{CampaignRequest, LeaderKey, LeaderRequest, ProclaimRequest, ResignRequest};
use api::v3lockpb::{LockRequest, UnlockRequest};
use bytes::Bytes;
use harness::Client;
use rand::Rng;
use rand::seq::IndexedRandom;
use std::fmt::{Display, Formatter};

/// Under none of them is a key of other requests.
const NAMES: [&str; 4] = ["lock", "lock/of/many/parts", "", "\u{1}name"];
const VALUES: [&str; 3] = ["", "one", "two"];
const STEPS: std::ops::Range<usize> = 2..8;

/// One call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Call {
    Lock(LockRequest),
    Unlock(UnlockRequest),
    Campaign(CampaignRequest),
    Proclaim(ProclaimRequest),
    Leader(LeaderRequest),
    Resign(ResignRequest),
}

/// What any of them answers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Granted {
    pub(crate) header: Option<ResponseHeader>,
    pub(crate) key: Bytes,
    pub(crate) leader: Option<LeaderKey>,
    pub(crate) kv: Option<KeyValue>,
}

impl Call {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Lock(_) => "Lock",
            Self::Unlock(_) => "Unlock",
            Self::Campaign(_) => "Campaign",
            Self::Proclaim(_) => "Proclaim",
            Self::Leader(_) => "Leader",
            Self::Resign(_) => "Resign",
        }
    }

    /// Replaces placeholders.
    pub(crate) fn resolve(&mut self, resolver: &Resolver<'_>) {
        if let Self::Proclaim(ProclaimRequest { leader: Some(leader), .. })
        | Self::Resign(ResignRequest { leader: Some(leader) }) = self
        {
            leader.rev = resolver.revision(leader.rev);
        }
    }

    pub(crate) async fn send(self, client: &mut Client) -> Answer {
        let Client { lock, election, .. } = client;
        let wrap = Answer::Granted;
        match self {
            Self::Lock(request) => Answer::of(lock.lock(request).await, |answer| {
                wrap(Granted { header: answer.header, key: answer.key, ..Granted::default() })
            }),
            Self::Unlock(request) => Answer::of(lock.unlock(request).await, |answer| wrap(header(answer.header))),
            Self::Campaign(request) => Answer::of(election.campaign(request).await, |answer| {
                wrap(Granted { header: answer.header, leader: answer.leader, ..Granted::default() })
            }),
            Self::Proclaim(request) => {
                Answer::of(election.proclaim(request).await, |answer| wrap(header(answer.header)))
            }
            Self::Leader(request) => Answer::of(election.leader(request).await, |answer| {
                wrap(Granted { header: answer.header, kv: answer.kv, ..Granted::default() })
            }),
            Self::Resign(request) => Answer::of(election.resign(request).await, |answer| wrap(header(answer.header))),
        }
    }
}

fn header(header: Option<ResponseHeader>) -> Granted {
    Granted { header, ..Granted::default() }
}

impl Display for Call {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        // The messages are short, and names and values are drawn from a few.
        write!(f, "{self:?}")
    }
}

/// A lease's calls on a name, and the removal of its keys.
pub(crate) fn calls(rng: &mut impl Rng, lease: i64, revision: impl Fn(i64) -> i64) -> Vec<Op> {
    let name = Bytes::from_static(NAMES.choose(rng).expect("not empty").as_bytes());
    let sign = if lease < 0 { "-" } else { "" };
    let key = Bytes::from([&name[..], format!("/{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat());
    let mut ops = Vec::new();
    for _ in 0..rng.random_range(STEPS) {
        let value = Bytes::from_static(VALUES.choose(rng).expect("not empty").as_bytes());
        let leader = match rng.random_range(0..12) {
            0 => None,
            1 => Some(LeaderKey::default()),
            2 => Some(LeaderKey { lease: 404, name: name.clone(), key: key.clone(), rev: revision(0) }),
            back => Some(LeaderKey { lease, name: name.clone(), key: key.clone(), rev: revision(-(back - 3) / 3) }),
        };
        // A leader without a lease is given one, whose id is the server's.
        let leader =
            leader.map(|leader| LeaderKey { lease: if leader.lease == 0 { lease } else { leader.lease }, ..leader });
        let call = match rng.random_range(0..9) {
            0 | 1 => Call::Lock(LockRequest { name: name.clone(), lease }),
            2 => Call::Unlock(UnlockRequest { key: key.clone() }),
            3 | 4 => Call::Campaign(CampaignRequest { name: name.clone(), lease, value }),
            5 | 6 => Call::Proclaim(ProclaimRequest { leader, value }),
            7 => Call::Resign(ResignRequest { leader }),
            _ => Call::Leader(LeaderRequest { name: name.clone() }),
        };
        let is_campaign = matches!(call, Call::Campaign(_));
        ops.push(Op::Concurrency(call));
        if is_campaign {
            // The header of a campaign may be older than what it did.
            ops.push(Op::Concurrency(Call::Leader(LeaderRequest { name: name.clone() })));
        }
    }
    let end = Bytes::from([&name[..], b"0"].concat());
    ops.push(Op::Delete(DeleteRangeRequest { key: [&name[..], b"/"].concat().into(), range_end: end, prev_kv: true }));
    ops
}

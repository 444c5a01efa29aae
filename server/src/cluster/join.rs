//! A member without data asks to become part of the cluster: who it is, and whether the cluster can bear it now.
//!
//! The cluster knows members by their names. One whose name nobody has is added. One whose name a member has that ran
//! has lost its data: it gets a new id in the place of the old one, in one change, because the old id made promises
//! that nobody keeps. Both become learners that get their vote when they have caught up, one after the other. See
//! docs/adr/0011-a-member-finds-its-place.md.

use super::{Cluster, Refusal, checked_urls, majority, pending, unchanged, votes};
use crate::raft::types::{LogId, Membership, Peer, StoredMembership};
use api::cleatpb::MemberJoinRequest;
use api::error::Error;
use openraft::ChangeMembers;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// A member that was added is waited for this long, before it has answered, until the next one may come.
const ARRIVAL: Duration = Duration::from_secs(10);

/// A member that lost its data asks more often than this.
const ASKING: Duration = Duration::from_mins(1);

/// The same refusal is logged once in this time.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// Why a member cannot join now, for the log of the member that leads.
struct Because(String);

/// True if what this caller has shown is enough for the place of a member with these peer URLs.
fn may_take(request: &MemberJoinRequest, urls: &[String]) -> bool {
    let is_its_own = |url: &String| request.peer_urls.contains(url) || request.vouched_urls.contains(url);
    !request.by_certificate || urls.iter().all(is_its_own)
}

impl Cluster {
    pub(super) async fn join(&self, request: &MemberJoinRequest, now: u64) -> Result<(u64, LogId), Refusal> {
        let urls = checked_urls(&request.peer_urls)?;
        if request.name.is_empty() {
            return Err(Error::MemberNotFound.into());
        }
        let stored = self.node.membership();
        let old = match self.place(stored.membership(), &request.name, &urls) {
            Ok(old) => old,
            Err((error, because)) => return Err(self.because(Refusal::Final(error), because)),
        };
        if let Some((id, peer)) = old.and_then(|id| Some((id, stored.membership().get_node(&id)?)))
            && !may_take(request, &peer.peer_urls)
        {
            let because = Because(format!(
                "it has shown a certificate that is not valid for the hosts of the peer URLs of member {id:x}, which has \
                 its name or its peer URL"
            ));
            return Err(self.because(Refusal::Final(Error::MemberExists), because));
        }
        if let Some(id) = old
            && self.is_untouched(stored.membership(), id, &urls)
        {
            // It was added before, by an operator or by a request whose answer was lost.
            return stored.log_id().map(|at| (id, at)).ok_or(Refusal::Retry(Error::Unhealthy));
        }
        self.check_bears(stored.membership(), old)?;
        let id = discovery::id::member_id_at(&urls, now);
        if stored.membership().get_node(&id).is_some() || self.node.is_removed(id) {
            return Err(Error::MemberExists.into());
        }
        let at = match old {
            None => self.join_new(&stored, id, urls).await?,
            Some(old) => self.replace(&stored, old, id, urls).await?,
        };
        *self.joined.lock() = Some(Instant::now());
        match old {
            None => tracing::info!(member_id = format_args!("{id:x}"), name = request.name, "a new member joined"),
            Some(old) => tracing::warn!(
                member_id = format_args!("{id:x}"),
                replaced_id = format_args!("{old:x}"),
                name = request.name,
                "replaced a member that lost its data; it votes again when it has caught up"
            ),
        }
        Ok((id, at))
    }

    /// The member whose place this one takes, if there is one.
    fn place(&self, membership: &Membership, name: &str, urls: &[String]) -> Result<Option<u64>, (Error, Because)> {
        let mut found = BTreeSet::new();
        for (id, peer) in membership.nodes() {
            let known = self.node.reader().member(*id).map(|member| member.name).unwrap_or_default();
            let shares_url = peer.peer_urls.iter().any(|url| urls.contains(url));
            if shares_url && !known.is_empty() && known != name {
                let because = Because(format!("its peer URL is that of member {id:x}, whose name is {known}"));
                return Err((Error::PeerUrlExists, because));
            }
            if shares_url || known == name {
                found.insert(*id);
            }
        }
        if found.len() > 1 {
            let ids: Vec<String> = found.iter().map(|id| format!("{id:x}")).collect();
            let because =
                Because(format!("members {} have its name or its peer URL: remove all but one", ids.join(", ")));
            return Err((Error::MemberExists, because));
        }
        Ok(found.into_iter().next())
    }

    /// True for a member that was added and has never run, as far as this leader knows.
    fn is_untouched(&self, membership: &Membership, id: u64, urls: &[String]) -> bool {
        let has_urls = membership.get_node(&id).is_some_and(|peer| peer.peer_urls == urls);
        let has_entries = self.node.raft_metrics(|now| super::matched(now, id).is_some());
        has_urls && !has_entries && !self.is_started(id) && !self.node.was_just_elected()
    }

    /// Checks that the cluster can bear one more member, or one in the place of `old`.
    ///
    /// A refusal is final, and the member asks again: waiting here would hold up other changes, such as the vote of the one
    /// that is waited for.
    fn check_bears(&self, membership: &Membership, old: Option<u64>) -> Result<(), Refusal> {
        let me = self.node.identity().member_id;
        // Who has just been elected does not know yet who answers.
        if self.node.was_just_elected() && membership.voter_ids().any(|id| id != me) {
            let because = Because("this member has just become the leader".to_owned());
            return Err(self.because(Refusal::Final(Error::Unhealthy), because));
        }
        let answers = |id: u64| id == me || self.node.raft_metrics(|now| self.answers(now, id));
        if let Some(old) = old
            && answers(old)
        {
            let because = Because(format!("member {old:x} has its name and runs: two members cannot have one name"));
            return Err(self.because(Refusal::Final(Error::MemberExists), because));
        }
        // Not before: whose name a running member has lost nothing.
        if let Some(old) = old {
            let mut lost = self.lost.lock();
            lost.retain(|id, asked| membership.get_node(id).is_some() && asked.elapsed() < ASKING);
            lost.insert(old, Instant::now());
        }
        let just_joined = self.joined.lock().is_some_and(|at| at.elapsed() < ARRIVAL);
        let arriving = pending(membership).into_iter().find(|id| Some(*id) != old && (just_joined || answers(*id)));
        if let Some(arriving) = arriving {
            let because = Because(format!("member {arriving:x} is still catching up: one after the other"));
            return Err(self.because(Refusal::Final(Error::Unhealthy), because));
        }
        let others: Vec<u64> = membership.voter_ids().filter(|id| Some(*id) != old).collect();
        let silent: Vec<String> = others.iter().filter(|id| !answers(**id)).map(|id| format!("{id:x}")).collect();
        // Whoever is away and has its data comes back first. Those that lost theirs, too, would wait for each other.
        let are_lost = others.iter().filter(|id| !answers(**id)).all(|id| self.lost.lock().contains_key(id));
        let is_too_few = others.len() - silent.len() < majority(others.len());
        if old.is_some() && (is_too_few || !are_lost) {
            let silent = silent.join(", ");
            let because =
                Because(format!("not all other voters answer: start {silent}, or remove what never comes back"));
            return Err(self.because(Refusal::Final(Error::Unhealthy), because));
        }
        if old.is_none() && self.rules.strict {
            self.check_strict_add(membership)?;
        }
        Ok(())
    }

    async fn join_new(&self, stored: &StoredMembership, id: u64, urls: Vec<String>) -> Result<LogId, Refusal> {
        let peer = Peer { peer_urls: urls, joins_as_voter: true };
        super::check_size(stored.membership(), id, &peer)?;
        let changes = ChangeMembers::AddNodes(BTreeMap::from([(id, peer)]));
        self.write(|raft| raft.change_membership_if(changes, true, [unchanged(stored)])).await
    }

    /// Takes the old member out and the new one in.
    async fn replace(&self, stored: &StoredMembership, old: u64, id: u64, urls: Vec<String>) -> Result<LogId, Refusal> {
        let membership = stored.membership();
        let mut voters: BTreeSet<u64> = membership.voter_ids().collect();
        let joins_as_voter = membership.get_node(&old).is_none_or(|peer| votes(&voters, old, peer));
        voters.remove(&old);
        let mut nodes: BTreeMap<u64, Peer> =
            membership.nodes().filter(|(node, _)| **node != old).map(|(id, peer)| (*id, peer.clone())).collect();
        let peer = Peer { peer_urls: urls, joins_as_voter };
        super::check_size(membership, id, &peer)?;
        nodes.insert(id, peer);
        self.append(stored, voters, nodes).await
    }

    /// Keeps the reason of a refusal for the log.
    fn because(&self, refusal: Refusal, because: Because) -> Refusal {
        *self.refused_join.lock() = because.0;
        refusal
    }

    /// Tells why a member could not join.
    pub(super) fn tell_refused_join(&self, request: &MemberJoinRequest, error: Error) {
        let reason = std::mem::take(&mut *self.refused_join.lock());
        let told = (request.name.clone(), reason.clone());
        {
            let mut last = self.told_join.lock();
            if last.as_ref().is_some_and(|(what, at)| *what == told && at.elapsed() < TELL_AGAIN) {
                return;
            }
            *last = Some((told, Instant::now()));
        }
        tracing::warn!(
            name = request.name,
            peer_urls = ?request.peer_urls,
            %error,
            reason,
            "refused to let a member without data join"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_takes_the_place_of_its_own_urls() {
        let urls = |urls: &[&str]| urls.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (by_certificate, claimed, vouched, old, expected) in [
            (true, &["a"][..], &[][..], &["a"][..], true),
            (true, &["a"], &[], &["b"], false),
            (true, &["a"], &["b"], &["b"], true),
            (true, &["a"], &[], &["a", "b"], false),
            (true, &["a"], &["b"], &["a", "b"], true),
            (false, &["a"], &[], &["b"], true),
        ] {
            let request = MemberJoinRequest {
                name: "m".to_owned(),
                peer_urls: urls(claimed),
                by_certificate,
                vouched_urls: urls(vouched),
            };
            assert_eq!(may_take(&request, &urls(old)), expected, "{request:?}");
        }
    }
}

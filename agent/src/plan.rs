//! What is to be done, from what is observed and what is wanted. Nothing here waits, asks or remembers.
//!
//! The rules:
//!
//! - Who does not lead does nothing.
//! - A member is removed only when its ordinal is behind those of the replicas and its pod has been gone for a while: a
//!   restart, a drain or a lost volume never changes the membership. Ordinals before the first one
//!   (`spec.ordinals.start`) are those of another `StatefulSet`, which members move from.
//! - One member is removed at a time, the highest ordinal first, and none while another member is on its way in or a
//!   member that stays does not answer: two disruptions never meet.
//! - A removal leaves a majority of the voters that stay answering.
//! - A `StatefulSet` that is scaled to nothing or deleted keeps its members: its volumes may come back.

use std::collections::{BTreeMap, BTreeSet};

/// What a member is in its cluster, as the value of the pod's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It leads.
    Leader,
    /// It votes.
    Follower,
    /// It does not vote.
    Learner,
}

impl Role {
    /// The label's value.
    pub fn text(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Learner => "learner",
        }
    }
}

/// A member, as the cluster lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its name, or the name that its peer URL shows while it has not told one.
    pub name: String,
    /// Which replica it is; none for a member that is not of the `StatefulSet`.
    pub ordinal: Option<u32>,
    /// It does not vote.
    pub is_learner: bool,
    /// It has told its name: it has run.
    pub is_started: bool,
    /// It answers and has a leader.
    pub answers: bool,
}

/// A pod of the `StatefulSet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// The value of its role label, if it has one.
    pub role: Option<String>,
}

/// The mark that the cluster was founded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Nobody wants one.
    Unwanted,
    /// It names no cluster yet.
    Empty,
    /// It names this cluster.
    Cluster(u64),
    /// It cannot be read as an id.
    Unreadable,
}

/// What an agent sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The cluster.
    pub cluster_id: u64,
    /// The agent's own member.
    pub me: u64,
    /// Who leads; 0 for nobody.
    pub leader: u64,
    /// All members.
    pub members: Vec<Member>,
    /// All pods, those included that end.
    pub pods: Vec<Pod>,
    /// Replicas whose pod has been gone for long enough.
    pub gone: BTreeSet<u32>,
    /// The mark.
    pub mark: Mark,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Desired {
    /// `spec.ordinals.start` of the `StatefulSet`: the ordinal of its first pod.
    pub first: u32,
    /// `spec.replicas` of the `StatefulSet`.
    pub replicas: u32,
    /// It is being deleted.
    pub is_deleted: bool,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give a pod's role label this value, or take the label away.
    Label {
        /// The pod.
        pod: String,
        /// Its member's role.
        role: Option<Role>,
    },
    /// Remove a member from the cluster.
    Remove {
        /// Its id.
        id: u64,
        /// Its name.
        name: String,
    },
    /// Write the mark.
    Mark {
        /// What it names.
        cluster_id: u64,
    },
    /// Tell that something is wrong or waits.
    Warn {
        /// The Event's reason.
        reason: &'static str,
        /// For people.
        note: String,
    },
}

impl Action {
    /// True for what changes the membership of the cluster.
    pub fn is_disruptive(&self) -> bool {
        matches!(self, Self::Remove { .. })
    }
}

/// Decides what is to be done now.
pub fn plan(observed: &Observed, desired: &Desired) -> Vec<Action> {
    if observed.me == 0 || observed.leader != observed.me {
        return Vec::new();
    }
    // The mark first: nothing else may keep a second cluster from being founded.
    let mut actions: Vec<Action> = mark(observed).into_iter().collect();
    actions.extend(labels(observed));
    if !desired.is_deleted && desired.replicas > 0 {
        actions.extend(removal(observed, desired.first.saturating_add(desired.replicas)));
    }
    actions
}

/// The labels that are not as they should be.
fn labels(observed: &Observed) -> Vec<Action> {
    let roles: BTreeMap<&str, Role> =
        observed.members.iter().map(|member| (member.name.as_str(), role(observed, member))).collect();
    let mut actions = Vec::new();
    for pod in &observed.pods {
        let role = roles.get(pod.name.as_str()).copied();
        if pod.role.as_deref() != role.map(Role::text) {
            actions.push(Action::Label { pod: pod.name.clone(), role });
        }
    }
    // A second leader must not be seen: who led before is relabelled first.
    actions.sort_by_key(|action| matches!(action, Action::Label { role: Some(Role::Leader), .. }));
    actions
}

fn role(observed: &Observed, member: &Member) -> Role {
    if member.id == observed.leader {
        Role::Leader
    } else if member.is_learner || !member.is_started {
        Role::Learner
    } else {
        Role::Follower
    }
}

fn mark(observed: &Observed) -> Option<Action> {
    let cluster_id = observed.cluster_id;
    let warn = |note: String| Some(Action::Warn { reason: "ClusterIdMismatch", note });
    match &observed.mark {
        Mark::Empty => Some(Action::Mark { cluster_id }),
        Mark::Cluster(marked) if *marked != cluster_id => warn(format!(
            "the members are of cluster {cluster_id:x}, the mark names {marked:x}: a second cluster was founded, or the \
             mark is another release's"
        )),
        Mark::Unreadable => warn("the mark holds no cluster id: empty it, and it is written again".to_owned()),
        Mark::Unwanted | Mark::Cluster(_) => None,
    }
}

/// The removal of a member that was scaled away, or why it waits. `end` is the first ordinal that is not wanted.
fn removal(observed: &Observed, end: u32) -> Option<Action> {
    let is_surplus = |member: &Member| member.ordinal.is_some_and(|ordinal| ordinal >= end);
    let is_gone = |member: &Member| {
        is_surplus(member) && member.id != observed.me && member.ordinal.is_some_and(|it| observed.gone.contains(&it))
    };
    let candidate = observed.members.iter().filter(|member| is_gone(member)).max_by_key(|member| member.ordinal)?;
    let blocked = |why: &str| {
        let note = format!("member {} ({:x}) is to be removed: {why}", candidate.name, candidate.id);
        Some(Action::Warn { reason: "MemberRemovalBlocked", note })
    };
    if candidate.answers {
        return blocked("its pod is gone, and it still answers");
    }
    let stays = |member: &&Member| member.id != candidate.id && !is_gone(member);
    if let Some(other) = observed.members.iter().filter(stays).find(|member| !member.is_started) {
        return blocked(&format!("member {} ({:x}) has not started yet", other.name, other.id));
    }
    if let Some(other) = observed.members.iter().filter(stays).find(|member| !member.answers && !member.is_learner) {
        return blocked(&format!("member {} ({:x}) does not answer", other.name, other.id));
    }
    let rest: Vec<&Member> =
        observed.members.iter().filter(|member| member.id != candidate.id && !member.is_learner).collect();
    let answering = rest.iter().filter(|member| member.answers).count();
    if !candidate.is_learner && answering <= rest.len() / 2 {
        return blocked(&format!("only {answering} of the {} voters that would be left answer", rest.len()));
    }
    Some(Action::Remove { id: candidate.id, name: candidate.name.clone() })
}

/// Something that happened to a member, for an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// The member's name.
    pub name: String,
    /// The Event's reason.
    pub reason: &'static str,
    /// For people.
    pub note: String,
}

/// What happened between two looks at the members.
pub fn happened(before: &[Member], now: &[Member]) -> Vec<Happening> {
    let id_of = |members: &[Member], name: &str| members.iter().find(|member| member.name == name).map(|it| it.id);
    let event = |member: &Member, reason, note| Happening { name: member.name.clone(), reason, note };
    // Who has not told its name yet may be anybody whose name its peer URL does not show: one that joined, or one in the place of
    // a member that is there no more.
    let is_unknown = |member: &&Member| member.name.is_empty() || (!member.is_started && member.ordinal.is_none());
    let mut events = Vec::new();
    for member in now.iter().filter(|member| !is_unknown(member)) {
        match id_of(before, &member.name) {
            Some(id) if id == member.id => {}
            Some(id) => events.push(event(
                member,
                "MemberReplaced",
                format!(
                    "member {} lost its data: {:x} takes the place of {id:x} and catches up",
                    member.name, member.id
                ),
            )),
            None => {
                events.push(event(member, "MemberJoined", format!("member {} joined as {:x}", member.name, member.id)));
            }
        }
    }
    if now.iter().any(|member| is_unknown(&member)) {
        return events;
    }
    for member in before.iter().filter(|member| !is_unknown(member) && id_of(now, &member.name).is_none()) {
        events.push(event(member, "MemberRemoved", format!("member {} ({:x}) was removed", member.name, member.id)));
    }
    events
}

/// Takes what happened to one member into what is known from before.
pub fn remember(before: &mut Vec<Member>, now: &[Member], name: &str) {
    before.retain(|member| member.name != name);
    before.extend(now.iter().find(|member| member.name == name).cloned());
}

/// The ordinal in a name that a `StatefulSet` gave to a pod.
pub fn ordinal(statefulset: &str, pod: &str) -> Option<u32> {
    let digits = pod.strip_prefix(statefulset)?.strip_prefix('-')?;
    // As a StatefulSet writes it: `db-01` is somebody else's.
    let ordinal: u32 = digits.parse().ok()?;
    (ordinal.to_string() == digits).then_some(ordinal)
}

#[cfg(test)]
mod tests;

//! The plan, by every small case and by long random stories.

use super::*;

fn member(ordinal: u32, answers: bool) -> Member {
    Member {
        id: u64::from(ordinal) + 1,
        name: format!("db-{ordinal}"),
        ordinal: Some(ordinal),
        is_learner: false,
        is_started: true,
        answers,
    }
}

fn pod(ordinal: u32, role: &str) -> Pod {
    Pod { name: format!("db-{ordinal}"), role: Some(role.to_owned()).filter(|role| !role.is_empty()) }
}

fn observed(members: Vec<Member>, gone: &[u32]) -> Observed {
    Observed {
        cluster_id: 7,
        me: 1,
        leader: 1,
        members,
        pods: Vec::new(),
        gone: gone.iter().copied().collect(),
        mark: Mark::Unwanted,
    }
}

const fn replicas(replicas: u32) -> Desired {
    Desired { first: 0, replicas, is_deleted: false }
}

fn removed(actions: &[Action]) -> Vec<u64> {
    actions.iter().filter_map(|action| if let Action::Remove { id, .. } = action { Some(*id) } else { None }).collect()
}

#[test]
fn labels_say_what_members_are() {
    let mut seen = observed(vec![member(0, true), member(1, true), member(2, true), member(3, true)], &[]);
    seen.members[2].is_learner = true;
    seen.members[3].is_started = false;
    seen.pods = vec![pod(0, ""), pod(1, "leader"), pod(2, "learner"), pod(3, "follower"), pod(4, "follower")];
    let label = |pod: &str, role| Action::Label { pod: pod.to_owned(), role };
    assert_eq!(
        plan(&seen, &replicas(5)),
        [
            label("db-1", Some(Role::Follower)),
            label("db-3", Some(Role::Learner)),
            label("db-4", None),
            label("db-0", Some(Role::Leader)),
        ]
    );
}

#[test]
fn who_does_not_lead_does_nothing() {
    let mut seen = observed(vec![member(0, true), member(1, false)], &[1]);
    seen.mark = Mark::Empty;
    seen.pods = vec![pod(0, "")];
    assert_eq!(removed(&plan(&seen, &replicas(1))), [2]);
    for (me, leader) in [(1, 2), (1, 0), (0, 0)] {
        let seen = Observed { me, leader, ..seen.clone() };
        assert!(plan(&seen, &replicas(1)).is_empty());
    }
}

#[test]
fn the_mark_is_written_once() {
    let mut seen = observed(vec![member(0, true)], &[]);
    for (mark, expected) in [
        (Mark::Unwanted, None),
        (Mark::Cluster(7), None),
        (Mark::Empty, Some("Mark")),
        (Mark::Cluster(8), Some("ClusterIdMismatch")),
        (Mark::Unreadable, Some("ClusterIdMismatch")),
    ] {
        seen.mark = mark;
        let actions = plan(&seen, &replicas(1));
        let found = actions.first().map(|action| match action {
            Action::Mark { cluster_id: 7 } => "Mark",
            Action::Warn { reason, .. } => reason,
            other => panic!("{other:?}"),
        });
        assert_eq!(found, expected);
    }
}

#[test]
fn only_what_scaled_away_is_removed() {
    let five = || (0..5).map(|ordinal| member(ordinal, ordinal < 3)).collect::<Vec<_>>();
    // A pod that restarts, or is not gone for long, keeps its member.
    assert_eq!(removed(&plan(&observed(five(), &[]), &replicas(3))), NOBODY);
    assert_eq!(removed(&plan(&observed(five(), &[3, 4]), &replicas(5))), NOBODY);
    let four = || (0..5).map(|ordinal| member(ordinal, ordinal < 4)).collect::<Vec<_>>();
    assert_eq!(removed(&plan(&observed(four(), &[4]), &replicas(4))), [5]);
    assert_eq!(removed(&plan(&observed(five(), &[3, 4]), &replicas(4))), NOBODY, "db-3 is wanted and away");
    assert_eq!(removed(&plan(&observed(five(), &[3, 4]), &replicas(3))), [5], "one at a time");
    assert_eq!(removed(&plan(&observed(five(), &[3]), &replicas(3))), NOBODY, "db-4 has a pod and does not answer");
    assert_eq!(removed(&plan(&observed(five(), &[3, 4]), &replicas(0))), NOBODY, "scaled to nothing is stopped");
    assert_eq!(removed(&plan(&observed(five(), &[3, 4]), &Desired { is_deleted: true, ..replicas(3) })), NOBODY);
    let mut foreign = five();
    foreign[4].ordinal = None;
    assert_eq!(removed(&plan(&observed(foreign, &[3, 4]), &replicas(4))), NOBODY, "not of the StatefulSet");
    let mut joining = five();
    joining[2].is_started = false;
    let actions = plan(&observed(joining, &[3, 4]), &replicas(3));
    assert!(matches!(&actions[..], [Action::Warn { reason: "MemberRemovalBlocked", .. }]), "{actions:?}");
}

/// Ordinals may begin behind 0, while members move from one `StatefulSet` to another.
#[test]
fn ordinals_that_begin_later_are_wanted() {
    let seen = |answering: u32| {
        let members = (3..8).map(|ordinal| member(ordinal, ordinal < answering)).collect();
        Observed { me: 4, leader: 4, ..observed(members, &[6, 7]) }
    };
    let from = |first, count| Desired { first, ..replicas(count) };
    assert_eq!(removed(&plan(&seen(6), &from(3, 5))), NOBODY, "their pods are away, and wanted");
    assert_eq!(removed(&plan(&seen(7), &from(3, 4))), [8]);
    assert_eq!(removed(&plan(&seen(6), &from(3, 3))), [8], "one at a time");
    assert_eq!(removed(&plan(&seen(6), &from(u32::MAX, 3))), NOBODY);
    let mut moving = seen(8);
    moving.members[0].answers = false;
    moving.gone = BTreeSet::from([3]);
    moving.me = 5;
    moving.leader = 5;
    assert_eq!(removed(&plan(&moving, &from(4, 4))), NOBODY, "it is another StatefulSet's");
}

/// Every cluster of up to four members, with everything that can be said of each, and each of them as the leader.
#[test]
fn no_case_breaks_the_rules() {
    // Of each member: answers, its pod is gone, it is a learner, it has started.
    let states: Vec<[bool; 4]> = (0..16).map(|bits| [bits & 1 > 0, bits & 2 > 0, bits & 4 > 0, bits & 8 > 0]).collect();
    let mut removals = 0_u32;
    for size in 1..=4_usize {
        for case in 0..16_usize.pow(size as u32) {
            let state = |ordinal: usize| states[case / 16_usize.pow(ordinal as u32) % 16];
            let members: Vec<Member> = (0..size)
                .map(|ordinal| {
                    let [answers, _, is_learner, is_started] = state(ordinal);
                    Member { is_learner, is_started, answers, ..member(ordinal as u32, answers) }
                })
                .collect();
            let gone: Vec<u32> = (0..size as u32).filter(|ordinal| state(*ordinal as usize)[1]).collect();
            for (wanted, leader) in (0..=4).flat_map(|wanted| (0..size as u64).map(move |leader| (wanted, leader + 1)))
            {
                let seen = Observed { me: leader, leader, ..observed(members.clone(), &gone) };
                let actions = plan(&seen, &replicas(wanted));
                assert!(actions.iter().filter(|action| action.is_disruptive()).count() <= 1);
                let removed = removed(&actions);
                removals += u32::from(!removed.is_empty());
                for id in removed {
                    check_removal(&seen, wanted, id);
                }
            }
        }
    }
    assert!(removals > 1000, "{removals}");
}

/// What holds for every removal.
fn check_removal(seen: &Observed, wanted: u32, id: u64) {
    let ordinal = (id - 1) as u32;
    assert!(wanted > 0 && ordinal >= wanted, "it is wanted");
    assert!(seen.gone.contains(&ordinal), "its pod is there");
    assert!(id != seen.me, "it is the leader");
    let gone = &seen.members[ordinal as usize];
    assert!(!gone.answers, "it runs");
    let rest: Vec<_> = seen.members.iter().filter(|member| member.id != id && !member.is_learner).collect();
    let answering = rest.iter().filter(|member| member.answers).count();
    assert!(gone.is_learner || answering > rest.len() / 2, "no majority is left: {seen:?}");
    let stays = seen
        .members
        .iter()
        .filter(|m| m.id != id && !(m.ordinal >= Some(wanted) && seen.gone.contains(&((m.id - 1) as u32))));
    assert!(stays.clone().all(|member| member.is_started), "another one is on its way in");
    assert!(stays.clone().all(|member| member.answers || member.is_learner), "another one is away");
}

/// Nobody.
const NOBODY: [u64; 0] = [];

/// Numbers that are the same for everyone.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A cluster in which pods come and go as a `StatefulSet` of changing size makes them, and members fail.
struct Story {
    random: Random,
    wanted: u32,
    members: Vec<Member>,
    /// Ordinals with a pod.
    pods: BTreeSet<u32>,
    next_id: u64,
}

impl Story {
    fn new(seed: u64) -> Self {
        let members = (0..3).map(|ordinal| member(ordinal, true)).collect();
        Self { random: Random(seed), wanted: 3, members, pods: (0..3).collect(), next_id: 100 }
    }

    fn has_quorum(&self) -> bool {
        let voters: Vec<_> = self.members.iter().filter(|member| !member.is_learner).collect();
        voters.iter().filter(|member| member.answers).count() > voters.len() / 2
    }

    /// One thing happens that is not the agent's doing.
    fn fate(&mut self) {
        match self.random.below(6) {
            0 => self.wanted = [1, 3, 5, 7][self.random.below(4) as usize],
            1 => {
                let at = self.random.below(self.members.len() as u64) as usize;
                self.members[at].answers = false;
            }
            _ => self.settle(),
        }
    }

    /// The `StatefulSet` makes and deletes pods, and members with a pod answer again or join.
    fn settle(&mut self) {
        self.pods = (0..self.wanted).collect();
        for member in &mut self.members {
            member.answers = member.ordinal.is_some_and(|ordinal| self.pods.contains(&ordinal));
            member.is_started |= member.answers;
        }
        if self.has_quorum()
            && let Some(new) = self.pods.iter().find(|pod| !self.members.iter().any(|m| m.ordinal == Some(**pod)))
        {
            self.next_id += 1;
            self.members.push(Member { id: self.next_id, is_started: false, ..member(*new, true) });
        }
    }

    /// What the agent of the leader sees; nobody leads without a majority.
    fn look(&self) -> Option<Observed> {
        let leader = self.members.iter().find(|member| member.answers && !member.is_learner && member.is_started)?;
        let gone = (0..10).filter(|ordinal| !self.pods.contains(ordinal)).collect();
        let seen = Observed { me: leader.id, leader: leader.id, gone, ..observed(self.members.clone(), &[]) };
        self.has_quorum().then_some(seen)
    }
}

#[test]
fn stories_never_lose_the_quorum_and_end_well() {
    for seed in 0..2000 {
        let mut story = Story::new(seed);
        for _ in 0..60 {
            story.fate();
            let Some(seen) = story.look() else { continue };
            for id in removed(&plan(&seen, &replicas(story.wanted))) {
                story.members.retain(|member| member.id != id);
                assert!(story.has_quorum(), "seed {seed}: the removal of {id} took the majority");
            }
        }
        // Nothing fails any more: whatever a majority can do is done.
        for _ in 0..40 {
            story.settle();
            let Some(seen) = story.look() else { break };
            for id in removed(&plan(&seen, &replicas(story.wanted))) {
                story.members.retain(|member| member.id != id);
            }
        }
        if story.look().is_some() {
            let ordinals: BTreeSet<_> = story.members.iter().filter_map(|member| member.ordinal).collect();
            assert_eq!(ordinals, (0..story.wanted).collect(), "seed {seed}");
            assert_eq!(story.members.len(), ordinals.len(), "seed {seed}");
        }
    }
}

#[test]
fn changes_become_events() {
    let reasons = |before: &[Member], now: &[Member]| -> Vec<&str> {
        happened(before, now).into_iter().map(|happening| happening.reason).collect()
    };
    let two = [member(0, true), member(1, true)];
    assert_eq!(reasons(&two, &two), Vec::<&str>::new());
    let replaced = [member(0, true), Member { id: 9, is_started: false, ..member(1, true) }];
    assert_eq!(reasons(&two, &replaced), ["MemberReplaced"]);
    // A URL that shows no name, until the member tells it.
    let strange = Member { id: 9, name: "10".to_owned(), ordinal: None, is_started: false, ..member(1, true) };
    assert_eq!(reasons(&two, &[member(0, true), strange.clone()]), Vec::<&str>::new());
    assert_eq!(reasons(&[member(0, true), strange], &two), ["MemberJoined"]);
    assert_eq!(reasons(&two[..1], &two), ["MemberJoined"]);
    assert_eq!(reasons(&two, &two[..1]), ["MemberRemoved"]);
    // One after the other is known: what could not be told is news the next time, too.
    let now = [Member { id: 9, ..member(1, true) }, member(2, true)];
    let mut known = two.to_vec();
    for expected in [
        &["MemberReplaced", "MemberJoined", "MemberRemoved"][..],
        &["MemberJoined", "MemberRemoved"],
        &["MemberRemoved"],
        &[],
    ] {
        assert_eq!(reasons(&known, &now), expected);
        if let Some(next) = happened(&known, &now).first() {
            remember(&mut known, &now, &next.name);
        }
    }
}

#[test]
fn ordinals_are_those_of_the_statefulset() {
    for (pod, expected) in [
        ("db-0", Some(0)),
        ("db-12", Some(12)),
        ("db-01", None),
        ("db-", None),
        ("db-x", None),
        ("db2-1", None),
        ("other-1", None),
        ("db-1-1", None),
    ] {
        assert_eq!(ordinal("db", pod), expected, "{pod}");
    }
}

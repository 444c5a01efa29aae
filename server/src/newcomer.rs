//! Whether a member without a log may take part.
//!
//! A voter's log and its votes are promises, and a member that lost them does not know what it promised. It looks like
//! one that never ran. So a member without a log is held back: it answers nothing of raft's and does not stand for
//! election, until others have told what it cannot know itself. It asks all of them, again and again, and takes part
//!
//! - when the leader says that the member has never told its name, and that a majority of the disks without this one
//!   has everything that was acknowledged; or
//! - when it is one of the founders, nobody who answers has more than the founding entry, and these are a majority
//!   together with this member: then the cluster is just beginning.
//!
//! The first entry of its log is the record of the decision: a restart before that asks again, one after it does not.
//! Why this is enough, and what it cannot know, is in docs/adr/0008-members-without-a-log-ask-first.md.

use crate::assembly::{self, Mark};
use crate::background::tell_removed;
use crate::bootstrap::{self, Beginning, BootstrapError};
use crate::config::{Config, InitialClusterState};
use crate::node::{Identity, Node};
use crate::peer::describe::{self, Described, Knowledge};
use crate::server::{End, StartError};
use crate::tls::PeerConnector;
use futures::stream::{self, BoxStream, SelectAll, StreamExt as _};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Between questions to the same member at first: members that are started together find each other at once.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// The pause doubles up to this part of an election timeout, so that no election fails because a member still waits.
const PAUSES_IN_ELECTION_TIMEOUT: u32 = 4;

/// Peer URLs of members that others name, asked beside those that are known. Further ones are left out.
const NAMED_URLS_MAX: usize = 64;

/// Between lines about members that cannot be asked.
const COMPLAINT_INTERVAL: Duration = Duration::from_millis(100);

/// How often a member that waits says so.
const WAITING_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What another member's answer means for this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// It has nothing either.
    Fresh,
    /// It has data, and does not know enough: it does not lead, or not surely, or this member answered it before.
    Unsure,
    /// This member is new, and a majority has everything without it.
    New,
    /// This member has run before.
    Ran,
    /// This member was removed from the cluster.
    Removed,
    /// There is a cluster, and it is another one than this member would found.
    Elsewhere,
}

impl Word {
    fn of(described: &Described, me: u64) -> Self {
        if described.saw_started(me) {
            return Self::Ran;
        }
        match described.knowledge {
            Knowledge::Nothing => Self::Fresh,
            Knowledge::Own => Self::Unsure,
            Knowledge::Majority if described.members.iter().any(|member| member.id == me) => Self::New,
            Knowledge::Majority => Self::Removed,
        }
    }
}

/// What follows from all words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Wait,
    /// The leader has said that it is new.
    TakePart,
    /// It founds the cluster with a majority that has no data either.
    Found,
    /// It must not come back under its id.
    Ran,
    Removed,
}

/// Who founded the cluster; nobody for a member that joins.
struct Founders<'a> {
    me: u64,
    ids: &'a BTreeSet<u64>,
}

impl Founders<'_> {
    /// Decides by the newest word of each member that answers. Before `all_had_a_say` a member that knows more may just
    /// be slower.
    fn judge(&self, words: &[(u64, Word)], all_had_a_say: bool) -> Verdict {
        // A URL that leads back here says nothing new.
        let words = || words.iter().filter(|(from, _)| *from != self.me);
        let says = |wanted: Word| words().any(|(_, word)| *word == wanted);
        if says(Word::Ran) {
            return Verdict::Ran;
        }
        if says(Word::Removed) {
            return Verdict::Removed;
        }
        if says(Word::New) {
            return Verdict::TakePart;
        }
        let fresh: BTreeSet<u64> = words().filter(|(_, word)| *word == Word::Fresh).map(|(from, _)| *from).collect();
        let fresh = fresh.intersection(self.ids).count() + usize::from(self.ids.contains(&self.me));
        let somebody_knows = says(Word::Unsure) || says(Word::Elsewhere);
        if all_had_a_say && !somebody_knows && fresh > self.ids.len() / 2 && !self.ids.is_empty() {
            return Verdict::Found;
        }
        Verdict::Wait
    }
}

/// What became of a member without a log.
#[derive(Debug)]
pub(crate) enum Known {
    /// It takes part under its identity.
    TakesPart,
    /// A cluster let it in under this one: it begins again.
    Joined(Identity),
}

/// One member's answers, one after the other.
type Answers = BoxStream<'static, (String, Result<Described, String>)>;

/// A member without a log, and what it has heard.
struct Newcomer {
    /// It joins what cluster there is (`assembly`).
    finds_place: bool,
    me: u64,
    cluster_id: u64,
    founders: BTreeSet<u64>,
    connector: PeerConnector,
    pause_max: Duration,
    /// Peer URLs that are asked, and how many may be.
    asked: BTreeSet<String>,
    asked_max: usize,
    /// The newest answer at each URL.
    heard: BTreeMap<String, Result<(u64, Word), String>>,
    /// When it was last logged that one cannot be asked.
    complained: Option<Instant>,
}

/// Returns when this member may take part, or has joined a cluster. For as long as that takes, all it does is ask.
/// Long because each verdict ends it in its own way.
///
/// # Errors
/// It ran before, or was removed, and is not to find its place by itself; the members to ask are not known.
pub(crate) async fn wait_until_known(
    node: &Node,
    config: &Config,
    beginning: &Beginning,
    connector: &PeerConnector,
) -> Result<Known, StartError> {
    let identity = node.identity();
    let first = bootstrap::others(beginning, config).await?;
    let finds_place = config.initial_cluster_state == InitialClusterState::Auto;
    let mut newcomer = Newcomer {
        finds_place,
        me: identity.member_id,
        cluster_id: identity.cluster_id,
        // The only founder had its identity before it lost its data: it may not found the cluster again.
        founders: beginning.founders.keys().copied().filter(|_| beginning.founders.len() > 1).collect(),
        connector: connector.clone(),
        pause_max: (config.election_timeout / PAUSES_IN_ELECTION_TIMEOUT).max(PAUSE_MIN),
        asked: BTreeSet::new(),
        asked_max: first.len() + NAMED_URLS_MAX,
        heard: BTreeMap::new(),
        complained: None,
    };
    let mut answers = SelectAll::new();
    newcomer.ask(&mut answers, first.clone());
    tracing::info!(others = ?first, "this member has no data: asking the others whether it ran before");
    let mut tick = tokio::time::interval(WAITING_LOG_INTERVAL);
    tick.reset();
    let (mark, mut attempts) = (Mark::new(config), Attempts::default());
    loop {
        tokio::select! {
            biased;
            Some((url, answer)) = answers.next() => {
                let named = newcomer.hear(url.clone(), answer);
                newcomer.ask(&mut answers, named);
                let all_had_a_say = first.iter().all(|url| newcomer.heard.contains_key(url));
                match newcomer.verdict(all_had_a_say) {
                    Verdict::Wait => {}
                    Verdict::TakePart => return Ok(Known::TakesPart),
                    Verdict::Found => match mark.check_founding() {
                        Ok(()) => return Ok(Known::TakesPart),
                        Err(error) => newcomer.tell_marked(&error),
                    },
                    Verdict::Ran | Verdict::Removed if finds_place => attempts.are_due = true,
                    Verdict::Ran => {
                        return Err(StartError::Bootstrap(BootstrapError::AlreadyBootstrapped {
                            member_id: newcomer.me,
                            peer: url,
                            data_dir: config.data_dir.display().to_string(),
                        }));
                    }
                    Verdict::Removed => {
                        tell_removed(newcomer.me);
                        return Err(StartError::Ended(End::Removed));
                    }
                }
            }
            _ = tick.tick() => {
                newcomer.tell(config);
                // Whose former self had acknowledged something cannot be vouched for, and gets a new id.
                attempts.are_due |= finds_place && newcomer.says(Word::Unsure);
            }
        }
        attempts.are_due |= newcomer.says(Word::Elsewhere);
        if attempts.begin() {
            match assembly::attempt(config, &first, connector).await? {
                Ok(identity) => return Ok(Known::Joined(identity)),
                Err(reasons) => attempts.tell(&reasons),
            }
        }
    }
}

/// Attempts to join, with pauses.
#[derive(Default)]
struct Attempts {
    are_due: bool,
    last: Option<Instant>,
    /// When it was last logged why one failed.
    told: Option<Instant>,
}

impl Attempts {
    /// True if one is due now.
    fn begin(&mut self) -> bool {
        let is_now = self.are_due && self.last.is_none_or(|last| last.elapsed() >= assembly::PAUSE);
        if is_now {
            (self.are_due, self.last) = (false, Some(Instant::now()));
        }
        is_now
    }

    /// Logs why one failed, once in a while.
    fn tell(&mut self, reasons: &[String]) {
        if self.told.is_none_or(|told| told.elapsed() >= WAITING_LOG_INTERVAL) {
            self.told = Some(Instant::now());
            tracing::warn!(?reasons, "the cluster does not let this member in yet, trying again");
        }
    }
}

impl Newcomer {
    fn says(&self, wanted: Word) -> bool {
        self.heard.values().any(|heard| heard.as_ref().is_ok_and(|(_, word)| *word == wanted))
    }

    /// Logs why it does not found the cluster.
    fn tell_marked(&mut self, error: &BootstrapError) {
        if self.complained.is_none_or(|at| at.elapsed() >= WAITING_LOG_INTERVAL) {
            self.complained = Some(Instant::now());
            tracing::error!(%error, "a majority of the members has no data, and no cluster is founded");
        }
    }

    /// Asks at more URLs, each at once and then with growing pauses.
    fn ask(&mut self, answers: &mut SelectAll<Answers>, urls: Vec<String>) {
        for url in urls {
            if self.asked.len() < self.asked_max && self.asked.insert(url.clone()) {
                answers.push(self.answers(url));
            }
        }
    }

    fn answers(&self, url: String) -> Answers {
        let (connector, me, pause_max) = (self.connector.clone(), self.me, self.pause_max);
        let asking = stream::unfold(None, move |pause: Option<Duration>| {
            let (connector, url) = (connector.clone(), url.clone());
            async move {
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
                let answer = describe::one(&url, Some(me), &connector).await;
                let next = pause.map_or(PAUSE_MIN, |pause| (pause * 2).min(pause_max));
                Some(((url, answer), Some(next)))
            }
        });
        asking.boxed()
    }

    /// Takes an answer in. Returns the URLs of members that it names: the leader may be one that nobody listed.
    fn hear(&mut self, url: String, answer: Result<Described, String>) -> Vec<String> {
        let (word, named) = match answer {
            Err(reason) => {
                self.complain(&url, &reason);
                (Err(reason), Vec::new())
            }
            Ok(described) if self.finds_place && described.cluster_id != self.cluster_id => {
                // Without data, it may have another list, as while the cluster is made larger.
                let word = if assembly::has_cluster(&described) { Word::Elsewhere } else { Word::Unsure };
                (Ok((described.member_id, word)), Vec::new())
            }
            Ok(described) if described.cluster_id != self.cluster_id => {
                let reason = format!("it is of another cluster, {:x}", described.cluster_id);
                if self.heard.get(&url).is_none_or(|before| before.as_ref().err() != Some(&reason)) {
                    tracing::error!(
                        peer = url,
                        its_cluster_id = format_args!("{:x}", described.cluster_id),
                        cluster_id = format_args!("{:x}", self.cluster_id),
                        "a member that is listed in --initial-cluster is of another cluster: its --initial-cluster or \
                         --initial-cluster-token differs from this member's"
                    );
                }
                (Err(reason), Vec::new())
            }
            Ok(described) => {
                let others = described.members.iter().filter(|member| member.id != self.me);
                let named = others.flat_map(|member| member.peer_urls.clone()).collect();
                (Ok((described.member_id, Word::of(&described, self.me))), named)
            }
        };
        self.heard.insert(url, word);
        named
    }

    /// Logs why a member cannot be asked: each reason once, unless they change faster than anybody reads.
    fn complain(&mut self, url: &str, reason: &str) {
        let is_known = self.heard.get(url).is_some_and(|before| before.as_ref().is_err_and(|before| before == reason));
        if !is_known && self.complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            self.complained = Some(Instant::now());
            tracing::warn!(error = format!("{url}: {reason}"), "cannot reach a member, trying again");
        }
    }

    fn verdict(&self, all_had_a_say: bool) -> Verdict {
        let words: Vec<(u64, Word)> = self.heard.values().filter_map(|word| word.as_ref().ok().copied()).collect();
        Founders { me: self.me, ids: &self.founders }.judge(&words, all_had_a_say)
    }

    fn tell(&self, config: &Config) {
        let said: Vec<String> = self
            .heard
            .iter()
            .map(|(url, word)| match word {
                Ok((_, Word::Fresh)) => format!("{url}: has no data either"),
                Ok(_) => format!("{url}: has data, and does not know enough"),
                Err(reason) => format!("{url}: {reason}"),
            })
            .collect();
        if self.finds_place {
            tracing::warn!(
                ?said,
                data_dir = %config.data_dir.display(),
                "this member has no data and waits for its cluster, or for a majority of the listed members that has none \
                 either: start the others"
            );
            return;
        }
        tracing::warn!(
            ?said,
            data_dir = %config.data_dir.display(),
            "this member has no data and waits to learn from the others whether it ran before: start them; if it lost \
             its data, remove it, add it again and start it with --initial-cluster-state=existing and an empty data \
             directory"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::describe::DescribedMember;

    const ME: u64 = 3;

    fn judge(founders: u64, words: &[(u64, Word)]) -> Verdict {
        Founders { me: ME, ids: &(1..=founders).collect() }.judge(words, true)
    }

    #[test]
    fn a_majority_that_has_nothing_begins() {
        use Word::Fresh;
        assert_eq!(judge(3, &[]), Verdict::Wait);
        assert_eq!(judge(3, &[(1, Fresh)]), Verdict::Found);
        assert_eq!(judge(4, &[(1, Fresh)]), Verdict::Wait);
        assert_eq!(judge(4, &[(1, Fresh), (2, Fresh)]), Verdict::Found);
        assert_eq!(judge(5, &[(1, Fresh)]), Verdict::Wait);
        assert_eq!(judge(5, &[(1, Fresh), (5, Fresh)]), Verdict::Found);
        // One member at two URLs, one at a URL that leads back, one that is no founder.
        assert_eq!(judge(5, &[(1, Fresh), (1, Fresh)]), Verdict::Wait);
        assert_eq!(judge(3, &[(ME, Fresh)]), Verdict::Wait);
        assert_eq!(judge(3, &[(9, Fresh)]), Verdict::Wait);
    }

    #[test]
    fn whoever_has_data_is_heard_first() {
        use Word::{Elsewhere, Fresh, New, Ran, Removed, Unsure};
        let few = Founders { me: ME, ids: &(1..=3).collect() };
        assert_eq!(few.judge(&[(1, Fresh)], false), Verdict::Wait, "the other may know more");
        assert_eq!(few.judge(&[(1, New)], false), Verdict::TakePart);
        assert_eq!(judge(3, &[(1, Fresh), (2, Unsure)]), Verdict::Wait);
        assert_eq!(judge(5, &[(1, Fresh), (2, Fresh), (4, Unsure)]), Verdict::Wait);
        assert_eq!(judge(3, &[(1, Fresh), (2, Elsewhere)]), Verdict::Wait, "no second cluster");
        assert_eq!(judge(3, &[(1, Unsure), (2, Unsure)]), Verdict::Wait);
        assert_eq!(judge(3, &[(1, Unsure), (2, New)]), Verdict::TakePart);
        assert_eq!(judge(3, &[(1, New), (2, Ran)]), Verdict::Ran);
        assert_eq!(judge(3, &[(1, Fresh), (2, Ran)]), Verdict::Ran);
        assert_eq!(judge(3, &[(1, Fresh), (2, Removed)]), Verdict::Removed);
    }

    #[test]
    fn who_joins_believes_the_leader_only() {
        assert_eq!(judge(0, &[]), Verdict::Wait);
        assert_eq!(judge(0, &[(1, Word::Fresh), (2, Word::Fresh)]), Verdict::Wait);
        assert_eq!(judge(0, &[(1, Word::Unsure)]), Verdict::Wait);
        assert_eq!(judge(0, &[(1, Word::Unsure), (2, Word::New)]), Verdict::TakePart);
    }

    #[test]
    fn what_an_answer_means() {
        let member = |id, name: &str| DescribedMember {
            id,
            peer_urls: vec![format!("http://m{id}:1")],
            is_learner: false,
            name: name.to_owned(),
            client_urls: vec![],
        };
        let word = |knowledge, members: &[DescribedMember]| {
            let cluster_version = "3.5.0".to_owned();
            let described =
                Described { cluster_id: 9, member_id: 1, knowledge, cluster_version, members: members.into() };
            Word::of(&described, ME)
        };
        let (other, new, ran) = (member(1, "a"), member(ME, ""), member(ME, "c"));
        assert_eq!(word(Knowledge::Nothing, &[]), Word::Fresh);
        assert_eq!(word(Knowledge::Own, &[other.clone(), new.clone()]), Word::Unsure);
        assert_eq!(word(Knowledge::Own, std::slice::from_ref(&other)), Word::Unsure);
        assert_eq!(word(Knowledge::Majority, &[other.clone(), new]), Word::New);
        assert_eq!(word(Knowledge::Majority, std::slice::from_ref(&other)), Word::Removed);
        for knowledge in [Knowledge::Nothing, Knowledge::Own, Knowledge::Majority] {
            assert_eq!(word(knowledge, &[other.clone(), ran.clone()]), Word::Ran);
        }
    }
}

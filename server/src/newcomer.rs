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
//! Whoever has heard of data founds nothing for as long as its process runs, whatever becomes of those who had it.
//!
//! The first entry of its log is the record of the decision: a restart before that asks again, one after it does not.
//! Why this is enough, and what it cannot know, is in docs/adr/0008-members-without-a-log-ask-first.md.

use crate::assembly::{self, Mark, Place};
use crate::background::tell_removed;
use crate::bootstrap::{self, Beginning, BootstrapError};
use crate::config::{Config, InitialClusterState};
use crate::node::{Identity, Node};
use crate::peer::describe::{self, Described, Knowledge};
use crate::server::{End, StartError};
use crate::tls::PeerConnector;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Fuse, FusedFuture as _};
use futures::stream::{self, BoxStream, SelectAll, StreamExt as _};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::pin::pin;
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

/// A listed member that cannot be asked for this long has had its say, for one that finds its place: an orchestrator
/// restarts members, and one that is away for a moment may have the data.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// It has nothing either, and another list: it would found another cluster, as while one is made larger.
    Apart,
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

    /// True if somebody has data.
    fn tells_of_data(self) -> bool {
        match self {
            Self::Fresh | Self::Apart => false,
            Self::Unsure | Self::New | Self::Ran | Self::Removed | Self::Elsewhere => true,
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
    /// Somebody had data once, who may not answer any more.
    knows_of_data: bool,
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
        let forbids = self.knows_of_data || words().any(|(_, word)| word.tells_of_data() || *word == Word::Apart);
        if all_had_a_say && !forbids && fresh > self.ids.len() / 2 && !self.ids.is_empty() {
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

/// What was heard at a URL.
struct Heard {
    newest: Result<(u64, Word), String>,
    /// Since when it cannot be asked; none while it answers.
    failing: Option<Instant>,
}

/// An attempt to join.
type Joining<'a> = BoxFuture<'a, Result<Identity, Vec<String>>>;

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
    heard: BTreeMap<String, Heard>,
    /// Where it was first heard that there is data. It is not forgotten: who had it may be away, or lose it.
    data_at: Option<String>,
    /// Members of another cluster that were told of in the log, and of which.
    strangers: BTreeMap<String, u64>,
    /// When it was last logged that one cannot be asked.
    complained: Option<Instant>,
    /// Why it did not found or join what it could have.
    refused: Option<String>,
}

/// Returns when this member may take part, or has joined a cluster. For as long as that takes, all it does is ask, and
/// keep in `place` what it waits for. Long because each verdict ends it in its own way.
///
/// # Errors
/// It ran before, or was removed, and is not to find its place by itself; the members to ask are not known.
pub(crate) async fn wait_until_known(
    node: &Node,
    config: &Config,
    beginning: &Beginning,
    connector: &PeerConnector,
    place: &Place,
) -> Result<Known, StartError> {
    let first = bootstrap::others(beginning, config).await?;
    let mut newcomer = Newcomer::new(node.identity(), config, beginning, connector, first.len());
    let mut answers = SelectAll::new();
    newcomer.ask(&mut answers, first.clone());
    tracing::info!(others = ?first, "this member has no data: asking the others whether it ran before");
    let mut tick = tokio::time::interval(WAITING_LOG_INTERVAL);
    tick.reset();
    let (mark, mut attempts) = (Mark::new(config), Attempts::default());
    let mut attempt = pin!(Fuse::<Joining<'_>>::terminated());
    loop {
        place.waits(newcomer.why());
        tokio::select! {
            biased;
            joined = &mut attempt => match joined {
                Ok(identity) => return Ok(Known::Joined(identity)),
                Err(reasons) => {
                    attempts.tell(&reasons);
                    newcomer.refused = Some(reasons.join("; "));
                }
            },
            Some((url, answer)) = answers.next() => {
                let named = newcomer.hear(url.clone(), answer);
                newcomer.ask(&mut answers, named);
                match newcomer.verdict(newcomer.all_had_a_say(&first)) {
                    Verdict::Wait => {}
                    Verdict::TakePart => match mark.check_cluster(newcomer.cluster_id) {
                        Ok(()) => return Ok(Known::TakesPart),
                        Err(error) => newcomer.tell_marked(&error),
                    },
                    Verdict::Found => match mark.check_founding() {
                        Ok(()) => return Ok(Known::TakesPart),
                        Err(error) => newcomer.tell_marked(&error),
                    },
                    Verdict::Ran | Verdict::Removed if newcomer.finds_place => attempts.are_due = true,
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
                attempts.are_due |= newcomer.finds_place && newcomer.says(Word::Elsewhere);
            }
            _ = tick.tick() => {
                newcomer.tell(config);
                // Whose former self had acknowledged something cannot be vouched for, and gets a new id.
                attempts.are_due |= newcomer.finds_place && newcomer.says(Word::Unsure);
            }
        }
        // Beside the answers, which go on: who is asked to let this member in may take long.
        if attempt.is_terminated() && attempts.begin() {
            attempt.set(assembly::attempt(config, &first, connector).boxed().fuse());
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
    /// It knows this many others.
    fn new(
        identity: Identity,
        config: &Config,
        beginning: &Beginning,
        connector: &PeerConnector,
        others: usize,
    ) -> Self {
        Self {
            finds_place: config.initial_cluster_state == InitialClusterState::Auto,
            me: identity.member_id,
            cluster_id: identity.cluster_id,
            // The only founder had its identity before it lost its data: it may not found the cluster again.
            founders: beginning.founders.keys().copied().filter(|_| beginning.founders.len() > 1).collect(),
            connector: connector.clone(),
            pause_max: (config.election_timeout / PAUSES_IN_ELECTION_TIMEOUT).max(PAUSE_MIN),
            asked: BTreeSet::new(),
            asked_max: others + NAMED_URLS_MAX,
            heard: BTreeMap::new(),
            data_at: None,
            strangers: BTreeMap::new(),
            complained: None,
            refused: None,
        }
    }

    /// True if each of these has answered, or cannot be asked: once, or for a while if an orchestrator may just be
    /// restarting it.
    fn all_had_a_say(&self, urls: &[String]) -> bool {
        let patience = if self.finds_place { PATIENCE } else { Duration::ZERO };
        let had_its_say = |heard: &Heard| heard.failing.is_none_or(|since| since.elapsed() >= patience);
        urls.iter().all(|url| self.heard.get(url).is_some_and(had_its_say))
    }

    fn says(&self, wanted: Word) -> bool {
        self.heard.values().any(|heard| heard.newest.as_ref().is_ok_and(|(_, word)| *word == wanted))
    }

    /// Logs why it neither founds the cluster nor takes part in it, though the others let it.
    fn tell_marked(&mut self, error: &BootstrapError) {
        self.refused = Some(error.to_string());
        if self.complained.is_none_or(|at| at.elapsed() >= WAITING_LOG_INTERVAL) {
            self.complained = Some(Instant::now());
            tracing::error!(%error, "this member waits, though the others would let it begin");
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
        let mut named = Vec::new();
        let newest = match answer {
            Err(reason) => {
                self.complain(&url, &reason);
                Err(reason)
            }
            Ok(described) if described.cluster_id != self.cluster_id => self.hear_stranger(&url, &described),
            Ok(described) => {
                let others = described.members.iter().filter(|member| member.id != self.me);
                named = others.flat_map(|member| member.peer_urls.clone()).collect();
                Ok((described.member_id, Word::of(&described, self.me)))
            }
        };
        let has_data = newest.as_ref().is_ok_and(|(from, word)| *from != self.me && word.tells_of_data());
        if has_data && self.data_at.is_none() {
            self.data_at = Some(url.clone());
        }
        let failing_before = self.heard.get(&url).and_then(|heard| heard.failing);
        let failing = newest.is_err().then(|| failing_before.unwrap_or_else(Instant::now));
        self.heard.insert(url, Heard { newest, failing });
        named
    }

    /// What one of another cluster means. One with data forbids to found a cluster beside it, whatever the mode.
    fn hear_stranger(&mut self, url: &str, described: &Described) -> Result<(u64, Word), String> {
        let its_cluster_id = described.cluster_id;
        if !self.finds_place && self.strangers.insert(url.to_owned(), its_cluster_id) != Some(its_cluster_id) {
            tracing::error!(
                peer = url,
                its_cluster_id = format_args!("{its_cluster_id:x}"),
                cluster_id = format_args!("{:x}", self.cluster_id),
                "a member that is listed in --initial-cluster is of another cluster: its --initial-cluster or \
                 --initial-cluster-token differs from this member's"
            );
        }
        if assembly::has_cluster(described) || described.knowledge != Knowledge::Nothing {
            Ok((described.member_id, Word::Elsewhere))
        } else if self.finds_place {
            Ok((described.member_id, Word::Apart))
        } else {
            // As in etcd, it is not one of those that count.
            Err(format!("it is of another cluster, {its_cluster_id:x}"))
        }
    }

    /// Logs why a member cannot be asked: each reason once, unless they change faster than anybody reads.
    fn complain(&mut self, url: &str, reason: &str) {
        let told = |before: &Heard| before.newest.as_ref().is_err_and(|before| before == reason);
        let is_known = self.heard.get(url).is_some_and(told);
        if !is_known && self.complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
            self.complained = Some(Instant::now());
            tracing::warn!(error = format!("{url}: {reason}"), "cannot reach a member, trying again");
        }
    }

    fn verdict(&self, all_had_a_say: bool) -> Verdict {
        let words: Vec<(u64, Word)> =
            self.heard.values().filter_map(|heard| heard.newest.as_ref().ok().copied()).collect();
        let founders = Founders { me: self.me, ids: &self.founders, knows_of_data: self.data_at.is_some() };
        founders.judge(&words, all_had_a_say)
    }

    /// What each of the others said last.
    fn said(&self) -> Vec<String> {
        let text = |(url, heard): (&String, &Heard)| match &heard.newest {
            Ok((_, Word::Fresh)) => format!("{url}: has no data either"),
            Ok((_, Word::Apart)) => format!("{url}: has no data either, and another --initial-cluster"),
            Ok((_, Word::Elsewhere)) => format!("{url}: is of another cluster, which has data"),
            Ok(_) => format!("{url}: has data, and does not know enough"),
            Err(reason) => format!("{url}: {reason}"),
        };
        self.heard.iter().map(text).collect()
    }

    /// Why it waits, in one line.
    fn why(&self) -> String {
        let mut why = "this member has no data and waits for its cluster".to_owned();
        if let Some(url) = &self.data_at {
            write!(why, "; {url} had data, so it founds none").ok();
        }
        if let Some(refused) = &self.refused {
            write!(why, "; {refused}").ok();
        }
        write!(why, "; {}", self.said().join("; ")).ok();
        why
    }

    fn tell(&self, config: &Config) {
        let said = self.said();
        if let Some(url) = &self.data_at {
            tracing::warn!(
                url,
                "this process has heard of data there, and founds no cluster, even if all others have none now: bring that \
                 member back; or, to begin without its data, restart this one"
            );
        }
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
        Founders { me: ME, ids: &(1..=founders).collect(), knows_of_data: false }.judge(words, true)
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
        use Word::{Apart, Elsewhere, Fresh, New, Ran, Removed, Unsure};
        let few = Founders { me: ME, ids: &(1..=3).collect(), knows_of_data: false };
        assert_eq!(few.judge(&[(1, Fresh)], false), Verdict::Wait, "the other may know more");
        assert_eq!(few.judge(&[(1, New)], false), Verdict::TakePart);
        assert_eq!(judge(3, &[(1, Fresh), (2, Unsure)]), Verdict::Wait);
        assert_eq!(judge(5, &[(1, Fresh), (2, Fresh), (4, Unsure)]), Verdict::Wait);
        assert_eq!(judge(3, &[(1, Fresh), (2, Elsewhere)]), Verdict::Wait, "no second cluster");
        assert_eq!(judge(3, &[(1, Elsewhere), (2, Fresh)]), Verdict::Wait);
        assert_eq!(judge(5, &[(1, Fresh), (2, Fresh), (4, Apart)]), Verdict::Wait, "it may get the same list");
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

    /// A founder of three that has heard nothing.
    fn newcomer(finds_place: bool) -> Newcomer {
        Newcomer {
            finds_place,
            me: ME,
            cluster_id: 9,
            founders: (1..=3).collect(),
            connector: PeerConnector::plain(),
            pause_max: PAUSE_MIN,
            asked: BTreeSet::new(),
            asked_max: 2,
            heard: BTreeMap::new(),
            data_at: None,
            strangers: BTreeMap::new(),
            complained: None,
            refused: None,
        }
    }

    fn described(member_id: u64, cluster_id: u64, knowledge: Knowledge) -> Described {
        Described { cluster_id, member_id, knowledge, cluster_version: "3.5.0".to_owned(), members: vec![] }
    }

    const URLS: [&str; 2] = ["http://m1:1", "http://m2:1"];

    impl Newcomer {
        fn hears(&mut self, member: usize, answer: Result<Described, String>) -> Verdict {
            self.hear(URLS[member - 1].to_owned(), answer);
            self.verdict(self.all_had_a_say(&URLS.map(str::to_owned)))
        }
    }

    /// Who had data may be restarted, or lose it, too: what it said once counts.
    #[tokio::test(start_paused = true)]
    async fn data_that_was_heard_of_is_not_forgotten() {
        let fresh = || Ok(described(2, 9, Knowledge::Nothing));
        let away = || Err("connection refused".to_owned());
        for (finds_place, knows) in [
            (true, described(1, 9, Knowledge::Own)),
            (false, described(1, 9, Knowledge::Own)),
            (true, described(1, 7, Knowledge::Own)),
            (false, described(1, 7, Knowledge::Own)),
            (true, described(8, 7, Knowledge::Majority)),
        ] {
            let mut newcomer = newcomer(finds_place);
            assert_eq!(newcomer.hears(2, fresh()), Verdict::Wait);
            assert_eq!(newcomer.hears(1, Ok(knows.clone())), Verdict::Wait);
            for answer in [away(), away(), Ok(described(1, 9, Knowledge::Nothing)), away()] {
                assert_eq!(newcomer.hears(1, answer), Verdict::Wait, "{finds_place} {knows:?}");
                tokio::time::advance(PATIENCE).await;
                assert_eq!(newcomer.hears(2, fresh()), Verdict::Wait, "{finds_place} {knows:?}");
            }
            assert!(newcomer.why().contains("http://m1:1 had data"), "{}", newcomer.why());
            // A restart of the process is the permission to begin without it.
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_finds_its_place_gives_the_others_time() {
        let fresh = || Ok(described(2, 9, Knowledge::Nothing));
        let away = || Err("connection refused".to_owned());
        let mut patient = newcomer(true);
        assert_eq!(patient.hears(1, away()), Verdict::Wait);
        assert_eq!(patient.hears(2, fresh()), Verdict::Wait);
        tokio::time::advance(PATIENCE / 2).await;
        assert_eq!(patient.hears(1, away()), Verdict::Wait);
        tokio::time::advance(PATIENCE / 2).await;
        assert_eq!(patient.hears(1, away()), Verdict::Found);
        // Who answers again, and is away again, gets the time again.
        assert_eq!(patient.hears(1, Ok(described(1, 9, Knowledge::Nothing))), Verdict::Found);
        assert_eq!(patient.hears(1, away()), Verdict::Wait);
        let mut as_etcd = newcomer(false);
        assert_eq!(as_etcd.hears(1, away()), Verdict::Wait);
        assert_eq!(as_etcd.hears(2, fresh()), Verdict::Found);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fresh_member_with_another_list_counts_as_the_mode_says() {
        let stranger = || Ok(described(1, 7, Knowledge::Nothing));
        let fresh = || Ok(described(2, 9, Knowledge::Nothing));
        let mut patient = newcomer(true);
        assert_eq!(patient.hears(1, stranger()), Verdict::Wait);
        assert_eq!(patient.hears(2, fresh()), Verdict::Wait);
        // It got the list.
        assert_eq!(patient.hears(1, Ok(described(1, 9, Knowledge::Nothing))), Verdict::Found);
        let mut as_etcd = newcomer(false);
        assert_eq!(as_etcd.hears(1, stranger()), Verdict::Wait);
        assert_eq!(
            as_etcd.hears(2, fresh()),
            Verdict::Found,
            "a wrong --initial-cluster-token does not stop the others"
        );
    }
}

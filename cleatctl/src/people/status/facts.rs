//! What was observed of a cluster at one moment. Facts only: what they mean is said in `findings`.

use super::metrics::Metrics;
use api::etcdserverpb::StatusResponse;

/// A cluster, as far as it could be seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// When, in seconds since 1970.
    pub(crate) now: i64,
    /// All that are known, in the order of their names.
    pub(crate) members: Vec<Member>,
    /// Who has which alarm.
    pub(crate) alarms: Vec<(u64, String)>,
    /// Why the members are not known; then only those that were asked are among them.
    pub(crate) list_failure: Option<String>,
    /// Why the alarms are not known.
    pub(crate) alarm_failure: Option<String>,
    /// Endpoints that were given and did not answer, with the reason.
    pub(crate) silent_endpoints: Vec<(String, String)>,
    /// Endpoints that were given and are of somebody else.
    pub(crate) strangers: Vec<Stranger>,
    /// Whether requests need a user; None if it cannot be told.
    pub(crate) is_auth_enabled: Option<bool>,
}

/// A member.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) id: u64,
    /// Empty before it has started for the first time.
    pub(crate) name: String,
    pub(crate) is_learner: bool,
    pub(crate) peer_urls: Vec<String>,
    pub(crate) client_urls: Vec<String>,
    /// What it says, or why it says nothing.
    pub(crate) seen: Result<Seen, String>,
    /// The certificates that it shows, at each URL that has TLS.
    pub(crate) certificates: Vec<Certificate>,
    /// Peer URLs that were tried from here: whether they take a connection, or why not.
    pub(crate) peer_ports: Vec<(String, Result<(), String>)>,
    /// URLs with TLS that were tried without a certificate.
    pub(crate) admissions: Vec<(String, Admission)>,
}

/// What becomes of whoever shows no certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The server said no.
    Refused,
    /// The server answered.
    LetIn,
    /// It cannot be told, for this reason.
    Unknown(String),
}

/// An endpoint that was given and is of no member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stranger {
    pub(crate) endpoint: String,
    /// Who answers there.
    pub(crate) id: u64,
    /// The cluster that it is of, if it is another one.
    pub(crate) other_cluster: Option<u64>,
}

/// What a member that answers says.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Where.
    pub(crate) endpoint: String,
    pub(crate) status: StatusResponse,
    /// Name and version of the program, as `cleat 0.1.0`.
    pub(crate) program: Option<String>,
    /// Its numbers, or why they could not be read.
    pub(crate) metrics: Result<Metrics, String>,
    /// By how many seconds its clock is ahead of the one here, as exactly as seconds can tell.
    pub(crate) clock_ahead_seconds: Option<i64>,
}

/// A certificate that a member shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) url: String,
    /// In seconds since 1970, or why that is not known.
    pub(crate) ends: Result<i64, String>,
}

impl Member {
    /// Its name, or its id before it has one.
    pub(crate) fn shown_name(&self) -> String {
        if self.name.is_empty() { format!("{:x}", self.id) } else { self.name.clone() }
    }

    /// What it says, if it answers.
    pub(crate) fn answer(&self) -> Option<&Seen> {
        self.seen.as_ref().ok()
    }

    /// When the first of its certificates ends.
    pub(crate) fn first_expiry(&self) -> Option<i64> {
        self.certificates.iter().filter_map(|certificate| certificate.ends.as_ref().ok().copied()).min()
    }
}

impl Seen {
    /// What the database may grow to, in bytes.
    pub(crate) fn quota_bytes(&self) -> Option<u64> {
        let told = u64::try_from(self.status.db_size_quota).ok().filter(|bytes| *bytes > 0);
        let metric = || self.metrics.as_ref().ok()?.value("etcd_server_quota_backend_bytes");
        told.or_else(|| metric().filter(|bytes| *bytes > 0.0).map(|bytes| bytes as u64))
    }

    /// How much of it is used, from 0 to 1.
    pub(crate) fn quota_used(&self) -> Option<f64> {
        Some(self.status.db_size.max(0) as f64 / self.quota_bytes()? as f64)
    }
}

impl Facts {
    /// Those that vote.
    pub(crate) fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| !member.is_learner)
    }

    /// The leader that most of those that answer know.
    pub(crate) fn leader(&self) -> Option<&Member> {
        let count = |id: u64| self.answers().filter(|seen| seen.status.leader == id).count();
        let candidates = self.members.iter().filter(|member| count(member.id) > 0);
        candidates.max_by_key(|member| count(member.id))
    }

    /// What those say that answer.
    pub(crate) fn answers(&self) -> impl Iterator<Item = &Seen> {
        self.members.iter().filter_map(Member::answer)
    }

    /// Entries of the log that a member has not applied, of those that the leader has.
    pub(crate) fn lag(&self, seen: &Seen) -> Option<u64> {
        let newest = self.leader().and_then(Member::answer)?.status.raft_index;
        Some(newest.saturating_sub(seen.status.raft_applied_index))
    }
}

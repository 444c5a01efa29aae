//! Asks every member for its facts, all at the same time. A member that does not answer is a fact, too.

use super::facts::{Admission, Certificate, Facts, Member, Seen, Stranger};
use super::metrics::Metrics;
use crate::http_get::{http_get, url_of};
use crate::people::advice::cause;
use api::etcdserverpb::{AlarmType, Member as ListedMember, StatusResponse};
use chrono::DateTime;
use client::http::{Answer, Call, Http, HttpError, Server};
use client::{Client, Error, Options, TlsOptions, shown_certificate};
use futures::future::join_all;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;

/// An answer to who shows no certificate is never read to its end.
const BODY_BYTES_MAX: usize = 64 << 10;

/// Members that are asked at most: more than any cluster has.
const MEMBERS_MAX: usize = 64;

/// Certificates last for months.
const CERTIFICATE_AGE_MAX: Duration = Duration::from_mins(1);

/// Attempts to be let in. A server that refuses may close the connection before its reason has come.
const ADMISSION_ATTEMPTS: usize = 3;

/// How far a look goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// How the cluster is.
    Live,
    /// And how it was set up: connections to peer URLs, and connections without a certificate.
    Setup,
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Looks at one cluster, as often as it is asked to. Connections and the user's token are kept from look to look.
pub(crate) struct Observer<'a> {
    options: &'a Options,
    depth: Depth,
    client: Client,
    /// Client URLs of the members that answered last: see [`Observer::teller`].
    members: RefCell<Vec<String>>,
    /// Of members that are asked at their own URLs.
    others: RefCell<BTreeMap<String, Client>>,
    certificates: RefCell<BTreeMap<String, (Instant, Certificate)>>,
}

impl<'a> Observer<'a> {
    /// # Errors
    /// Only of the options.
    pub(crate) fn new(options: &'a Options, depth: Depth) -> Result<Self, Error> {
        let client = Client::new(options)?;
        let (members, others, certificates) = (RefCell::default(), RefCell::default(), RefCell::default());
        Ok(Self { options, depth, client, members, others, certificates })
    }

    /// Looks at the cluster. That nobody answers is in the facts.
    pub(crate) async fn look(&self) -> Facts {
        let mut facts = Facts { now: unix_now(), ..Facts::default() };
        let answers = self.ask().await;
        let teller = self.teller(&answers);
        let (list, alarms, auth) = tokio::join!(teller.known_members(), teller.raised_alarms(), teller.auth_status());
        let mut answered = Vec::new();
        for (endpoint, status) in answers {
            match status {
                Ok(status) => answered.push((endpoint, status)),
                Err(error) => {
                    facts.silent_endpoints.push((client::without_user(&endpoint).into_owned(), reason(&error)));
                }
            }
        }
        match alarms {
            Ok(alarms) => {
                let name = |kind: i32| {
                    AlarmType::try_from(kind).map_or_else(|_| kind.to_string(), |kind| kind.as_str_name().to_owned())
                };
                facts.alarms = alarms.alarms.iter().map(|alarm| (alarm.member_id, name(alarm.alarm))).collect();
            }
            Err(error) => facts.alarm_failure = Some(reason(&error)),
        }
        facts.is_auth_enabled = match auth {
            Ok(status) => Some(status.enabled),
            // Only who must be somebody is refused.
            Err(error) if error.is(api::error::Error::UserEmpty) || error.is(api::error::Error::PermissionDenied) => {
                Some(true)
            }
            Err(_) => None,
        };
        let (cluster, listed) = match list {
            Ok(list) => (list.header.map(|header| header.cluster_id), Some(list.members)),
            Err(error) => {
                facts.list_failure = Some(reason(&error));
                (answered.first().map(|(_, status)| ids(status).0), None)
            }
        };
        let (mut ours, strangers) = sort_out(answered, cluster, listed.as_deref());
        facts.strangers = strangers;
        let listed = listed
            .unwrap_or_else(|| ours.iter().map(|(id, (endpoint, status))| assumed(*id, endpoint, status)).collect());
        let members = listed.into_iter().take(MEMBERS_MAX).map(|member| {
            let answer = ours.remove(&member.id);
            self.member(member, answer)
        });
        facts.members = join_all(members).await;
        facts.members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        // An endpoint of a member that is known to be silent says nothing new.
        let silent = facts.members.iter().filter(|member| member.seen.is_err());
        let silent: Vec<&str> = silent.flat_map(|member| &member.client_urls).map(|url| trimmed(url)).collect();
        facts
            .silent_endpoints
            .retain(|(endpoint, _)| url_of(self.options, endpoint).is_none_or(|url| !silent.contains(&trimmed(&url))));
        self.forget(&facts);
        let answering = facts.members.iter().filter(|member| member.seen.is_ok());
        let urls: Vec<String> = answering.flat_map(|member| member.client_urls.clone()).take(MEMBERS_MAX).collect();
        if !urls.is_empty() {
            *self.members.borrow_mut() = urls;
        }
        facts
    }

    /// Keeps only what the next look may use again.
    fn forget(&self, facts: &Facts) {
        let is_used = |url: &String| facts.members.iter().any(|member| member.client_urls.contains(url));
        self.others.borrow_mut().retain(|url, _| is_used(url));
        self.certificates.borrow_mut().retain(|_, (seen, _)| seen.elapsed() < CERTIFICATE_AGE_MAX);
    }

    /// Who tells of the cluster: the endpoints, or members that were seen before if none of them answers any more.
    fn teller(&self, answers: &[(String, Result<StatusResponse, Error>)]) -> Client {
        if answers.iter().any(|(_, status)| status.is_ok()) {
            return self.client.clone();
        }
        let endpoints = self.members.borrow().clone();
        // Without any it is no client.
        Client::new(&Options { endpoints, ..self.options.clone() }).unwrap_or_else(|_| self.client.clone())
    }

    /// The status of every endpoint that was given.
    async fn ask(&self) -> Vec<(String, Result<StatusResponse, Error>)> {
        let endpoints = self.options.endpoints.iter().take(MEMBERS_MAX);
        let asked = endpoints.map(|endpoint| async move { (endpoint.clone(), self.client.status(endpoint).await) });
        join_all(asked).await
    }

    /// Asks a member, at the endpoint that it answered at already, or at its own client URLs.
    async fn member(&self, listed: ListedMember, answer: Option<(String, StatusResponse)>) -> Member {
        let answer = match answer {
            Some(answer) => Ok(answer),
            None => self.find(listed.id, &listed.client_urls).await,
        };
        let seen = match answer {
            Ok((endpoint, status)) => Ok(self.seen(endpoint, status).await),
            Err(reason) => Err(reason),
        };
        let mut member = Member {
            id: listed.id,
            name: listed.name,
            is_learner: listed.is_learner,
            peer_urls: listed.peer_urls,
            client_urls: listed.client_urls,
            seen,
            certificates: Vec::new(),
            peer_ports: Vec::new(),
            admissions: Vec::new(),
        };
        self.look_at_connections(&mut member).await;
        member
    }

    async fn look_at_connections(&self, member: &mut Member) {
        let mut urls = Vec::new();
        // Of a member that does not answer, attempts at its client URLs would only take time.
        if let Ok(Seen { endpoint, .. }) = &member.seen {
            urls.clone_from(&member.client_urls);
            urls.extend(
                url_of(self.options, endpoint).filter(|url| !urls.iter().any(|known| trimmed(known) == trimmed(url))),
            );
        }
        if self.depth == Depth::Setup {
            let tried = join_all(member.peer_urls.iter().map(|url| self.connects(url))).await;
            member.peer_ports = member.peer_urls.iter().cloned().zip(tried).collect();
            urls.extend(member.peer_ports.iter().filter(|(_, tried)| tried.is_ok()).map(|(url, _)| url.clone()));
        }
        urls.retain(|url| url.starts_with("https://"));
        member.certificates = join_all(urls.iter().map(|url| self.certificate(url))).await;
        if self.depth == Depth::Setup {
            let admissions = join_all(urls.iter().map(|url| self.admission(url))).await;
            member.admissions = urls.into_iter().zip(admissions).collect();
        }
    }

    /// The first of a member's client URLs at which it answers itself.
    async fn find(&self, id: u64, urls: &[String]) -> Result<(String, StatusResponse), String> {
        let mut failure = "it has no client URL".to_owned();
        for url in urls {
            match self.status_at(url).await {
                Ok(status) if ids(&status).1 == id => return Ok((url.clone(), status)),
                // Several members may advertise the same URL, as that of a load balancer.
                Ok(status) => failure = format!("member {:x} answers at {url}", ids(&status).1),
                Err(error) => failure = format!("{} at {url}", reason(&error)),
            }
        }
        Err(failure)
    }

    async fn status_at(&self, url: &String) -> Result<StatusResponse, Error> {
        let known = self.others.borrow().get(url).cloned();
        let client = match known {
            Some(client) => client,
            None => Client::new(&Options { endpoints: vec![url.clone()], ..self.options.clone() })?,
        };
        self.others.borrow_mut().insert(url.clone(), client.clone());
        client.status(url).await
    }

    async fn seen(&self, endpoint: String, status: StatusResponse) -> Seen {
        if url_of(self.options, &endpoint).is_none() {
            let metrics = Err("it was asked over a socket".to_owned());
            return Seen { endpoint, status, program: None, metrics, clock_ahead_seconds: None };
        }
        let version = async {
            let answer = self.get(&endpoint, "/version").await.ok()?;
            // Before anything else is waited for.
            Some((clock_ahead(&answer, unix_now()), program(&answer.body)))
        };
        let (metrics, version) = tokio::join!(self.get(&endpoint, "/metrics"), version);
        let (clock_ahead_seconds, program) = version.unwrap_or_default();
        let metrics = metrics.map(|answer| Metrics::parse(&String::from_utf8_lossy(&answer.body)));
        Seen { endpoint, status, program, metrics, clock_ahead_seconds }
    }

    fn tls(&self) -> TlsOptions {
        self.options.tls.clone().unwrap_or_default()
    }

    async fn get(&self, endpoint: &str, path: &str) -> Result<Answer, String> {
        http_get(self.options, endpoint, path).await.map_err(|why| cause(&why).to_owned())
    }

    async fn connects(&self, url: &str) -> Result<(), String> {
        let Some((host, port)) = host_and_port(url) else { return Err("it is no URL with a host".to_owned()) };
        match tokio::time::timeout(self.options.dial_timeout, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(cause(&error.to_string()).to_owned()),
            Err(_) => Err(format!("no answer within {:?}", self.options.dial_timeout)),
        }
    }

    async fn certificate(&self, url: &str) -> Certificate {
        let known = self.certificates.borrow().get(url).cloned();
        if let Some((seen, certificate)) = known
            && seen.elapsed() < CERTIFICATE_AGE_MAX
        {
            return certificate;
        }
        let shown = match host_and_port(url) {
            Some((host, port)) => shown_certificate(&host, port, &self.tls(), self.options.dial_timeout).await,
            None => Err("it is no URL with a host".to_owned()),
        };
        let ends = shown.map_err(|reason| cause(&reason).to_owned()).and_then(|certificate| {
            server::tls::certificate_expiry(&certificate).ok_or_else(|| "it is no X.509 certificate".to_owned())
        });
        let certificate = Certificate { url: url.to_owned(), ends };
        if certificate.ends.is_ok() {
            self.certificates.borrow_mut().insert(url.to_owned(), (Instant::now(), certificate.clone()));
        }
        certificate
    }

    /// What becomes of a request without a certificate.
    async fn admission(&self, url: &str) -> Admission {
        let server = match Server::parse(url) {
            Ok((server, _)) => server,
            Err(reason) => return Admission::Unknown(reason),
        };
        // Whether the server is the right one does not matter for that.
        let tls =
            TlsOptions { server_name: self.tls().server_name, insecure_skip_verify: true, ..TlsOptions::default() };
        let connect_timeout = self.options.dial_timeout;
        let http = Http { proxy: None, tls, connect_timeout, max_body_bytes: BODY_BYTES_MAX };
        let mut seen = Admission::Unknown(String::new());
        for _ in 0..ADMISSION_ATTEMPTS {
            seen = match http.send(&server, &Call::get("/version"), self.options.request_timeout).await {
                Ok(_) | Err(HttpError::TooLong { .. }) => Admission::LetIn,
                Err(error) => admission_of(&error.to_string()),
            };
            match &seen {
                Admission::Unknown(reason) if was_cut(reason) => {}
                _ => break,
            }
        }
        seen
    }
}

/// A failure without a certificate. An alert is the server's own word; what else goes wrong says nothing of certificates.
fn admission_of(failure: &str) -> Admission {
    if failure.contains("received fatal alert") {
        Admission::Refused
    } else {
        Admission::Unknown(cause(failure).to_owned())
    }
}

/// True of a connection that the server has closed.
fn was_cut(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    ["connection reset", "broken pipe", "connection closed", "eof"].iter().any(|end| reason.contains(end))
}

/// Ids of the cluster and of the member in an answer.
fn ids(status: &StatusResponse) -> (u64, u64) {
    status.header.as_ref().map_or((0, 0), |header| (header.cluster_id, header.member_id))
}

/// The answers of a cluster's members, by their ids, and of whom else the endpoints are.
fn sort_out(
    answered: Vec<(String, StatusResponse)>,
    cluster: Option<u64>,
    listed: Option<&[ListedMember]>,
) -> (BTreeMap<u64, (String, StatusResponse)>, Vec<Stranger>) {
    let (mut ours, mut strangers) = (BTreeMap::new(), Vec::new());
    for (endpoint, status) in answered {
        let (cluster_id, id) = ids(&status);
        let is_other_cluster = cluster.is_some_and(|cluster| cluster != cluster_id);
        if is_other_cluster || listed.is_some_and(|listed| !listed.iter().any(|member| member.id == id)) {
            let endpoint = client::without_user(&endpoint).into_owned();
            strangers.push(Stranger { endpoint, id, other_cluster: is_other_cluster.then_some(cluster_id) });
        } else {
            ours.entry(id).or_insert((endpoint, status));
        }
    }
    (ours, strangers)
}

/// A member that answered, while nobody tells who the members are.
fn assumed(id: u64, endpoint: &str, status: &StatusResponse) -> ListedMember {
    let name = client::without_user(endpoint).into_owned();
    ListedMember { id, name, is_learner: status.is_learner, ..ListedMember::default() }
}

/// A URL without the slash that may stand at its end.
fn trimmed(url: &str) -> &str {
    url.trim_end_matches('/')
}

/// Why a call failed, without the endpoint, which stands beside it.
fn reason(error: &Error) -> String {
    let text = match error {
        Error::Unreachable { reason, .. } | Error::Lost { reason, .. } => reason.clone(),
        Error::Timeout { limit, .. } => format!("no answer within {limit:?}"),
        Error::Answered { text, .. } => text.clone(),
        other => other.to_string(),
    };
    cause(&text).to_owned()
}

/// Host without brackets, and port.
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    Some((host, port))
}

/// Seconds by which the clock of who answered is ahead.
fn clock_ahead(answer: &Answer, now: i64) -> Option<i64> {
    let date = answer.headers.get(http::header::DATE)?.to_str().ok()?;
    Some(DateTime::parse_from_rfc2822(date).ok()?.timestamp() - now)
}

/// Name and version out of the answer of `/version`.
fn program(body: &[u8]) -> Option<String> {
    let version: serde_json::Value = serde_json::from_slice(body).ok()?;
    let of = |name: &str| {
        version.get(name)?.as_str().map(|text| text.chars().filter(|c| !c.is_control()).take(32).collect::<String>())
    };
    of("cleat")
        .map(|version| format!("cleat {version}"))
        .or_else(|| of("etcdserver").map(|version| format!("etcd {version}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::etcdserverpb::ResponseHeader;

    #[test]
    fn programs_say_who_they_are() {
        for (body, expected) in [
            (r#"{"etcdserver":"3.5.21","etcdcluster":"3.5.0","cleat":"0.1.0"}"#, Some("cleat 0.1.0")),
            (r#"{"etcdserver":"3.4.23","etcdcluster":"3.4.0"}"#, Some("etcd 3.4.23")),
            ("404 page not found", None),
        ] {
            assert_eq!(program(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn urls_have_a_place() {
        assert_eq!(host_and_port("https://[::1]:2379"), Some(("::1".to_owned(), 2379)));
        assert_eq!(host_and_port("http://node-a"), Some(("node-a".to_owned(), 80)));
        assert_eq!(host_and_port("node-a"), Some(("node-a".to_owned(), 80)));
        assert_eq!(host_and_port("/"), None);
        assert_eq!(trimmed("http://a:1/"), "http://a:1");
    }

    fn answer(endpoint: &str, cluster_id: u64, member_id: u64) -> (String, StatusResponse) {
        let header = Some(ResponseHeader { cluster_id, member_id, ..ResponseHeader::default() });
        (endpoint.to_owned(), StatusResponse { header, ..StatusResponse::default() })
    }

    #[test]
    fn who_is_no_member_is_told_apart() {
        let listed = [1, 2].map(|id| ListedMember { id, ..ListedMember::default() });
        let answered = || vec![answer("a:1", 7, 1), answer("b:1", 7, 9), answer("c:1", 8, 2), answer("d:1", 7, 1)];
        let (ours, strangers) = sort_out(answered(), Some(7), Some(&listed));
        assert_eq!(ours.iter().map(|(id, (endpoint, _))| (*id, endpoint.as_str())).collect::<Vec<_>>(), [(1, "a:1")]);
        let stranger =
            |endpoint: &str, id, other_cluster| Stranger { endpoint: endpoint.to_owned(), id, other_cluster };
        assert_eq!(strangers, [stranger("b:1", 9, None), stranger("c:1", 2, Some(8))]);
        // While nobody tells who the members are, who is of the same cluster is one.
        let (ours, strangers) = sort_out(answered(), Some(7), None);
        assert_eq!((ours.keys().copied().collect::<Vec<_>>(), strangers.len()), (vec![1, 9], 1));
    }

    #[test]
    fn only_a_servers_own_word_is_a_refusal() {
        for alert in ["CertificateRequired", "BadCertificate", "HandshakeFailure"] {
            assert_eq!(admission_of(&format!("https://a:1: received fatal alert: {alert}")), Admission::Refused);
        }
        for failure in
            ["no answer within 2s", "Connection refused (os error 111)", "Connection reset by peer (os error 104)"]
        {
            let seen = admission_of(failure);
            assert!(matches!(&seen, Admission::Unknown(reason) if !reason.contains("os error")), "{seen:?}");
            assert_eq!(was_cut(failure), failure.contains("reset"), "{failure}");
        }
    }
}

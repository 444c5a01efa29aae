//! Asks every member for its facts, all at the same time. A member that does not answer is a fact, too.

use super::facts::{Certificate, Facts, Member, Seen};
use super::metrics::Metrics;
use api::etcdserverpb::{AlarmType, Member as ListedMember, StatusResponse};
use chrono::DateTime;
use client::http::{Answer, Call, Http, Server};
use client::{Client, Error, Options, TlsOptions, shown_certificate};
use futures::future::join_all;
use http::Method;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;

/// The metrics of a member are a hundredth of it.
const BODY_BYTES_MAX: usize = 8 << 20;

/// Members that are asked at most: more than any cluster has.
const MEMBERS_MAX: usize = 64;

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

/// Looks at a cluster.
///
/// # Errors
/// Only of the options: that nobody answers is in the facts.
pub(crate) async fn gather(options: &Options, depth: Depth) -> Result<Facts, Error> {
    let client = Client::new(options)?;
    let mut facts = Facts { now: unix_now(), ..Facts::default() };
    let (answers, list, alarms, auth) =
        tokio::join!(ask(&client, options), client.known_members(), client.raised_alarms(), client.auth_status());
    let mut answered: BTreeMap<u64, (String, StatusResponse)> = BTreeMap::new();
    for (endpoint, status) in answers {
        match status {
            Ok(status) => {
                let id = status.header.as_ref().map_or(0, |header| header.member_id);
                answered.entry(id).or_insert((endpoint, status));
            }
            Err(error) => facts.silent_endpoints.push((client::without_user(&endpoint).into_owned(), reason(&error))),
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
    let listed = match list {
        Ok(list) => list.members,
        Err(error) => {
            facts.list_failure = Some(reason(&error));
            answered.iter().map(|(id, (endpoint, status))| assumed(*id, endpoint, status)).collect()
        }
    };
    let look = Look { options, depth };
    let members = listed.into_iter().take(MEMBERS_MAX).map(|member| {
        let answer = answered.remove(&member.id);
        look.member(member, answer)
    });
    facts.members = join_all(members).await;
    facts.members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    // An endpoint of a member that is known to be silent says nothing new.
    let members = &facts.members;
    facts.silent_endpoints.retain(|(endpoint, _)| {
        let place = place(endpoint);
        !members.iter().any(|member| member.client_urls.iter().any(|url| self::place(url) == place))
    });
    Ok(facts)
}

/// The status of every endpoint that was given.
async fn ask(client: &Client, options: &Options) -> Vec<(String, Result<StatusResponse, Error>)> {
    let asked = options
        .endpoints
        .iter()
        .take(MEMBERS_MAX)
        .map(|endpoint| async move { (endpoint.clone(), client.status(endpoint).await) });
    join_all(asked).await
}

/// A member that answered, while nobody tells who the members are.
fn assumed(id: u64, endpoint: &str, status: &StatusResponse) -> ListedMember {
    let name = client::without_user(endpoint).into_owned();
    ListedMember { id, name, is_learner: status.is_learner, ..ListedMember::default() }
}

/// `host:port` of an endpoint or URL.
fn place(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/')
}

/// Why a call failed, without the endpoint, which stands beside it.
fn reason(error: &Error) -> String {
    let text = match error {
        Error::Unreachable { reason, .. } | Error::Lost { reason, .. } => reason.clone(),
        Error::Timeout { limit, .. } => format!("no answer within {limit:?}"),
        Error::Answered { text, .. } => text.clone(),
        other => other.to_string(),
    };
    without_code(&text)
}

/// A system's error without its number.
fn without_code(text: &str) -> String {
    text.split(" (os error ").next().unwrap_or(text).to_owned()
}

/// How members are looked at.
struct Look<'a> {
    options: &'a Options,
    depth: Depth,
}

impl Look<'_> {
    /// Asks a member, at the endpoint that it answered at already, or at its own client URLs.
    async fn member(&self, listed: ListedMember, answer: Option<(String, StatusResponse)>) -> Member {
        let answer = match answer {
            Some(answer) => Ok(answer),
            None => self.find(&listed.client_urls).await,
        };
        let seen = match answer {
            Ok((endpoint, status)) => Ok(self.seen(endpoint, status).await),
            Err(reason) => Err(reason),
        };
        let mut urls: Vec<String> = listed.client_urls.clone();
        if let Ok(Seen { endpoint, .. }) = &seen
            && let Some(url) = self.url(endpoint)
            && !urls.iter().any(|known| place(known) == place(&url))
        {
            urls.push(url);
        }
        let mut member = Member {
            id: listed.id,
            name: listed.name,
            is_learner: listed.is_learner,
            peer_urls: listed.peer_urls,
            client_urls: listed.client_urls,
            seen,
            certificates: Vec::new(),
            closed_peer_ports: Vec::new(),
            open_urls: Vec::new(),
        };
        // Of a member that does not answer, the other attempts would only take time.
        if member.seen.is_ok() {
            self.look_at_connections(&mut member, urls).await;
        }
        member
    }

    async fn look_at_connections(&self, member: &mut Member, mut urls: Vec<String>) {
        if self.depth == Depth::Setup {
            let opened = join_all(member.peer_urls.iter().map(|url| self.connects(url))).await;
            for (url, opened) in member.peer_urls.iter().zip(opened) {
                match opened {
                    Ok(()) => urls.push(url.clone()),
                    Err(reason) => member.closed_peer_ports.push((url.clone(), reason)),
                }
            }
        }
        urls.retain(|url| url.starts_with("https://"));
        member.certificates = join_all(urls.iter().map(|url| self.certificate(url))).await;
        if self.depth == Depth::Setup {
            let open = join_all(urls.iter().map(|url| self.lets_anybody_in(url))).await;
            member.open_urls = urls.into_iter().zip(open).filter(|(_, is_open)| *is_open).map(|(url, _)| url).collect();
        }
    }

    /// The first of a member's client URLs that answers.
    async fn find(&self, urls: &[String]) -> Result<(String, StatusResponse), String> {
        let mut failure = "it has no client URL".to_owned();
        for url in urls {
            let options = Options { endpoints: vec![url.clone()], ..self.options.clone() };
            let asked = async { Client::new(&options)?.status(url).await };
            match asked.await {
                Ok(status) => return Ok((url.clone(), status)),
                Err(error) => failure = format!("{} at {url}", reason(&error)),
            }
        }
        Err(failure)
    }

    async fn seen(&self, endpoint: String, status: StatusResponse) -> Seen {
        let Some(url) = self.url(&endpoint) else {
            let metrics = Err("it was asked over a socket".to_owned());
            return Seen { endpoint, status, program: None, metrics, clock_ahead_seconds: None };
        };
        let (metrics, version) = tokio::join!(self.get(&url, "/metrics"), self.get(&url, "/version"));
        let clock_ahead_seconds = version.as_ref().ok().and_then(clock_ahead);
        let program = version.ok().and_then(|answer| program(&answer.body));
        let metrics = metrics.map(|answer| Metrics::parse(&String::from_utf8_lossy(&answer.body)));
        Seen { endpoint, status, program, metrics, clock_ahead_seconds }
    }

    /// The URL of an endpoint; None for a socket.
    fn url(&self, endpoint: &str) -> Option<String> {
        match endpoint.split_once("://") {
            Some(("unix", _)) => None,
            Some(_) => Some(endpoint.to_owned()),
            None if self.options.tls.is_some() => Some(format!("https://{endpoint}")),
            None => Some(format!("http://{endpoint}")),
        }
    }

    fn tls(&self) -> TlsOptions {
        self.options.tls.clone().unwrap_or_default()
    }

    fn http(&self, tls: TlsOptions) -> Http {
        Http { proxy: None, tls, connect_timeout: self.options.dial_timeout, max_body_bytes: BODY_BYTES_MAX }
    }

    async fn get(&self, url: &str, path: &str) -> Result<Answer, String> {
        let (server, _) = Server::parse(url)?;
        let call = Call::new(Method::GET, path.to_owned(), None);
        let answer = self.http(self.tls()).send(&server, &call, self.limit()).await;
        let answer = answer.map_err(|error| without_code(&error.to_string()))?;
        if answer.status.is_success() { Ok(answer) } else { Err(format!("{url}{path} answers {}", answer.status)) }
    }

    fn limit(&self) -> Duration {
        self.options.request_timeout
    }

    async fn connects(&self, url: &str) -> Result<(), String> {
        let Some((host, port)) = host_and_port(url) else { return Err("it is no URL with a host".to_owned()) };
        match tokio::time::timeout(self.options.dial_timeout, TcpStream::connect((host.as_str(), port))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(without_code(&error.to_string())),
            Err(_) => Err(format!("no answer within {:?}", self.options.dial_timeout)),
        }
    }

    async fn certificate(&self, url: &str) -> Certificate {
        let shown = match host_and_port(url) {
            Some((host, port)) => shown_certificate(&host, port, &self.tls(), self.options.dial_timeout).await,
            None => Err("it is no URL with a host".to_owned()),
        };
        let ends = shown.map_err(|reason| without_code(&reason)).and_then(|certificate| {
            server::tls::certificate_expiry(&certificate).ok_or_else(|| "it is no X.509 certificate".to_owned())
        });
        Certificate { url: url.to_owned(), ends }
    }

    /// True if a request without a certificate gets any answer.
    async fn lets_anybody_in(&self, url: &str) -> bool {
        let Ok((server, _)) = Server::parse(url) else { return false };
        // Whether the server is the right one does not matter for that.
        let tls =
            TlsOptions { server_name: self.tls().server_name, insecure_skip_verify: true, ..TlsOptions::default() };
        let call = Call::new(Method::GET, "/version".to_owned(), None);
        self.http(tls).send(&server, &call, self.limit()).await.is_ok()
    }
}

/// Host without brackets, and port.
fn host_and_port(url: &str) -> Option<(String, u16)> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    Some((host, port))
}

/// Seconds by which the clock of who answered is ahead.
fn clock_ahead(answer: &Answer) -> Option<i64> {
    let date = answer.headers.get(http::header::DATE)?.to_str().ok()?;
    Some(DateTime::parse_from_rfc2822(date).ok()?.timestamp() - unix_now())
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
        assert_eq!(place("http://a:1/"), place("a:1"));
        assert_eq!(without_code("Connection refused (os error 111)"), "Connection refused");
    }
}

//! DNS SRV records: who the first members are.
//!
//! Records appear late where names are made together with the members, as in Kubernetes, so bootstrap asks again
//! until the records are there, this member is among them, and every target has an address.

use crate::member_url::{MemberUrl, UrlError};
use crate::names::{self, NameError};
use crate::options::{Me, Options, Srv};
use crate::static_cluster::{InitialCluster, InitialMember};
use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::RData;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Between two questions while records are missing.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The same reason is logged again only after this time.
const TELL_INTERVAL: Duration = Duration::from_secs(30);
/// More than a first cluster has.
const MAX_RECORDS: usize = 100;

/// Why DNS did not name the members.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SrvError {
    /// The system's resolver has no usable settings.
    #[error("DNS cannot be asked: {0}; check /etc/resolv.conf")]
    Resolver(String),
    /// Neither of the two names has records.
    #[error(
        "error querying DNS SRV records for {}; create SRV records {} with the members' peer ports, or check \
         --discovery-srv and --discovery-srv-name",
        failures.join("; "), names.join(" or ")
    )]
    NoRecords {
        /// The names that were asked for.
        names: Vec<String>,
        /// What DNS said to each.
        failures: Vec<String>,
    },
    /// A target or one of this member's own URLs has no address.
    #[error("{0}; every target of the SRV records and every advertised URL must have an address")]
    Name(#[from] NameError),
    /// No record is this member.
    #[error(
        "cannot find local etcd member {name:?} in SRV records; they are {}, and this member advertises {}: one of \
         the records must have an address and port of --initial-advertise-peer-urls",
        found.join(", "), advertised.join(", ")
    )]
    SelfMissing {
        /// This member's name.
        name: String,
        /// The URLs of the records.
        found: Vec<String>,
        /// This member's URLs.
        advertised: Vec<String>,
    },
    /// The record is of the other scheme.
    #[error(
        "bootstrap at {url} from DNS has scheme mismatch with expected peer {advertised}; advertise https for records \
         of _etcd-server-ssl and http for records of _etcd-server"
    )]
    Scheme {
        /// The URL of the record.
        url: String,
        /// This member's URL.
        advertised: String,
    },
    /// This member advertises something that is not a URL of a peer.
    #[error("--initial-advertise-peer-urls: {0}")]
    Advertised(#[from] UrlError),
    /// The records do not make a cluster.
    #[error("error setting up initial cluster from SRV records: {0}")]
    List(#[from] crate::static_cluster::ParseError),
}

/// A target of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    priority: u16,
    /// Largest first.
    against_weight: u16,
    host: String,
    port: u16,
    scheme: &'static str,
}

impl Target {
    fn url(&self) -> String {
        let Self { scheme, host, port, .. } = self;
        format!("{scheme}://{host}:{port}")
    }
}

/// Finds the members, asking again while DNS is not ready.
pub(crate) async fn discover(srv: &Srv, me: &Me, options: &Options) -> Result<InitialCluster, SrvError> {
    let deadline = Instant::now() + options.srv_patience;
    let mut told = Told::default();
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match look(srv, me, options).await {
            Ok(cluster) => return Ok(cluster),
            Err(error @ (SrvError::Advertised(_) | SrvError::Resolver(_))) => return Err(error),
            Err(error) => error,
        };
        if Instant::now() + pause > deadline {
            return Err(error);
        }
        told.warn(&error);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn look(srv: &Srv, me: &Me, options: &Options) -> Result<InitialCluster, SrvError> {
    let mut own = Vec::new();
    for url in &me.peer_urls {
        let url = MemberUrl::parse(url)?;
        if let Some((host, port)) = url.place() {
            own.push((names::addresses(host, options.name_server).await?, port, url));
        }
    }
    let mut targets = targets(&srv.domain, &srv.service_name, options).await?;
    // One member that is written down with both schemes is one member.
    let schemes: BTreeSet<&str> = own.iter().map(|(_, _, url)| url.scheme).collect();
    let all = targets.clone();
    targets.retain(|target| {
        let twin = |other: &&Target| other.host == target.host && other.port == target.port && *other != target;
        schemes.contains(target.scheme) || !all.iter().any(|other| twin(&other) && schemes.contains(other.scheme))
    });
    let mut placed = Vec::with_capacity(targets.len());
    for target in &targets {
        placed.push((target, names::addresses(&target.host, options.name_server).await?));
    }
    let cluster = InitialCluster { members: named(&placed, &own, &me.name)?, token: srv.token.clone() };
    if !cluster.members.iter().any(|member| member.name == me.name) {
        let (name, advertised) = (me.name.clone(), me.peer_urls.clone());
        return Err(SrvError::SelfMissing { name, found: targets.iter().map(Target::url).collect(), advertised });
    }
    // What is true of every list must be true of this one.
    Ok(InitialCluster::parse(&cluster.to_string(), &srv.token)?)
}

/// An own URL: its addresses, its port and itself.
type Own = (BTreeSet<IpAddr>, u16, MemberUrl);

/// Gives the records names: this member's own, and numbers to the others.
fn named(placed: &[(&Target, BTreeSet<IpAddr>)], own: &[Own], name: &str) -> Result<Vec<InitialMember>, SrvError> {
    let mut members: Vec<InitialMember> = Vec::new();
    let mut mismatch = None;
    let mut numbers = (0_u32..).map(|number| number.to_string()).filter(|number| number != name);
    for (target, addresses) in placed {
        let same = |own: &&Own| own.1 == target.port && !own.0.is_disjoint(addresses);
        let mut same = own.iter().filter(same).peekable();
        if let Some((_, _, first)) = same.peek().copied() {
            if same.any(|(_, _, url)| url.scheme == target.scheme) {
                match members.iter_mut().find(|member| member.name == name) {
                    Some(member) => member.peer_urls.push(target.url()),
                    None => members.push(InitialMember { name: name.to_owned(), peer_urls: vec![target.url()] }),
                }
            } else {
                mismatch = Some(SrvError::Scheme { url: target.url(), advertised: first.to_string() });
            }
        } else if let Some(number) = numbers.next() {
            members.push(InitialMember { name: number, peer_urls: vec![target.url()] });
        }
    }
    match mismatch {
        Some(error) if !members.iter().any(|member| member.name == name) => Err(error),
        Some(error) => {
            tracing::warn!(%error, "skipping an SRV record of this member");
            Ok(members)
        }
        None => Ok(members),
    }
}

/// Asks for both names and merges what they have; only both failing is an error.
async fn targets(domain: &str, service_name: &str, options: &Options) -> Result<Vec<Target>, SrvError> {
    let resolver = names::resolver(options.name_server).map_err(|error| SrvError::Resolver(error.to_string()))?;
    let names = srv_names("etcd-server", service_name, domain);
    let (secure, plain) = tokio::join!(ask(&resolver, &names[0], "https"), ask(&resolver, &names[1], "http"));
    let (mut found, mut failures) = (BTreeSet::new(), Vec::new());
    for (answer, name) in [secure, plain].into_iter().zip(&names) {
        match answer {
            Ok(targets) => found.extend(targets),
            Err(reason) => failures.push(format!("{name}: {reason}")),
        }
    }
    if found.is_empty() {
        return Err(SrvError::NoRecords { names: names.to_vec(), failures });
    }
    Ok(found.into_iter().take(MAX_RECORDS).collect())
}

/// The names of a service's SRV records: with TLS, and without. The service is `etcd-server` for members, and `etcd-client`
/// for clients; an empty name of a cluster leaves it out.
pub fn srv_names(service: &str, service_name: &str, domain: &str) -> [String; 2] {
    let suffix = if service_name.is_empty() { String::new() } else { format!("-{service_name}") };
    ["-ssl", ""].map(|encryption| format!("_{service}{encryption}{suffix}._tcp.{domain}"))
}

/// Host and port of every SRV record of a name, best first. DNS is asked once.
///
/// # Errors
/// Why there are none, in Go's words.
pub async fn srv_records(name: &str, options: &Options) -> Result<Vec<(String, u16)>, String> {
    let resolver = names::resolver(options.name_server).map_err(|error| error.to_string())?;
    let mut targets = ask(&resolver, name, "").await?;
    targets.sort();
    Ok(targets.into_iter().take(MAX_RECORDS).map(|target| (target.host, target.port)).collect())
}

async fn ask(resolver: &TokioResolver, name: &str, scheme: &'static str) -> Result<Vec<Target>, String> {
    let answer = resolver.srv_lookup(name).await.map_err(|error| reason(&error))?;
    let targets = answer.answers().iter().filter_map(|record| match &record.data {
        RData::SRV(srv) => Some(Target {
            priority: srv.priority,
            against_weight: u16::MAX - srv.weight,
            // Names in DNS are absolute, hosts in URLs are not.
            host: srv.target.to_ascii().trim_end_matches('.').to_owned(),
            port: srv.port,
            scheme,
        }),
        _ => None,
    });
    // A target that is the root says that there is no such service.
    let targets: Vec<Target> = targets.filter(|target| !target.host.is_empty()).collect();
    if targets.is_empty() { Err("no SRV records".to_owned()) } else { Ok(targets) }
}

/// Go's words for a name that is not there are what people search for.
fn reason(error: &NetError) -> String {
    if error.is_nx_domain() {
        "no such host".to_owned()
    } else if error.is_no_records_found() {
        "no SRV records".to_owned()
    } else {
        error.to_string()
    }
}

/// What was logged last, and when.
#[derive(Default)]
struct Told(Option<(String, Instant)>);

impl Told {
    fn warn(&mut self, error: &SrvError) {
        let reason = error.to_string();
        if self.0.as_ref().is_none_or(|(told, at)| *told != reason || at.elapsed() >= TELL_INTERVAL) {
            tracing::warn!(%reason, "waiting for DNS");
            self.0 = Some((reason, Instant::now()));
        }
    }
}

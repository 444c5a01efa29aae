//! The client, its endpoints, and one call to whichever of them works.

use super::error::Error;
use super::node::Member;
use crate::call::{Attempts, Effect};
use crate::endpoint::{Address, Place, without_user};
use crate::http::{Answer, Call, Http, HttpError, Opened, Server};
use crate::options::{TlsOptions, User};
use crate::{Error as OptionsError, tls};
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// How to reach a cluster.
#[derive(Clone)]
pub struct Options {
    /// `host:port`, `http://host:port` or `https://host:port`, tried in this order. Without a scheme an endpoint is
    /// `https` if [`Options::tls`] is set.
    pub endpoints: Vec<String>,
    /// Certificates for `https` endpoints; None trusts what the system trusts.
    pub tls: Option<TlsOptions>,
    /// Who asks; None for a guest.
    pub user: Option<User>,
    /// Longest time for making a connection, with the TLS handshake.
    pub dial_timeout: Duration,
    /// Longest time for a call, with its retries. Watches wait without an end.
    pub request_timeout: Duration,
    /// Longest answer that is taken: a listing of the whole tree is one answer.
    pub max_answer_bytes: usize,
    /// Ask again, with pauses, as long as there is time; otherwise every endpoint is asked once.
    pub keeps_trying: bool,
    /// Told of every request before it is sent.
    pub on_request: Option<fn(&Server, &Call)>,
}

/// Endpoints are not checked yet: without the passwords that may be in them.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("endpoints", &self.endpoints.iter().map(|endpoint| without_user(endpoint)).collect::<Vec<_>>())
            .field("tls", &self.tls)
            .field("user", &self.user)
            .field("dial_timeout", &self.dial_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("max_answer_bytes", &self.max_answer_bytes)
            .field("keeps_trying", &self.keeps_trying)
            .finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            tls: None,
            user: None,
            dial_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            max_answer_bytes: 1 << 30,
            keeps_trying: true,
            on_request: None,
        }
    }
}

/// A client of one cluster. Clones share its endpoints.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: Http,
    /// Never empty. Replaced as a whole by [`Client::sync`].
    servers: RwLock<Arc<[Server]>>,
    /// The one to use next.
    current: AtomicUsize,
    user: Option<User>,
    request_timeout: Duration,
    keeps_trying: bool,
    on_request: Option<fn(&Server, &Call)>,
}

#[derive(Deserialize)]
struct MemberList {
    #[serde(default)]
    members: Vec<Member>,
}

impl Client {
    /// Checks the options and reads the certificates. Nothing is connected before the first call.
    ///
    /// # Errors
    /// [`Error::Options`].
    pub fn new(options: &Options) -> Result<Self, Error> {
        let mut servers = Vec::new();
        for endpoint in &options.endpoints {
            let address = Address::parse(endpoint, options.tls.is_some())?;
            if matches!(address.place, Place::Unix(_)) {
                return Err(OptionsError::bad_endpoint(endpoint, "the v2 API is spoken over http and https").into());
            }
            let scheme = if address.is_tls { "https" } else { "http" };
            let server = server(&format!("{scheme}://{}", address.authority), options.user.as_ref());
            servers.push(server.map_err(|reason| OptionsError::bad_endpoint(endpoint, reason))?);
        }
        if servers.is_empty() {
            return Err(OptionsError::NoEndpoints.into());
        }
        let trust = options.tls.clone().unwrap_or_default();
        if options.tls.is_some() || servers.iter().any(Server::is_tls) {
            // Every connection reads them again; a mistake must not wait for the first.
            tls::load(&trust, &[])?;
        }
        let http = Http {
            proxy: None,
            tls: trust,
            connect_timeout: options.dial_timeout,
            max_body_bytes: options.max_answer_bytes,
        };
        let (user, request_timeout) = (options.user.clone(), options.request_timeout);
        let servers = RwLock::new(servers.into());
        let (current, keeps_trying, on_request) = (AtomicUsize::new(0), options.keeps_trying, options.on_request);
        let inner = Inner { http, servers, current, user, request_timeout, keeps_trying, on_request };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// URLs of the endpoints, in the order in which they are tried.
    pub fn endpoints(&self) -> Vec<String> {
        self.servers().iter().map(Server::to_string).collect()
    }

    /// The members of the cluster.
    ///
    /// # Errors
    /// As every call: [`Error::Refused`] and the failures of connections.
    pub async fn members(&self) -> Result<Vec<Member>, Error> {
        Ok(self.read::<MemberList>("/v2/members").await?.members)
    }

    /// The member that leads.
    ///
    /// # Errors
    /// As [`Client::members`]; [`Error::Refused`] with status 503 while there is none.
    pub async fn leader(&self) -> Result<Member, Error> {
        self.read("/v2/members/leader").await
    }

    /// Uses the client URLs of all members from now on, those that the members tell. The endpoint in use stays the first
    /// if it is among them. If it has TLS, those without are left out: requests, and the password with them, do not get
    /// less than what was asked for.
    ///
    /// # Errors
    /// As [`Client::members`]; [`Error::Options`] if no member has a URL that can be used. The endpoints then stay.
    pub async fn sync(&self) -> Result<(), Error> {
        let members = self.members().await?;
        let (current, _) = self.current();
        let urls = members.iter().flat_map(|member| &member.client_urls);
        let servers = usable(urls, self.inner.user.as_ref(), &current);
        if servers.is_empty() {
            return Err(OptionsError::NoEndpoints.into());
        }
        *self.inner.servers.write().unwrap_or_else(PoisonError::into_inner) = servers.into();
        self.inner.current.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn servers(&self) -> Arc<[Server]> {
        Arc::clone(&self.inner.servers.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The server to use, and its place.
    pub(super) fn current(&self) -> (Server, usize) {
        let servers = self.servers();
        let index = self.inner.current.load(Ordering::Relaxed) % servers.len();
        (servers[index].clone(), index)
    }

    /// Lets the next call use the server after this one, unless another call has moved on already.
    pub(super) fn leave(&self, index: usize) {
        let next = (index + 1) % self.servers().len();
        // One that lost the race has nothing to do.
        let _moved = self.inner.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let call = Call::new(Method::GET, path.to_owned(), None);
        let (answer, server) = self.call(Effect::Read, &call).await?;
        Error::or_answer(&server, &answer, "answer about members")
    }

    /// Sends a request until a server answers or nothing more may be tried. The answer may be an error below 500.
    pub(super) async fn call(&self, effect: Effect, call: &Call) -> Result<(Answer, Server), Error> {
        let limit = self.inner.request_timeout;
        let (mut attempts, mut made) = (Attempts::new(effect, limit), 0);
        loop {
            let endpoints = self.servers().len();
            made += 1;
            let (server, index) = self.current();
            let error = match self.send(&server, call, attempts.time(endpoints)).await {
                Ok(answer) if answer.status.is_server_error() => Error::of_answer(&server, &answer),
                Ok(answer) => return Ok((answer, server)),
                Err(HttpError::Deadline { server, .. }) => Error::Timeout { endpoint: server, limit },
                Err(error) => Error::of_http(error),
            };
            if error.may_pass() {
                self.leave(index);
            }
            if made >= endpoints && !self.inner.keeps_trying {
                return Err(error);
            }
            attempts.after(error, endpoints).await?;
        }
    }

    /// What is at a path of the API, about members, users or roles.
    ///
    /// # Errors
    /// As [`Client::members`].
    pub async fn get_path(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.ask(Effect::Read, &Call::get(path)).await
    }

    /// Puts JSON to a path of the API.
    ///
    /// # Errors
    /// As [`Client::members`]; [`Error::may_be_done`] says whether it may have been done all the same.
    pub async fn put_json(&self, path: &str, body: String) -> Result<Vec<u8>, Error> {
        self.ask(Effect::Write, &Call::json(Method::PUT, path, body)).await
    }

    /// Posts JSON to a path of the API.
    ///
    /// # Errors
    /// As [`Client::put_json`].
    pub async fn post_json(&self, path: &str, body: String) -> Result<Vec<u8>, Error> {
        self.ask(Effect::Write, &Call::json(Method::POST, path, body)).await
    }

    /// Deletes what is at a path of the API.
    ///
    /// # Errors
    /// As [`Client::put_json`].
    pub async fn delete_path(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.ask(Effect::Write, &Call::new(Method::DELETE, path.to_owned(), None)).await
    }

    async fn ask(&self, effect: Effect, call: &Call) -> Result<Vec<u8>, Error> {
        let (answer, server) = self.call(effect, call).await?;
        if answer.status.is_success() { Ok(answer.body.to_vec()) } else { Err(Error::of_answer(&server, &answer)) }
    }

    /// Tells of a request that is about to be sent.
    fn tell(&self, server: &Server, call: &Call) {
        if let Some(tell) = self.inner.on_request {
            tell(server, call);
        }
    }

    async fn send(&self, server: &Server, call: &Call, limit: Duration) -> Result<Answer, HttpError> {
        self.tell(server, call);
        let whole = async {
            let opened = self.inner.http.open(server, call, limit, &self.servers()).await?;
            self.inner.http.collect(server, opened).await
        };
        let late = || HttpError::Deadline { server: server.to_string(), limit };
        tokio::time::timeout(limit, whole).await.unwrap_or_else(|_| Err(late()))
    }

    /// Asks one server, and returns with the head of its answer.
    pub(super) async fn open(&self, server: &Server, call: &Call) -> Result<Opened, Error> {
        self.tell(server, call);
        let limit = self.inner.request_timeout;
        self.inner.http.open(server, call, limit, &self.servers()).await.map_err(Error::of_http)
    }

    /// Reads an answer that [`Client::open`] returned, which must not go on.
    pub(super) async fn collect(&self, server: &Server, opened: Opened) -> Result<Answer, Error> {
        let limit = self.inner.request_timeout;
        let collected = tokio::time::timeout(limit, self.inner.http.collect(server, opened)).await;
        let late = |_| Error::Timeout { endpoint: server.to_string(), limit };
        collected.map_err(late)?.map_err(Error::of_http)
    }
}

/// Servers to use after the current one, which is the first if it is among them. Each place once.
fn usable<'a>(urls: impl Iterator<Item = &'a String>, user: Option<&User>, current: &Server) -> Vec<Server> {
    let mut servers = Vec::<Server>::new();
    for url in urls {
        // A member may tell what only it understands; the others are enough.
        let Ok(server) = server(url, user) else { continue };
        let is_safe = server.is_tls() || !current.is_tls();
        if is_safe && !servers.iter().any(|known| known.is_at(&server)) {
            servers.push(server);
        }
    }
    servers.sort_by_key(|server| !server.is_at(current));
    servers
}

/// The server of a URL, asked by a user.
fn server(url: &str, user: Option<&User>) -> Result<Server, String> {
    let (server, _) = Server::parse(url)?;
    match user {
        Some(User { name, password }) => server.with_user(name, password),
        None => Ok(server),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_used_once_and_as_safely_as_before() {
        let urls =
            ["https://b:1", "http://b:2", "https://a:1", "https://b:1", "unix://c", "http://b:2"].map(str::to_owned);
        for (current, expected) in [
            ("https://a:1", &["https://a:1", "https://b:1"][..]),
            ("http://a:2", &["https://b:1", "http://b:2", "https://a:1"]),
        ] {
            let servers = usable(urls.iter(), None, &server(current, None).unwrap());
            assert_eq!(servers.iter().map(Server::to_string).collect::<Vec<_>>(), expected, "{current}");
        }
    }
}

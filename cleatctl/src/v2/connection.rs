//! The client that the flags and the environment describe, and how its errors are told.

use super::advice::explain;
use super::{Call, code, debug, error, fail};
use crate::cli::Personality;
use crate::context::half_a_pair;
use crate::failure::{Failure, without_numbers};
use crate::people::{self, Terminal};
use crate::{password, srv};
use client::http::HttpError;
use client::v2::{self, Client, Options};
use client::{Effect, TlsOptions, User};
use go::time;
use std::path::PathBuf;
use std::time::Duration;

const DEFAULT_ENDPOINTS: &str = "http://127.0.0.1:2379,http://127.0.0.1:4001";
const TIMEOUT: &str = "2s";
const TOTAL_TIMEOUT: &str = "5s";

impl Call {
    /// What a flag or a variable says; the first of them that is not empty.
    fn given(&self, names: &[(&str, &str)]) -> Option<String> {
        let found = names
            .iter()
            .flat_map(|(flag, variable)| [self.global.text(flag), std::env::var(variable).unwrap_or_default()]);
        found.into_iter().find(|value| !value.is_empty())
    }

    fn duration(&self, flag: &str, default: &str) -> Duration {
        let given = Some(self.global.text(flag)).filter(|given| !given.is_empty());
        let nanos = time::parse_duration(given.as_deref().unwrap_or(default)).unwrap_or_default();
        u64::try_from(nanos).map(Duration::from_nanos).unwrap_or_default()
    }

    /// The endpoints as URLs, those that DNS tells before those that were given.
    async fn endpoints(&self) -> Result<Vec<String>, Failure> {
        if let Some(domain) = self.given(&[("discovery-srv", "ETCDCTL_DISCOVERY_SRV")]) {
            let is_set = |variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
            let insecure = self.global.switch("insecure-discovery") || is_set("ETCDCTL_INSECURE_DISCOVERY");
            let name = std::env::var("ETCDCTL_DISCOVERY_SRV_NAME").ok().filter(|name| !name.is_empty());
            let found = srv::endpoints(&domain, name.as_deref(), insecure).await;
            let found = found.map_err(|why| fail(code::BAD_ARGS, &why))?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(self.endpoints_as_given())
    }

    fn endpoints_as_given(&self) -> Vec<String> {
        let names = [("endpoints", "ETCDCTL_ENDPOINTS"), ("endpoint", "ETCDCTL_ENDPOINT"), ("peers", "ETCDCTL_PEERS")];
        let given = self.given(&names).unwrap_or_else(|| DEFAULT_ENDPOINTS.to_owned());
        let url = |endpoint: &str| {
            if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") }
        };
        given.split(',').map(url).collect()
    }

    pub(super) fn tls(&self) -> Option<TlsOptions> {
        let file = |flag, variable| self.given(&[(flag, variable)]).map(PathBuf::from);
        let tls = TlsOptions {
            ca_file: file("ca-file", "ETCDCTL_CA_FILE"),
            cert_file: file("cert-file", "ETCDCTL_CERT_FILE"),
            key_file: file("key-file", "ETCDCTL_KEY_FILE"),
            ..TlsOptions::default()
        };
        (tls != TlsOptions::default()).then_some(tls)
    }

    /// The client, which knows the members' endpoints unless it is not to ask for them.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let client = self.connect_as_given().await?;
        if self.global.switch("no-sync") {
            self.tell_endpoints(&client);
            return Ok(client);
        }
        self.tell(|| format!("start to sync cluster using endpoints({})", client.endpoints().join(",")));
        match client.sync().await {
            Err(why @ (v2::Error::Unreachable(_) | v2::Error::Timeout { .. } | v2::Error::Lost(_))) => {
                Err(self.failed(code::BAD_CONNECTION, &why, Effect::Read))
            }
            Err(v2::Error::Options(_)) => {
                let endpoints = client.endpoints().join(",");
                Err(error(
                    code::SERVER,
                    &format!(
                        "client: no endpoints available\netcd cluster has no published client endpoints.\n\
                         Try '--no-sync' if you want to access non-published client endpoints({endpoints})."
                    ),
                ))
            }
            // Whoever may not ask for the members may ask for keys.
            _ => {
                self.tell(|| format!("got endpoints({}) after sync", client.endpoints().join(",")));
                self.tell_endpoints(&client);
                Ok(client)
            }
        }
    }

    /// Tells what happens, for `--debug`.
    fn tell(&self, what: impl FnOnce() -> String) {
        if self.global.switch("debug") {
            tell!("{}", what());
        }
    }

    pub(super) fn tell_endpoints(&self, client: &Client) {
        self.tell(|| format!("Cluster-Endpoints: {}", client.endpoints().join(", ")));
    }

    /// The client of the endpoints that were given.
    pub(super) async fn connect_as_given(&self) -> Result<Client, Failure> {
        self.connect_or(|text| fail(code::BAD_ARGS, text)).await
    }

    /// The same, with what becomes of certificates that cannot be used.
    pub(super) async fn connect_or(&self, bad_tls: impl Fn(&str) -> Failure) -> Result<Client, Failure> {
        let user = match self.given(&[("username", "ETCDCTL_USERNAME")]) {
            None => None,
            Some(user) => Some(match user.split_once(':') {
                Some((name, password)) => User { name: name.to_owned(), password: password.to_owned() },
                None => User { name: user, password: password::ask_openly("Password: ").await? },
            }),
        };
        let tls = self.tls();
        if let Some(TlsOptions { cert_file: cert, key_file: key, .. }) = &tls
            && cert.is_some() != key.is_some()
        {
            return Err(bad_tls(&half_a_pair(self.personality, cert.as_deref(), key.as_deref())));
        }
        let options = Options {
            endpoints: self.endpoints().await?,
            tls,
            user,
            dial_timeout: self.duration("timeout", TIMEOUT),
            request_timeout: self.duration("total-timeout", TOTAL_TIMEOUT),
            keeps_trying: false,
            on_request: debug::hook(self.personality, self.global.switch("debug")),
            ..Options::default()
        };
        Client::new(&options).map_err(|why| {
            let text = without_numbers(&why.to_string());
            match &why {
                v2::Error::Options(client::Error::TlsFile { path, .. }) if !path.exists() => {
                    bad_tls(&format!("open {}: no such file or directory", path.display()))
                }
                v2::Error::Options(client::Error::TlsFile { .. } | client::Error::Tls(_)) => bad_tls(&text),
                _ => fail(code::BAD_ARGS, &text),
            }
        })
    }
}

impl Call {
    /// Tells an error as most commands do.
    pub(super) fn failed(&self, code: u8, why: &v2::Error, effect: Effect) -> Failure {
        let text = match self.personality {
            Personality::Cleatctl => explain(why, effect),
            Personality::Etcdctl => text_of_most(why),
        };
        fail(code, &self.fit(&format!("Error:  {text}")))
    }

    /// The same of what etcdctl asks of one endpoint alone, of which it tells nothing before.
    pub(super) fn failed_once(&self, code: u8, why: &v2::Error, effect: Effect) -> Failure {
        match self.personality {
            Personality::Cleatctl => self.failed(code, why, effect),
            Personality::Etcdctl => error(code, text_of(why).trim_start_matches(UNAVAILABLE)),
        }
    }

    /// Why a call failed, behind what a command of members, users or roles says of it, or alone.
    pub(super) fn why(&self, why: &v2::Error, effect: Effect) -> String {
        match (self.personality, why) {
            (Personality::Cleatctl, _) => explain(why, effect),
            (_, v2::Error::Unreachable(_) | v2::Error::Timeout { .. } | v2::Error::Lost(_)) => {
                format!("{UNAVAILABLE}{}\n", text_of(why))
            }
            (_, _) => text_of(why),
        }
    }

    /// A text in lines that fit into a person's terminal.
    pub(super) fn fit(&self, text: &str) -> String {
        let columns = Terminal::width_of_errors().filter(|_| self.personality == Personality::Cleatctl);
        people::fit(text, columns)
    }
}

/// etcdctl's words, which are those of its library and then those of each endpoint.
fn text_of_most(why: &v2::Error) -> String {
    let text = text_of(why);
    match why {
        v2::Error::Unreachable(_) | v2::Error::Timeout { .. } | v2::Error::Lost(_) => {
            format!("{UNAVAILABLE}{text}\n\nerror #0: {text}\n")
        }
        _ if broken(why).is_some() => {
            let of_member = text.trim_start_matches(UNAVAILABLE);
            format!("{text}\n\nerror #0: {of_member}\n")
        }
        _ => text,
    }
}

/// How etcdctl begins when no endpoint had an answer.
const UNAVAILABLE: &str = "client: etcd cluster is unavailable or misconfigured; error #0: ";

/// The endpoint of a member that is broken by the status of its answer, and what etcd's library says of it. To that this is no
/// answer, whatever its text.
fn broken(why: &v2::Error) -> Option<(&String, String)> {
    let (v2::Error::Answered { endpoint, status, .. } | v2::Error::Refused { endpoint, status, .. }) = why else {
        return None;
    };
    let says = match status {
        500 | 503 => "has no leader".to_owned(),
        501.. => {
            let reason = http::StatusCode::from_u16(*status).ok().and_then(|status| status.canonical_reason());
            format!("returns server error [{}]", reason.unwrap_or_default())
        }
        _ => return None,
    };
    Some((endpoint, says))
}

/// etcdctl's words for an error.
fn text_of(why: &v2::Error) -> String {
    if let Some((endpoint, says)) = broken(why) {
        return format!("{UNAVAILABLE}client: etcd member {endpoint} {says}");
    }
    match why {
        v2::Error::Answered { code, message, cause, index, .. } => format!("{code}: {message} ({cause}) [{index}]"),
        v2::Error::Refused { text, .. } => text.clone(),
        v2::Error::Unreachable(http) => dial_error(&http.to_string()),
        // Go's word for it.
        v2::Error::Lost(HttpError::Exchange { reason, .. }) if reason.contains("closed before message completed") => {
            "EOF".to_owned()
        }
        other => other.to_string(),
    }
}

/// Go's words for a connection that was not made.
pub(super) fn dial_error(text: &str) -> String {
    // `no connection to http://HOST:PORT: REASON`
    let place = text.split("://").nth(1).and_then(|rest| rest.split(": ").next());
    match place {
        Some(place) if text.contains("refused") => format!("dial tcp {place}: connect: connection refused"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_a_broken_member_is_none() {
        let refused = |status| {
            let text = "Internal Server Error".to_owned();
            text_of(&v2::Error::Refused { endpoint: "http://a:1".to_owned(), status, text })
        };
        let of_member = |text: &str| format!("{UNAVAILABLE}client: etcd member http://a:1 {text}");
        assert_eq!(refused(500), of_member("has no leader"));
        assert_eq!(refused(503), of_member("has no leader"));
        assert_eq!(refused(502), of_member("returns server error [Bad Gateway]"));
        assert_eq!(refused(409), "Internal Server Error");
    }
}

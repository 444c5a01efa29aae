//! More about a failed call than etcdctl says: what happened, where, and what to do.

use super::{ReaderGone, text};
use crate::failure::{Failure, code, whole};
use api::error::Error as Known;
use client::{Error, Oversize};
use std::fmt::Write as _;

/// What a person is told of a failed call that a command ends with: the cause in the first line, which is etcdctl's where the
/// server answered, and below it where it happened and what to do.
pub(crate) fn explain(error: &Error, text: &str) -> String {
    let mut told = match error {
        Error::Unreachable { endpoint, reason } => format!("cannot connect to {endpoint}: {}", cause(reason)),
        Error::Lost { endpoint, reason, .. } => format!("the connection to {endpoint} broke: {}", cause(reason)),
        Error::Timeout { endpoint, limit, .. } => format!("no answer from {endpoint} within {limit:?}"),
        // Servers' own words.
        _ => text::escape(text),
    };
    // Writing to a text does not fail.
    if let Error::Answered { endpoint, .. }
    | Error::Compacted { endpoint, .. }
    | Error::WatchCanceled { endpoint, .. } = error
    {
        write!(told, "\n  from: {endpoint}").ok();
    }
    if let Some(remedy) = remedy(error) {
        write!(told, "\n  do:   {remedy}").ok();
    }
    told
}

/// What a person is told of a failed call in the middle of a line: the cause alone.
pub(crate) fn cause_of(error: &Error, text: &str) -> String {
    explain(error, text).lines().next().unwrap_or_default().to_owned()
}

/// How a command for people ended. It has not failed if all that is missing is somebody who reads.
pub(super) fn ended(result: anyhow::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.is::<ReaderGone>() => Ok(()),
        result => result.map_err(failure),
    }
}

/// The failure of a command for people, with the call that failed, if it was one.
pub(crate) fn failure(error: anyhow::Error) -> Failure {
    match error.downcast_ref::<Error>() {
        // Something was said about it already.
        Some(call) if call.to_string() != error.to_string() => {
            let remedy = remedy(call).map_or_else(String::new, |remedy| format!("\n  do:   {remedy}"));
            Failure::new(code::ERROR, format!("{}{remedy}", whole(&error)))
        }
        Some(_) => match error.downcast::<Error>() {
            Ok(call) => Failure::from(call),
            Err(error) => Failure::from(error),
        },
        None => Failure::from(error),
    }
}

/// A system's error without its number.
pub(crate) fn cause(reason: &str) -> &str {
    reason.split(" (os error ").next().unwrap_or(reason)
}

/// Of a write that has no answer, or one that says nothing of it.
pub(crate) const MAY_BE_DONE: &str =
    "the write may have been done all the same: read what is there before you repeat it";

fn remedy(error: &Error) -> Option<String> {
    Some(match error {
        Error::Unreachable { reason, .. } => of_connection(reason, FLAGS),
        Error::Lost { .. } if error.may_be_done() => MAY_BE_DONE.to_owned(),
        Error::Lost { .. } => "give the command again".to_owned(),
        Error::Timeout { .. } => {
            let look = "look at the cluster with `cleatctl status`, or wait longer with --command-timeout";
            if error.may_be_done() { format!("{MAY_BE_DONE}; {look}") } else { look.to_owned() }
        }
        Error::TooLarge { message: Oversize::Request, .. } => {
            "raise --max-request-bytes (or ETCDCTL_MAX_REQUEST_BYTES)".to_owned()
        }
        Error::TooLarge { .. } => {
            let raise = "raise --max-recv-bytes (or ETCDCTL_MAX_RECV_BYTES)";
            if error.may_be_done() { format!("{MAY_BE_DONE}; {raise}") } else { raise.to_owned() }
        }
        Error::Compacted { compact_revision, .. } => format!("begin at revision {compact_revision} or later"),
        Error::Answered { text, .. } => match of_answer(text)? {
            // The server has not refused it: it does not know itself what became of it.
            remedy if error.may_be_done() => format!("{MAY_BE_DONE}; {remedy}"),
            remedy => remedy.to_owned(),
        },
        Error::BadEndpoint { .. } | Error::NoEndpoints => {
            "name endpoints as --endpoints host:port,... (or ETCDCTL_ENDPOINTS)".to_owned()
        }
        _ => return None,
    })
}

/// What the flags of a connection are called in one of the command lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlagNames {
    pub(crate) ca: &'static str,
    pub(crate) cert: &'static str,
    pub(crate) key: &'static str,
    pub(crate) dial_timeout: &'static str,
}

const FLAGS: FlagNames = FlagNames { ca: "--cacert", cert: "--cert", key: "--key", dial_timeout: "--dial-timeout" };

/// Why a connection was not made, by the words of the system and of rustls.
pub(crate) fn of_connection(reason: &str, flags: FlagNames) -> String {
    let FlagNames { ca, cert, key, dial_timeout } = flags;
    let reason = reason.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if has(&["certificate required", "certificaterequired"]) {
        format!("the server wants to see a certificate: give {cert} and {key}")
    } else if has(&["unknownissuer", "unknown issuer"]) {
        format!("the server's certificate is of an authority that is not trusted here: name it with {ca}")
    } else if has(&["expired", "notvalidyet"]) {
        "renew the certificate, or set the clocks".to_owned()
    } else if has(&["not valid for", "notvalidforname"]) {
        "name the endpoint as the certificate does".to_owned()
    } else if has(&["corrupt message", "invalidcontenttype", "invalid content type", "unexpected eof", "unexpectedeof"])
    {
        format!("if that endpoint has no TLS, write it as http://host:port and leave {ca}, {cert} and {key} out")
    } else if has(&["frame with invalid size", "http2 error", "h2", "connection reset", "broken pipe"]) {
        format!("if that endpoint has TLS, write it as https://host:port and give {ca}")
    } else if has(&["lookup", "dns", "name or service not known", "temporary failure in name resolution"]) {
        "check the host's name in --endpoints".to_owned()
    } else if has(&["no connection within", "timed out"]) {
        format!("check the address and the firewalls in between; {dial_timeout} waits longer")
    } else {
        "start a member there, or name others with --endpoints (or ETCDCTL_ENDPOINTS)".to_owned()
    }
}

/// How servers begin that refuse a message before they read it.
const TOO_LARGE: &str = "grpc: received message larger than max";

const WRITE_LESS: &str = "write less at a time, or raise --max-request-bytes of the members";

/// What to do about an error of etcd's table, or of gRPC.
pub(crate) fn of_answer(text: &str) -> Option<&'static str> {
    if text.starts_with(TOO_LARGE) {
        return Some(WRITE_LESS);
    }
    Some(match Known::ALL.iter().find(|known| known.text() == text)? {
        Known::NoSpace => {
            "make room: `compaction REVISION`, `defrag` of every endpoint, then `alarm disarm`; or raise --quota-backend-bytes"
        }
        Known::Corrupt => "do not write; `alarm list` names the member whose data differs: remove it and add it again",
        Known::Compacted => "name a later revision, or none for the present state",
        Known::FutureRevision => "name a revision that exists, or none for the present state",
        Known::UserEmpty => "users are required: give --user NAME[:PASSWORD]",
        Known::AuthFailed => "check --user and its password",
        Known::PermissionDenied => {
            "use another user (--user), or let root grant the permission to one of this user's roles"
        }
        Known::InvalidAuthToken | Known::AuthOldRevision => {
            "give the command again: users or roles were changed meanwhile"
        }
        Known::AuthNotEnabled => "leave --user out, or enable users with `auth enable`",
        Known::RootUserNotExist => "create it first: `user add root`, `user grant-role root root`",
        Known::RootRoleNotGranted => "grant it first: `user grant-role root root`",
        Known::NoLeader
        | Known::LeaderChanged
        | Known::Timeout
        | Known::TimeoutLeaderLost
        | Known::TimeoutConnectionLost => "see which members answer with `cleatctl status`, and ask again",
        Known::TooManyRequests | Known::TimeoutWaitApplied => "the member is behind: wait, or ask another endpoint",
        Known::RequestTooLarge => WRITE_LESS,
        Known::TooManyOps => "write in several transactions, or raise --max-txn-ops of the members",
        Known::LeaseNotFound => "it has expired or was revoked: `lease list` shows those that are left",
        Known::MemberNotFound => "`member list` shows the ids",
        Known::UserNotFound => "`user list` shows the names",
        Known::RoleNotFound => "`role list` shows the names",
        Known::BadLeaderTransferee => "name a voter that runs: `status` shows which do, `member list` their ids",
        Known::Unhealthy | Known::MemberNotEnoughStarted => {
            "start the members that do not run before the membership is changed: `status` shows which"
        }
        Known::LearnerNotReady => "wait until it has caught up: `status` shows how far it is behind",
        Known::TooManyLearners => "promote or remove the learner that is there",
        Known::NotSupportedForLearner => "ask a member that votes",
        Known::NotLeader => "ask the leader: `status` shows which member that is",
        Known::Stopped => "ask another endpoint, or wait until the member is started again",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::snapshots::assert_recorded;
    use client::Effect;
    use std::time::Duration;

    #[test]
    fn every_error_names_cause_place_and_remedy() {
        let endpoint = || "10.0.0.1:2379".to_owned();
        let mut pages = String::new();
        for reason in [
            "Connection refused (os error 111)",
            "no connection within 2s",
            "invalid peer certificate: UnknownIssuer",
            "invalid peer certificate: Expired",
            "received fatal alert: CertificateRequired",
            "received corrupt message of type InvalidContentType",
            "failed to lookup address information: Name or service not known",
        ] {
            let error = Error::Unreachable { endpoint: endpoint(), reason: reason.to_owned() };
            pages.push_str(&format!("{}\n\n", explain(&error, "context deadline exceeded")));
        }
        for effect in [Effect::Read, Effect::Write] {
            let lost = Error::Lost { endpoint: endpoint(), reason: "broken pipe".to_owned(), effect };
            let late = Error::Timeout { endpoint: endpoint(), limit: Duration::from_secs(5), effect };
            let (code, text) = ((Known::Timeout.code() as i32).into(), Known::Timeout.text().to_owned());
            let unsure = Error::Answered { endpoint: endpoint(), code, text, effect };
            let large =
                Error::TooLarge { endpoint: endpoint(), message: Oversize::Answer(effect), bytes: 70, limit: 64 };
            for error in [lost, late, unsure, large] {
                let told = explain(&error, &crate::failure::text_of(&error));
                assert_eq!(told.contains("may have been done"), effect == Effect::Write, "{told}");
                pages.push_str(&format!("{told}\n\n"));
            }
        }
        for known in Known::ALL {
            let error = Error::Answered {
                endpoint: endpoint(),
                code: (known.code() as i32).into(),
                text: known.text().to_owned(),
                effect: Effect::Read,
            };
            let told = explain(&error, known.text());
            assert!(told.starts_with(known.text()), "{told}");
            if of_answer(known.text()).is_some() {
                pages.push_str(&format!("{told}\n\n"));
            }
        }
        assert_recorded("advice", &pages);
    }
}

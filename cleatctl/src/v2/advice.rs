//! What is told of a failed call: etcdctl's words under its name, and for a person the words of whoever said it, with the place
//! and what to do about it, as of calls of the v3 API.

use crate::people::{self, FlagNames, escape};
use client::Effect;
use client::http::HttpError;
use client::v2::{self, code};

const FLAGS: FlagNames =
    FlagNames { ca: "--ca-file", cert: "--cert-file", key: "--key-file", dial_timeout: "--timeout" };

/// The directory is to be removed, and has something in it.
const NOT_EMPTY: u32 = 108;
/// The user may not, or none was given.
const UNAUTHORIZED: u32 = 110;

/// The cause in the first line, which is etcdctl's where the server refused, and below it where that was and the remedy.
pub(super) fn explain(why: &v2::Error, effect: Effect) -> String {
    let mut told = escape(&cause(why));
    if let v2::Error::Answered { endpoint, .. } | v2::Error::Refused { endpoint, .. } = why {
        told += &format!("\n  from: {endpoint}");
    }
    // Nobody knows what became of a write without an answer, the server that answers such neither.
    let unsure = (effect == Effect::Write && why.may_be_done()).then_some(people::MAY_BE_DONE.to_owned());
    let remedies: Vec<String> = unsure.into_iter().chain(remedy(why, effect)).collect();
    if !remedies.is_empty() {
        told += &format!("\n  do:   {}", remedies.join("; "));
    }
    told
}

fn cause(why: &v2::Error) -> String {
    match why {
        v2::Error::Answered { code, message, cause, index, .. } => format!("{code}: {message} ({cause}) [{index}]"),
        v2::Error::Refused { status: status @ 500.., text, .. } => {
            let status = http::StatusCode::from_u16(*status).map_or(status.to_string(), |status| status.to_string());
            // A body in quotes that has nothing.
            let said = Some(text).filter(|text| !["", "\"\""].contains(&text.as_str()));
            format!("the member answers {status}{}", said.map_or_else(String::new, |text| format!(": {text}")))
        }
        v2::Error::Refused { text, .. } => text.clone(),
        v2::Error::Unreachable(HttpError::Connect { server, reason }) => {
            format!("cannot connect to {server}: {}", people::cause(reason))
        }
        v2::Error::Lost(HttpError::Exchange { server, reason }) => {
            format!("the connection to {server} broke: {}", people::cause(reason))
        }
        other => other.to_string(),
    }
}

fn remedy(why: &v2::Error, effect: Effect) -> Option<String> {
    let remedy = match why {
        // Servers wrap errors that are none of keys.
        v2::Error::Answered { code, cause, .. } => people::of_answer(cause).or_else(|| of_code(*code))?,
        v2::Error::Refused { status: 401 | 403, .. } => OTHER_USER,
        v2::Error::Refused { status: 500.., text, .. } => people::of_answer(text).unwrap_or(SEE_MEMBERS),
        v2::Error::Unreachable(HttpError::Connect { reason, .. }) => return Some(people::of_connection(reason, FLAGS)),
        v2::Error::Timeout { .. } => {
            "look at the cluster with `cleatctl status`, or wait longer with --total-timeout and --timeout"
        }
        v2::Error::Lost(_) if effect == Effect::Read => "give the command again",
        _ => return None,
    };
    Some(remedy.to_owned())
}

const SEE_MEMBERS: &str = "see which members answer with `cleatctl status`, and ask again";

const OTHER_USER: &str = "give a user who may, as -u NAME[:PASSWORD]";

/// What to do about an error of a key.
fn of_code(code: u32) -> Option<&'static str> {
    Some(match code {
        code::COMPARE_FAILED => "read what is there with `get -o extended`, and decide again",
        code::NOT_A_FILE => "it is a directory: `ls` shows what is in it, `rm --recursive` removes it",
        code::NODE_EXISTS => "`set` writes it, whatever is there",
        NOT_EMPTY => "`rm --recursive` removes it with all that is in it",
        UNAUTHORIZED => OTHER_USER,
        code::RAFT_INTERNAL | code::LEADER_ELECTION => SEE_MEMBERS,
        code::WATCHER_CLEARED => "read what is there, and watch again",
        code::EVENT_INDEX_CLEARED => "read what is there, and watch from the index that comes with it",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::snapshots::assert_recorded;
    use std::time::Duration;

    fn server() -> String {
        "http://10.0.0.1:2379".to_owned()
    }

    fn answered(code: u32, message: &str) -> v2::Error {
        let (status, message, cause) = (if code < 300 { 404 } else { 500 }, message.to_owned(), "/a".to_owned());
        v2::Error::Answered { endpoint: server(), status, code, message, cause, index: 7 }
    }

    fn refused(status: u16, text: &str) -> v2::Error {
        v2::Error::Refused { endpoint: server(), status, text: text.to_owned() }
    }

    #[test]
    fn every_error_names_cause_place_and_remedy() {
        let reason = "Connection refused (os error 111)".to_owned();
        let unknown = "invalid peer certificate: UnknownIssuer".to_owned();
        let mut pages = String::new();
        for (why, effect) in [
            (answered(code::KEY_NOT_FOUND, "Key not found"), Effect::Read),
            (answered(code::COMPARE_FAILED, "Compare failed"), Effect::Write),
            (answered(code::NODE_EXISTS, "Key already exists"), Effect::Write),
            (answered(NOT_EMPTY, "Directory not empty"), Effect::Write),
            (answered(code::RAFT_INTERNAL, "Raft Internal Error"), Effect::Read),
            (answered(code::RAFT_INTERNAL, "Raft Internal Error"), Effect::Write),
            (refused(500, "etcdserver: mvcc: database space exceeded"), Effect::Write),
            (refused(503, "during an election"), Effect::Read),
            (refused(502, "\"\""), Effect::Read),
            (refused(401, "Insufficient credentials"), Effect::Read),
            (refused(404, "auth: User u does not exist."), Effect::Read),
            (refused(500, "a\u{1b}[2Jb"), Effect::Read),
            (v2::Error::Unreachable(HttpError::Connect { server: server(), reason }), Effect::Write),
            (v2::Error::Unreachable(HttpError::Connect { server: server(), reason: unknown }), Effect::Read),
            (v2::Error::Lost(HttpError::Exchange { server: server(), reason: "broken pipe".to_owned() }), Effect::Read),
            (v2::Error::Timeout { endpoint: server(), limit: Duration::from_secs(2) }, Effect::Write),
        ] {
            let told = explain(&why, effect);
            assert_eq!(told.contains("may have been done"), effect == Effect::Write && why.may_be_done(), "{told}");
            pages.push_str(&format!("{told}\n\n"));
        }
        assert_recorded("advice-v2", &pages);
    }
}

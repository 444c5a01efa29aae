//! Every accepted difference between the v2 API of etcd 3.4 and of Cleat, with its reason.

use super::answer::Answer;
use super::op::Request;
use std::sync::atomic::{AtomicU64, Ordering};

/// Erases what it explains from both answers (etcd's first); true when there was something to erase.
type Erase = fn(&Request, &mut Answer, &mut Answer) -> bool;

/// One accepted difference.
struct Entry {
    name: &'static str,
    reason: &'static str,
    erase: Erase,
}

const ENTRIES: [Entry; 8] = [
    Entry {
        name: "version: more fields",
        reason: "the version of Cleat stands beside those of etcd's API that it has",
        erase: own_version,
    },
    Entry {
        name: "OPTIONS of other paths: Allow",
        reason: "Cleat says which methods a path takes, as HTTP wants it",
        erase: allow,
    },
    Entry {
        name: "role that is not there: text",
        reason: "etcd has two texts for it; Cleat has one",
        erase: missing_role,
    },
    Entry {
        name: "lists of users and roles: order of fields",
        reason: "an object's fields have no order in JSON",
        erase: order_of_fields,
    },
    Entry {
        name: "invalid path: id of the cluster",
        reason: "Cleat sends it with every answer about users and roles",
        erase: cluster_id,
    },
    Entry { name: "HEAD of the version", reason: "Cleat answers HEAD wherever it answers GET", erase: head_of_version },
    Entry {
        name: "bad escape in a path: headers",
        reason: "etcd's HTTP library answers before etcd does, without etcd's headers, and ends the connection",
        erase: bad_escape,
    },
    Entry {
        name: "body that is no JSON of its kind: text",
        reason: "the text names types of the language that etcd is written in; status and form are the same",
        erase: json_error,
    },
];

fn own_version(request: &Request, _: &mut Answer, cleat: &mut Answer) -> bool {
    let Some((before, after)) = cleat.body.split_once(",\"cleat\":\"") else { return false };
    let Some((_, after)) = after.split_once('"') else { return false };
    let applies = request.target == "/version";
    if applies {
        cleat.body = format!("{before}{after}");
    }
    applies
}

fn allow(request: &Request, etcd: &mut Answer, cleat: &mut Answer) -> bool {
    let applies = request.method == "OPTIONS" && etcd.header("allow").is_none() && cleat.header("allow").is_some();
    if applies {
        cleat.headers.retain(|(name, _)| name != "allow");
    }
    applies
}

fn missing_role(_: &Request, etcd: &mut Answer, cleat: &mut Answer) -> bool {
    let applies = etcd.body != cleat.body && etcd.body == cleat.body.replace(" doesn't exist.", " does not exist.");
    if applies {
        cleat.body.clone_from(&etcd.body);
    }
    applies
}

fn order_of_fields(request: &Request, etcd: &mut Answer, cleat: &mut Answer) -> bool {
    let read = |answer: &Answer| serde_json::from_str::<serde_json::Value>(&answer.body).ok();
    let is_list = ["/v2/auth/users", "/v2/auth/roles"].contains(&request.target.trim_end_matches('/'));
    let applies = is_list && etcd.body != cleat.body && read(etcd).is_some() && read(etcd) == read(cleat);
    if applies {
        cleat.body.clone_from(&etcd.body);
    }
    applies
}

fn cluster_id(request: &Request, etcd: &mut Answer, cleat: &mut Answer) -> bool {
    const NAME: &str = "x-etcd-cluster-id";
    let applies = request.target.starts_with("/v2/auth")
        && etcd.status == 400
        && etcd.header(NAME).is_none()
        && cleat.header(NAME).is_some();
    if applies {
        cleat.headers.retain(|(name, _)| name != NAME);
    }
    applies
}

fn head_of_version(request: &Request, etcd: &mut Answer, cleat: &mut Answer) -> bool {
    let is_head = request.method == "HEAD" && request.target == "/version";
    let applies = is_head && etcd.status == 405 && cleat.status == 200;
    if applies {
        cleat.clone_from(etcd);
    }
    applies
}

fn bad_escape(request: &Request, etcd: &mut Answer, cleat: &mut Answer) -> bool {
    let path = request.target.split('?').next().unwrap_or_default();
    // What a path offers is told for any path.
    let same = request.method == "OPTIONS" || (cleat.status == 400 && etcd.body == cleat.body);
    let applies = path.contains("%zz") && etcd.status == 400 && same;
    if applies {
        cleat.clone_from(etcd);
    }
    applies
}

fn json_error(request: &Request, etcd: &mut Answer, cleat: &mut Answer) -> bool {
    let is_message = |answer: &Answer| answer.status == 400 && answer.body.starts_with("{\"message\":\"");
    let of_go = ["json: ", "unexpected end of JSON input", "invalid character ", "EOF"];
    let applies = request.area().starts_with("/v2/members")
        && is_message(etcd)
        && is_message(cleat)
        && etcd.body != cleat.body
        && of_go.iter().any(|text| etcd.body.starts_with(&format!("{{\"message\":\"{text}")));
    if applies {
        cleat.body.clone_from(&etcd.body);
    }
    applies
}

/// Counts how often each entry applied.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    applied: [AtomicU64; ENTRIES.len()],
}

impl Ledger {
    /// Erases every accepted difference.
    pub(crate) fn erase(&self, request: &Request, etcd: &mut Answer, cleat: &mut Answer) {
        for (entry, applied) in ENTRIES.iter().zip(&self.applied) {
            if (entry.erase)(request, etcd, cleat) {
                applied.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// One line for each entry.
    pub(crate) fn report(&self) -> String {
        let line = |(entry, applied): (&Entry, &AtomicU64)| match applied.load(Ordering::Relaxed) {
            0 => format!("never applied: {} ({})", entry.name, entry.reason),
            n => format!("{n} times: {}", entry.name),
        };
        ENTRIES.iter().zip(&self.applied).map(line).collect::<Vec<_>>().join("\n")
    }
}

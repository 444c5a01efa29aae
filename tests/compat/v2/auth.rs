//! Random requests while authentication is enabled: of root, of users with roles, of guests, and with wrong passwords.

use super::duel::Duel;
use super::ledger::Ledger;
use super::op::{Op, Request};
use super::side::SLOTS;
use crate::run::Contest;
use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// Every one of them costs a comparison of passwords, which is slow on purpose.
const REQUESTS: usize = 150;
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";
const CALLERS: [Option<(&str, &str)>; 7] = [
    None,
    Some(("root", "pw")),
    Some(("root", "pw")),
    Some(("u1", "one")),
    Some(("u2", "two")),
    Some(("u1", "wrong")),
    Some(("nobody", "x")),
];
const KEYS: [&str; 9] = ["/a", "/a/b", "/b", "/b/c", "/c", "/", "", "/_h", "/a/_h"];
const PATTERNS: [&str; 7] = ["/a", "/a/*", "/a*", "/b/*", "/*", "/c", "*"];

fn put(path: &str, body: impl Into<Vec<u8>>) -> Request {
    Request::new("PUT", path).with_body(JSON, body)
}

fn by(mut request: Request, caller: Option<(&str, &str)>) -> Request {
    if let Some((name, password)) = caller {
        let value = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
        request.headers.push(("Authorization".to_owned(), value));
    }
    request
}

/// Users, roles, and authentication.
fn beginning() -> Vec<Request> {
    vec![
        Request::new("PUT", "/v2/auth/enable"),
        put("/v2/auth/users/root", r#"{"user":"root","password":"pw"}"#),
        put("/v2/auth/users/u1", r#"{"user":"u1","password":"one"}"#),
        put("/v2/auth/users/u2", r#"{"user":"u2","password":"two"}"#),
        put("/v2/auth/roles/r1", r#"{"role":"r1","permissions":{"kv":{"read":["/a/*"],"write":["/a"]}}}"#),
        put("/v2/auth/roles/r2", r#"{"role":"r2","permissions":{"kv":{"read":["/b*"],"write":["/b*"]}}}"#),
        put("/v2/auth/users/u1", r#"{"user":"u1","grant":["r1"]}"#),
        put("/v2/auth/users/u2", r#"{"user":"u2","grant":["r1","r2"]}"#),
        Request::new("PUT", "/v2/auth/enable"),
        Request::new("GET", "/v2/auth/enable"),
        put("/v2/auth/roles/guest", r#"{"role":"guest","revoke":{"kv":{"write":["/*"]}}}"#),
    ]
}

fn drawn(rng: &mut StdRng) -> Op {
    let caller = CALLERS.choose(rng).copied().flatten();
    let key = KEYS.choose(rng).copied().unwrap_or_default();
    let request = match rng.random_range(0..100) {
        0..30 => {
            let query = ["", "?recursive=true", "?recursive=true&sorted=true", "?quorum=true", "?sorted=x"];
            Request::new("GET", format!("/v2/keys{key}{}", query.choose(rng).unwrap_or(&"")))
        }
        30..55 => {
            let query = ["", "", "?prevExist=true", "?prevExist=false", "?dir=true", "?prevValue=1", "?ttl=x"];
            let target = format!("/v2/keys{key}{}", query.choose(rng).unwrap_or(&""));
            Request::new("PUT", target).with_body(FORM, "value=1")
        }
        55..60 => Request::new("POST", format!("/v2/keys{key}")).with_body(FORM, "value=1"),
        60..70 => {
            let query = ["", "?recursive=true", "?dir=true", "?prevValue=1"];
            Request::new("DELETE", format!("/v2/keys{key}{}", query.choose(rng).unwrap_or(&"")))
        }
        70..76 => {
            let query = ["?wait=true", "?wait=true&recursive=true", "?wait=true&waitIndex=@I-5@"];
            let request = Request::new("GET", format!("/v2/keys{key}{}", query.choose(rng).unwrap_or(&"")));
            return Op::Watch { slot: rng.random_range(0..SLOTS), request: by(request, caller) };
        }
        76..88 => {
            let kind = ["grant", "revoke"].choose(rng).unwrap_or(&"grant");
            let (read, write) = (PATTERNS.choose(rng).unwrap_or(&"/a"), PATTERNS.choose(rng).unwrap_or(&"/a"));
            let role = ["r1", "r2", "guest", "root"].choose(rng).unwrap_or(&"r1");
            let body = format!(r#"{{"role":"{role}","{kind}":{{"kv":{{"read":["{read}"],"write":["{write}"]}}}}}}"#);
            put(&format!("/v2/auth/roles/{role}"), body)
        }
        88..94 => {
            let kind = ["grant", "revoke"].choose(rng).unwrap_or(&"grant");
            let (user, role) = (["u1", "u2"].choose(rng).unwrap_or(&"u1"), ["r1", "r2"].choose(rng).unwrap_or(&"r1"));
            put(&format!("/v2/auth/users/{user}"), format!(r#"{{"user":"{user}","{kind}":["{role}"]}}"#))
        }
        94..97 => {
            let paths = ["/v2/auth/users", "/v2/auth/users/u1", "/v2/auth/roles/guest", "/v2/auth/enable"];
            Request::new("GET", *paths.choose(rng).unwrap_or(&"/v2/auth/users"))
        }
        97 => Request::new("DELETE", "/v2/auth/users/root"),
        98 => Request::new("DELETE", "/v2/members/404"),
        _ => Request::new("GET", "/v2/members"),
    };
    Op::Ask(by(request, caller))
}

/// Asks both the same; fails with the first difference and what led to it.
pub(super) async fn run(seed: u64) -> Result<()> {
    let mut duel = Duel::start().await?;
    let ledger = Ledger::default();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ops: Vec<Op> = beginning().into_iter().map(Op::Ask).collect();
    ops[10] = Op::Ask(by(beginning().remove(10), Some(("root", "pw"))));
    while ops.len() < REQUESTS {
        ops.push(drawn(&mut rng));
        if ops.len().is_multiple_of(20) {
            ops.push(Op::Settle);
        }
    }
    let root = Some(("root", "pw"));
    ops.push(Op::Ask(by(Request::new("DELETE", "/v2/auth/enable"), None)));
    ops.push(Op::Ask(by(Request::new("DELETE", "/v2/auth/enable"), root)));
    ops.push(Op::Ask(Request::new("GET", "/v2/keys?recursive=true")));
    for (step, op) in ops.iter().enumerate() {
        if let Some(difference) = duel.step(op, &ledger).await? {
            let before: Vec<String> = ops[step.saturating_sub(10)..=step].iter().map(ToString::to_string).collect();
            anyhow::bail!("seed {seed}, step {step}: {difference}\nlast requests:\n  {}", before.join("\n  "));
        }
    }
    let difference = duel.settle().await?;
    ensure!(difference.is_none(), "seed {seed}: {}", difference.map_or_else(String::new, |found| found.to_string()));
    Ok(())
}

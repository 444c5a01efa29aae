//! Random bodies about users, roles, locks and elections to the JSON gateways of etcd and Cleat, from everybody.
//!
//! As [`crate::auth`], whose alphabets and exceptions these are, but as `curl` would send it: a token comes from
//! `/v3/auth/authenticate` and goes into `Authorization`. Locks and elections are asked for with one lease for each name, so
//! that no call waits for another. `CLEAT_SEED=n` replays a run.

use crate::auth::{ENDS, KEYS, ROLES, USERS, password};
use crate::gateway::{Outcome, outcome};
use ::http::Request;
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use harness::http::{self, Answer};
use harness::seeds::seeds;
use harness::{Kind, Options, Server};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

/// Requests of a run.
const REQUESTS: usize = 1_500;
const LEASES: [i64; 3] = [1, 77, 404];
/// Longer than any run.
const TTL: i64 = 100_000;

type Step = (Option<&'static str>, &'static str, Value);

struct Bodies {
    rng: StdRng,
    /// The end that the permissions of a role and a key have. etcd does not find a second one of a key again.
    granted: BTreeMap<(&'static str, &'static str), &'static str>,
    /// What the last campaign has won.
    leader: Value,
}

fn base64(text: &str) -> Value {
    json!(STANDARD.encode(text))
}

impl Bodies {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.random_range(0..from.len())]
    }

    fn integer(&mut self, value: i64) -> Value {
        if self.rng.random() { json!(value) } else { json!(value.to_string()) }
    }

    fn step(&mut self) -> Step {
        let user = if self.rng.random_ratio(1, 20) { None } else { Some(self.pick(&USERS)) };
        match self.rng.random_range(0..100) {
            0..25 => {
                // Mostly root, or little would ever change.
                let user = if self.rng.random_ratio(4, 5) { Some("root") } else { user };
                let (path, body) = self.change();
                (user, path, body)
            }
            25..70 => {
                let (path, body) = self.ask();
                (user, path, body)
            }
            _ => {
                let (path, body) = self.hold();
                (Some("root").filter(|_| self.rng.random_ratio(9, 10)), path, body)
            }
        }
    }

    fn change(&mut self) -> (&'static str, Value) {
        let (name, role, key, end) = (self.pick(&USERS), self.pick(&ROLES), self.pick(&KEYS), self.pick(&ENDS));
        match self.rng.random_range(0..20) {
            0 | 1 => ("/v3/auth/user/add", json!({ "name": name, "password": password(name) })),
            2 => ("/v3/auth/user/add", json!({ "name": name, "options": { "no_password": true } })),
            3 => ("/v3/auth/user/delete", json!({ "name": name })),
            4 => ("/v3/auth/user/changepw", json!({ "name": name, "password": password(name) })),
            5..8 => ("/v3/auth/user/grant", json!({ "user": name, "role": role })),
            8 => ("/v3/auth/user/revoke", json!({ "name": name, "role": role })),
            9 | 10 => ("/v3/auth/role/add", json!({ "name": role })),
            11 => ("/v3/auth/role/delete", json!({ "role": role })),
            12 => ("/v3/auth/role/revoke", json!({ "role": role, "key": base64(key), "range_end": base64(end) })),
            13 if self.rng.random_ratio(1, 5) => ("/v3/auth/disable", json!({})),
            13 | 14 => ("/v3/auth/enable", json!({})),
            _ => {
                let end = if end > key || end == "\0" { end } else { "" };
                let end = *self.granted.entry((role, key)).or_insert(end);
                let kinds = [json!("READ"), json!("WRITE"), json!("READWRITE"), json!(1), json!(2)];
                let kind = kinds[self.rng.random_range(0..kinds.len())].clone();
                let field = self.pick(&["range_end", "rangeEnd"]);
                let perm = json!({ "permType": kind, "key": base64(key), field: base64(end) });
                ("/v3/auth/role/grant", json!({ "name": role, "perm": perm }))
            }
        }
    }

    fn keys(&mut self) -> (Value, Value) {
        let (key, end) = (self.pick(&KEYS), self.pick(&ENDS));
        (base64(key), base64(if end > key || end == "\0" { end } else { "" }))
    }

    fn ask(&mut self) -> (&'static str, Value) {
        let (key, end) = self.keys();
        let value = base64(&self.rng.random_range(0..9).to_string());
        let range = json!({ "key": key, "range_end": end });
        match self.rng.random_range(0..20) {
            0 => ("/v3/auth/user/get", json!({ "name": self.pick(&USERS) })),
            1 => ("/v3/auth/role/get", json!({ "role": self.pick(&ROLES) })),
            2 => ("/v3/auth/user/list", json!({})),
            3 => ("/v3/auth/role/list", json!({})),
            4..9 => ("/v3/kv/range", range),
            9..14 => ("/v3/kv/put", json!({ "key": key, "value": value, "prev_kv": self.rng.random_ratio(1, 3) })),
            14..16 => ("/v3/kv/deleterange", range),
            _ => {
                let put = json!({ "requestPut": { "key": key, "value": value } });
                let compare = json!([{ "key": self.keys().0, "target": "VERSION", "version": "0" }]);
                ("/v3/kv/txn", json!({ "compare": compare, "success": [put], "failure": [{ "request_range": range }] }))
            }
        }
    }

    /// Locks and elections.
    fn hold(&mut self) -> (&'static str, Value) {
        let lease = self.pick(&LEASES);
        let (lock, election) = (format!("lock/{lease}"), format!("election/{lease}"));
        let value = base64(self.pick(&["", "one", "two"]));
        match self.rng.random_range(0..12) {
            0..3 => ("/v3/lock/lock", json!({ "name": base64(&lock), "lease": self.integer(lease) })),
            3 | 4 => ("/v3/lock/unlock", json!({ "key": base64(&format!("{lock}/{lease:x}")) })),
            5..8 => {
                let lease = self.integer(lease);
                ("/v3/election/campaign", json!({ "name": base64(&election), "lease": lease, "value": value }))
            }
            8 | 9 => ("/v3/election/leader", json!({ "name": base64(&election) })),
            10 => ("/v3/election/proclaim", json!({ "leader": self.leader, "value": value })),
            _ => ("/v3/election/resign", json!({ "leader": self.leader })),
        }
    }
}

/// One of the two servers, and the tokens of its users.
struct Side {
    server: Server,
    tokens: HashMap<&'static str, String>,
}

impl Side {
    async fn start(kind: Kind) -> Result<Self> {
        let flags = vec!["--bcrypt-cost=4".to_owned()];
        let server = Server::start_with(kind, Options { flags, ..Options::default() }).await?;
        Ok(Self { server, tokens: HashMap::new() })
    }

    async fn login(&mut self, user: &'static str) -> Result<()> {
        let body = json!({ "name": user, "password": password(user) }).to_string();
        let answer = http::post(&self.server.endpoint(), "/v3/auth/authenticate", body).await?;
        if answer.status == 200 {
            let token = answer.json()?["token"].as_str().context("a token")?.to_owned();
            self.tokens.insert(user, token);
        }
        Ok(())
    }

    /// Asks as a script would: it logs in, and once more if its token is worth nothing.
    async fn ask(&mut self, user: Option<&'static str>, path: &str, body: &str) -> Result<Answer> {
        let endpoint = self.server.endpoint();
        let mut is_again = false;
        loop {
            if let Some(user) = user
                && !self.tokens.contains_key(user)
            {
                self.login(user).await?;
            }
            let mut request = Request::post(path);
            if let Some(token) = user.and_then(|user| self.tokens.get(user)) {
                request = request.header("Authorization", token);
            }
            let answer = http::send(&endpoint, request.body(http::full(body.to_owned()))?).await?;
            // Of locks and elections etcd tells no code.
            let is_stale = answer.status == 401 || String::from_utf8_lossy(&answer.body).contains("invalid auth token");
            if !is_stale || is_again {
                return Ok(answer);
            }
            is_again = true;
            self.tokens.remove(user.unwrap_or_default());
        }
    }
}

/// Everybody and every role is there, two of the leases as well, and authentication is enabled.
fn beginning() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for id in &LEASES[..2] {
        steps.push((None, "/v3/lease/grant", json!({ "ID": id, "TTL": TTL })));
    }
    for name in USERS {
        steps.push((None, "/v3/auth/user/add", json!({ "name": name, "password": password(name) })));
    }
    for name in ROLES {
        steps.push((None, "/v3/auth/role/add", json!({ "name": name })));
    }
    for (user, role) in [("root", "root"), ("ann", "one"), ("bob", "one"), ("bob", "two")] {
        steps.push((None, "/v3/auth/user/grant", json!({ "user": user, "role": role })));
    }
    steps.push((None, "/v3/auth/enable", json!({})));
    steps
}

#[test]
fn users_locks_and_elections_are_answered_as_etcd_does() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    for seed in seeds(1)? {
        eprintln!("users of the gateway: CLEAT_SEED={seed}");
        runtime.block_on(run(seed)).with_context(|| format!("CLEAT_SEED={seed}"))?;
    }
    Ok(())
}

async fn run(seed: u64) -> Result<()> {
    let (mut etcd, mut cleat) = tokio::try_join!(Side::start(Kind::Etcd), Side::start(Kind::Cleat))?;
    let mut bodies = Bodies { rng: StdRng::seed_from_u64(seed), granted: BTreeMap::new(), leader: json!({}) };
    let mut begin = beginning().into_iter();
    let (mut answered, mut refused, mut won) = (0, 0, 0);
    for number in 0..REQUESTS {
        let (user, path, body) = begin.next().unwrap_or_else(|| bodies.step());
        let text = body.to_string();
        let (theirs, ours) = tokio::try_join!(etcd.ask(user, path, &text), cleat.ask(user, path, &text))?;
        let what = || format!("request {number}: {user:?} {path} {text}");
        // As it came: names are not compared.
        let leader = ours.json().map(|mut answer| answer["leader"].take()).ok().filter(Value::is_object);
        let theirs = outcome(Kind::Etcd, path, &theirs).with_context(what)?;
        let ours = outcome(cleat.server.kind(), path, &ours).with_context(what)?;
        ensure!(theirs == ours, "{}\netcd:  {theirs:?}\ncleat: {ours:?}", what());
        if let Some(leader) = leader {
            won += 1;
            bodies.leader = leader;
        }
        match ours {
            Outcome::Answered(_) => answered += 1,
            Outcome::Refused(_) | Outcome::Unreadable => refused += 1,
        }
    }
    eprintln!("users of the gateway: {answered} answered, {refused} refused, {won} campaigns won");
    ensure!(answered > REQUESTS / 4 && refused > REQUESTS / 20 && won > 0, "a poor mixture");
    Ok(())
}

//! Random bodies to the JSON gateways of etcd and Cleat, answers compared.
//!
//! A body is drawn as a tree: fields of the API in either spelling, numbers as numbers or strings, and now and then
//! something that does not fit. Both get the same text, one request after the other, so revisions are the same. Watchers
//! at the end have to show both histories as the same events. `CLEAT_SEED=n` replays a run.

use ::http::Request;
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::try_join_all;
use harness::http::{self, Answer};
use harness::seeds::seeds;
use harness::{Kind, Server};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Requests of a run.
const REQUESTS: usize = 3_000;
/// Granted by the sequence; the last one never is.
const LEASES: [i64; 4] = [1, 77, i64::MAX, 404];
/// Their own time never shows.
const TTL: i64 = 100_000;

/// Draws bodies.
struct Bodies {
    rng: StdRng,
    /// The last revision that was seen, to draw others around it.
    revision: i64,
    /// The last one that was compacted.
    compacted: i64,
    /// Whether values may be wrong.
    has_flaws: bool,
}

impl Bodies {
    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.rng.random_range(0..from.len())].clone()
    }

    fn key(&mut self) -> Value {
        const KEYS: [&[u8]; 7] = [b"a", b"b", b"b/1", b"\xfb\xff\xfe", b"c", b"\0", b""];
        json!(STANDARD.encode(self.pick(&KEYS)))
    }

    fn integer(&mut self, value: i64) -> Value {
        if self.one_in(2) { json!(value) } else { json!(value.to_string()) }
    }

    fn revision(&mut self) -> Value {
        let value = match self.rng.random_range(0..10) {
            0..6 => 0,
            6..9 => self.revision - self.rng.random_range(0..10),
            _ => self.revision + self.rng.random_range(-1..3),
        };
        self.integer(value)
    }

    fn lease(&mut self) -> Value {
        let id = self.pick(&LEASES);
        self.integer(id)
    }

    /// Something that fits few fields.
    fn nonsense(&mut self) -> Value {
        let values = [
            json!("!"),
            json!(true),
            json!(1.5),
            json!({ "a": [{}] }),
            json!(null),
            json!("x"),
            json!({}),
            json!(u64::MAX),
            json!("18446744073709551615"),
            json!(1e300),
            json!(""),
        ];
        self.pick(&values)
    }

    /// An object with some of these fields, by percent, in either spelling, and now and then with a wrong value.
    fn object<const N: usize>(&mut self, fields: [(&str, Value, u32); N]) -> Value {
        let mut object = Map::new();
        for (name, value, percent) in fields {
            if self.rng.random_range(0..100) < percent {
                let name = if self.one_in(3) { camel(name) } else { name.to_owned() };
                let value = if self.has_flaws && self.one_in(100) { self.nonsense() } else { value };
                object.insert(name, value);
            }
        }
        if self.one_in(20) {
            object.insert("unknown".to_owned(), self.nonsense());
        }
        Value::Object(object)
    }

    fn range(&mut self) -> Value {
        let orders = [
            json!("NONE"),
            json!("ASCEND"),
            json!("DESCEND"),
            json!(0),
            json!(1),
            json!(2),
            json!("ASCEND"),
            json!("UP"),
        ];
        let targets = [json!("KEY"), json!("VERSION"), json!("CREATE"), json!("MOD"), json!(4), json!("VALUE")];
        let limit = self.rng.random_range(0..4);
        let fields = [
            ("key", self.key(), 97),
            ("range_end", self.key(), 40),
            ("limit", self.integer(limit), 30),
            ("revision", self.revision(), 30),
            ("sort_order", self.pick(&orders), 20),
            ("sort_target", self.pick(&targets), 20),
            ("serializable", json!(true), 20),
            ("keys_only", json!(true), 10),
            ("count_only", json!(false), 10),
            ("min_mod_revision", self.revision(), 5),
        ];
        self.object(fields)
    }

    fn put(&mut self) -> Value {
        let value = self.rng.random::<u16>().to_be_bytes();
        let fields = [
            ("key", self.key(), 97),
            ("value", json!(STANDARD.encode(value)), 90),
            ("lease", self.lease(), 15),
            ("prev_kv", json!(true), 30),
        ];
        self.object(fields)
    }

    fn delete(&mut self) -> Value {
        let fields = [("key", self.key(), 97), ("range_end", self.key(), 20), ("prev_kv", json!(true), 50)];
        self.object(fields)
    }

    fn compare(&mut self) -> Value {
        let (target, field, value) = match self.rng.random_range(0..5) {
            0 => (json!("VERSION"), "version", json!(1)),
            1 => (json!("CREATE"), "create_revision", json!("0")),
            2 => (json!(2), "mod_revision", self.revision()),
            3 => (json!("VALUE"), "value", json!("AAA=")),
            _ => (json!("LEASE"), "lease", self.lease()),
        };
        let results = [json!("EQUAL"), json!("GREATER"), json!(2), json!("NOT_EQUAL")];
        let fields = [
            ("key", self.key(), 97),
            ("range_end", self.key(), 10),
            ("target", target, 95),
            (field, value, 90),
            ("result", self.pick(&results), 80),
        ];
        self.object(fields)
    }

    fn ops(&mut self, depth: u32) -> Value {
        let count = self.rng.random_range(0..3);
        let ops = (0..count).map(|_| {
            let (name, request) = match self.rng.random_range(0..10) {
                0..4 => ("request_range", self.range()),
                4..7 => ("request_put", self.put()),
                7..9 => ("request_delete_range", self.delete()),
                _ if depth < 2 => ("request_txn", self.txn(depth + 1)),
                _ => return json!({}),
            };
            self.object([(name, request, 98)])
        });
        ops.collect()
    }

    fn txn(&mut self, depth: u32) -> Value {
        let count = self.rng.random_range(0..3);
        let compare = (0..count).map(|_| self.compare()).collect();
        let fields = [("compare", compare, 90), ("success", self.ops(depth), 90), ("failure", self.ops(depth), 60)];
        self.object(fields)
    }

    /// A path and a body that is one object.
    fn request(&mut self) -> (&'static str, Value) {
        match self.rng.random_range(0..100) {
            0..30 => ("/v3/kv/put", self.put()),
            30..55 => ("/v3/kv/range", self.range()),
            55..65 => ("/v3/kv/deleterange", self.delete()),
            65..80 => ("/v3/kv/txn", self.txn(0)),
            80..82 => {
                let revision = self.revision - self.rng.random_range(5..30);
                ("/v3/kv/compaction", json!({ "revision": self.integer(revision), "physical": true }))
            }
            82..86 => {
                let fields = [("TTL", self.integer(TTL), 100), ("ID", self.lease(), 98)];
                let mut grant = self.object(fields);
                // As in `text`.
                if grant["TTL"].is_null() {
                    grant["TTL"] = json!(TTL);
                }
                ("/v3/lease/grant", grant)
            }
            86..88 => {
                let id = self.lease();
                ("/v3/lease/revoke", self.object([("ID", id, 98)]))
            }
            88..92 => {
                let fields = [("ID", self.lease(), 98), ("keys", json!(true), 70)];
                (self.pick(&["/v3/lease/timetolive", "/v3/kv/lease/timetolive"]), self.object(fields))
            }
            92..93 => (self.pick(&["/v3/lease/leases", "/v3/kv/lease/leases"]), json!({})),
            93..94 => ("/v3/cluster/member/list", json!({})),
            94..95 => {
                let urls = [json!([]), json!(["http://a b"]), json!(["x"]), json!({}), json!([7])];
                let urls = self.pick(&urls);
                ("/v3/cluster/member/add", self.object([("peerURLs", urls, 90)]))
            }
            95..96 => ("/v3/cluster/member/remove", json!({ "ID": "404" })),
            96..97 => ("/v3/cluster/member/promote", json!({ "ID": 404 })),
            97..98 => ("/v3/maintenance/transfer-leadership", json!({ "targetID": "404" })),
            98..99 => ("/v3/maintenance/defragment", json!({})),
            _ => ("/v3/maintenance/alarm", json!({ "action": self.pick(&[json!("GET"), json!(0)]) })),
        }
    }

    /// A text: mostly the object, now and then cut off or with a bracket too much.
    fn text(&mut self, body: &Value) -> String {
        let mut text = if self.one_in(2) { body.to_string() } else { format!("{body:#}") };
        // A lease whose body ends early has no time, and lasts for two seconds: it goes on one server before the other.
        if self.one_in(40) && body.get("TTL").is_none() {
            let at = self.rng.random_range(0..text.len());
            match self.rng.random_range(0..3) {
                0 => text.truncate(at),
                1 => text.insert(at, '}'),
                _ => text.insert(at, '{'),
            }
        }
        text
    }

    /// Requests of one keepalive stream. Nothing is wrong with them: etcd 3.4 ends such a stream silently.
    fn keep_alives(&mut self) -> String {
        let count = self.rng.random_range(0..4);
        let requests: Vec<_> = (0..count).map(|_| json!({ "ID": self.lease() }).to_string()).collect();
        requests.join(" ")
    }

    fn watch(&mut self, id: i64) -> Value {
        let filters = [json!(["NOPUT"]), json!([1]), json!([]), json!(["NODELETE", 0])];
        // Etcd 3.4 now and then answers nothing more on a stream with watchers from before a compaction.
        let start = self.rng.random_range(self.compacted + 1..=self.revision + 1);
        let fields = [
            ("key", self.key(), 97),
            ("range_end", self.key(), 60),
            ("start_revision", self.integer(start), 100),
            ("prev_kv", json!(true), 40),
            ("filters", self.pick(&filters), 20),
            ("watch_id", self.integer(id), 100),
        ];
        self.object(fields)
    }
}

/// The other spelling of a field's name.
fn camel(name: &str) -> String {
    let mut camel = String::new();
    let mut is_upper = false;
    for letter in name.chars() {
        if letter == '_' {
            is_upper = true;
        } else {
            camel.push(if is_upper { letter.to_ascii_uppercase() } else { letter });
            is_upper = false;
        }
    }
    camel
}

/// Replaces what must differ between two servers.
fn normalise(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let is_member = members.contains_key("peerURLs");
            let is_remaining = members.contains_key("grantedTTL");
            for (name, member) in members.iter_mut() {
                match name.as_str() {
                    "cluster_id" | "member_id" | "raft_term" | "name" | "peerURLs" | "clientURLs" => {
                        *member = json!(name);
                    }
                    "ID" if is_member => *member = json!("a member"),
                    "ID" if !LEASES.iter().any(|id| *member == json!(id.to_string())) => *member = json!("chosen"),
                    "TTL" if is_remaining && *member != json!("-1") => *member = json!("some time"),
                    _ => normalise(member),
                }
            }
            // The API gives these no order.
            for name in ["leases", "keys"] {
                if let Some(Value::Array(elements)) = members.get_mut(name) {
                    elements.sort_by_key(Value::to_string);
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(normalise),
        _ => {}
    }
}

/// What is compared of an answer.
#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    Answered(Vec<Value>),
    /// The text is no such message; each server has its own words for why.
    Unreadable,
    Refused(Value),
}

/// Status, form and content of an answer.
pub(crate) fn outcome(kind: Kind, path: &str, answer: &Answer) -> Result<Outcome> {
    let text = std::str::from_utf8(&answer.body)?;
    if answer.status == 200 {
        let mut values = serde_json::Deserializer::from_str(text).into_iter().collect::<Result<Vec<Value>, _>>()?;
        values.iter_mut().for_each(normalise);
        if path.ends_with("/alarm") {
            // Without a header until 3.5.
            values.iter_mut().filter_map(Value::as_object_mut).for_each(|fields| drop(fields.remove("header")));
        }
        return Ok(Outcome::Answered(values));
    }
    let error = answer.json()?;
    ensure!(error["error"] == error["message"], "{error}");
    let code = error["code"].as_i64().context("a code")?;
    // 412 until 3.5.
    let status = match (kind, code) {
        (Kind::Etcd, 9) => 412,
        (_, 3 | 9 | 11) => 400,
        (_, 2) => 500,
        (_, 5) => 404,
        (_, 6) => 409,
        (_, 7) => 403,
        (_, 16) => 401,
        (_, 14) => 503,
        _ => anyhow::bail!("an error that no request asks for: {error}"),
    };
    ensure!(answer.status == status, "{} for {error}", answer.status);
    let is_read = error["message"].as_str().is_some_and(|text| text.starts_with("etcdserver: "));
    Ok(if code == 3 && !is_read { Outcome::Unreadable } else { Outcome::Refused(error) })
}

async fn compare(servers: &[Server; 2], path: &str, text: &str) -> Result<Outcome> {
    let [etcd, cleat] = servers;
    let (etcd, cleat) = (etcd.endpoint(), cleat.endpoint());
    let (theirs, ours) =
        tokio::join!(http::post(&etcd, path, text.to_owned()), http::post(&cleat, path, text.to_owned()));
    let theirs = outcome(Kind::Etcd, path, &theirs?).with_context(|| format!("etcd: {path} {text}"))?;
    let ours = outcome(servers[1].kind(), path, &ours?).with_context(|| format!("cleat: {path} {text}"))?;
    ensure!(theirs == ours, "{path} {text}\netcd:  {theirs:?}\ncleat: {ours:?}");
    Ok(ours)
}

/// The revision that a compaction was asked for.
fn compacted(text: &str) -> Result<i64> {
    // Whatever follows the first value was not read.
    let first = serde_json::Deserializer::from_str(text).into_iter::<Value>().next();
    let revision = first.context("a body")??["revision"].take();
    let number = revision.as_i64().or_else(|| revision.as_str()?.parse().ok());
    number.context("a revision")
}

/// Events by watcher, of a stream with these requests. Returns when all are answered and nothing more comes.
async fn watched(server: &Server, requests: &str) -> Result<Vec<(String, Vec<Value>)>> {
    const QUIET: Duration = Duration::from_secs(2);
    let request = Request::post("/v3/watch").body(http::full(requests.to_owned()))?;
    let mut opened = http::open(&server.endpoint(), request).await?;
    let mut watchers: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut open = requests.lines().count();
    loop {
        let quiet = if open > 0 { Duration::MAX } else { QUIET };
        let Ok(line) = tokio::time::timeout(quiet, opened.lines.next()).await else { break };
        let line = line.with_context(|| format!("{}: {open} watchers are not answered", server.kind()))?;
        let mut line = line.with_context(|| format!("{}: the stream ended: {requests}", server.kind()))?;
        let mut result = line["result"].take();
        ensure!(result.is_object(), "{}: {requests}: {line}", server.kind());
        let events = result["events"].take();
        open -= usize::from(result["created"] == json!(true));
        let watcher = watchers.entry(result["watch_id"].as_str().unwrap_or("0").to_owned()).or_default();
        if let Value::Array(events) = events {
            watcher.extend(events);
        } else {
            // The header's revision depends on the moment.
            let fields = result.as_object_mut().context("an object")?;
            fields.retain(|name, _| name != "header" && name != "events");
            watcher.push(result);
        }
    }
    Ok(watchers.into_iter().collect())
}

#[test]
fn random_bodies_are_answered_as_etcd_does() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    for seed in seeds(1)? {
        eprintln!("gateway: CLEAT_SEED={seed}");
        runtime.block_on(run(seed)).with_context(|| format!("CLEAT_SEED={seed}"))?;
    }
    Ok(())
}

async fn run(seed: u64) -> Result<()> {
    let (etcd, cleat) = tokio::join!(Server::start(Kind::Etcd), Server::start(Kind::Cleat));
    let servers = [etcd?, cleat?];
    let mut bodies = Bodies { rng: StdRng::seed_from_u64(seed), revision: 1, compacted: 0, has_flaws: true };
    let (mut answered, mut unreadable, mut refused) = (0, 0, 0);
    for _ in 0..REQUESTS {
        let (path, text) = if bodies.one_in(50) {
            ("/v3/lease/keepalive", bodies.keep_alives())
        } else {
            let (path, body) = bodies.request();
            (path, bodies.text(&body))
        };
        match compare(&servers, path, &text).await? {
            Outcome::Answered(values) => {
                answered += 1;
                let seen = values.first().and_then(|value| value["header"]["revision"].as_str()?.parse().ok());
                bodies.revision = bodies.revision.max(seen.unwrap_or(0));
                if path == "/v3/kv/compaction" {
                    bodies.compacted = compacted(&text)?;
                }
            }
            Outcome::Unreadable => unreadable += 1,
            Outcome::Refused(_) => refused += 1,
        }
    }
    eprintln!("gateway: {answered} answered, {unreadable} unreadable, {refused} refused");
    ensure!(answered > REQUESTS / 2 && unreadable > REQUESTS / 100 && refused > REQUESTS / 100, "a poor mixture");

    // A stream that is refused as a whole shows nothing.
    bodies.has_flaws = false;
    let watch = |id| json!({ "create_request": bodies.watch(id) }).to_string();
    let watches: Vec<_> = (1..=200).map(watch).collect();
    let streams: Vec<String> = watches.chunks(10).map(|watches| watches.join("\n")).collect();
    let of = |server| try_join_all(streams.iter().map(move |requests| watched(server, requests)));
    let (theirs, ours) = tokio::try_join!(of(&servers[0]), of(&servers[1]))?;
    for ((requests, theirs), ours) in streams.iter().zip(&theirs).zip(&ours) {
        ensure!(theirs == ours, "{requests}\netcd:  {theirs:?}\ncleat: {ours:?}");
    }
    ensure!(theirs.iter().flatten().any(|(_, events)| events.len() > 10), "{theirs:?}");
    Ok(())
}

//! Makes up the next step from a seed.
//!
//! Keys and values come from small alphabets, so that requests meet each other's effects; every parameter of every
//! request is drawn with some probability, wrong ones included. What is drawn depends only on the seed and on etcd's
//! answers so far.

mod admin;

use super::op::{Op, Request};
use super::side::{RACERS, SLOTS};
use super::world::{World, encode};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, IteratorRandom as _};
use rand::{Rng as _, SeedableRng as _};
use std::collections::VecDeque;

const FORM: &str = "application/x-www-form-urlencoded";

/// As they stand in a path.
const KEYS: [&str; 14] = [
    "/a",
    "/b",
    "/a/b",
    "/a/c",
    "/a/b/c",
    "/d",
    "/_h",
    "/a/_h",
    "/_h/x",
    "/a/_h/x",
    "/%C3%BC",
    "/sp%20ace",
    "/a%2Fb",
    "/a/b/c/d",
];
/// Roots, ends, escapes, and paths that are redirected.
const RARE_KEYS: [&str; 18] = [
    "",
    "/",
    "/a/",
    "/x%3Cy%3E&z",
    "/%22q%22",
    "/a%2F%2Fb",
    "/a%2F..%2Fb",
    "//a",
    "/./a",
    "/a/../b",
    "/a//b",
    "/..",
    "/a+b",
    "/%E2%80%A8",
    "/%FF",
    "/%zz",
    "/a;b",
    "/ab",
];
const QUEUES: [&str; 3] = ["/q", "/a/q", "/_q"];
const VALUES: [&[u8]; 12] = [
    b"",
    b"1",
    b"2",
    b"x y",
    "\u{e9}".as_bytes(),
    b"<&>",
    b"a=b&c;d",
    "\u{2028}\u{fffd}".as_bytes(),
    b"\"q\"\\\n\t\x01\x7f",
    b"a\xffb\xf0\x9f",
    b"100%+",
    &[b'l'; 3000],
];
/// Long enough not to pass within a sequence.
const TTLS: [&str; 3] = ["1000", "5000", "100000"];
/// Beyond what a time can be. A key that is set never expires; one that is updated expires at once, as if long ago.
const OVERFLOWING_TTLS: [&str; 3] = ["9223372036", "9223372037", "13835058055"];

const BAD_BOOLEANS: [&str; 6] = ["", "yes", "2", "tRUE", "%zz", "true%20"];
const TRUES: [&str; 6] = ["true", "1", "t", "T", "TRUE", "True"];
const FALSES: [&str; 6] = ["false", "0", "f", "F", "FALSE", "False"];
const BAD_NUMBERS: [&str; 9] = ["", "-1", "abc", "1.5", "18446744073709551616", "%2B1", "0x1", "%201", "1_0"];

/// Draws steps.
pub(crate) struct Generator {
    rng: StdRng,
    /// Steps that follow the last one in any case.
    next: VecDeque<Op>,
}

/// Parameters that are drawn for a request.
struct Parameters {
    query: Vec<String>,
    form: Vec<String>,
}

impl Generator {
    /// A generator of one sequence.
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), next: VecDeque::new() }
    }

    /// The next step.
    pub(crate) fn next(&mut self, world: &World) -> Op {
        if let Some(op) = self.next.pop_front() {
            return op;
        }
        match self.rng.random_range(0..1000) {
            0..370 => Op::Ask(self.put(world)),
            370..600 => Op::Ask(self.get(world)),
            600..650 => Op::Ask(self.post()),
            650..800 => Op::Ask(self.delete(world)),
            800..870 => Op::Watch { slot: self.rng.random_range(0..SLOTS), request: self.watch(world) },
            870..874 => Op::Leave { slot: self.rng.random_range(0..SLOTS) },
            874..924 => Op::Settle,
            924..945 => Op::Race(self.race(world)),
            945..947 => self.expire(world),
            947..965 => Op::Ask(self.any_method(world)),
            965..985 => Op::Ask(self.members_or_stats()),
            985..994 => Op::Ask(self.user_or_role()),
            _ => Op::Ask(self.elsewhere()),
        }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from.choose(&mut self.rng).cloned().unwrap_or_else(|| unreachable!("nothing to pick from"))
    }

    fn key(&mut self, world: &World) -> String {
        if self.one_in(12) {
            return self.pick(&RARE_KEYS).to_owned();
        }
        if self.one_in(3)
            && let Some(file) = world.files().choose(&mut self.rng)
        {
            return file.split('/').map(|part| encode(part.as_bytes())).collect::<Vec<_>>().join("/");
        }
        self.pick(&KEYS).to_owned()
    }

    fn value(&mut self) -> String {
        let value = encode(self.pick(&VALUES));
        if self.one_in(2) { value.replace("%20", "+") } else { value }
    }

    /// The name of a file, for placeholders.
    fn file(&mut self, world: &World) -> String {
        world.files().choose(&mut self.rng).unwrap_or("/a").to_owned()
    }

    /// True with this percentage, or false or something wrong now and then.
    fn boolean(&mut self) -> String {
        match self.rng.random_range(0..100) {
            0..80 => "true".to_owned(),
            80..88 => self.pick(&TRUES).to_owned(),
            88..97 => self.pick(&FALSES).to_owned(),
            _ => self.pick(&BAD_BOOLEANS).to_owned(),
        }
    }

    fn prev_index(&mut self, world: &World) -> String {
        match self.rng.random_range(0..10) {
            0..6 => format!("@M{}@", self.file(world)),
            6..8 => "@I@".to_owned(),
            8 => self.pick(&["0", "1", "18446744073709551615"]).to_owned(),
            _ => self.pick(&BAD_NUMBERS).to_owned(),
        }
    }

    fn prev_value(&mut self, world: &World) -> String {
        match self.rng.random_range(0..10) {
            0..6 => format!("@V{}@", self.file(world)),
            6..9 => self.value(),
            _ => String::new(),
        }
    }

    /// Draws each with its percentage.
    fn flags(&mut self, names: &[(&str, u32)]) -> Vec<String> {
        let mut drawn = Vec::new();
        for (name, percent) in names {
            if self.rng.random_range(0..100) < *percent {
                drawn.push(format!("{name}={}", self.boolean()));
            }
        }
        drawn
    }

    /// Those of a put, but for the value: mostly one of the usual combinations.
    fn put_parameters(&mut self, world: &World) -> Vec<String> {
        let mut drawn = match self.rng.random_range(0..20) {
            0..8 => Vec::new(),
            8..10 => vec!["prevExist=true".to_owned()],
            10..12 => vec!["prevExist=false".to_owned()],
            12..15 => vec![format!("prevIndex={}", self.prev_index(world))],
            15..18 => vec![format!("prevValue={}", self.prev_value(world))],
            _ => vec![
                format!("prevIndex={}", self.prev_index(world)),
                format!("prevValue={}", self.prev_value(world)),
                format!("prevExist={}", self.boolean()),
            ],
        };
        if self.one_in(7) {
            let ttl = match self.rng.random_range(0..12) {
                0 => self.pick(&BAD_NUMBERS),
                1 if drawn.is_empty() => self.pick(&OVERFLOWING_TTLS),
                _ => self.pick(&TTLS),
            };
            drawn.push(format!("ttl={ttl}"));
        }
        drawn.extend(self.flags(&[("dir", 7), ("refresh", 5), ("noValueOnSuccess", 6), ("sorted", 1), ("quorum", 1)]));
        if self.one_in(60) {
            drawn.push(
                self.pick(&["wait=true", "stream=x", "waitIndex=x", "recursive=2", "unknown=1", "=", "&", "ttl"])
                    .to_owned(),
            );
        }
        if self.one_in(30)
            && let Some(again) = drawn.first().cloned()
        {
            // Only the first of the body counts, or else of the query.
            let name = again.split('=').next().unwrap_or_default();
            drawn.push(format!("{name}=7000"));
        }
        drawn
    }

    /// Puts parameters where they count, or now and then where they do not.
    fn place(&mut self, drawn: Vec<String>) -> Parameters {
        let mut parameters = Parameters { query: Vec::new(), form: Vec::new() };
        for parameter in drawn {
            if self.one_in(3) {
                parameters.query.push(parameter);
            } else {
                parameters.form.push(parameter);
            }
        }
        parameters
    }

    fn with_form(&mut self, method: &str, key: &str, parameters: &Parameters) -> Request {
        let query =
            if parameters.query.is_empty() { String::new() } else { format!("?{}", parameters.query.join("&")) };
        let mut form = parameters.form.join("&");
        if self.one_in(80) {
            form += self.pick(&["&%zz", "&a;b", "&%", "&=", "&&", "&\u{fc}", "&value"]);
        }
        let content_type = if self.one_in(50) {
            self.pick(&[
                "application/x-www-form-urlencoded; charset=utf-8",
                "APPLICATION/X-WWW-FORM-URLENCODED",
                "application/json",
                "text/plain",
                "multipart/form-data; boundary=x",
                "multipart/form-data",
                "nonsense",
                "",
            ])
        } else {
            FORM
        };
        let request = Request::new(method, format!("/v2/keys{key}{query}"));
        if form.is_empty() && self.one_in(2) { request } else { request.with_body(content_type, form) }
    }

    fn put(&mut self, world: &World) -> Request {
        let key = self.key(world);
        let mut drawn = self.put_parameters(world);
        if !self.one_in(8) {
            drawn.insert(0, format!("value={}", self.value()));
        }
        let mut parameters = self.place(drawn);
        if self.one_in(20) {
            // The body goes before the query.
            parameters.query.push("value=of+the+query".to_owned());
        }
        self.with_form("PUT", &key, &parameters)
    }

    fn post(&mut self) -> Request {
        let key = if self.one_in(6) { self.pick(&KEYS) } else { self.pick(&QUEUES) };
        let mut drawn = vec![format!("value={}", self.value())];
        drawn.extend(self.flags(&[("dir", 8), ("noValueOnSuccess", 8), ("prevExist", 3), ("refresh", 2)]));
        if self.one_in(8) {
            drawn.push(format!("ttl={}", self.pick(&TTLS)));
        }
        let parameters = self.place(drawn);
        self.with_form("POST", key, &parameters)
    }

    fn get(&mut self, world: &World) -> Request {
        let key = match self.rng.random_range(0..10) {
            0 => self.pick(&["", "/", "/q", "/a"]).to_owned(),
            _ => self.key(world),
        };
        let mut drawn = self.flags(&[("recursive", 35), ("sorted", 35), ("quorum", 20)]);
        if self.one_in(40) {
            drawn.push(
                self.pick(&["stream=true", "waitIndex=7", "prevIndex=x", "prevExist=x", "ttl=x", "refresh=x", "dir=x"])
                    .to_owned(),
            );
        }
        let method = if self.one_in(12) { "HEAD" } else { "GET" };
        let mut request = Request::new(method, target(&key, &drawn));
        if self.one_in(40) {
            request = request.with_body(FORM, "recursive=true&sorted=x");
        }
        if self.one_in(40) {
            request.headers.push(("Origin".to_owned(), "http://example.com".to_owned()));
        }
        request
    }

    fn delete(&mut self, world: &World) -> Request {
        let key = if self.one_in(10) { self.pick(&QUEUES).to_owned() } else { self.key(world) };
        let mut drawn = self.flags(&[("dir", 25), ("recursive", 25)]);
        if self.one_in(5) {
            drawn.push(format!("prevIndex={}", self.prev_index(world)));
        }
        if self.one_in(5) {
            drawn.push(format!("prevValue={}", self.prev_value(world)));
        }
        if self.one_in(40) {
            drawn.push(self.pick(&["prevExist=false", "wait=true", "ttl=x", "refresh=true", "refresh=x"]).to_owned());
        }
        let request = Request::new("DELETE", target(&key, &drawn));
        // A body of such a request does not count.
        if self.one_in(20) { request.with_body(FORM, "recursive=true") } else { request }
    }

    fn watch(&mut self, world: &World) -> Request {
        let key = if self.one_in(4) { self.pick(&["/", "/a", "/q"]).to_owned() } else { self.key(world) };
        let mut drawn = vec![format!("wait={}", if self.one_in(20) { self.pick(&TRUES) } else { "true" })];
        drawn.extend(self.flags(&[("recursive", 50), ("stream", 25), ("sorted", 5), ("quorum", 2)]));
        let after = match self.rng.random_range(0..100) {
            0..45 => None,
            45..60 => Some("@I+1@".to_owned()),
            60..78 => Some(format!("@I-{}@", self.rng.random_range(0..40))),
            78..88 => Some(format!("@I-{}@", self.rng.random_range(994..1004))),
            88..92 => Some("@I+5@".to_owned()),
            92..97 => Some(self.pick(&["0", "1", "2", "18446744073709551615"]).to_owned()),
            _ => Some(self.pick(&BAD_NUMBERS).to_owned()),
        };
        drawn.extend(after.map(|index| format!("waitIndex={index}")));
        Request::new("GET", target(&key, &drawn))
    }

    /// Requests that are answered the same in whatever order they come.
    fn race(&mut self, world: &World) -> Vec<Request> {
        let file = self.file(world);
        let key = file.split('/').map(|part| encode(part.as_bytes())).collect::<Vec<_>>().join("/");
        let value = self.pick(&["1", "2", "r"]);
        let request = match self.rng.random_range(0..7) {
            0 => Self::raced("PUT", &key, "?prevExist=false", value),
            1 => Self::raced("PUT", &key, &format!("?prevIndex=@M{file}@"), value),
            2 => Self::raced("PUT", &key, &format!("?prevValue=@V{file}@"), value),
            3 => Request::new("DELETE", format!("/v2/keys{key}?prevIndex=@M{file}@")),
            4 => Request::new("DELETE", format!("/v2/keys{key}?prevValue=@V{file}@")),
            5 => {
                let queue = self.pick(&QUEUES);
                Self::raced("POST", queue, "", value)
            }
            _ => Request::new("DELETE", format!("/v2/keys{key}?recursive=true")),
        };
        vec![request; RACERS]
    }

    fn raced(method: &str, key: &str, query: &str, value: &str) -> Request {
        Request::new(method, format!("/v2/keys{key}{query}")).with_body(FORM, format!("value={value}"))
    }

    /// Keys that expire soon, all with the same time, or one with none at all.
    fn expire(&mut self, world: &World) -> Op {
        let watch = self.watch(world);
        self.next.push_back(Op::Settle);
        let (count, ttl) = if self.one_in(3) {
            (1, self.pick(&["0", "1", "18446744073709551615"]))
        } else {
            (self.rng.random_range(2..5), "2")
        };
        let mut requests = Vec::new();
        let mut keys = Vec::new();
        for _ in 0..count {
            let key = self.pick(&KEYS).to_owned();
            let what = if self.one_in(4) { "dir=true".to_owned() } else { format!("value={}", self.value()) };
            // A key that has expired at once goes at any moment: no other request may follow.
            let (method, key) =
                if count > 1 && self.one_in(6) { ("POST", self.pick(&QUEUES).to_owned()) } else { ("PUT", key) };
            let form = format!("{what}&ttl={ttl}");
            requests.push(Request::new(method, format!("/v2/keys{key}")).with_body(FORM, form));
            keys.push(key);
        }
        if count == 1 && self.one_in(4) {
            let ttl = self.pick(&OVERFLOWING_TTLS);
            requests = vec![
                Request::new("PUT", "/v2/keys/far").with_body(FORM, "value=x&ttl=50000"),
                Request::new("PUT", "/v2/keys/far?prevExist=true").with_body(FORM, format!("value=y&ttl={ttl}")),
            ];
            keys = vec!["/far".to_owned()];
        }
        // The children of a queue are waited for with the others: they expire in order.
        keys.retain(|key| !QUEUES.contains(&key.as_str()));
        if count > 1 {
            requests.push(Request::new("PUT", "/v2/keys/last").with_body(FORM, format!("value=x&ttl={ttl}")));
            keys.push("/last".to_owned());
        }
        if self.one_in(2) {
            self.next.push_front(Op::Expire { requests, keys });
            return Op::Watch { slot: 0, request: watch };
        }
        Op::Expire { requests, keys }
    }

    fn any_method(&mut self, world: &World) -> Request {
        let method = self.pick(&["PATCH", "OPTIONS", "TRACE", "get", "LINK", "HEAD", "OPTIONS"]);
        let key = self.key(world);
        let query = self.pick(&["", "?recursive=true", "?wait=true", "?recursive=x"]);
        let mut request = Request::new(method, format!("/v2/keys{key}{query}"));
        if self.one_in(3) {
            request.headers.push(("Origin".to_owned(), "http://example.com".to_owned()));
        }
        request
    }
}

fn target(key: &str, parameters: &[String]) -> String {
    if parameters.is_empty() { format!("/v2/keys{key}") } else { format!("/v2/keys{key}?{}", parameters.join("&")) }
}

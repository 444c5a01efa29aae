//! Lines for the v3 API.

use super::given::{Line, MEMBER};
use super::{Api, Flag, Ledger, Shape, draw, insert, pick, switch, valued, words};
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

pub(super) const API: Api = Api { first: FIRST, good: GOOD, version: "3", line, errors, ledger };

const FIRST: &[&str] = &[
    "put a v",
    "put a/b v",
    "put a/c v",
    "put ab v",
    "put b v",
    "put é v",
    "put / v",
    "put * v",
    "role add root",
    "user add root:pw",
    "user grant-role root root",
];

const KEYS: &[&[u8]] = &[
    b"a",
    b"a/b",
    b"a/c",
    b"b",
    "é".as_bytes(),
    b"",
    b"key with spaces",
    b"z\"q",
    b"k\nl",
    b"\xff\xfe",
    b"a=b",
    b"\x01\x7f",
    b"/",
    b"*",
    b"ab",
    b"\t",
    b"--",
    b"-k",
];
const VALUES: &[&[u8]] = &[
    b"1",
    b"two words",
    b"<&>",
    b"line\nbreak",
    "\u{1}\u{7f}é".as_bytes(),
    b"",
    b"-1",
    b"--x",
    b"\xff\x80",
    b"{\"a\":1}",
    b"\"q\"",
    b"it's",
    b"\\n",
    &[b'x'; 3000],
];
const FORMATS: &[&str] = &["simple", "fields", "json", "protobuf", "table", "JSON", ""];
const NUMBERS: &[&[u8]] = &[
    b"0",
    b"1",
    b"2",
    b"3",
    b"10",
    b"-1",
    b"x",
    b"",
    b"9223372036854775807",
    b"9223372036854775808",
    b"0x10",
    b"1e3",
    b"+2",
    b"007",
    b"1_0",
];
const ROLES: &[&[u8]] = &[b"r1", b"r2", b"root", b"", b"r 3"];
const USERS: &[&[u8]] = &[b"u1", b"u2", b"root", b"", b"u1:pw", b"a b"];
const LEASES: &[&[u8]] = &[b"0", b"1f", b"zz", b"", b"-1", b"7fffffffffffffff", b"ffffffffffffffff"];
const PERMISSIONS: &[&[u8]] = &[b"read", b"write", b"readwrite", b"READ", b"rw", b""];

const GET: &[Flag] = &[
    ("--prefix", &[]),
    ("--from-key", &[]),
    ("--keys-only", &[]),
    ("--print-value-only", &[]),
    ("--limit", NUMBERS),
    ("--rev", NUMBERS),
    ("--sort-by", &[b"CREATE", b"KEY", b"modify", b"Value", b"VERSION", b"zz", b""]),
    ("--order", &[b"ASCEND", b"DESCEND", b"descend", b"up", b""]),
    ("--consistency", &[b"l", b"s", b"L", b"x", b""]),
];
const PUT: &[Flag] = &[("--prev-kv", &[]), ("--ignore-value", &[]), ("--ignore-lease", &[]), ("--lease", LEASES)];
const DEL: &[Flag] = &[("--prefix", &[]), ("--from-key", &[]), ("--prev-kv", &[])];
const WATCH: &[Flag] = &[
    ("--prefix", &[]),
    ("--prev-kv", &[]),
    ("--rev", &[b"1", b"2", b"5", b"12"]),
    ("--rev", &[b"20", b"40"]),
    ("--rev", NUMBERS),
];
const CLUSTER: Flag = ("--cluster", &[]);
const ELECTION: &[Flag] = &[("--listen", &[]), ("-l", &[])];
const CHECK: &[Flag] = &[("--prefix", KEYS), ("--auto-compact", &[]), ("--auto-defrag", &[])];
/// Of members that cannot be cleatctl says more.
const RESTORE: &[Flag] = &[
    ("--data-dir", &[b"restored", b""]),
    ("--initial-cluster-token", &[b"t"]),
    ("--skip-hash-check", &[]),
    ("--wal-dir", &[b"wal"]),
];
const NEW_USER: &[Flag] = &[("--no-password", &[]), ("--new-user-password", &[b"pw", b"", b"p:w"])];
const RANGE: &[Flag] = &[("--prefix", &[]), ("--from-key", &[])];

const SHAPES: &[Shape] = &[
    ("get", &[KEYS, KEYS], GET, 30),
    ("put", &[KEYS, VALUES], PUT, 25),
    ("del", &[KEYS, KEYS], DEL, 8),
    ("compaction", &[NUMBERS], &[("--physical", &[])], 2),
    ("role add", &[ROLES], &[], 3),
    ("role get", &[ROLES], &[], 2),
    ("role list", &[], &[], 1),
    ("role delete", &[ROLES], &[], 1),
    ("role grant-permission", &[ROLES, PERMISSIONS, KEYS, KEYS], RANGE, 5),
    ("role revoke-permission", &[ROLES, KEYS, KEYS], RANGE, 2),
    ("user add --interactive=false", &[USERS], NEW_USER, 3),
    ("user passwd --interactive=false", &[USERS], &[], 1),
    ("user get", &[USERS], &[("--detail", &[])], 2),
    ("user list", &[], &[], 1),
    ("user delete", &[USERS], &[], 1),
    ("user grant-role", &[USERS, ROLES], &[], 2),
    ("user revoke-role", &[USERS, ROLES], &[], 1),
    ("lease revoke", &[LEASES], &[], 1),
    ("lease timetolive", &[LEASES], &[("--keys", &[])], 2),
    ("lease keep-alive --once", &[LEASES], &[], 1),
    ("lease grant", &[&[b"x", b"", b"1e3"]], &[], 1),
    ("member list", &[], &[], 2),
    ("member add", &[USERS], &[("--peer-urls", &[b"x", b"", b"http://a"])], 1),
    ("member remove", &[&[b"zz", b"1", b""]], &[], 1),
    ("member update", &[&[b"zz", b"1"]], &[("--peer-urls", &[b"http://a:1"])], 1),
    ("member promote", &[&[b"zz"]], &[], 1),
    ("alarm list", &[], &[], 1),
    ("member promote", &[&[MEMBER]], &[], 1),
    ("member remove", &[&[MEMBER]], &[], 1),
    (
        "member update",
        &[&[MEMBER]],
        &[("--peer-urls", &[b"http://127.0.0.1:2", b"x", b"", b"http://a:1,http://b:1"])],
        1,
    ),
    ("alarm disarm", &[], &[], 1),
    ("move-leader", &[&[b"x", MEMBER, b"1", b""]], &[], 1),
    ("snapshot status", &[&[b"/none"]], &[], 1),
    ("snapshot save", &[], &[], 1),
    ("snapshot restore", &[&[b"/none", b""]], RESTORE, 1),
    ("lease list", &[], &[], 2),
    ("endpoint health", &[], &[CLUSTER], 1),
    ("endpoint status", &[], &[CLUSTER], 1),
    ("endpoint hashkv", &[], &[CLUSTER, ("--rev", NUMBERS)], 2),
    ("defrag", &[], &[CLUSTER, ("--data-dir", &[b"/none", b""])], 1),
    ("auth enable", &[], &[], 1),
    ("auth disable", &[], &[], 1),
    ("watch", &[KEYS, KEYS], WATCH, 2),
    ("watch --prefix", &[KEYS], WATCH, 1),
    // With arguments they would wait.
    ("elect", &[], ELECTION, 1),
    ("lock", &[], &[("--ttl", NUMBERS)], 1),
    // With a load that there is it runs for a minute.
    ("check perf --load=q", &[&[b"x"]], CHECK, 1),
    ("check datascale --load=q", &[&[b"x"]], CHECK, 1),
];

/// Lines that are no more than they are.
const PLAIN: &[&str] = &[
    "version",
    "help",
    "help get",
    "help lease grant",
    "lease",
    "role x",
    "get --help",
    "-h get",
    "--help lease grant",
    "--help=true put",
    "gett",
    "ge a",
    "pu a 1",
    "le revoke zz",
    "snapshot sav",
    "txn x",
    "watch",
    "watch -i x",
    "elect",
    "lock",
    "check perf --load=q",
    "make-mirror",
    "make-mirror --prefix=a --dest-prefix=b",
    "make-mirror 127.0.0.1:1 --no-dest-prefix --dest-prefix=b",
    "make-mirror 127.0.0.1:1 --dest-cert=/none",
    "make-mirror 127.0.0.1:1 --dest-key=/none",
    "make-mirror 127.0.0.1:1 --dest-cacert=/none",
    "make-mirror a b --dest-insecure-transport=false",
    "auth x",
    "completion",
    "endpoint -h health",
    "user",
    "alarm disarm x",
];

/// Lines with nothing odd, whose outcome others depend on.
const GOOD: &[&str] = &[
    "put a 1",
    "put b 2 -w=json",
    "put a/b 3 --prev-kv",
    "put é 4 -w=fields",
    "get a -w=json",
    "get a --prefix -w=fields",
    "get / -w=protobuf",
    "get a z --keys-only -w=json",
    "get b --rev=2 -w=fields",
    "get * --hex -w=json",
    "del b --prev-kv",
    "del a/c -w=json",
    "member list",
    "member list -w=table",
    "user list -w=json",
    "role list -w=fields",
    "alarm list -w=json",
    "put a 1 --lease=1f",
    "put a/c 2 --lease=7fffffffffffffff",
    "lease timetolive 1f",
    "lease timetolive 1f --keys",
    "lease timetolive 7fffffffffffffff --keys -w=json",
    "lease keep-alive --once 1f",
    "lease list -w=json",
    "lease revoke 1f -w=protobuf",
    "get a --prefix --user=root:pw -w=json",
    "put a/b 3 --user=u1:pw",
    "auth disable --user=root:pw",
    "auth disable --user=root:pw",
];

/// Flags of every command, right and wrong.
const GLOBALS: &[&str] = &[
    "--hex",
    "--hex",
    "--hex",
    "--hex=false",
    "--hex=x",
    "--bogus",
    "-x",
    "--dial-timeout=5x",
    "--command-timeout=9s",
    "--debug=false",
    "--keepalive-time=2s",
    "--keepalive-time=bad",
    "--user=",
    "--password=",
    "--password=pw",
    "--cert=/none",
    "--key=/none",
    "--cacert=/none",
    "--cert=",
    "--insecure-transport",
    "--insecure-transport=true",
    "--insecure-skip-tls-verify",
    "--insecure-discovery=false",
    "--discovery-srv=",
    "--discovery-srv-name=x",
    "--keepalive-timeout=9s",
    "--keepalive-timeout=",
    "--dial-timeout=9s",
    "--command-timeout=1m",
    "--command-timeout=-1",
    "--debug=x",
    "--endpoints=,",
    "--",
    "-",
    "--=",
    "---",
    "-wj",
];

const AS_USER: &[&str] =
    &["--user=root:pw", "--user=root:pw", "--user=u1:pw", "--user=u2:pw pw", "--user=root:stdin", "--user=zz:pw"];

/// Variables of the environment, right and wrong.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("ETCDCTL_WRITE_OUT", "json"),
    ("ETCDCTL_WRITE_OUT", "fields"),
    ("ETCDCTL_WRITE_OUT", ""),
    ("ETCDCTL_WRITE_OUT", "x"),
    ("ETCDCTL_HEX", "true"),
    ("ETCDCTL_HEX", "x"),
    ("ETCDCTL_USER", "root:pw"),
    ("ETCDCTL_USER", "u1:pw"),
    ("ETCDCTL_PASSWORD", "pw"),
    ("ETCDCTL_COMMAND_TIMEOUT", "9s"),
    ("ETCDCTL_DIAL_TIMEOUT", "x"),
    ("ETCDCTL_ENDPOINTS", "x"),
    ("ETCDCTL_CERT", "/none"),
    ("ETCDCTL_INSECURE_TRANSPORT", "true"),
    ("ETCDCTL_KEEPALIVE_TIME", "3s"),
    ("ETCDCTL_WATCH_KEY", "a"),
    ("ETCDCTL_WATCH_RANGE_END", "z"),
    ("ETCDCTL_NOSUCH", "1"),
    ("ETCDCTL_API", "3"),
];

const COMPARISONS: &[&str] = &[
    "mod(\"KEY\") > \"0\"",
    "mod(\"KEY\") = \"3\"",
    "value(\"KEY\") = \"1\"",
    "create(\"KEY\") = \"0\"",
    "version(\"KEY\") < \"9\"",
    "val(\"KEY\") != \"1\"",
    "mod(\"KEY\") = 0",
    "ver(\"KEY\") = \"x\"",
    "value(KEY) > \"1\"",
    "nonsense",
    "value(\"KEY\") = \"a b\"",
    "  value(\"KEY\")   =   \"1\"  ",
];
const OPERATIONS: &[&str] = &[
    "put KEY 5",
    "get KEY",
    "del KEY",
    "get KEY --prefix",
    "del KEY --prefix",
    "put KEY \"6 7\"",
    "put KEY",
    "get",
    "frob KEY",
    "get KEY --limit=1",
    "get KEY z",
    "put KEY 1 --lease=1f",
    "get KEY --bad",
    "put --ignore-value KEY",
    "del --prev-kv KEY",
    "get KEY --rev=1",
    "put KEY \"a\\nb\"",
    "get --keys-only KEY",
    "put KEY a b c",
    "del",
    "watch KEY",
];
const QUOTED: &[&str] = &["a", "b", "\"a b\"", "é", "\"x\\ty\"", "a/b", "\"a\\\"b\"", "k"];

/// What a script sees of an error, without the lines of etcdctl's logger.
fn errors(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| line.starts_with("Error: ")).collect()
}

/// Lines of `watch -i`.
const REQUESTS: &[&str] = &[
    "watch a",
    "watch a --rev=2",
    "watch --rev=1 --prefix a",
    "watch a z --rev=3",
    "watch --prev-kv --rev=1 b",
    "watch \"a b\" --rev=1",
    "watch",
    "watch a --prefix z",
    "get a",
    "",
    "watch a --bad",
    "progress",
    "watch a --rev=x",
];

fn line(rng: &mut StdRng) -> Line {
    let mut input = Vec::new();
    let mut goes_on = false;
    let mut words = match rng.random_range(0..100) {
        0..6 => {
            input = txn(rng);
            words(pick(rng, &["txn", "txn", "txn", "txn -i", "txn --interactive", "txn --interactive=false"]))
        }
        // What it prints of two of them may come in any order.
        6 if rng.random() => {
            input = [pick(rng, REQUESTS).as_bytes(), b"\n"].concat();
            goes_on = true;
            words(pick(rng, &["watch -i", "watch --interactive"]))
        }
        6..14 => words(pick(rng, PLAIN)),
        _ => {
            if rng.random_ratio(1, 4) {
                input = pick(rng, &["pw\n", "pw pw\n", "stdin", "\n"]).as_bytes().to_vec();
            }
            shaped(rng)
        }
    };
    if rng.random_ratio(2, 5) {
        let format = pick(rng, FORMATS);
        let word = pick(rng, &["-w=", "--write-out="]).to_owned() + format;
        insert(rng, &mut words, word.as_bytes());
    }
    if rng.random_ratio(1, 6) {
        let global = pick(rng, GLOBALS);
        // An argument would make them wait.
        if !["-", "--"].contains(&global) || !waits(&words) {
            insert(rng, &mut words, global.as_bytes());
        }
    }
    if rng.random_ratio(1, 4) {
        words.insert(0, pick(rng, AS_USER).as_bytes().to_vec());
    }
    let mut environment = Vec::new();
    if rng.random_ratio(1, 12) {
        environment.extend(ENVIRONMENT.choose(rng));
    }
    goes_on |= words.iter().any(|word| word == b"watch");
    Line { words, input, environment, goes_on }
}

/// True for commands that go on for good when they have what they need, or leave a lease behind when they have not.
fn waits(words: &[Vec<u8>]) -> bool {
    words.iter().any(|word| [&b"elect"[..], b"lock", b"make-mirror"].contains(&&**word))
}

/// When the user that is to be added has no name, etcdctl asks for a token again, and tells that refusal. Endpoints without a
/// name are left out here; to etcdctl they are endpoints, and what is said of a user who is refused is what the last one
/// says.
fn ledger(line: &Line) -> Ledger {
    let user = b"--user=";
    let has_user = line.environment.iter().any(|(name, _)| *name == "ETCDCTL_USER")
        || line.words.iter().any(|word| word.starts_with(user) && word.len() > user.len());
    let is_nameless = line.has("--endpoints=,");
    if is_nameless && ["endpoint", "defrag"].iter().any(|word| line.has(word)) {
        return Ledger::Everything;
    }
    let adds_nobody = ["user", "add", ""].iter().all(|word| line.has(word));
    if has_user && (adds_nobody || is_nameless) { Ledger::Error } else { Ledger::Nothing }
}

fn shaped(rng: &mut StdRng) -> Vec<Vec<u8>> {
    let (begin, args, flags, _) = draw(rng, SHAPES);
    let mut words = words(begin);
    let begins = words.len();
    for choices in args {
        if rng.random_ratio(1, 6) {
            break;
        }
        words.push(pick(rng, choices).to_vec());
    }
    for (flag, values) in flags {
        if !rng.random_ratio(1, 7) {
            continue;
        }
        let flag_words = match values {
            [] => switch(rng, flag),
            values => {
                let value = pick(rng, values);
                valued(rng, flag, value)
            }
        };
        let at = rng.random_range(begins..=words.len());
        words.splice(at..at, flag_words);
    }
    if rng.random_ratio(1, 40) && !waits(&words) {
        words.push(b"more".to_vec());
    }
    words
}

fn txn(rng: &mut StdRng) -> Vec<u8> {
    let mut text = String::new();
    for (most, from) in [(2, COMPARISONS), (3, OPERATIONS), (3, OPERATIONS)] {
        for _ in 0..rng.random_range(0..=most) {
            let key = pick(rng, if most == 2 { &["a", "b", "a/b"] } else { QUOTED });
            text += &pick(rng, from).replace("KEY", key);
            text.push('\n');
        }
        text.push('\n');
    }
    text.into_bytes()
}

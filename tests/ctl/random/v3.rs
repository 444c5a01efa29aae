//! Lines for the v3 API.

use super::{Api, Flag, Line, Shape, draw, insert, pick, switch, valued, words};
use rand::Rng as _;
use rand::rngs::StdRng;

pub(super) const API: Api = Api { first: FIRST, good: GOOD, version: "3", line, errors };

const FIRST: &[&str] = &["put a v", "put a/b v", "put a/c v", "put ab v", "put b v", "put é v", "put / v", "put * v"];

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
    ("user add --interactive=false", &[USERS], &[], 3),
    ("user passwd --interactive=false", &[USERS], &[], 1),
    ("user get", &[USERS], &[("--detail", &[])], 2),
    ("user list", &[], &[], 1),
    ("user delete", &[USERS], &[], 1),
    ("user grant-role", &[USERS, ROLES], &[], 2),
    ("user revoke-role", &[USERS, ROLES], &[], 1),
    ("lease revoke", &[LEASES], &[], 1),
    ("lease timetolive", &[LEASES], &[("--keys", &[])], 1),
    ("lease keep-alive --once", &[LEASES], &[], 1),
    ("lease grant", &[&[b"x", b"", b"1e3"]], &[], 1),
    ("member list", &[], &[], 2),
    ("member add", &[USERS], &[("--peer-urls", &[b"x", b"", b"http://a"])], 1),
    ("member remove", &[&[b"zz", b"1", b""]], &[], 1),
    ("member update", &[&[b"zz", b"1"]], &[("--peer-urls", &[b"http://a:1"])], 1),
    ("member promote", &[&[b"zz"]], &[], 1),
    ("alarm list", &[], &[], 1),
    ("move-leader", &[&[b"x"]], &[], 1),
    ("snapshot status", &[&[b"/none"]], &[], 1),
    ("snapshot save", &[], &[], 1),
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
    "--cert=/none",
    "--",
    "-",
    "--=",
    "---",
    "-wj",
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

fn line(rng: &mut StdRng) -> Line {
    let mut input = Vec::new();
    let mut words = match rng.random_range(0..100) {
        0..6 => {
            input = txn(rng);
            vec![b"txn".to_vec()]
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
        insert(rng, &mut words, global.as_bytes());
    }
    Line { words, input }
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
    if rng.random_ratio(1, 40) {
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

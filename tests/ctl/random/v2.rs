//! Lines for the v2 API.

use super::given::{Line, MEMBER};
use super::{Api, Flag, Ledger, Shape, draw, pick, switch, valued, words};
use rand::Rng as _;
use rand::rngs::StdRng;

pub(super) const API: Api = Api { first: FIRST, good: GOOD, version: "2", line, errors, ledger: |_| Ledger::Nothing };

const FIRST: &[&str] = &["set /a/b v", "set /a/c v", "set /b v", "set /d/e v", "set /é v", "user add root:pw"];

/// Lines with nothing odd, whose outcome others depend on.
const GOOD: &[&str] = &[
    "set /a/b 1",
    "-o json set /b 2",
    "-o extended set /é 3",
    "set /b 3 --ttl 10000",
    "get /é",
    "-o json get /b",
    "ls --sort /",
    "ls --sort -r -p",
    "-o json ls --sort /a",
    "update /b 4",
    "mk /a/in --in-order 5",
    "user list",
    "role list",
    "-u root:pw auth disable",
    "--username=root:pw auth disable",
    "--username=u1:pw get /b",
    "watch --after-index 3 /b",
    "-o json watch -r --after-index 4 /",
    "member list",
];

const KEYS: &[&[u8]] = &[
    b"/a",
    b"/a/b",
    b"/a/c",
    b"b",
    "/é".as_bytes(),
    b"",
    b"/",
    b"/d",
    b"/d/e",
    b"/key with spaces",
    b"/q\"x",
    b"/_h",
    b"/_h/x",
    b"//a//b",
    b"a/../b",
    b"/a/",
    b"-x",
    b"/%41",
    b"/a?b",
    b"/a#b",
    b"/k\nl",
];
const VALUES: &[&[u8]] = &[
    b"1",
    b"two words",
    b"<&>",
    b"line\nbreak",
    "é".as_bytes(),
    b"",
    b"-1",
    b"{\"a\":1}",
    b"a=b&c",
    b"+",
    b"%20",
    b";",
    &[b'x'; 500],
];
const NUMBERS: &[&[u8]] = &[b"0", b"1", b"5", b"10", b"-1", b"x", b"", b"0x10", b"1.5"];
/// Long enough for the run.
const TTLS: &[&[u8]] = &[b"0", b"10000", b"x", b"", b"0x10000", b"1.5"];
const NAMES: &[&[u8]] = &[b"u1", b"u2", b"root", b"guest", b"zz"];
const USERS_WITH_PASSWORDS: &[&[u8]] = &[b"u1:pw", b"u2:pw", b"root:pw"];
const ROLES: &[&[u8]] = &[b"r1", b"r2", b"root", b"guest", b"zz"];

const QUORUM: Flag = ("--quorum", &[]);
const Q: Flag = ("-q", &[]);
const SORT: Flag = ("--sort", &[]);
const RECURSIVE: Flag = ("--recursive", &[]);
const R: Flag = ("-r", &[]);
const TTL: Flag = ("--ttl", TTLS);
const WATCH: &[Flag] = &[
    ("--after-index", &[b"1", b"5", b"9"]),
    ("--after-index", &[b"3", b"20", b"x", b""]),
    RECURSIVE,
    R,
    ("--forever", &[]),
    ("-f", &[]),
];
const PATH: Flag = ("--path", &[b"/a", b"/a/*", b"", b"x"]);
const PERMISSIONS: &[Flag] =
    &[PATH, PATH, PATH, ("--read", &[]), ("--write", &[]), ("--readwrite", &[]), ("--rw", &[])];
const OF_ROLES: &[Flag] = &[("--roles", &[b"r1", b"r1,r2", b"", b"zz"]), ("--roles", &[b"r2", b"root"])];

const SHAPES: &[Shape] = &[
    ("get", &[KEYS], &[SORT, QUORUM, Q], 12),
    // Without it etcd's directories have any order.
    ("ls --sort", &[KEYS], &[RECURSIVE, R, ("-p", &[]), QUORUM, Q], 12),
    ("set", &[KEYS, VALUES], &[TTL, ("--swap-with-value", VALUES), ("--swap-with-index", NUMBERS)], 16),
    ("mk", &[KEYS, VALUES], &[TTL, ("--in-order", &[])], 8),
    ("mkdir", &[KEYS], &[TTL], 4),
    ("setdir", &[KEYS], &[TTL], 4),
    ("update", &[KEYS, VALUES], &[TTL], 4),
    ("updatedir", &[KEYS], &[TTL], 2),
    ("rm", &[KEYS], &[("--dir", &[]), RECURSIVE, R, ("--with-value", VALUES), ("--with-index", NUMBERS)], 6),
    ("rmdir", &[KEYS], &[], 2),
    ("user add", &[USERS_WITH_PASSWORDS], &[], 2),
    ("user get", &[NAMES], &[], 1),
    ("user list", &[], &[], 1),
    ("user remove", &[&[b"u1", b"u2", b"guest", b"zz"]], &[], 1),
    ("user grant", &[NAMES], OF_ROLES, 2),
    ("user revoke", &[NAMES], OF_ROLES, 1),
    ("role add", &[ROLES], &[], 2),
    ("role get", &[ROLES], &[], 1),
    ("role list", &[], &[], 1),
    ("role remove", &[ROLES], &[], 1),
    ("role grant", &[ROLES], PERMISSIONS, 3),
    ("role revoke", &[ROLES], PERMISSIONS, 2),
    // A user that there is not would be created.
    ("user passwd", &[&[b"root"]], &[], 1),
    ("auth enable", &[], &[], 1),
    ("auth disable", &[], &[], 1),
    ("member list", &[], &[], 1),
    ("member update", &[&[MEMBER, b"zz", b"1"], &[b"http://127.0.0.1:2", b"x", b""]], &[], 1),
    ("member remove", &[&[MEMBER, b"zz", b"1", b""]], &[], 1),
    ("cluster-health", &[], &[], 1),
    ("watch", &[KEYS], WATCH, 2),
    ("exec-watch --after-index=2", &[KEYS, &[b"echo"], &[b"x"]], &[RECURSIVE, R], 1),
];

/// Lines that are no more than they are.
const PLAIN: &[&str] = &[
    "help",
    "help get",
    "help x",
    "help user",
    "help help",
    "h ls",
    "nosuch",
    "lss",
    "exec-watch",
    "exec-watch /a",
    "watch",
    "user",
    "user x",
    "user help",
    "user help add",
    "role h",
    "role help help",
    "role --help -h",
    "get --help -h",
    "ls -h",
    "user grant u1 --roles",
    "role grant r1 --path /a",
    "get /a --help=false",
    "member",
    "member x",
    "member add",
    "member remove",
    "member update zz",
    "auth",
    "auth x",
    "cluster-health --help",
    "backup --help",
    "set",
    "--version",
    "-v=x",
    "user --help=x",
];

/// Flags before the command, right and wrong.
const GLOBALS: &[&str] = &[
    "--no-sync",
    "--no-sync",
    "-o=json",
    "--output=extended",
    "--output=bad",
    "--output=",
    "--debug=false",
    "--debug",
    "--debug",
    "-u=root:pw",
    "-u root:pw",
    "--username=u1:pw",
    "--username root:x",
    "--username=",
    "--cert-file=/none",
    "--ca-file=/none",
    "--key-file=/none",
    "--insecure-discovery",
    "--discovery-srv=",
    "-D=",
    "--peers=",
    "-C=x",
    "--timeout=9s",
    "--timeout=x",
    "--total-timeout=9s",
    "--bogus",
    "-x",
    "--version=false",
    "--help",
    "--",
    "---",
    "--=",
    "-output=json",
    "--no-sync=x",
];

/// Words behind the command that may be no flags of it.
const ODD: &[&str] = &["--bogus", "--help", "-h", "--", "-", "--sort=x", "-r=false", "---x", "---sort", "-1"];

/// All but what the program says that etcdctl runs to ask for a password, and requests, which may be written otherwise.
fn errors(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| !line.starts_with("stty: ") && !line.starts_with("cURL Command: ")).collect()
}

fn line(rng: &mut StdRng) -> Line {
    let mut input = Vec::new();
    let mut line = Vec::new();
    if rng.random_ratio(2, 5) {
        let format = pick(rng, &["json", "extended", "simple"]);
        let flag = pick(rng, &["-o", "--output"]);
        line = valued(rng, flag, format.as_bytes());
    }
    if rng.random_ratio(1, 7) {
        line.append(&mut words(pick(rng, GLOBALS)));
    }
    if rng.random_ratio(1, 10) {
        line.append(&mut words(pick(rng, PLAIN)));
    } else {
        if rng.random_ratio(1, 8) {
            input = pick(rng, &["one line\n", "x", "two\nlines\n", "\n"]).as_bytes().to_vec();
        }
        line.append(&mut shaped(rng));
    }
    // Others would lock everybody out, and at the end of standard input etcdctl takes the empty password.
    if line.iter().any(|word| word == b"passwd") {
        input = b"pw\n".to_vec();
    }
    let goes_on = line.iter().any(|word| word == b"watch" || word == b"exec-watch");
    Line { words: line, input, environment: Vec::new(), goes_on }
}

fn shaped(rng: &mut StdRng) -> Vec<Vec<u8>> {
    let (begin, args, flags, _) = draw(rng, SHAPES);
    let mut rest: Vec<Vec<u8>> = Vec::new();
    for choices in args {
        if rng.random_ratio(1, 12) {
            break;
        }
        rest.push(pick(rng, choices).to_vec());
    }
    for (flag, values) in flags {
        if !rng.random_ratio(1, 5) {
            continue;
        }
        let given = match values {
            [] => switch(rng, flag),
            values => {
                let value = pick(rng, values);
                // With one dash it is the same.
                let dashes = usize::from(rng.random_ratio(1, 4));
                valued(rng, &flag[dashes..], value)
            }
        };
        let at = if rng.random_ratio(1, 3) { rng.random_range(0..=rest.len()) } else { 0 };
        rest.splice(at..at, given);
    }
    if rng.random_ratio(1, 15) {
        let at = rng.random_range(0..=rest.len());
        rest.insert(at, pick(rng, ODD).as_bytes().to_vec());
    }
    [words(begin), rest].concat()
}

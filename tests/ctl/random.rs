//! Random command lines on one server: what changes nothing is given to both tools, and they print the same and end the same.
//! What changes something is given to one of them.
//!
//! `CLEAT_SEED=n` replays one run, `CLEAT_CTL_LINES=n` sets its length.

use anyhow::{Context as _, Result, ensure};
use harness::seeds::{number, seeds};
use harness::tool::{Output, cleatctl_as_etcdctl, etcdctl_binary, run};
use harness::{Kind, Server};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use std::ffi::OsString;
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(30);
const LINES: usize = 120;

const KEYS: [&str; 8] = ["a", "a/b", "a/c", "b", "é", "", "key with spaces", "z\"q"];
const VALUES: [&str; 5] = ["1", "two words", "<&>", "line\nbreak", "\u{1}\u{7f}é"];
const FORMATS: [&str; 7] = ["simple", "fields", "json", "protobuf", "table", "JSON", ""];

/// A command line, and its standard input.
struct Line {
    words: Vec<String>,
    input: String,
}

fn pick<'a>(rng: &mut StdRng, from: &[&'a str]) -> &'a str {
    from.choose(rng).copied().unwrap_or_default()
}

/// Some of the words, each with a probability of one in eight.
fn some(rng: &mut StdRng, from: &[&str]) -> Vec<String> {
    from.iter().filter(|_| rng.random_ratio(1, 8)).map(|&word| word.to_owned()).collect()
}

fn line(words: impl IntoIterator<Item = impl Into<String>>) -> Line {
    Line { words: words.into_iter().map(Into::into).collect(), input: String::new() }
}

/// What changes the store, or tries to.
fn write(rng: &mut StdRng) -> Line {
    let (key, value) = (pick(rng, &KEYS), pick(rng, &VALUES));
    match rng.random_range(0..8) {
        0..4 => line(["put", key, value]),
        4 => line(["del", key]),
        5 => line(["del", "--prefix", "a/"]),
        6 => Line {
            words: vec!["txn".to_owned()],
            input: format!("mod(\"{}\") > \"0\"\n\nput a 5\n\nput b \"6 7\"\nget b\n\n", pick(rng, &["a", "b"])),
        },
        _ => line(["role", "add", pick(rng, &["r1", "r2"])]),
    }
}

/// What changes nothing, right or wrong.
fn read(rng: &mut StdRng) -> Line {
    let mut words: Vec<String> = match rng.random_range(0..10) {
        0..5 => get(rng),
        5 => vec!["role".into(), pick(rng, &["list", "get r1", "get r9", "get", "lst"]).into()],
        6 => vec!["member list".into()],
        7 => vec![
            pick(rng, &["endpoint hashkv", "endpoint status", "alarm list", "user list", "lease timetolive 1f"]).into(),
        ],
        8 => vec![
            pick(
                rng,
                &[
                    "version",
                    "compaction x",
                    "lease revoke zz",
                    "move-leader",
                    "member promote 1",
                    "gett",
                    "snapshot",
                    "txn x",
                    "watch",
                    "elect",
                    "lock",
                    "help get",
                    "user grant-role a",
                    "check perf --load=q",
                ],
            )
            .into(),
        ],
        _ => vec!["del".into(), "--prefix".into(), "--from-key".into(), pick(rng, &KEYS).into()],
    };
    // Names that are several words.
    if words.len() <= 2 && words.first().is_some_and(|word| word.contains(' ') || words.len() == 2) {
        words = words.iter().flat_map(|word| word.split(' ')).map(str::to_owned).collect();
    }
    let globals = [
        format!("-w={}", pick(rng, &FORMATS)),
        "--hex".to_owned(),
        "--bogus".to_owned(),
        "--dial-timeout=5x".to_owned(),
        "-x".to_owned(),
    ];
    for (global, odds) in globals.into_iter().zip([3, 5, 25, 25, 25]) {
        if rng.random_ratio(1, odds) {
            words.insert(rng.random_range(0..=words.len()), global);
        }
    }
    line(words)
}

fn get(rng: &mut StdRng) -> Vec<String> {
    let mut words = vec!["get".to_owned(), pick(rng, &KEYS).to_owned()];
    words.extend(rng.random_ratio(1, 6).then(|| pick(rng, &["b", "", "zz"]).to_owned()));
    let flags = [
        "--prefix",
        "--from-key",
        "--keys-only",
        "--print-value-only",
        "--limit=2",
        "--sort-by=create",
        "--order=descend",
        "--sort-by=Value",
        "--consistency=s",
        "--rev=3",
    ];
    words.extend(some(rng, &flags));
    words.extend(rng.random_ratio(1, 8).then(|| pick(rng, &["--limit=x", "--order=up", "--sort-by=zz"]).to_owned()));
    words
}

async fn give(program: &OsString, server: &Server, line: &Line) -> Result<Output> {
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", "3").args(["--endpoints", &server.endpoint()]).args(&line.words);
    run(command, line.input.as_bytes(), LIMIT).await
}

/// What a script sees of an error, without the lines of etcdctl's logger.
fn errors(output: &Output) -> Vec<&str> {
    output.stderr.lines().filter(|line| line.starts_with("Error: ")).collect()
}

async fn same_on(kind: Kind) -> Result<()> {
    let seed = *seeds(1)?.first().context("a seed")?;
    let lines = number("CLEAT_CTL_LINES")?.map_or(LINES, |lines| lines as usize);
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir()?;
    let (theirs, ours) = (etcdctl_binary(), OsString::from(cleatctl_as_etcdctl(dir.path())?));
    let server = Server::start(kind).await?;
    let (mut compared, mut printed) = (0, 0);
    for _ in 0..lines {
        if rng.random_ratio(1, 3) {
            let tool = if rng.random() { &theirs } else { &ours };
            give(tool, &server, &write(&mut rng)).await?;
            continue;
        }
        let line = read(&mut rng);
        let their = give(&theirs, &server, &line).await?;
        let own = give(&ours, &server, &line).await?;
        if their.stderr.starts_with("panic: ") {
            ensure!(!own.stderr.contains("panicked"), "seed {seed} on {kind}: {:?}\n{own:#?}", line.words);
            continue;
        }
        ensure!(
            (&their.stdout, their.code, errors(&their)) == (&own.stdout, own.code, errors(&own)),
            "seed {seed} on {kind}: {:?}\netcdctl {their:#?}\ncleatctl {own:#?}",
            line.words
        );
        compared += 1;
        printed += usize::from(own.code == Some(0) && !own.stdout.is_empty());
    }
    // Lines that are all refused would prove nothing.
    ensure!(
        printed * 4 >= compared && compared > 0,
        "seed {seed}: only {printed} of {compared} lines printed something"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_command_lines_print_the_same_on_etcd() -> Result<()> {
    same_on(Kind::Etcd).await.context("CLEAT_SEED replays it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_command_lines_print_the_same_on_cleat() -> Result<()> {
    same_on(Kind::Cleat).await.context("CLEAT_SEED replays it")
}

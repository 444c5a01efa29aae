//! Random command lines: etcdctl with one server, `cleatctl` by that name with its twin, which has had the same lines since
//! it began. They print the same and end the same, whether a line reads, writes, or is refused.
//!
//! `CLEAT_SEED=n` replays one run, `CLEAT_CTL_LINES=n` sets its length. What is accepted as different, and so not among the
//! lines, is in `docs/operations/cleatctl.md`.

mod v2;
mod v3;

use anyhow::{Context as _, Result, ensure};
use harness::seeds::{number, seeds};
use harness::server::Options;
use harness::tool::{Output, cleatctl_as_etcdctl, etcdctl_binary, run};
use harness::{Kind, Server};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::time::Duration;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_mins(1);
const LINES: usize = 120;

/// What the twins say of themselves to others: it makes their ids the same. Nobody connects there.
const PEER_URL: &str = "http://127.0.0.1:1";

/// A command line, and its standard input.
struct Line {
    words: Vec<Vec<u8>>,
    input: Vec<u8>,
}

impl Line {
    /// Words between spaces.
    fn of(text: &str) -> Self {
        Self { words: words(text), input: Vec::new() }
    }

    fn shown(&self) -> String {
        let words: Vec<_> = self.words.iter().map(|word| String::from_utf8_lossy(word)).collect();
        format!("{words:?} with {:?}", String::from_utf8_lossy(&self.input))
    }
}

/// Which of etcdctl's two command lines this is about.
#[derive(Clone, Copy)]
struct Api {
    /// Lines that are given before the random ones.
    first: &'static [&'static str],
    /// Every fourth line is one of these.
    good: &'static [&'static str],
    version: &'static str,
    line: fn(&mut StdRng) -> Line,
    /// The lines of standard error that count.
    errors: fn(&str) -> Vec<&str>,
}

fn pick<'a, T: ?Sized>(rng: &mut StdRng, from: &[&'a T]) -> &'a T
where
    &'a T: Default,
{
    from.choose(rng).copied().unwrap_or_default()
}

/// A flag; without values it is a switch.
type Flag = (&'static str, &'static [&'static [u8]]);

/// A command, its arguments, of which some may be left out, its flags, and how often it is drawn.
type Shape = (&'static str, &'static [&'static [&'static [u8]]], &'static [Flag], u32);

/// One of the shapes, each as often as it says.
fn draw(rng: &mut StdRng, shapes: &[Shape]) -> Shape {
    let mut left = rng.random_range(0..shapes.iter().map(|shape| shape.3).sum());
    for shape in shapes {
        if left < shape.3 {
            return *shape;
        }
        left -= shape.3;
    }
    shapes[0]
}

/// A switch, at times with a value, right or wrong.
fn switch(rng: &mut StdRng, flag: &str) -> Vec<Vec<u8>> {
    let end = pick(rng, &["", "", "", "", "=true", "=false", "=x", "=1"]);
    vec![format!("{flag}{end}").into_bytes()]
}

/// The words of a line in a shell, without quotes.
fn words(text: &str) -> Vec<Vec<u8>> {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// Puts a word anywhere among others.
fn insert(rng: &mut StdRng, words: &mut Vec<Vec<u8>>, word: &[u8]) {
    words.insert(rng.random_range(0..=words.len()), word.to_owned());
}

/// A flag with its value, as one word or two.
fn valued(rng: &mut StdRng, flag: &str, value: &[u8]) -> Vec<Vec<u8>> {
    if rng.random() { vec![[flag.as_bytes(), b"=", value].concat()] } else { vec![flag.into(), value.to_owned()] }
}

async fn give(api: Api, program: &OsStr, server: &Server, line: &Line) -> Result<Output> {
    let words = line.words.iter().map(|word| OsString::from_vec(word.clone()));
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", api.version).args(["--endpoints", &server.client_url()]).args(words);
    // A line may write a file.
    command.current_dir(server.scratch());
    run(command, &line.input, LIMIT).await
}

/// A server that calls itself what its twin does.
async fn twin(kind: Kind) -> Result<Server> {
    let flags = ["--initial-advertise-peer-urls", PEER_URL, "--enable-v2"].map(str::to_owned).to_vec();
    Server::start_with(kind, Options { initial_cluster: format!("default={PEER_URL}"), flags, ..Options::default() })
        .await
}

/// What a script sees of a run, without what is the server's own: addresses, and times.
fn seen(output: &Output, server: &Server, errors: fn(&str) -> Vec<&str>) -> (String, Option<i32>, Vec<String>) {
    let same = |text: &str| {
        let text = text.replace(&server.endpoint(), "ENDPOINT");
        let mut parts = text.split("\"expiration\":\"");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| text + part.split_once("\",").map_or(part, |(_, rest)| rest))
    };
    let errors = errors(&output.stderr).into_iter().map(same).collect();
    (same(&output.stdout), output.code, errors)
}

async fn same_on(kind: Kind, api: Api) -> Result<()> {
    let seed = *seeds(1)?.first().context("a seed")?;
    let lines = number("CLEAT_CTL_LINES")?.map_or(LINES, |lines| lines as usize);
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir()?;
    let (theirs, ours) = (etcdctl_binary(), OsString::from(cleatctl_as_etcdctl(dir.path())?));
    let (their_server, our_server) = tokio::try_join!(twin(kind), twin(kind))?;
    let (mut compared, mut printed) = (0, 0);
    // In an empty store most lines would have nothing to print.
    for line in api.first {
        let line = Line::of(line);
        for server in [&their_server, &our_server] {
            let put = give(api, &theirs, server, &line).await?;
            ensure!(put.code == Some(0), "{}: {put:?}", line.shown());
        }
    }
    for number in 0..lines {
        let line = if rng.random_ratio(1, 4) { Line::of(pick(&mut rng, api.good)) } else { (api.line)(&mut rng) };
        let their = give(api, &theirs, &their_server, &line).await?;
        // It has not reached the server, so the twins stay the same.
        if their.stderr.starts_with("panic: ") {
            continue;
        }
        let own = give(api, &ours, &our_server, &line).await?;
        let (expected, found) = (seen(&their, &their_server, api.errors), seen(&own, &our_server, api.errors));
        ensure!(
            expected == found,
            "seed {seed}, line {number} on {kind}: {}\netcdctl {expected:#?}\ncleatctl {found:#?}",
            line.shown()
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
    same_on(Kind::Etcd, v3::API).await.context("CLEAT_SEED replays it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_command_lines_print_the_same_on_cleat() -> Result<()> {
    same_on(Kind::Cleat, v3::API).await.context("CLEAT_SEED replays it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_command_lines_of_v2_print_the_same_on_etcd() -> Result<()> {
    same_on(Kind::Etcd, v2::API).await.context("CLEAT_SEED replays it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_command_lines_of_v2_print_the_same_on_cleat() -> Result<()> {
    same_on(Kind::Cleat, v2::API).await.context("CLEAT_SEED replays it")
}

//! Random command lines: etcdctl with one server, `cleatctl` by that name with its twin, which has had the same lines since
//! it began. They print the same and end the same, whether a line reads, writes, or is refused.
//!
//! `CLEAT_SEED=n` replays one run, `CLEAT_CTL_LINES=n` sets its length. What is accepted as different, and so not among the
//! lines, is in `docs/operations/cleatctl.md`.

mod given;
mod normal;
mod v2;
mod v3;

use anyhow::{Context, Result, bail, ensure};
use api::etcdserverpb::{LeaseGrantRequest, StatusRequest};
use given::{Line, Twin, give};
use harness::seeds::{number, seeds};
use harness::server::Options;
use harness::tool::{Output, cleatctl_as_etcdctl, etcdctl_binary};
use harness::{Kind, Server};
use normal::{LIFETIMES, normal};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

const LINES: usize = 120;
/// More than these are not told: after a difference in what is written, many others follow.
const MOST_SHOWN: usize = 60;

/// How long a command that goes on has nothing to say before it is ended, and how long if the two seem to differ: the
/// machine may have been slow.
const QUIET: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(3)];

/// What the twins say of themselves to others: it makes their ids the same. Nobody connects there.
const PEER_URL: &str = "http://127.0.0.1:1";

/// Leases with ids that lines know. etcdctl cannot choose one, so they are granted before every so many lines, if a line
/// has revoked them.
const LEASES: [i64; 2] = [0x1f, i64::MAX];
const LINES_OF_A_LEASE: usize = 20;

/// After so many lines there are new twins: lines that require users may make that nobody can end that.
const LINES_OF_A_TWIN: usize = 500;

/// What may differ of a line, by `docs/operations/cleatctl.md`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ledger {
    Nothing,
    /// The text of the error.
    Error,
    Everything,
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
    /// What the ledger lets differ of a line.
    ledger: fn(&Line) -> Ledger,
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

/// A server that calls itself what its twin does.
async fn twin(kind: Kind) -> Result<Twin> {
    let flags = ["--initial-advertise-peer-urls", PEER_URL, "--enable-v2"].map(str::to_owned).to_vec();
    let options = Options { initial_cluster: format!("default={PEER_URL}"), flags, ..Options::default() };
    let server = Server::start_with(kind, options).await?;
    let status = server.client().await?.maintenance.status(StatusRequest {}).await?.into_inner();
    Ok(Twin { server, member: status.leader })
}

async fn grant_leases(twin: &Twin) -> Result<()> {
    let mut client = twin.server.client().await?;
    for (id, lifetime) in LEASES.into_iter().zip(LIFETIMES.into_iter().rev()) {
        let request = LeaseGrantRequest { id, ttl: i64::try_from(lifetime)? };
        // It may be there, or only users may grant one at the moment: the same on both.
        drop(client.lease.lease_grant(request).await);
    }
    Ok(())
}

/// What a script sees of a run, without what is the server's own: standard output, exit code, errors.
type Seen = (String, Option<i32>, Vec<String>);

fn seen(api: Api, output: &Output, line: &Line, twin: &Twin) -> Seen {
    let same = |text: &str| normal(text, line, twin);
    let errors = (api.errors)(&output.stderr).into_iter().map(same).collect();
    (same(&output.stdout), output.code, errors)
}

/// True if a call had not enough time, on the client's side or the server's.
fn is_late(output: &Output) -> bool {
    ["context deadline exceeded", "request timed out"].iter().any(|late| output.stderr.contains(late))
}

/// A tool with its server.
struct Side {
    program: OsString,
    twin: Twin,
}

/// What became of a line.
enum Compared {
    /// etcdctl has panicked. The line has not reached the server, so the twins stay the same.
    Crashed,
    /// Both do the same, and whether something was printed.
    Same(bool),
    /// Different as the ledger says.
    Accepted,
    /// What both do.
    Different(String),
}

/// Gives a line to both tools; again if they seem to differ and the machine may have been too slow for it: a command that
/// goes on was ended before it had said all, or the time of a call was over.
async fn compare(api: Api, line: &Line, [theirs, ours]: [&Side; 2]) -> Result<Compared> {
    let mut rounds = QUIET.into_iter().peekable();
    while let Some(quiet) = rounds.next() {
        let their = give(api.version, &theirs.program, &theirs.twin, line, quiet).await?;
        if their.stderr.lines().any(|line| line.starts_with("panic: ")) {
            return Ok(Compared::Crashed);
        }
        let own = give(api.version, &ours.program, &ours.twin, line, quiet).await?;
        let (expected, found) = (seen(api, &their, line, &theirs.twin), seen(api, &own, line, &ours.twin));
        if expected == found {
            return Ok(Compared::Same(own.code == Some(0) && !own.stdout.is_empty()));
        }
        let is_accepted = match (api.ledger)(line) {
            Ledger::Nothing => false,
            Ledger::Error => {
                let but_texts = |seen: &Seen| (seen.0.clone(), seen.1, seen.2.is_empty());
                but_texts(&expected) == but_texts(&found)
            }
            Ledger::Everything => true,
        };
        if is_accepted {
            return Ok(Compared::Accepted);
        }
        let may_be_slow = line.goes_on || is_late(&their) || is_late(&own);
        if rounds.peek().is_none() || !may_be_slow {
            return Ok(Compared::Different(format!("etcdctl {expected:#?}\ncleatctl {found:#?}")));
        }
    }
    bail!("a line has a round")
}

/// What became of the lines of a run.
#[derive(Default)]
struct Figures {
    same: usize,
    /// Of the same: those that printed something.
    printed: usize,
    accepted: usize,
    crashed: usize,
    differences: Vec<String>,
}

/// Two servers of a kind that have had the same lines, etcdctl's and `cleatctl`'s.
async fn sides(kind: Kind, api: Api, ours: &Path) -> Result<[Side; 2]> {
    let (their_twin, our_twin) = tokio::try_join!(twin(kind), twin(kind))?;
    ensure!(their_twin.member == our_twin.member, "the twins are not the same");
    let sides = [Side { program: etcdctl_binary(), twin: their_twin }, Side { program: ours.into(), twin: our_twin }];
    // In an empty store most lines would have nothing to print.
    for line in api.first {
        let line = Line::of(line);
        for Side { twin, .. } in &sides {
            let put = give(api.version, &sides[0].program, twin, &line, QUIET[0]).await?;
            ensure!(put.code == Some(0), "{}: {put:?}", line.shown());
        }
    }
    Ok(sides)
}

/// Gives lines with these numbers to new twins.
async fn lines(
    kind: Kind,
    api: Api,
    ours: &Path,
    numbers: Range<usize>,
    rng: &mut StdRng,
    figures: &mut Figures,
) -> Result<()> {
    let [theirs, ours] = &sides(kind, api, ours).await?;
    for number in numbers {
        if number.is_multiple_of(LINES_OF_A_LEASE) {
            tokio::try_join!(grant_leases(&theirs.twin), grant_leases(&ours.twin))?;
        }
        let line = if rng.random_ratio(1, 4) { Line::of(pick(rng, api.good)) } else { (api.line)(rng) };
        match compare(api, &line, [theirs, ours]).await? {
            Compared::Crashed => figures.crashed += 1,
            Compared::Accepted => figures.accepted += 1,
            Compared::Same(has_printed) => {
                figures.same += 1;
                figures.printed += usize::from(has_printed);
            }
            Compared::Different(how) => {
                figures.differences.push(format!("line {number}: {}\n{how}", line.shown()));
            }
        }
    }
    Ok(())
}

async fn same_on(kind: Kind, api: Api) -> Result<()> {
    let seed = *seeds(1)?.first().context("a seed")?;
    let count = number("CLEAT_CTL_LINES")?.map_or(LINES, |lines| lines as usize);
    let (mut rng, dir) = (StdRng::seed_from_u64(seed), tempfile::tempdir()?);
    let ours = cleatctl_as_etcdctl(dir.path())?;
    let mut figures = Figures::default();
    for begin in (0..count).step_by(LINES_OF_A_TWIN) {
        let numbers = begin..count.min(begin + LINES_OF_A_TWIN);
        lines(kind, api, &ours, numbers, &mut rng, &mut figures).await?;
    }
    let Figures { same, printed, accepted, crashed, mut differences } = figures;
    let told = format!(
        "seed {seed} on {kind}, {count} lines: {same} the same, {printed} of them with output, {accepted} different by the \
         ledger, {crashed} crashes of etcdctl, {} differ",
        differences.len()
    );
    differences.truncate(MOST_SHOWN);
    ensure!(differences.is_empty(), "{told}\n{}", differences.join("\n"));
    // Lines that are all refused would prove nothing. Most are while users are required.
    ensure!(printed * 10 >= same && same > 0, "{told}");
    eprintln!("{told}");
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

//! The two servers side by side: one step, and what watches are owed.

use super::answer::Answer;
use super::generate::Generator;
use super::ledger::Ledger;
use super::op::{Op, Request};
use super::side::{SLOTS, Side};
use super::world::World;
use crate::compare::Difference;
use crate::run::Contest;
use anyhow::{Result, bail, ensure};
use harness::Kind;
use std::time::{Duration, Instant};

/// Both have told their watches by then, unless the machine stalls.
const SETTLE_DEADLINE: Duration = Duration::from_secs(10);
/// An event comes right behind the answer to the write.
const QUIET: Duration = Duration::from_millis(3);
/// At the end nothing more is owed, and nothing more may come.
const LAST_QUIET: Duration = Duration::from_millis(100);
/// Shorter than any time that expires while other keys are set.
const STALL: Duration = Duration::from_millis(1500);

/// Two servers and what they were asked.
pub(crate) struct Duel {
    etcd: Side,
    cleat: Side,
    pub(crate) world: World,
    /// The machine stalled while keys were about to expire: their order is no longer the same.
    stalled: bool,
    /// Slots whose watch was open when users or roles changed: Cleat ends it then, because it may show what its caller may
    /// no longer see, and etcd does not.
    ended_by_change: [bool; SLOTS],
}

impl Contest for Duel {
    type Op = Op;
    type Generator = Generator;
    type Ledger = Ledger;
    const WORKERS: usize = 6;

    async fn start() -> Result<Self> {
        let (mut etcd, mut cleat) = tokio::try_join!(Side::start(Kind::Etcd), Side::start(Kind::Cleat))?;
        let mut world = World::default();
        let root = Request::new("GET", "/v2/keys");
        let (theirs, ours) = tokio::try_join!(etcd.ask(&root, &world), cleat.ask(&root, &world))?;
        ensure!(theirs == ours, "fresh servers differ:\netcd:  {theirs:?}\ncleat: {ours:?}");
        if let Some(answer) = &theirs {
            world.learn(answer);
        }
        Ok(Self { etcd, cleat, world, stalled: false, ended_by_change: [false; SLOTS] })
    }

    fn generator(seed: u64) -> Generator {
        Generator::new(seed)
    }

    fn draw(&self, generator: &mut Generator) -> Op {
        generator.next(&self.world)
    }

    async fn step(&mut self, op: &Op, ledger: &Ledger) -> Result<Option<Difference>> {
        if self.stalled {
            return Ok(None);
        }
        let difference = match op {
            Op::Ask(request) => self.ask(request, ledger).await?,
            Op::Race(requests) => self.race(requests, ledger).await?,
            Op::Watch { slot, request } => {
                self.ended_by_change[*slot] = false;
                let world = &self.world;
                let (theirs, ours) =
                    tokio::try_join!(self.etcd.watch(*slot, request, world), self.cleat.watch(*slot, request, world))?;
                compare(request, theirs, ours, ledger)
            }
            Op::Leave { slot } => {
                self.etcd.leave(*slot);
                self.cleat.leave(*slot);
                None
            }
            Op::Expire { requests, keys } => self.expire(requests, keys, ledger).await?,
            Op::Settle => self.settle_watches(QUIET).await?,
        };
        if difference.is_some() {
            for side in [&mut self.etcd, &mut self.cleat] {
                if let Some(log) = side.death() {
                    bail!("{} has died after {op}:\n{log}", side.kind());
                }
            }
        }
        Ok(difference)
    }

    async fn settle(&mut self) -> Result<Option<Difference>> {
        if self.stalled { Ok(None) } else { self.settle_watches(LAST_QUIET).await }
    }
}

impl Duel {
    async fn ask(&mut self, request: &Request, ledger: &Ledger) -> Result<Option<Difference>> {
        let world = &self.world;
        let (theirs, ours) = tokio::try_join!(self.etcd.ask(request, world), self.cleat.ask(request, world))?;
        if let Some(answer) = &theirs {
            self.world.learn(answer);
        }
        if request.target.starts_with("/v2/auth") && !request.only_reads() {
            self.ended_by_change = [true; SLOTS];
        }
        Ok(compare(request, theirs, ours, ledger))
    }

    async fn race(&mut self, requests: &[Request], ledger: &Ledger) -> Result<Option<Difference>> {
        let world = &self.world;
        let (theirs, ours) = tokio::try_join!(self.etcd.race(requests, world), self.cleat.race(requests, world))?;
        theirs.iter().flatten().for_each(|answer| self.world.learn(answer));
        let answers = theirs.into_iter().zip(ours);
        Ok(answers.zip(requests).find_map(|((theirs, ours), request)| compare(request, theirs, ours, ledger)))
    }

    async fn expire(&mut self, requests: &[Request], keys: &[String], ledger: &Ledger) -> Result<Option<Difference>> {
        let started = Instant::now();
        for request in requests {
            if let Some(difference) = self.ask(request, ledger).await? {
                return Ok(Some(difference.with_fatal(true)));
            }
        }
        if requests.len() > 1 && started.elapsed() > STALL {
            self.stalled = true;
            return Ok(None);
        }
        let world = &self.world;
        tokio::try_join!(self.etcd.wait_expired(keys, world), self.cleat.wait_expired(keys, world))?;
        // Tells the index as well.
        if let Some(difference) = self.ask(&Request::new("GET", "/v2/keys?recursive=true"), ledger).await? {
            return Ok(Some(difference.with_fatal(true)));
        }
        self.settle_watches(QUIET).await
    }

    async fn settle_watches(&mut self, quiet: Duration) -> Result<Option<Difference>> {
        for slot in 0..SLOTS {
            if let Some(difference) = self.settle_watch(slot, quiet).await? {
                return Ok(Some(difference));
            }
        }
        Ok(None)
    }

    async fn settle_watch(&mut self, slot: usize, quiet: Duration) -> Result<Option<Difference>> {
        let deadline = Instant::now() + SETTLE_DEADLINE;
        loop {
            let (theirs, ours) = tokio::try_join!(self.etcd.watched(slot, quiet), self.cleat.watched(slot, quiet))?;
            let (Some((theirs, is_over)), Some((ours, is_ours_over))) = (theirs, ours) else { return Ok(None) };
            if theirs.is_like(&ours) && is_over == is_ours_over {
                if is_over {
                    self.etcd.leave(slot);
                    self.cleat.leave(slot);
                }
                return Ok(None);
            }
            if self.ended_by_change[slot] && is_ours_over && theirs.body.starts_with(&ours.body) {
                self.etcd.leave(slot);
                self.cleat.leave(slot);
                return Ok(None);
            }
            if Instant::now() > deadline {
                let what = if theirs.is_like(&ours) { "end" } else { "events" };
                let shown = |answer: &Answer, is_over: bool| format!("{answer}\n  is over: {is_over}");
                return Ok(Some(Difference::new("watch", what, shown(&theirs, is_over), shown(&ours, is_ours_over))));
            }
        }
    }
}

/// Compares two answers after the ledger.
fn compare(request: &Request, theirs: Option<Answer>, ours: Option<Answer>, ledger: &Ledger) -> Option<Difference> {
    let kind = format!("{} {}", request.method, request.area());
    let (mut theirs, mut ours) = match (theirs, ours) {
        (Some(theirs), Some(ours)) => (theirs, ours),
        (None, None) => return None,
        (theirs, ours) => {
            return Some(Difference::new(&kind, "silence", format!("{theirs:#?}"), format!("{ours:#?}")));
        }
    };
    ledger.erase(request, &mut theirs, &mut ours);
    if theirs.is_like(&ours) {
        return None;
    }
    let header = |answer: &Answer, name: &str| answer.header(name).map(str::to_owned);
    let differing = theirs.headers.iter().chain(&ours.headers).map(|(name, _)| name);
    let differing = differing
        .filter(|name| header(&theirs, name) != header(&ours, name))
        .collect::<std::collections::BTreeSet<_>>();
    let what = if theirs.status != ours.status || code(&theirs) != code(&ours) {
        format!("{} {} against {} {}", theirs.status, code(&theirs), ours.status, code(&ours))
    } else if !differing.is_empty() {
        format!("{} {}: headers {differing:?}", theirs.status, code(&theirs))
    } else {
        format!("{} {}: body", theirs.status, code(&theirs))
    };
    let both_refuse = theirs.status >= 400 && ours.status >= 400;
    let same_index = header(&theirs, "x-etcd-index") == header(&ours, "x-etcd-index");
    let fatal = !same_index || !(request.only_reads() || both_refuse);
    Some(Difference::new(&kind, &what, theirs.to_string(), ours.to_string()).with_fatal(fatal))
}

/// The action or the error code.
fn code(answer: &Answer) -> String {
    let Ok(body) = serde_json::from_str::<serde_json::Value>(&answer.body) else { return String::new() };
    match (body["action"].as_str(), body["errorCode"].as_i64()) {
        (Some(action), _) => action.to_owned(),
        (_, Some(code)) => code.to_string(),
        (None, None) => String::new(),
    }
}

//! Where the time of a call goes: the steps that it took part in, for the line about a slow request and for traces.
//!
//! `listen` makes the [`Steps`] of a call and lays them down in a variable of the thread while the call's future runs
//! ([`during`]); whatever runs in it says here what is done ([`done`]), without being handed anything. What other tasks
//! do for a call, they time themselves, and the call's own future tells it here ([`proposed`]). Outside of a call
//! everything here does nothing.
//!
//! A step costs a look at the clock and a few stores. There is one allocation for a call.

use bytes::Bytes;
use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Steps that one call remembers. A put has six; what comes after the last is added to it.
const STEPS_MAX: usize = 12;

/// What a call spends its time with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Until the request is read, decoded and found to be well formed.
    Decode,
    /// Waiting for the space quota.
    Quota,
    /// The read barrier: until this member knows that it is up to date.
    Barrier,
    /// Reading the index and the store.
    Read,
    /// Waiting for a place in a batch of proposals.
    Queue,
    /// In the log: written here and by the others, until it is committed.
    Replicate,
    /// As `Replicate`, but another member leads, which was asked first.
    Forward,
    /// Applying the entry, with all the batch that it came in.
    Apply,
    /// Everything else that the service did.
    Serve,
    /// Encoding the answer and handing it to the connection.
    Encode,
}

impl Step {
    /// As in log lines, and the name of its span.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Quota => "quota",
            Self::Barrier => "read_barrier",
            Self::Read => "read",
            Self::Queue => "queue",
            Self::Replicate => "replicate",
            Self::Forward => "forward",
            Self::Apply => "apply",
            Self::Serve => "serve",
            Self::Encode => "encode",
        }
    }
}

/// One step that is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) step: Step,
    pub(crate) from: Instant,
    pub(crate) to: Instant,
}

/// What a request is about. Never its values.
#[derive(Debug, Default)]
pub(crate) struct Subject {
    /// The key, or the first of several.
    pub(crate) key: Bytes,
    /// End of the range; empty for one key.
    pub(crate) range_end: Bytes,
    /// Operations in a transaction; 0 outside of one.
    pub(crate) ops: usize,
    /// Keys in the answer.
    pub(crate) count: Option<i64>,
    /// The leader that the proposal was forwarded to; 0 if it was not.
    pub(crate) leader: u64,
}

/// The steps of one call.
pub(crate) struct Steps {
    pub(crate) started: Instant,
    last: Instant,
    done: [Done; STEPS_MAX],
    count: usize,
    pub(crate) subject: Subject,
    pub(crate) request_bytes: usize,
    pub(crate) remote: Option<SocketAddr>,
    /// The request as it arrived, for who asked for it ([`Steps::keeping_the_request`]).
    request: Option<Vec<Bytes>>,
    /// Who asks, by token or certificate, while requests need a user; with the request.
    user: Option<Box<str>>,
}

impl Steps {
    pub(crate) fn start(remote: Option<SocketAddr>) -> Self {
        let started = Instant::now();
        let done = [Done { step: Step::Decode, from: started, to: started }; STEPS_MAX];
        Self {
            started,
            last: started,
            done,
            count: 0,
            subject: Subject::default(),
            request_bytes: 0,
            remote,
            request: None,
            user: None,
        }
    }

    /// Keeps the request's bytes as well. They are slices of what the connection received, and `listen` bounds them.
    pub(crate) fn keeping_the_request(mut self) -> Self {
        self.request = Some(Vec::new());
        self
    }

    /// The kept request.
    pub(crate) fn take_request(&mut self) -> Option<Vec<Bytes>> {
        self.request.take()
    }

    /// Who asked, if the request was kept.
    pub(crate) fn take_user(&mut self) -> Option<Box<str>> {
        self.user.take()
    }

    /// The time since the last step belongs to this one.
    pub(crate) fn done(&mut self, step: Step) {
        self.done_at(step, Instant::now());
    }

    fn done_at(&mut self, step: Step, at: Instant) {
        // Times of other tasks may overlap those of this one.
        let to = at.max(self.last);
        if self.count < STEPS_MAX {
            self.done[self.count] = Done { step, from: self.last, to };
            self.count += 1;
        } else {
            self.done[STEPS_MAX - 1].to = to;
        }
        self.last = to;
    }

    pub(crate) fn list(&self) -> &[Done] {
        &self.done[..self.count]
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Done { step, from, to }) in self.list().iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{} {:?}", step.name(), to.duration_since(*from))?;
        }
        Ok(())
    }
}

/// When an entry was applied.
#[derive(Clone, Copy, Debug)]
pub struct ApplyTimes {
    pub(crate) began: Instant,
    pub(crate) took: Duration,
}

/// When a proposal went through what other tasks do for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProposalTimes {
    /// Its batch was on its way.
    pub(crate) submitted: Instant,
    /// None for an entry whose apply was not timed.
    pub(crate) applied: Option<ApplyTimes>,
    /// Who it was forwarded to; 0 for nobody.
    pub(crate) leader: u64,
}

thread_local! {
    static CURRENT: RefCell<Option<Box<Steps>>> = const { RefCell::new(None) };
}

/// Runs a part of a call whose steps these are.
pub(crate) fn during<R>(steps: &mut Option<Box<Steps>>, run: impl FnOnce() -> R) -> R {
    let outer = CURRENT.replace(steps.take());
    let result = run();
    *steps = CURRENT.replace(outer);
    result
}

fn note(change: impl FnOnce(&mut Steps)) {
    CURRENT.with_borrow_mut(|current| {
        if let Some(steps) = current {
            change(steps);
        }
    });
}

/// The time of the current call since its last step belongs to this one.
pub(crate) fn done(step: Step) {
    note(|steps| steps.done(step));
}

/// The request is decoded, if nothing else was done yet.
pub(crate) fn decoded() {
    note(|steps| {
        if steps.count == 0 {
            steps.done(Step::Decode);
        }
    });
}

/// A proposal of the current call was applied.
pub(crate) fn proposed(times: &ProposalTimes) {
    note(|steps| {
        steps.done_at(Step::Queue, times.submitted);
        if let Some(ApplyTimes { began, took }) = times.applied {
            steps.done_at(if times.leader == 0 { Step::Replicate } else { Step::Forward }, began);
            steps.done_at(Step::Apply, began + took);
        }
        steps.subject.leader = times.leader;
    });
}

/// Names what the current call is about: a key or range, and of how many operations it is the first.
pub(crate) fn about(key: &Bytes, range_end: &Bytes, ops: usize) {
    note(|steps| {
        let subject = &mut steps.subject;
        (subject.key, subject.range_end, subject.ops) = (key.clone(), range_end.clone(), ops);
    });
}

/// Says who asks for the current call.
pub(crate) fn asked_by(user: &str) {
    note(|steps| {
        if steps.request.is_some() && steps.user.as_deref() != Some(user) {
            steps.user = Some(user.into());
        }
    });
}

/// Says how many keys the answer of the current call has.
pub(crate) fn counted(keys: i64) {
    note(|steps| steps.subject.count = Some(keys));
}

/// Bytes of the current call's request have arrived.
pub(crate) fn received(data: &Bytes) {
    note(|steps| {
        steps.request_bytes += data.len();
        if let Some(request) = &mut steps.request {
            request.push(data.clone());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_other_tasks_fall_into_place() {
        let mut steps = Some(Box::new(Steps::start(None)));
        let started = steps.as_ref().unwrap().started;
        let ms = |ms| started + Duration::from_millis(ms);
        during(&mut steps, || {
            decoded();
            decoded();
            let applied = ApplyTimes { began: ms(500), took: Duration::from_millis(30) };
            proposed(&ProposalTimes { submitted: ms(200), applied: Some(applied), leader: 7 });
        });
        done(Step::Encode);
        let steps = steps.unwrap();
        let names: Vec<_> = steps.list().iter().map(|done| done.step.name()).collect();
        assert_eq!(names, ["decode", "queue", "forward", "apply"], "nothing counts outside of the call");
        assert_eq!(steps.list()[2].to, ms(500));
        assert_eq!(steps.subject.leader, 7);
        assert!(steps.to_string().ends_with(", forward 300ms, apply 30ms"), "{steps}");
    }

    #[test]
    fn more_steps_than_are_remembered_lengthen_the_last() {
        let mut steps = Steps::start(None);
        for _ in 0..STEPS_MAX + 5 {
            steps.done(Step::Read);
        }
        assert_eq!(steps.list().len(), STEPS_MAX);
        assert_eq!(steps.list()[STEPS_MAX - 1].to, steps.last);
    }
}

//! Waits for what a client sees to be something else, and streams, which are waits that go on.

use crate::app::{App, Asked, Fields, Handled};
use crate::hub::{Full, Quiet, Wait};
use crate::look::{Looking, Seen};
use crate::query::{body, told};
use crate::reply::{self, Wish};
use crate::settings::duration;
use crate::shown::Shown;
use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::StreamExt as _;
use futures::future::Either;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tokio::time::sleep_until;

/// How often a stream of events shows that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often a wait follows a mapping that changes while it is looked at. One more change ends the wait anyway.
const MAX_MOVES: usize = 4;

/// How a wait has ended.
struct Ended {
    seen: Seen,
    /// The client has been told something else before.
    has_changed: bool,
    /// There is more to wait for.
    is_open: bool,
}

/// A wait that has begun. Thousands are kept at once, so it has nothing but what it needs of its request.
pub(crate) struct Waiting {
    looking: Looking,
    wait: Wait,
    seen: Seen,
    limit: Duration,
    quiet: Quiet,
    wish: Wish,
    /// What the client has.
    tags: HeaderMap,
}

impl Waiting {
    /// What the client is told when what it sees has changed, or the time is over, or the process ends, or there is nothing
    /// to wait for.
    pub(crate) async fn told(self) -> Handled {
        let Self { looking, mut wait, seen, limit, quiet, wish, tags } = self;
        let started = Instant::now();
        let mut ended = looking.next(&mut wait, &seen, limit, quiet).await;
        drop(wait);
        let (app, compat) = (&looking.app, looking.app.compat);
        app.metrics.wait_seconds.observe(started.elapsed().as_secs_f64());
        if ended.has_changed { &app.metrics.waits_changed } else { &app.metrics.waits_over }.inc();
        if ended.has_changed && ended.seen.shown.is_none() && ended.is_open && compat {
            // metad keeps a place for who waited, and nothing is in it.
            ended.seen = Seen::new(Some(Shown::Map(Vec::new())), app.world.state().version());
        }
        told(&looking, &ended.seen, wish, &tags)
    }
}

impl Looking {
    /// What the client sees, or a wait for something else.
    ///
    /// # Errors
    /// There are too many waits.
    pub(crate) fn wait(self, asked: &Asked, fields: &Fields<'_>) -> Result<Either<(Self, Seen), Waiting>, Full> {
        let (wait, seen) = self.begin()?;
        let Some(wait) = wait else { return Ok(Either::Left((self, seen))) };
        // What is no number is -1 in metad, and waits.
        let previous: i64 = fields.get("prev_version").parse().unwrap_or(-1);
        let version =
            || if self.app.compat { self.app.world.state().version() } else { seen.version(None, self.is_typed) };
        if previous > 0 && previous != version() {
            return Ok(Either::Left((self, seen)));
        }
        let tags: HeaderMap = asked
            .headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .map(|tag| (header::IF_NONE_MATCH, tag.clone()))
            .collect();
        let has_newest = |shown: &Shown| reply::matches(&tags, &body(asked.wish, shown, None, self.is_shallow).1);
        if !tags.is_empty() && !seen.shown.as_ref().is_some_and(has_newest) {
            return Ok(Either::Left((self, seen)));
        }
        let limit = duration(fields.get("timeout")).unwrap_or(self.app.query.wait_max).min(self.app.query.wait_max);
        let quiet = self.quiet(fields);
        Ok(Either::Right(Waiting { looking: self, wait, seen, limit, quiet, wish: asked.wish, tags }))
    }

    /// Begins a wait, and looks what there is by then. There may be nothing to wait for.
    fn begin(&self) -> Result<(Option<Wait>, Seen), Full> {
        let world = &self.app.world;
        let state = world.state();
        let (Some(watched), Some(source)) = (self.watched(&state), self.who.source) else {
            return Ok((None, self.look(&state)));
        };
        let mut wait = world.hub.wait(source, watched, self.app.query.waits)?;
        let (seen, is_open) = self.settle(&mut wait);
        Ok((is_open.then_some(wait), seen))
    }

    /// Looks, and makes the wait one for what a change of that must touch. False if there is nothing to wait for.
    fn settle(&self, wait: &mut Wait) -> (Seen, bool) {
        let world = &self.app.world;
        for _ in 0..MAX_MOVES {
            let state = world.state();
            let Some(watched) = self.watched(&state) else { return (self.look(&state), false) };
            if !wait.move_to(watched) {
                // It was for these paths before the state was made, so it ends with the next.
                return (self.look(&state), true);
            }
        }
        (self.look(&world.state()), true)
    }

    fn quiet(&self, fields: &Fields<'_>) -> Quiet {
        let most = self.app.query.quiet;
        let min = duration(fields.get("quiet")).map_or(most.min, |quiet| quiet.min(most.max));
        Quiet { min, max: most.max }
    }

    /// Waits until the client sees something else than it was told. What it cannot see ends no wait, which would tell
    /// that it is there.
    async fn next(&self, wait: &mut Wait, before: &Seen, limit: Duration, quiet: Quiet) -> Ended {
        let over = tokio::time::Instant::now() + limit;
        loop {
            // In this order, since most waits end with a change. The end of the process ends the change's.
            tokio::select! {
                biased;
                () = wait.changed(quiet) => {}
                () = sleep_until(over) => {}
            }
            let (seen, is_open) =
                if wait.may_move() { self.settle(wait) } else { (self.look(&self.app.world.state()), true) };
            let has_changed = !self.is_same(before, &seen);
            let is_over = || self.app.stop.is_cancelled() || tokio::time::Instant::now() >= over;
            if has_changed || !is_open || is_over() {
                return Ended { seen, has_changed, is_open };
            }
        }
    }

    /// Server-sent events: what there is, and again whenever it has changed, until there is nothing to wait for or the
    /// process ends.
    pub(crate) fn stream(self, wish: Wish, fields: &Fields<'_>) -> (Response, i64) {
        let (wait, seen) = match self.begin() {
            Ok((Some(wait), seen)) => (wait, seen),
            Ok((None, seen)) => return (self.app.not_found(wish), seen.version(None, self.is_typed)),
            Err(Full) => return full(&self.app, wish),
        };
        let quiet = self.quiet(fields);
        let (first, version) = frame(&seen, self.is_typed);
        let later = futures::stream::unfold(Some((self, wait, seen)), move |open| async move {
            let (looking, mut wait, told) = open?;
            let ended = looking.next(&mut wait, &told, HEARTBEAT, quiet).await;
            let is_open = ended.is_open && !looking.app.stop.is_cancelled();
            let pieces = match (ended.has_changed, is_open) {
                (true, _) => frame(&ended.seen, looking.is_typed).0,
                (false, true) => vec![Bytes::from_static(b":\n\n")],
                (false, false) => return None,
            };
            Some((pieces, is_open.then_some((looking, wait, ended.seen))))
        });
        let frames = futures::stream::iter([first]).chain(later);
        let pieces = frames.flat_map(|pieces| futures::stream::iter(pieces.into_iter().map(Ok::<_, Infallible>)));
        let mut response = Response::new(Body::from_stream(pieces));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        (response, version)
    }
}

/// That there are too many waits. The connection is free then for who wants something else.
pub(crate) fn full(app: &App, wish: Wish) -> (Response, i64) {
    app.metrics.waits_refused.inc();
    let mut response = app.later(wish, StatusCode::TOO_MANY_REQUESTS, "too many requests wait");
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    (response, 0)
}

/// One event, and its version: that, and what is seen as JSON; `gone` if nothing is. The JSON is a piece of its own, which
/// all streams share that show the same directory.
fn frame(seen: &Seen, is_typed: bool) -> (Vec<Bytes>, i64) {
    let json = seen.shown.as_ref().map(|shown| shown.json(is_typed));
    let id = seen.version(json.as_ref(), is_typed);
    let pieces = match json {
        Some(json) => {
            vec![format!("id: {id}\nevent: data\ndata: ").into(), json.text, Bytes::from_static(b"\n\n")]
        }
        None => vec![format!("id: {id}\nevent: gone\ndata:\n\n").into()],
    };
    (pieces, id)
}

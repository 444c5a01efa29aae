//! Which part of the log members need that are sent a snapshot.
//!
//! A member that gets a snapshot goes on with the entries behind it. If they are purged while it is on its way, the next
//! snapshot follows, and under load one without end. So each transfer holds the log from its position on, and then from
//! where the member is, until it has caught up: for a while, and up to a number of bytes (see `background::purge_log`).

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long the log is held after the end of a transfer: longer than an unfinished snapshot is kept for another attempt.
const HELD_AFTER: Duration = Duration::from_mins(5);

/// How long it is held for one transfer: as long as one may take.
const HELD_MAX: Duration = Duration::from_hours(1);

/// The transfers of this member, by receiver. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct CatchUps(Arc<Mutex<BTreeMap<u64, CatchUp>>>);

struct CatchUp {
    /// Index of the first entry behind the snapshot.
    needs_from: u64,
    since: Instant,
    /// None while a snapshot is on its way.
    ended: Option<Instant>,
}

impl CatchUp {
    fn is_over(&self) -> bool {
        self.since.elapsed() >= HELD_MAX || self.ended.is_some_and(|ended| ended.elapsed() >= HELD_AFTER)
    }
}

/// A snapshot on its way; it ends when this is dropped.
pub(crate) struct Transfer {
    catch_ups: CatchUps,
    to: u64,
    since: Instant,
}

impl CatchUps {
    /// A snapshot is sent to a member, which needs the entries from that index on behind it.
    pub(crate) fn begin(&self, to: u64, needs_from: u64) -> Transfer {
        let mut catch_ups = self.0.lock();
        catch_ups.retain(|_, catch_up| !catch_up.is_over());
        let since = Instant::now();
        catch_ups.insert(to, CatchUp { needs_from, since, ended: None });
        Transfer { catch_ups: self.clone(), to, since }
    }

    /// Index of the first entry that somebody needs. `next` is the entry that a member needs next, if this one knows: who
    /// needs nothing before `end` has caught up. One whose transfer broke has not, wherever its snapshot is.
    pub(crate) fn needs_from(&self, end: u64, next: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let mut catch_ups = self.0.lock();
        catch_ups.retain(|to, catch_up| {
            let next = next(*to).unwrap_or(0);
            catch_up.needs_from = catch_up.needs_from.max(next);
            !catch_up.is_over() && (catch_up.ended.is_none() || next < end)
        });
        catch_ups.values().map(|catch_up| catch_up.needs_from).min()
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        let mut catch_ups = self.catch_ups.0.lock();
        // Another one may have begun.
        if let Some(catch_up) = catch_ups.get_mut(&self.to).filter(|catch_up| catch_up.since == self.since) {
            catch_up.ended = Some(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_log_is_held_until_the_receiver_has_caught_up() {
        let catch_ups = CatchUps::default();
        let unknown = |_| None;
        assert_eq!(catch_ups.needs_from(1000, unknown), None);
        let (one, two) = (catch_ups.begin(1, 500), catch_ups.begin(2, 700));
        tokio::time::sleep(HELD_AFTER * 2).await;
        assert_eq!(catch_ups.needs_from(1000, unknown), Some(500), "they are on their way");
        drop(one);
        assert_eq!(catch_ups.needs_from(1000, unknown), Some(500), "it has yet to catch up");
        assert_eq!(catch_ups.needs_from(1000, |to| (to == 1).then_some(600)), Some(600));
        assert_eq!(catch_ups.needs_from(1000, |to| (to == 1).then_some(1001)), Some(700), "it has");
        drop(two);
        assert_eq!(catch_ups.needs_from(600, |_| Some(0)), Some(700), "it was not installed");
        tokio::time::sleep(HELD_AFTER).await;
        assert_eq!(catch_ups.needs_from(1000, unknown), None, "for a while only");
    }

    #[tokio::test(start_paused = true)]
    async fn a_transfer_that_never_ends_holds_the_log_for_a_bounded_time() {
        let catch_ups = CatchUps::default();
        let _transfer = catch_ups.begin(1, 500);
        tokio::time::sleep(HELD_MAX / 2).await;
        assert_eq!(catch_ups.needs_from(1000, |_| None), Some(500));
        tokio::time::sleep(HELD_MAX / 2).await;
        assert_eq!(catch_ups.needs_from(1000, |_| None), None);
    }
}

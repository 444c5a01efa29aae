//! Log lines about trouble that goes on.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// The same trouble is logged once in this time.
const INTERVAL: Duration = Duration::from_secs(10);

/// Says when a line about one kind of trouble is due again.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Option<Instant>>);

impl Pace {
    /// True once in an interval.
    pub(crate) fn is_due(&self) -> bool {
        let mut last = self.0.lock();
        let is_due = last.is_none_or(|last| last.elapsed() >= INTERVAL);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn one_line_in_an_interval() {
        let (pace, mut lines) = (Pace::default(), Vec::new());
        for second in 0..25 {
            if pace.is_due() {
                lines.push(second);
            }
            sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(lines, [0, 10, 20]);
    }
}

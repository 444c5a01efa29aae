//! How long a change waits for others, so that many changes are one reload.

use std::str::FromStr;
use std::time::{Duration, Instant};

/// Quiet time after a change, and the longest time that changes may wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// Without any change.
    pub min: Duration,
    /// After the first change.
    pub max: Duration,
}

/// Longest wait that is accepted.
const MAX_WAIT: Duration = Duration::from_hours(24);

impl FromStr for Wait {
    type Err = String;

    /// `MIN` or `MIN:MAX`, as `500ms:2s`. The longest time is four times the quiet time if it is not given.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let (min, max) = text.split_once(':').map_or((text, None), |(min, max)| (min, Some(max)));
        let min = duration(min)?;
        let max = max.map_or(Ok(min * 4), duration)?;
        if max < min {
            return Err(format!("{text:?} has a maximum below its minimum"));
        }
        Ok(Self { min, max })
    }
}

/// A duration of Go: `1m30s`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: write it as 500ms, 2s or 1m30s");
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() || text.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return Err(wrong()),
            };
        rest = &rest[unit..];
    }
    let duration = Duration::try_from_secs_f64(total).map_err(|_| wrong())?;
    if duration > MAX_WAIT { Err(format!("{text:?} is longer than {MAX_WAIT:?}")) } else { Ok(duration) }
}

/// Changes that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    first: Instant,
    last: Instant,
}

impl Pending {
    /// One more change.
    pub(crate) fn add(pending: Option<Self>, now: Instant) -> Self {
        Self { first: pending.map_or(now, |pending| pending.first), last: now }
    }

    /// When the changes have waited long enough.
    pub(crate) fn due(self, wait: Wait) -> Instant {
        (self.last + wait.min).min(self.first + wait.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read_as_written() {
        let seconds = Duration::from_secs_f64;
        assert_eq!("".parse(), Ok(Wait::default()));
        assert_eq!("1s".parse(), Ok(Wait { min: seconds(1.0), max: seconds(4.0) }));
        assert_eq!("500ms:1m30s".parse(), Ok(Wait { min: seconds(0.5), max: seconds(90.0) }));
        for (text, error) in [
            ("5", "\"5\" is no duration: write it as 500ms, 2s or 1m30s"),
            ("2s:", "\"\" is no duration: write it as 500ms, 2s or 1m30s"),
            ("2s:1s", "\"2s:1s\" has a maximum below its minimum"),
            ("100h", "\"100h\" is longer than 86400s"),
        ] {
            assert_eq!(text.parse::<Wait>(), Err(error.to_owned()));
        }
    }

    #[test]
    fn changes_wait_for_quiet_but_not_for_ever() {
        let wait = Wait { min: Duration::from_secs(2), max: Duration::from_secs(5) };
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut pending = Pending::add(None, begin);
        assert_eq!(pending.due(wait), after(2));
        pending = Pending::add(Some(pending), after(1));
        assert_eq!(pending.due(wait), after(3));
        pending = Pending::add(Some(pending), after(4));
        assert_eq!(pending.due(wait), after(5));
    }
}

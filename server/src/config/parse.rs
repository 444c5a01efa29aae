//! Go's textual forms of booleans and durations, which etcd's flags and files use.
//!
//! Called by `values` (is this text well formed) and `settings` (what does it mean).

use std::fmt::Write as _;
use std::time::Duration;

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// Reads a boolean by the rules of Go's `strconv.ParseBool`.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Reads a duration such as `1h30m`, `1.5s` or `-100ms` and returns nanoseconds. A bare `0` is zero.
///
/// # Errors
/// Go's reason, without the leading `time: `.
pub(super) fn nanos(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid duration {text:?}");
    let (negative, body) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if body == "0" {
        return Ok(0);
    }
    if body.is_empty() {
        return Err(invalid());
    }
    let mut rest = body;
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number_len = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        if number.is_empty() {
            return Err(invalid());
        }
        if unit.is_empty() {
            return Err(format!("missing unit in duration {text:?}"));
        }
        let unit_nanos: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS_PER_SECOND,
            "m" => 60 * NANOS_PER_SECOND,
            "h" => 3600 * NANOS_PER_SECOND,
            _ => return Err(format!("unknown unit {unit:?} in duration {text:?}")),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        // 18 digits of either part fit an i128 product; a longer whole part cannot be a 64-bit duration.
        if whole.len() > 18 {
            return Err(invalid());
        }
        let fraction = &fraction[..fraction.len().min(18)];
        let digits = |s: &str| if s.is_empty() { Ok(0) } else { s.parse::<i128>().map_err(|_| invalid()) };
        let scale = 10_i128.pow(fraction.len() as u32);
        total += digits(whole)? * unit_nanos + digits(fraction)? * unit_nanos / scale;
        rest = tail;
    }
    let signed = if negative { -total } else { total };
    i64::try_from(signed).map_err(|_| invalid())
}

/// Reads a duration that must not be negative.
///
/// # Errors
/// As [`nanos`], and for negative durations.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    u64::try_from(nanos(text)?).map(Duration::from_nanos).map_err(|_| format!("negative duration {text:?}"))
}

/// Writes a duration the way Go does: `1h30m0s`, `1.5s`, `100ms`.
pub(crate) fn show(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let fraction = |value: u128, unit: u128| {
        let text = format!("{}.{:0width$}", value / unit, value % unit, width = unit.ilog10() as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanos {
        0..1_000 => return format!("{nanos}ns"),
        1_000..1_000_000 => return fraction(nanos, 1_000) + "µs",
        1_000_000..1_000_000_000 => return fraction(nanos, 1_000_000) + "ms",
        _ => {}
    }
    let minutes = nanos / (60 * NANOS_PER_SECOND as u128);
    let seconds = fraction(nanos % (60 * NANOS_PER_SECOND as u128), NANOS_PER_SECOND as u128);
    let mut text = String::new();
    if minutes >= 60 {
        write!(text, "{}h", minutes / 60).expect("invariant: writing to a String cannot fail");
    }
    if minutes > 0 {
        write!(text, "{}m", minutes % 60).expect("invariant: writing to a String cannot fail");
    }
    text + &seconds + "s"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        let cases: [(&str, Result<i64, &str>); 17] = [
            ("0", Ok(0)),
            ("0s", Ok(0)),
            ("100ms", Ok(100_000_000)),
            ("1h30m", Ok(5_400_000_000_000)),
            ("1.5s", Ok(1_500_000_000)),
            (".5h", Ok(1_800_000_000_000)),
            ("-1s", Ok(-1_000_000_000)),
            ("+2m", Ok(120_000_000_000)),
            ("7us", Ok(7_000)),
            ("7µs", Ok(7_000)),
            ("9ns", Ok(9)),
            ("", Err("invalid duration \"\"")),
            ("abc", Err("invalid duration \"abc\"")),
            ("-1", Err("missing unit in duration \"-1\"")),
            ("1x", Err("unknown unit \"x\" in duration \"1x\"")),
            ("1.2.3s", Err("invalid duration \"1.2.3s\"")),
            ("99999999999h", Err("invalid duration \"99999999999h\"")),
        ];
        for (text, expected) in cases {
            assert_eq!(nanos(text), expected.map_err(str::to_owned), "{text}");
        }
        assert_eq!(duration("-1s"), Err("negative duration \"-1s\"".to_owned()));
    }

    #[test]
    fn durations_show_as_in_go() {
        let cases = [
            (0, "0s"),
            (7, "7ns"),
            (1_500, "1.5µs"),
            (100_000_000, "100ms"),
            (1_500_000_000, "1.5s"),
            (60_000_000_000, "1m0s"),
            (5_400_000_000_000, "1h30m0s"),
            (3_600_000_000_001, "1h0m0.000000001s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(show(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn booleans_read_as_in_go() {
        for (text, expected) in
            [("true", Some(true)), ("1", Some(true)), ("F", Some(false)), ("yes", None), ("", None), ("tRUE", None)]
        {
            assert_eq!(boolean(text), expected, "{text}");
        }
    }
}

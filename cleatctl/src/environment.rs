//! Flags as variables of the environment: `ETCDCTL_` and the flag's name in capitals.

use crate::cli::Flag;
use crate::context::Context;
use crate::failure::{Failure, code};
use crate::globals::is_secret;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::{SystemTime, UNIX_EPOCH};

const PREFIX: &str = "ETCDCTL_";

/// Decides which program this is, see `main`.
const API: &str = "ETCDCTL_API";

/// Variables of `watch`, which are no flags.
const OF_WATCH: [&str; 2] = ["ETCDCTL_WATCH_KEY", "ETCDCTL_WATCH_RANGE_END"];

/// A flag's variable.
pub(crate) fn name(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_uppercase().replace('-', "_"))
}

/// Takes the values of the global flags that were not given on the command line.
///
/// # Errors
/// As [`Context::read_environment`].
pub(crate) fn read(context: &mut Context) -> Result<(), Failure> {
    let found: BTreeMap<String, OsString> = std::env::vars_os()
        .filter_map(|(name, value)| {
            Some((name.into_string().ok().filter(|name| name.starts_with(PREFIX) && name != API)?, value))
        })
        .collect();
    let is_etcdctl = context.is_etcdctl();
    let flags = context.path.inherited();
    for (name, value) in found {
        let flag = flags.iter().copied().find(|flag| self::name(flag.name) == name);
        match flag {
            Some(flag) if context.is_set(flag) => shadowed(&name, is_etcdctl)?,
            Some(flag) if !value.is_empty() => take(context, flag, &name, &value)?,
            // Of the v2 API, which this command reads.
            _ if context.path.name() == "migrate v2-to-v3" && name == "ETCDCTL_USERNAME" => {}
            _ if context.path.name() == "watch" && OF_WATCH.contains(&name.as_str()) => {}
            _ => unknown(&name, &value, is_etcdctl),
        }
    }
    Ok(())
}

fn take(context: &mut Context, flag: &Flag, name: &str, value: &OsString) -> Result<(), Failure> {
    match context.values_mut().set(flag, value) {
        // etcdctl goes on with the default.
        Err(why) if !context.is_etcdctl() => Err(Failure::bad_args(format!("the environment's {name}: {why}"))),
        _ => Ok(()),
    }
}

/// The command line and the environment have the same flag. etcdctl refuses that; here the command line counts.
fn shadowed(name: &str, is_etcdctl: bool) -> Result<(), Failure> {
    if is_etcdctl {
        log(
            'C',
            &format!(
                "conflicting environment variable \"{name}\" is shadowed by corresponding command-line flag (either unset environment variable or disable flag)"
            ),
        );
        return Err(Failure::silent(code::ERROR));
    }
    eprintln!("warning: {name} of the environment does not count, the command line has the flag");
    Ok(())
}

fn unknown(name: &str, value: &OsString, is_etcdctl: bool) {
    let shown = if is_secret(name) { "***".into() } else { value.to_string_lossy() };
    if is_etcdctl {
        log('W', &format!("unrecognized environment variable {name}={shown}"));
    } else {
        eprintln!("warning: unrecognized environment variable {name}={shown}");
    }
}

/// A line as etcdctl's logger writes it.
fn log(level: char, text: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (now.as_secs() / 86_400, now.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hours, minutes, seconds) = (second / 3600, second / 60 % 60, second % 60);
    let micros = now.subsec_micros();
    eprintln!(
        "{year}-{month:02}-{day:02} {hours:02}:{minutes:02}:{seconds:02}.{micros:06} {level} | pkg/flags: {text}"
    );
}

/// Year, month and day of a number of days since 1970.
fn date(days: u64) -> (u64, u64, u64) {
    // Years that begin in March have their leap day at the end.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{date, name};

    #[test]
    fn dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_785), (2026, 11, 28));
    }

    #[test]
    fn names_of_variables() {
        assert_eq!(name("insecure-skip-tls-verify"), "ETCDCTL_INSECURE_SKIP_TLS_VERIFY");
    }
}

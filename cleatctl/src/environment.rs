//! Flags as variables of the environment: `ETCDCTL_` and the flag's name in capitals.

use crate::cli::Flag;
use crate::context::Context;
use crate::failure::{Failure, code};
use crate::globals::is_secret;
use crate::people;
use chrono::Utc;
use std::collections::BTreeMap;
use std::ffi::OsString;

const PREFIX: &str = "ETCDCTL_";

/// Decides which program this is, see `main`.
const API: &str = "ETCDCTL_API";

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
            _ if context.path.command().variables.contains(&name.as_str()) => {}
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
    people::say(&format!("warning: {name} of the environment does not count, the command line has the flag"));
    Ok(())
}

fn unknown(name: &str, value: &OsString, is_etcdctl: bool) {
    let shown = if is_secret(name) { "***".into() } else { value.to_string_lossy() };
    if is_etcdctl {
        log('W', &format!("unrecognized environment variable {name}={shown}"));
    } else {
        people::say(&format!("warning: unrecognized environment variable {name}={shown}"));
    }
}

/// A line as etcdctl's logger writes it.
fn log(level: char, text: &str) {
    let now = Utc::now().format("%Y-%m-%d %H:%M:%S%.6f");
    tell!("{now} {level} | pkg/flags: {text}");
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn names_of_variables() {
        assert_eq!(name("insecure-skip-tls-verify"), "ETCDCTL_INSECURE_SKIP_TLS_VERIFY");
    }
}

//! Collects the text of every flag from command line, environment and file, and keeps where it came from.
//!
//! [`load`] is the door: it answers help and version, and hands the merged texts to `settings`. Texts are checked
//! for form here, so that the message can name the flag or variable; what they mean together is checked there.

use super::flags::{self, Flag, Kind, Support};
use super::founding;
use super::settings::Config;
use super::url::parse_list;
use super::{file, parse};
use std::collections::BTreeMap;
use std::path::Path;

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Print the help text.
    Help,
    /// Print the version.
    Version,
    /// Run a member.
    Run(Box<Config>),
}

/// Why a member cannot start with these settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The command line cannot be read: exit code 2.
    #[error("{0}\nSee 'cleat --help'.")]
    Usage(String),
    /// The settings are not valid: exit code 1.
    #[error("error verifying flags, {0}. See 'cleat --help'.")]
    Invalid(String),
}

impl ConfigError {
    /// The exit code that etcd uses for this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Invalid(_) => 1,
        }
    }
}

/// Where a text came from; a later one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Default,
    File,
    Environment,
    Flag,
}

/// The merged texts of all flags.
#[derive(Debug, Default)]
pub(super) struct Values {
    texts: BTreeMap<&'static str, (String, Source)>,
    pub(super) warnings: Vec<String>,
}

/// Reads the command line (without the program's name) and the environment.
///
/// # Errors
/// [`ConfigError`]; nothing has been created or opened except the configuration file.
pub fn load(
    args: impl IntoIterator<Item = String>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Command, ConfigError> {
    let mut values = Values::default();
    let asked = values.read_args(args)?;
    if let Some(command) = asked {
        return Ok(command);
    }
    values.read_environment(environment)?;
    let path = values.text("config-file").to_owned();
    if !path.is_empty() {
        let texts = file::read(Path::new(&path)).map_err(ConfigError::Invalid)?;
        for (flag, text) in texts {
            check_form(flag, &text).map_err(|reason| invalid(&text, &format!("{} in {path}", flag.name), &reason))?;
            values.set(flag, text, Source::File);
        }
    }
    founding::check(&values).map_err(ConfigError::Invalid)?;
    values.check_support()?;
    Config::from_values(values).map(|config| Command::Run(Box::new(config))).map_err(ConfigError::Invalid)
}

impl Values {
    /// Reads flags by Go's rules: one or two dashes, a value after `=` or as the next word, booleans only after `=`.
    fn read_args(&mut self, args: impl IntoIterator<Item = String>) -> Result<Option<Command>, ConfigError> {
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let Some(body) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|body| !body.is_empty())
            else {
                return Err(not_a_flag(&arg));
            };
            let (name, inline) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            match name {
                "h" | "help" => return Ok(Some(Command::Help)),
                "version" => return Ok(Some(Command::Version)),
                _ => {}
            }
            let Some(flag) = flags::find(name) else {
                let hint = flags::nearest(name).map(|near| format!("; did you mean --{near}?")).unwrap_or_default();
                return Err(ConfigError::Usage(format!("unknown flag --{name}{hint}")));
            };
            let text = match (inline, flag.kind) {
                (Some(text), _) => text,
                (None, Kind::Bool) => "true".to_owned(),
                (None, _) => {
                    args.next().ok_or_else(|| ConfigError::Usage(format!("flag needs an argument: --{name}")))?
                }
            };
            check_form(flag, &text).map_err(|reason| {
                let what = if flag.kind == Kind::Bool { "boolean value" } else { "value" };
                ConfigError::Usage(format!("invalid {what} {text:?} for flag --{name}: {reason}"))
            })?;
            self.set(flag, text, Source::Flag);
        }
        Ok(None)
    }

    /// Reads the `ETCD_*` variables. An empty variable counts as unset, as in etcd.
    fn read_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        for (variable, text) in environment {
            let Some(rest) = variable.strip_prefix("ETCD_") else { continue };
            if text.is_empty() || rest == "UNSUPPORTED_ARCH" {
                continue;
            }
            let Some(flag) = flags::find(&rest.to_ascii_lowercase().replace('_', "-")) else {
                self.warnings.push(format!("unrecognized environment variable {variable}"));
                continue;
            };
            match self.texts.get(flag.name) {
                Some((set, Source::Flag)) if *set != text => {
                    self.warnings.push(format!("environment variable {variable} is shadowed by --{}", flag.name));
                }
                Some((_, Source::Flag)) => {}
                _ => {
                    check_form(flag, &text).map_err(|reason| invalid(&text, &variable, &reason))?;
                    self.set(flag, text, Source::Environment);
                }
            }
        }
        Ok(())
    }

    /// Refuses flags whose value this release cannot honour, and warns about those without effect.
    fn check_support(&mut self) -> Result<(), ConfigError> {
        for flag in flags::all() {
            let Some((text, _)) = self.texts.get(flag.name) else { continue };
            if same(flag.kind, text, flag.default) {
                continue;
            }
            match flag.support {
                Support::Used | Support::Silent => {}
                Support::Ignored(reason) => {
                    self.warnings.push(format!("--{} has no effect: {reason}", flag.name));
                }
                Support::Unsupported => {
                    let value = if matches!(flag.kind, Kind::OneOf(_)) { format!("={text}") } else { String::new() };
                    return Err(ConfigError::Invalid(format!("--{}{value} is not supported yet", flag.name)));
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, flag: &'static Flag, text: String, source: Source) {
        let known = self.texts.get(flag.name).map_or(Source::Default, |(_, source)| *source);
        if source >= known {
            self.texts.insert(flag.name, (text, source));
        }
    }

    /// The text of a flag, or its default.
    pub(super) fn text(&self, name: &'static str) -> &str {
        match self.texts.get(name) {
            Some((text, _)) => text,
            None => flags::find(name).expect("invariant: only names of the table are asked for").default,
        }
    }

    /// True if the flag was given anywhere, even with its default value.
    pub(super) fn is_set(&self, name: &'static str) -> bool {
        self.texts.contains_key(name)
    }

    pub(super) fn boolean(&self, name: &'static str) -> bool {
        parse::boolean(self.text(name)).expect("invariant: forms were checked when the text was set")
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &'static str) -> T
    where
        T::Err: std::fmt::Debug,
    {
        self.text(name).parse().expect("invariant: forms were checked when the text was set")
    }

    /// Reads a duration that must not be negative.
    pub(super) fn duration(&self, name: &'static str) -> Result<std::time::Duration, String> {
        parse::duration(self.text(name)).map_err(|reason| format!("--{name}: {reason}"))
    }
}

fn not_a_flag(arg: &str) -> ConfigError {
    match arg {
        "gateway" | "grpc-proxy" => ConfigError::Invalid(format!("'{arg}' is not supported yet")),
        "true" | "false" => {
            ConfigError::Invalid(format!("'{arg}' is not a valid flag (a boolean takes its value as --flag={arg})"))
        }
        _ => ConfigError::Invalid(format!("'{arg}' is not a valid flag")),
    }
}

fn invalid(text: &str, place: &str, reason: &str) -> ConfigError {
    ConfigError::Invalid(format!("invalid value {text:?} for {place}: {reason}"))
}

/// Checks that a text has the form of its kind.
fn check_form(flag: &Flag, text: &str) -> Result<(), String> {
    let number = |ok: bool| if ok { Ok(()) } else { Err("parse error".to_owned()) };
    match flag.kind {
        Kind::Bool => number(parse::boolean(text).is_some()),
        Kind::U32 => number(text.parse::<u32>().is_ok()),
        Kind::U64 => number(text.parse::<u64>().is_ok()),
        Kind::I64 => number(text.parse::<i64>().is_ok()),
        Kind::Duration => parse::nanos(text).map(drop),
        Kind::Urls => parse_list(text).map(drop),
        Kind::OneOf(choices) if choices.contains(&text) => Ok(()),
        Kind::OneOf(choices) => Err(format!("must be one of {}", choices.join(", "))),
        Kind::Text => Ok(()),
    }
}

/// True if two texts mean the same value.
fn same(kind: Kind, a: &str, b: &str) -> bool {
    match kind {
        Kind::Bool => parse::boolean(a) == parse::boolean(b),
        Kind::Duration => parse::nanos(a) == parse::nanos(b),
        Kind::U32 | Kind::U64 | Kind::I64 => a.parse::<i128>().ok() == b.parse::<i128>().ok(),
        Kind::Urls | Kind::Text | Kind::OneOf(_) => a == b,
    }
}

//! From command line, environment and file to a validated [`Config`].
//!
//! The flags are etcd's: names, defaults, `ETCD_*` variables and YAML keys. One table (`flags`) describes them all;
//! the parser, the environment, the file, `--help` and the "not supported yet" check read it, so a flag cannot
//! exist in one place and be forgotten in another. The command line is read by Go's rules (`-name`, `--name`,
//! `--name=value`, booleans only with `=`), because charts and unit files are written for them.
//!
//! Precedence: a flag wins over its variable, a variable wins over the file. (etcd ignores flags and variables
//! when a file is given.) A set flag is never silently without effect: it is acted on, answered with a warning,
//! or refused.
//!
//! Only this module reads the environment or a configuration file. It opens no socket and creates nothing.

mod auth;
mod file;
mod flags;
mod founding;
mod help;
mod observe;
pub(crate) mod parse;
mod settings;
mod tls;
mod url;
mod values;

#[cfg(test)]
mod tests;

pub use auth::AuthSettings;
pub use help::help;
pub use observe::{AuditConfig, Rotation, TraceConfig};
pub use settings::{
    AutoCompaction, Config, CorruptionChecks, GrpcKeepalive, InitialClusterState, LogConfig, LogFormat, LogLevel,
    LogOutput, MetricsLevel, RateLimit, V2Mode,
};
pub use tls::{AllowedNames, CertSource, KeyPairFiles, Side, TlsSettings, TlsVersion};
pub use url::{ListenUrl, Place};
pub use values::{Command, ConfigError, load};

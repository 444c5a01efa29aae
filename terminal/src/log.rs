//! Log lines on stderr: confd's, which metad has too, or JSON.

use std::fmt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// What a program's filter says of kube's client, which warns of an answer that does not fit with the whole of it: a Secret,
/// or what containers have in their environment.
pub const OF_KUBE: &str = "kube_client=error,kube_client::client::tls=warn";

/// `2026-01-02T03:04:05Z host confd[1]: INFO message`
struct Lines {
    /// Host, program and process.
    who: String,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::WARN => "WARNING".to_owned(),
            level => level.to_string(),
        };
        let now = chrono::Local::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        write!(writer, "{now} {}: {level} ", self.who)?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Starts logging for the whole process, which was called by the name `program`. Lines of the crate `own` and of our client
/// are shown from `level` on, those of others when they warn.
pub fn start(program: &str, own: &str, level: &str, is_json: bool) {
    let filter = EnvFilter::new(format!("warn,{OF_KUBE},{own}={level},client={level}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // It would tell with eprintln! that stderr is gone, which panics.
    let builder = builder.log_internal_errors(false);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let who = format!("{host} {program}[{}]", std::process::id());
    if is_json { builder.json().init() } else { builder.event_format(Lines { who }).init() }
}

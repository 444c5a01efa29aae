//! Log lines on stderr: metad's, or JSON. Values of the data are in neither.

use std::fmt;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// `2026-01-02T03:04:05Z host metad[1]: INFO message`
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

/// Starts logging for the whole process.
pub fn start(level: &str, is_json: bool) {
    let filter = EnvFilter::new(format!("warn,metad={level},client={level}"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    let program = std::env::args().next().unwrap_or_else(|| "metad".to_owned());
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let who = format!("{host} {program}[{}]", std::process::id());
    if is_json { builder.json().init() } else { builder.event_format(Lines { who }).init() }
}

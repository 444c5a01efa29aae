//! Log lines: zap's JSON keys (`level`, `ts`, `caller`, `msg`, then the fields), which log pipelines made for etcd
//! parse, or text for people.
//!
//! [`init`] is called once by `main`, before anything else runs. Everything else logs through `tracing`. Lines are written
//! by threads of their own ([`crate::outlet`]), so that a blocked pipe stops nobody; [`flush`] waits for them at the end.

use crate::config::{LogConfig, LogFormat, LogLevel, LogOutput};
use crate::outlet::{Outlet, RotatedFile, Target};
use serde_json::Value;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

/// Libraries that report every frame; they are heard one level later than the member itself.
const TALKATIVE: [&str; 4] = ["h2", "hyper", "hyper_util", "tower"];

/// It warns of every request that a member which is away does not answer, many times a second. What an operator must
/// know of that, the member says itself.
const CONSENSUS: &str = "openraft";

/// What waits at the end of the process may take this long to be written.
const FLUSH_DEADLINE: Duration = Duration::from_secs(1);

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file cannot be opened for appending.
    #[error("cannot open log file {}: {reason}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: io::Error,
    },
    /// The thread that writes lines cannot be started.
    #[error("cannot start logging: {0}")]
    Thread(io::Error),
    /// [`init`] was called before.
    #[error("logging is set up already")]
    Twice,
}

/// The logging of this process, once it is set up.
static LOGGING: OnceLock<Logging> = OnceLock::new();

struct Logging {
    level: parking_lot::Mutex<LogLevel>,
    filter: FilterHandle,
    outlets: Vec<Outlet>,
}

type FilterHandle = reload::Handle<Targets, Registry>;

/// Starts logging for the whole process.
///
/// # Errors
/// [`LogError`].
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let format =
        config.format.unwrap_or_else(|| if io::stderr().is_terminal() { LogFormat::Console } else { LogFormat::Json });
    let outlets = config.outputs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let (subscriber, filter) = subscriber(config.level, format, Mutex::new(Fanout(outlets.clone())));
    let logging = Logging { level: parking_lot::Mutex::new(config.level), filter, outlets };
    LOGGING.set(logging).map_err(|_| LogError::Twice)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // What led to it is in the lines before.
        flush();
        report(panic);
    }));
    Ok(())
}

/// Writes the lines that wait, for as long as that may take when the process ends.
pub fn flush() {
    for outlet in LOGGING.get().iter().flat_map(|logging| &logging.outlets) {
        outlet.flush(FLUSH_DEADLINE);
    }
}

/// Lines that were lost because an output did not keep up.
pub(crate) fn lost() -> u64 {
    LOGGING.get().map_or(0, |logging| logging.outlets.iter().map(Outlet::lost).sum())
}

/// The level that is written now; None without logging, as in tests.
pub(crate) fn level() -> Option<LogLevel> {
    LOGGING.get().map(|logging| *logging.level.lock())
}

/// Writes lines of another level from now on.
///
/// # Errors
/// There is no logging.
pub(crate) fn set_level(level: LogLevel) -> Result<(), String> {
    let logging = LOGGING.get().ok_or("logging is not set up")?;
    let mut current = logging.level.lock();
    logging.filter.reload(filter(level)).map_err(|error| error.to_string())?;
    *current = level;
    Ok(())
}

fn filter(level: LogLevel) -> Targets {
    let (own, libraries, consensus) = match level {
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::INFO, LevelFilter::INFO),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR, LevelFilter::ERROR),
    };
    let targets = TALKATIVE.map(|name| (name, libraries));
    Targets::new().with_default(own).with_targets(targets).with_target(CONSENSUS, consensus)
}

fn subscriber<W>(level: LogLevel, format: LogFormat, outputs: Mutex<W>) -> (impl Subscriber + Send + Sync, FilterHandle)
where
    W: Write + Send + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(level));
    let lines = tracing_subscriber::fmt::layer().event_format(Lines { format }).with_writer(outputs);
    (tracing_subscriber::registry().with(filter).with(lines), handle)
}

fn open(output: &LogOutput) -> Result<Outlet, LogError> {
    let (name, target) = match output {
        LogOutput::Stderr => ("stderr".to_owned(), Target::Stderr),
        LogOutput::Stdout => ("stdout".to_owned(), Target::Stdout),
        LogOutput::File(path) => {
            let opened = RotatedFile::open(path, None);
            let file = opened.map_err(|reason| LogError::Open { path: path.clone(), reason })?;
            (path.display().to_string(), Target::File(file))
        }
    };
    Outlet::start(&name, target).map_err(LogError::Thread)
}

/// Hands every line to all outputs. One that hangs or fails does not keep the others from their lines.
struct Fanout(Vec<Outlet>);

impl Write for Fanout {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for outlet in &self.0 {
            // What finds no room is counted there.
            outlet.write(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Formats one event as one line.
struct Lines {
    format: LogFormat,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        match self.format {
            LogFormat::Json => json_line(&mut writer, &time, event.metadata(), fields),
            LogFormat::Console => console_line(&mut writer, &time, *event.metadata().level(), &fields),
        }
    }
}

fn json_line(writer: &mut Writer<'_>, time: &str, metadata: &Metadata<'_>, fields: Fields) -> fmt::Result {
    let mut line = format!(r#"{{"level":"{}","ts":"{time}""#, level_name(*metadata.level()));
    let mut member = |key: &str, value: Value| write!(line, ",{}:{value}", Value::from(key));
    member("caller", caller(metadata).into())?;
    member("msg", fields.message.into())?;
    for (key, value) in fields.others {
        member(key, value)?;
    }
    writeln!(writer, "{line}}}")
}

fn console_line(writer: &mut Writer<'_>, time: &str, level: Level, fields: &Fields) -> fmt::Result {
    write!(writer, "{time} {:5} {}", level.as_str(), fields.message)?;
    for (key, value) in &fields.others {
        match value {
            // Quotes only where the value would not be one word.
            Value::String(text) if !text.is_empty() && !text.contains([' ', '"', '=', '\n']) => {
                write!(writer, " {key}={text}")?;
            }
            value => write!(writer, " {key}={value}")?,
        }
    }
    writeln!(writer)
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

/// The last two parts of the file's path and the line, as zap shows them.
fn caller(metadata: &Metadata<'_>) -> String {
    let file = metadata.file().unwrap_or_else(|| metadata.target());
    let start = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{}", &file[start..], metadata.line().unwrap_or(0))
}

/// The message and the fields of an event, in the order they were written.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", value) => self.message = value.to_string(),
            (name, value) => self.others.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LogLevel, format: LogFormat, log: impl FnOnce()) -> String {
        let sink = Sink::default();
        tracing::subscriber::with_default(subscriber(level, format, Mutex::new(sink.clone())).0, log);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_have_zaps_keys_first() {
        let text = logged(LogLevel::Info, LogFormat::Json, || {
            tracing::info!(revision = 7_u64, name = "a \"b\"", is_leader = true, "ready");
        });
        assert!(text.starts_with(r#"{"level":"info","ts":"2"#), "{text}");
        assert!(text.contains(r#"Z","caller":"src/logging.rs:"#), "{text}");
        let parsed: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed["msg"], "ready");
        assert_eq!(parsed["revision"], 7);
        assert_eq!(parsed["name"], "a \"b\"");
        assert_eq!(parsed["is_leader"], true);
        assert_eq!(parsed["ts"].as_str().unwrap().len(), "2026-11-22T14:44:18.407742Z".len());
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn console_lines_are_for_people() {
        let text = logged(LogLevel::Info, LogFormat::Console, || tracing::warn!(url = "http://a", why = "x y", "slow"));
        assert!(text.ends_with("Z WARN  slow url=http://a why=\"x y\"\n"), "{text}");
    }

    #[test]
    fn levels_filter_and_libraries_are_quieter() {
        let text = logged(LogLevel::Info, LogFormat::Console, || {
            tracing::debug!("hidden");
            tracing::warn!(target: "openraft::core", "hidden");
            tracing::info!(target: "hyper::proto", "hidden");
            tracing::error!(target: "openraft::core", "shown");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn every_output_gets_every_line() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("a.log"), dir.path().join("b.log")];
        let outlets: Vec<_> = paths.iter().map(|path| open(&LogOutput::File(path.clone())).unwrap()).collect();
        let (subscriber, _) = subscriber(LogLevel::Info, LogFormat::Json, Mutex::new(Fanout(outlets.clone())));
        tracing::subscriber::with_default(subscriber, || tracing::info!("hello"));
        for outlet in outlets {
            outlet.flush(Duration::from_secs(20));
        }
        for path in paths {
            assert!(std::fs::read_to_string(path).unwrap().contains("hello"));
        }
        let missing = open(&LogOutput::File("/nonexistent/x.log".into())).err().unwrap();
        assert!(missing.to_string().starts_with("cannot open log file /nonexistent/x.log: "));
    }

    #[test]
    fn the_level_can_change() {
        let sink = Sink::default();
        let (subscriber, handle) = subscriber(LogLevel::Info, LogFormat::Console, Mutex::new(sink.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let say = || tracing::debug!("a detail");
            say();
            handle.reload(filter(LogLevel::Debug)).unwrap();
            say();
            handle.reload(filter(LogLevel::Error)).unwrap();
            say();
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

//! Log lines: zap's JSON keys (`level`, `ts`, `caller`, `msg`, then the fields), which log pipelines made for etcd
//! parse, or text for people.
//!
//! [`init`] is called once by `main`, before anything else runs. Everything else logs through `tracing`.

use crate::config::{LogConfig, LogFormat, LogLevel, LogOutput};
use serde_json::Value;
use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Mutex;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;

/// Libraries that report every frame; they are heard one level later than the member itself.
const TALKATIVE: [&str; 4] = ["h2", "hyper", "hyper_util", "tower"];

/// It warns of every request that a member which is away does not answer, many times a second. What an operator must
/// know of that, the member says itself.
const CONSENSUS: &str = "openraft";

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
    /// [`init`] was called before.
    #[error("logging is set up already")]
    Twice,
}

/// Starts logging for the whole process.
///
/// # Errors
/// [`LogError`].
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let format =
        config.format.unwrap_or_else(|| if io::stderr().is_terminal() { LogFormat::Console } else { LogFormat::Json });
    let outputs = config.outputs.iter().map(Output::open).collect::<Result<Vec<_>, _>>()?;
    let subscriber = subscriber(config.level, format, Mutex::new(Fanout(outputs)));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)
}

fn subscriber<W>(level: LogLevel, format: LogFormat, outputs: Mutex<W>) -> impl Subscriber + Send + Sync
where
    W: Write + Send + 'static,
{
    let (own, libraries, consensus) = match level {
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::INFO, LevelFilter::INFO),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR, LevelFilter::ERROR),
    };
    let targets = TALKATIVE.map(|name| (name, libraries));
    let filter = Targets::new().with_default(own).with_targets(targets).with_target(CONSENSUS, consensus);
    let lines = tracing_subscriber::fmt::layer().event_format(Lines { format }).with_writer(outputs);
    tracing_subscriber::registry().with(filter).with(lines)
}

/// Where lines go.
enum Output {
    Stderr,
    Stdout,
    File(File),
}

impl Output {
    fn open(output: &LogOutput) -> Result<Self, LogError> {
        match output {
            LogOutput::Stderr => Ok(Self::Stderr),
            LogOutput::Stdout => Ok(Self::Stdout),
            LogOutput::File(path) => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(path)
                .map(Self::File)
                .map_err(|reason| LogError::Open { path: path.clone(), reason }),
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stderr => io::stderr().lock().write_all(line),
            Self::Stdout => io::stdout().lock().write_all(line),
            Self::File(file) => file.write_all(line),
        }
    }
}

/// Writes every line to all outputs. One that fails does not keep the others from their lines.
struct Fanout(Vec<Output>);

impl Write for Fanout {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut result = Ok(line.len());
        for output in &mut self.0 {
            if let Err(error) = output.write(line) {
                result = Err(error);
            }
        }
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().lock().flush()
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
        tracing::subscriber::with_default(subscriber(level, format, Mutex::new(sink.clone())), log);
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
        let outputs = paths.iter().map(|path| Output::open(&LogOutput::File(path.clone())).unwrap()).collect();
        let subscriber = subscriber(LogLevel::Info, LogFormat::Json, Mutex::new(Fanout(outputs)));
        tracing::subscriber::with_default(subscriber, || tracing::info!("hello"));
        for path in paths {
            assert!(std::fs::read_to_string(path).unwrap().contains("hello"));
        }
        let missing = Output::open(&LogOutput::File("/nonexistent/x.log".into())).err().unwrap();
        assert!(missing.to_string().starts_with("cannot open log file /nonexistent/x.log: "));
    }
}

//! Settings of traces and of the audit log.

use super::settings::{LogOutput, at_least_one};
use super::values::Values;
use std::path::PathBuf;

/// Of a million.
const MAX_SAMPLING_RATE: u32 = 1_000_000;

/// Where traces go, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceConfig {
    /// `host:port` of the collector.
    pub address: String,
    /// `service.name`.
    pub service_name: String,
    /// `service.instance.id`; empty means none.
    pub instance_id: String,
    /// Of a million calls that belong to no trace yet, how many begin one.
    pub sampling_rate: u32,
}

/// Where the audit log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// Where lines go: stderr, stdout or files.
    pub outputs: Vec<LogOutput>,
    /// When files are put aside.
    pub rotation: Rotation,
    /// Refuse what could not be recorded.
    pub is_required: bool,
}

/// When a file is put aside, and how many of them are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// A file does not grow beyond that.
    pub max_bytes: u64,
    /// Files put aside that are kept: `name.1` is the youngest.
    pub files: u32,
}

/// Outputs by name, each once.
pub(super) fn outputs(text: &str) -> Vec<LogOutput> {
    let mut outputs = Vec::new();
    for output in text.split(',').map(str::trim).filter(|output| !output.is_empty()) {
        let output = match output {
            "default" | "stderr" | "/dev/stderr" => LogOutput::Stderr,
            "stdout" | "/dev/stdout" => LogOutput::Stdout,
            path => LogOutput::File(PathBuf::from(path)),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    outputs
}

pub(super) fn traces(values: &Values) -> Result<Option<TraceConfig>, String> {
    let sampling_rate = values.number::<u32>("distributed-tracing-sampling-rate");
    if sampling_rate > MAX_SAMPLING_RATE {
        return Err(format!(
            "--distributed-tracing-sampling-rate must be from 0 to {MAX_SAMPLING_RATE} (set to {sampling_rate})"
        ));
    }
    let config = TraceConfig {
        address: values.text("distributed-tracing-address").to_owned(),
        service_name: values.text("distributed-tracing-service-name").to_owned(),
        instance_id: values.text("distributed-tracing-instance-id").to_owned(),
        sampling_rate,
    };
    Ok(values.boolean("enable-distributed-tracing").then_some(config))
}

pub(super) fn audit(values: &Values) -> Result<Option<AuditConfig>, String> {
    let outputs = outputs(values.text("audit-log-outputs"));
    let is_required = values.boolean("audit-log-required");
    if outputs.is_empty() {
        let refusal = "--audit-log-required needs --audit-log-outputs".to_owned();
        return if is_required { Err(refusal) } else { Ok(None) };
    }
    let max_bytes = at_least_one(values, "audit-log-max-megabytes")? << 20;
    let rotation = Rotation { max_bytes, files: values.number("audit-log-max-files") };
    Ok(Some(AuditConfig { outputs, rotation, is_required }))
}

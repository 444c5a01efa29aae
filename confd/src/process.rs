//! One resource from its keys to its file: render, compare, stage, check, replace. What follows, the reload, is for the
//! whole round (`runner.rs`).

use crate::command::{CommandError, CommandLine};
use crate::diff;
use crate::functions::{Context, functions};
use crate::keys::Keys;
use crate::resource::Resource;
use crate::settings::Settings;
use crate::source::Source;
use crate::stage::{self, Attributes, Difference, OldFile, Staged};
use crate::status::Status;
use crate::template::{Limits, Template, Value, strconv};
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What became of a resource.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The file is as it should be.
    Unchanged,
    /// It is, and its reload command did not run since it changed: the process was killed in between.
    NotReloaded(CommandLine),
    /// It is not, and nothing was done about it.
    WouldChange,
    /// It was replaced.
    Changed(Replaced),
}

/// A file that was replaced, with what it takes to undo it.
#[derive(Debug)]
pub(crate) struct Replaced {
    pub(crate) reload: Option<CommandLine>,
    /// What was there; None without a file, and for a resource that does not ask for its rollback.
    old: Option<OldFile>,
    attributes: Attributes,
}

impl Replaced {
    /// Puts the old file back, or takes the new one away if there was none. Only for a resource with `rollback`.
    pub(crate) fn undo(&self, dest: &Path) -> std::io::Result<()> {
        let Some(old) = &self.old else { return std::fs::remove_file(dest) };
        let put_back =
            |attributes| Staged::write(dest, &old.content, attributes)?.install(dest, &old.content, attributes);
        match put_back(old.attributes) {
            // Who replaced another user's file may not give it back.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                put_back(Attributes { mode: old.attributes.mode, ..self.attributes })
            }
            done => done,
        }
    }
}

/// A resource that can be rendered.
#[derive(Debug)]
pub(crate) struct Renderer {
    pub(crate) resource: Arc<Resource>,
    context: Context,
    /// The template as it was read last. Reading it again finds changes; parsing it again is not needed.
    compiled: Mutex<Option<(Vec<u8>, Arc<Template>)>>,
}

/// Reads and parses the template of a resource.
pub(crate) fn compile(resource: &Resource, context: &Context, source: &[u8]) -> Result<Template, String> {
    let name = resource.src.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let delims = (resource.delims.0.as_str(), resource.delims.1.as_str());
    Template::parse_with(&name, source, delims, &functions(resource.dialect, context))
        .map_err(|error| format!("Unable to process template {}, {error}", resource.src.display()))
}

/// The source of a resource's template.
pub(crate) fn read_template(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("Missing template: {}", path.display()),
        _ => format!("{}: {error}", path.display()),
    })
}

/// What functions of the resources can see of this process.
pub(crate) fn context(settings: &Settings, environment: &Arc<BTreeMap<String, String>>) -> Context {
    Context::new(environment.clone(), Some(settings.confdir.join("templates")))
}

impl Renderer {
    pub(crate) fn new(resource: Resource, context: Context) -> Self {
        Self { resource: Arc::new(resource), context, compiled: Mutex::new(None) }
    }

    fn template(&self) -> Result<Arc<Template>, String> {
        let source = read_template(&self.resource.src)?;
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        match &*compiled {
            Some((old, template)) if *old == source => Ok(template.clone()),
            _ => {
                let template = Arc::new(compile(&self.resource, &self.context, &source)?);
                *compiled = Some((source, template.clone()));
                Ok(template)
            }
        }
    }

    /// Blocks.
    fn render(&self, keys: Keys) -> Result<Vec<u8>, String> {
        let template = self.template()?;
        self.context.set_keys(Arc::new(keys));
        let rendered = template.render(&Value::Absent, &Limits::default());
        self.context.set_keys(Arc::default());
        rendered.map_err(|error| error.text)
    }

    /// Renders and compares. Blocks.
    fn prepare(&self, keys: Keys) -> Result<(Vec<u8>, Attributes, Option<Difference>), String> {
        let content = self.render(keys)?;
        let attributes = Attributes::of(&self.resource).map_err(|error| self.about_dest(&error))?;
        let difference = stage::compare(&self.resource.dest, &content, attributes);
        Ok((content, attributes, difference.map_err(|error| self.about_dest(&error))?))
    }

    fn about_dest(&self, error: &std::io::Error) -> String {
        let (dest, error) = (self.resource.dest.display().to_string(), error.to_string());
        if error.contains(&dest) { error } else { format!("{dest}: {error}") }
    }
}

/// Does everything for one resource but the reload.
pub(crate) async fn process(
    renderer: Arc<Renderer>,
    source: &Source,
    settings: &Settings,
    status: &Status,
) -> Result<Outcome, String> {
    let resource = renderer.resource.clone();
    let keys = source.read(&resource).await.inspect_err(|_| status.backend_errors.inc())?;
    tracing::debug!("{} has {} keys", resource.path.display(), keys.len());
    let blocking = renderer.clone();
    let prepared = tokio::task::spawn_blocking(move || blocking.prepare(keys)).await;
    let (content, attributes, difference) = prepared.map_err(|error| error.to_string())??;
    let dest = resource.dest.display();
    let Some(mut difference) = difference else {
        tracing::debug!("Target config {dest} in sync");
        if settings.keep_stage_file {
            stage_file(&renderer, content, attributes).await?.0.keep();
        }
        return not_reloaded(&resource, settings);
    };
    if !resource.rollback && !settings.diff {
        // Not kept through the commands: it can be large.
        difference.old = None;
    }
    for reason in &difference.reasons {
        tracing::info!("{reason}");
    }
    if settings.noop {
        return noop(&renderer, settings, content, attributes, &difference).await;
    }
    tracing::info!("Target config {dest} out of sync");
    let (staged, content) = stage_file(&renderer, content, attributes).await?;
    let src = staged.path.clone();
    if !settings.sync_only
        && let Some(check) = &resource.check
        && let Err(error) = run_check(check, &src, &resource.dest, status).await
    {
        if settings.keep_stage_file {
            staged.keep();
        }
        return Err(error);
    }
    let reload = reload_line(&resource, settings)?;
    let (blocking, reloads) = (renderer.clone(), reload.is_some());
    let installed = tokio::task::spawn_blocking(move || {
        let dest = &blocking.resource.dest;
        let install = || {
            if blocking.resource.backup {
                stage::back_up(dest)?;
            }
            if reloads {
                stage::mark(dest)?;
            }
            staged.install(dest, &content, attributes)
        };
        install().map_err(|error| blocking.about_dest(&error))
    });
    installed.await.map_err(|error| error.to_string())??;
    tracing::info!("Target config {dest} has been updated");
    Ok(Outcome::Changed(Replaced { reload, old: difference.old, attributes }))
}

/// The reload command of a resource, filled in.
pub(crate) fn reload_line(resource: &Resource, settings: &Settings) -> Result<Option<CommandLine>, String> {
    match &resource.reload {
        Some(reload) if !settings.sync_only => reload.for_reload(&resource.dest).map(Some),
        _ => Ok(None),
    }
}

fn not_reloaded(resource: &Resource, settings: &Settings) -> Result<Outcome, String> {
    match reload_line(resource, settings)? {
        Some(line) if !settings.noop && stage::is_marked(&resource.dest) => Ok(Outcome::NotReloaded(line)),
        _ => Ok(Outcome::Unchanged),
    }
}

async fn stage_file(
    renderer: &Arc<Renderer>,
    content: Vec<u8>,
    attributes: Attributes,
) -> Result<(Staged, Vec<u8>), String> {
    let renderer = renderer.clone();
    let write = move || {
        let dest = &renderer.resource.dest;
        if renderer.resource.make_dirs
            && let Some(directory) = dest.parent()
        {
            std::fs::create_dir_all(directory).map_err(|error| renderer.about_dest(&error))?;
        }
        let staged = Staged::write(dest, &content, attributes).map_err(|error| renderer.about_dest(&error))?;
        Ok((staged, content))
    };
    tokio::task::spawn_blocking(write).await.map_err(|error| error.to_string())?
}

async fn noop(
    renderer: &Arc<Renderer>,
    settings: &Settings,
    content: Vec<u8>,
    attributes: Attributes,
    difference: &Difference,
) -> Result<Outcome, String> {
    let dest = renderer.resource.dest.display();
    if settings.diff {
        let old = difference.old.as_ref().map_or(&[][..], |old| &old.content);
        let text = diff::unified(&dest.to_string(), old, &content, std::io::stdout().is_terminal());
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| format!("stdout: {error}"))?;
    }
    if settings.keep_stage_file {
        stage_file(renderer, content, attributes).await?.0.keep();
    }
    tracing::warn!("Noop mode enabled. {dest} will not be modified");
    Ok(Outcome::WouldChange)
}

/// Runs a command and counts it as one of this type.
pub(crate) async fn measured(line: &CommandLine, what: &str, status: &Status) -> Result<Vec<u8>, CommandError> {
    let began = Instant::now();
    let ended = line.run().await;
    status.command_seconds.with_label_values(&[what]).observe(began.elapsed().as_secs_f64());
    status.commands.with_label_values(&[what, if ended.is_ok() { "success" } else { "error" }]).inc();
    ended
}

async fn run_check(check: &CommandLine, src: &Path, dest: &Path, status: &Status) -> Result<(), String> {
    let line = check.for_check(src, dest).map_err(|error| format!("Config check failed: {error}"))?;
    match measured(&line, "check", status).await {
        Ok(output) => {
            log_output(&output);
            Ok(())
        }
        Err(error) => {
            tracing::error!("{}", strconv::quote(&error.output));
            Err(format!("Config check failed: {error}"))
        }
    }
}

/// What a command printed, as one line.
pub(crate) fn log_output(output: &[u8]) {
    if !output.is_empty() {
        tracing::debug!("{}", strconv::quote(output));
    }
}

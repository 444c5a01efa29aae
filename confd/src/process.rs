//! One resource from its keys to its file: render, compare, stage, check, replace. What follows, the reload, is for the
//! whole round (`runner.rs`).

use crate::command::{CommandError, CommandLine};
use crate::diff;
use crate::functions::{Context, Dialect, functions};
use crate::keys::Keys;
use crate::resource::Resource;
use crate::settings::Settings;
use crate::source::{ReadError, Source};
use crate::stage::{self, Attributes, Difference, OldFile, Staged};
use crate::status::Status;
use crate::template::{Functions, Limits, Template, Value};
use go::strconv;
use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use terminal::suggest::nearest;

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
        let put_back = |attributes| {
            let staged = Staged::write(dest, &old.content, attributes)?;
            staged.install(dest, &old.content, attributes).map_err(std::io::Error::from)
        };
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
    let functions = functions(resource.dialect, context);
    Template::parse_with(&name, source, delims, &functions).map_err(|error| {
        let hint = function_hint(&error, &functions, context);
        format!("Unable to process template {}, {error}{hint}", resource.src.display())
    })
}

/// What to do about a function that is not there.
fn function_hint(error: &str, functions: &Functions, context: &Context) -> String {
    let name = error.strip_suffix("\" not defined").and_then(|error| error.rsplit_once("function \""));
    let Some((_, name)) = name else { return String::new() };
    let other = [("confd", Dialect::Confd), ("abtreece", Dialect::Abtreece), ("yunify", Dialect::Yunify)]
        .into_iter()
        .find(|(_, dialect)| crate::functions::functions(*dialect, context).get(name).is_some());
    match other {
        Some((dialect, _)) => format!("; dialect = \"{dialect}\" has it"),
        None => nearest(name, functions.names()).map_or_else(String::new, |hint| format!("; did you mean {hint:?}?")),
    }
}

/// Refuses a destination without a directory.
pub(crate) fn check_directory(resource: &Resource) -> Result<(), String> {
    match resource.dest.parent() {
        Some(directory) if !resource.make_dirs && !directory.is_dir() => {
            Err(format!("the directory {} does not exist; make it, or set make_dirs = true", directory.display()))
        }
        _ => Ok(()),
    }
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
        let rendered = rendered.map_err(|error| error.text)?;
        if let Some(format) = self.resource.output_format {
            format.check(&rendered)?;
        }
        Ok(rendered)
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
    let keys = source.read(&resource).await.map_err(|error| match error {
        ReadError::Failed(error) => {
            status.backend_errors.inc();
            error
        }
        ReadError::Known(error) => error,
    })?;
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
        install(&blocking.resource, staged, &content, attributes, reloads).map_err(|error| blocking.about_dest(&error))
    });
    installed.await.map_err(|error| error.to_string())??;
    tracing::info!("Target config {dest} has been updated");
    Ok(Outcome::Changed(Replaced { reload, old: difference.old, attributes }))
}

/// Puts the staged file in its place, with what belongs to it. Blocks.
fn install(
    resource: &Resource,
    staged: Staged,
    content: &[u8],
    attributes: Attributes,
    reloads: bool,
) -> std::io::Result<()> {
    let dest = &resource.dest;
    if resource.backup {
        stage::back_up(dest)?;
    }
    let is_marked_anew = reloads && stage::mark(dest)?;
    staged.install(dest, content, attributes).map_err(|error| {
        // Nothing has changed that a reload could be owed for.
        if is_marked_anew
            && error.is_untouched
            && let Err(error) = stage::unmark(dest)
        {
            tracing::error!("{error}");
        }
        error.into()
    })
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
        check_directory(&renderer.resource)?;
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
        let coloured = settings.color || std::io::stdout().is_terminal();
        let text = diff::unified(&dest.to_string(), old, &content, settings.diff_context, coloured);
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
            log_failed_output(&error);
            Err(format!("Config check failed: {error}"))
        }
    }
}

/// What a command printed that failed, as one line.
pub(crate) fn log_failed_output(error: &CommandError) {
    if !error.output.is_empty() {
        tracing::error!("{}", strconv::quote(&error.output));
    }
}

/// What a command printed, as one line.
pub(crate) fn log_output(output: &[u8]) {
    if !output.is_empty() {
        tracing::debug!("{}", strconv::quote(output));
    }
}

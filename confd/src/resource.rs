//! Template resources: the files of `conf.d`, each of which says what is rendered where.

use crate::command::CommandLine;
use crate::format::OutputFormat;
use crate::functions::{Dialect, clean_path};
use crate::settings::Settings;
use crate::source;
use crate::table::{Entry, Table};
use crate::wait::{self, Wait};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use terminal::suggest::nearest;

/// One template, its destination and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The file of `conf.d`.
    pub path: PathBuf,
    /// The template.
    pub src: PathBuf,
    /// The file that is kept up to date.
    pub dest: PathBuf,
    /// Keys of the store, with the prefix: each means itself and everything below it.
    pub keys: Vec<String>,
    /// What templates do not see of the keys.
    pub prefix: String,
    /// Mode of the destination; None keeps it, or is 0644.
    pub mode: Option<u32>,
    /// Owner of the destination; None is this process's.
    pub uid: Option<u32>,
    /// Group of the destination; None is this process's.
    pub gid: Option<u32>,
    /// Runs on the rendered file before it gets its place.
    pub check: Option<CommandLine>,
    /// Runs after the file has changed.
    pub reload: Option<CommandLine>,
    /// Instead of the wait of the settings.
    pub wait: Option<Wait>,
    /// Whose functions the template has.
    pub dialect: Dialect,
    /// Delimiters of the template; empty ones are the usual.
    pub delims: (String, String),
    /// Keeps the file that was there as `DEST.bak`.
    pub backup: bool,
    /// Puts the old file back when the reload fails.
    pub rollback: bool,
    /// Makes the directories of the destination.
    pub make_dirs: bool,
    /// What the rendered text has to be.
    pub output_format: Option<OutputFormat>,
    /// Shortest time between two runs of the reload command.
    pub min_reload_interval: Duration,
}

/// Keys of `[template]` that are used.
const KEYS: [&str; 25] = [
    "src",
    "dest",
    "keys",
    "prefix",
    "mode",
    "uid",
    "gid",
    "owner",
    "group",
    "check_cmd",
    "reload_cmd",
    "check_cmd_timeout",
    "reload_cmd_timeout",
    "wait",
    "dialect",
    "left_delim",
    "right_delim",
    "left_delimiter",
    "right_delimiter",
    "backup",
    "rollback",
    "make_dirs",
    "output_format",
    "min_reload_interval",
    "debounce",
];

/// What a directory of resources holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Those that can be used, in the order of their paths.
    pub resources: Vec<Resource>,
    /// What is wrong with the others. They begin with the file.
    pub errors: Vec<String>,
    /// What has no effect or another one than it seems.
    pub warnings: Vec<String>,
}

/// Directories within each other below `conf.d`.
const MAX_DIRECTORY_DEPTH: usize = 32;

impl Loaded {
    /// Reads all files below `conf.d` whose names end with `toml`.
    ///
    /// # Errors
    /// If the directory cannot be read. A file that cannot be used is none of these.
    pub fn read(settings: &Settings) -> Result<Self, String> {
        let directory = settings.confdir.join("conf.d");
        let mut paths = Vec::new();
        find(&directory, &mut paths, 0)?;
        paths.sort();
        let mut loaded = Self::default();
        for path in paths {
            let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
            match read.and_then(|text| Resource::parse(&path, &text, settings, &mut loaded.warnings)) {
                Ok(resource) => loaded.resources.push(resource),
                Err(error) => loaded.errors.push(format!("{}:{error}", path.display())),
            }
        }
        loaded.leave_out_doubles();
        Ok(loaded)
    }

    /// Of resources with one dest the last one counts, as after a round of confd. Both would replace the file of the other
    /// again and again.
    fn leave_out_doubles(&mut self) {
        let last: BTreeMap<PathBuf, PathBuf> =
            self.resources.iter().map(|resource| (resource.dest.clone(), resource.path.clone())).collect();
        let warnings = &mut self.warnings;
        self.resources.retain(|resource| {
            let other = &last[&resource.dest];
            if *other != resource.path {
                let (path, dest) = (resource.path.display(), resource.dest.display());
                warnings.push(format!("{path}: it is left out: {} has the dest {dest}, too", other.display()));
            }
            *other == resource.path
        });
    }
}

/// What the kubelet keeps the files of a mounted `ConfigMap` in begins so; links to them are beside it.
pub(crate) fn is_of_kubelet(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"..")
}

fn find(directory: &Path, paths: &mut Vec<PathBuf>, depth: usize) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    if depth > MAX_DIRECTORY_DEPTH {
        return Err(format!("{}: more than {MAX_DIRECTORY_DEPTH} directories within each other", directory.display()));
    }
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let path = entry.path();
        if is_of_kubelet(&entry.file_name()) {
            continue;
        }
        if entry.file_type().map_err(failed)?.is_dir() {
            find(&path, paths, depth + 1)?;
        } else if path.as_os_str().as_encoded_bytes().ends_with(b"toml") {
            paths.push(path);
        }
    }
    Ok(())
}

impl Resource {
    /// Reads one file. The error begins with the line.
    fn parse(path: &Path, text: &str, settings: &Settings, warnings: &mut Vec<String>) -> Result<Self, String> {
        let table = Table::parse(text)?;
        for entry in table.entries() {
            match entry.name().as_str() {
                "template" => {}
                "backend" => return Err(format!("{}: [backend] is not there yet; use the settings", entry.line)),
                _ => {
                    warnings.push(format!(
                        "{}:{}: {:?} is not used, only [template] is",
                        path.display(),
                        entry.line,
                        entry.key
                    ));
                }
            }
        }
        let Some(entries) = table.table("template")? else { return Err("1: there is no [template]".to_owned()) };
        let mut draft = Draft::default();
        for entry in &entries {
            draft.take(entry, path, warnings)?;
        }
        draft.finish(path, settings)
    }

    /// True if a key of the store is one that the template sees.
    pub fn wants(&self, key: &[u8]) -> bool {
        self.keys.iter().any(|wanted| covers(wanted, key))
    }
}

/// True if a key is the wanted one or below it.
pub(crate) fn covers(wanted: &str, key: &[u8]) -> bool {
    match key.strip_prefix(wanted.as_bytes()) {
        Some(rest) => rest.is_empty() || wanted == "/" || rest[0] == b'/',
        None => false,
    }
}

/// A resource while its keys are read.
#[derive(Default)]
struct Draft {
    src: Option<String>,
    dest: Option<String>,
    keys: Vec<String>,
    keys_line: usize,
    prefix: String,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    owner: Option<u32>,
    group: Option<u32>,
    check: Option<CommandLine>,
    reload: Option<CommandLine>,
    check_timeout: Option<Duration>,
    reload_timeout: Option<Duration>,
    wait: Option<Wait>,
    dialect: Option<Dialect>,
    delims: (String, String),
    backup: bool,
    rollback: bool,
    make_dirs: bool,
    output_format: Option<OutputFormat>,
    min_reload_interval: Duration,
}

impl Draft {
    fn take(&mut self, entry: &Entry<'_>, path: &Path, warnings: &mut Vec<String>) -> Result<(), String> {
        let here = |error: String| format!("{}: {}: {error}", entry.line, entry.key);
        match entry.name().as_str() {
            // In confd an empty string is what a key has that is not given.
            "mode"
            | "owner"
            | "group"
            | "check_cmd_timeout"
            | "reload_cmd_timeout"
            | "output_format"
            | "min_reload_interval"
                if entry.text().is_ok_and(|text| text.is_empty()) => {}
            "src" => self.src = Some(entry.text()?),
            "dest" => {
                let dest = entry.text()?;
                if !dest.is_empty() && !Path::new(&dest).is_absolute() {
                    let place = format!("{}:{}", path.display(), entry.line);
                    warnings
                        .push(format!("{place}: dest {dest:?} is relative to the directory that confd is started in"));
                }
                self.dest = Some(dest);
            }
            "keys" => (self.keys, self.keys_line) = (entry.texts()?, entry.line),
            "prefix" => self.prefix = entry.text()?,
            "mode" => {
                let text = entry.text_or_number()?;
                let (mode, is_odd) = parse_mode(&text).map_err(here)?;
                if is_odd {
                    let place = format!("{}:{}", path.display(), entry.line);
                    warnings.push(format!("{place}: mode {text:?} is taken for octal; write \"0{text}\""));
                }
                self.mode = Some(mode);
            }
            "uid" => self.uid = Some(entry.number()?),
            "gid" => self.gid = Some(entry.number()?),
            "owner" => self.owner = Some(id_of("/etc/passwd", &entry.text_or_number()?).map_err(here)?),
            "group" => self.group = Some(id_of("/etc/group", &entry.text_or_number()?).map_err(here)?),
            "check_cmd" => self.check = command_line(entry)?,
            "reload_cmd" => self.reload = command_line(entry)?,
            "check_cmd_timeout" => self.check_timeout = Some(wait::duration(&entry.text()?).map_err(here)?),
            "reload_cmd_timeout" => self.reload_timeout = Some(wait::duration(&entry.text()?).map_err(here)?),
            "wait" | "debounce" => self.wait = Some(entry.text()?.parse().map_err(here)?),
            "dialect" => self.dialect = Some(entry.text()?.parse().map_err(here)?),
            "left_delim" | "left_delimiter" => self.delims.0 = entry.text()?,
            "right_delim" | "right_delimiter" => self.delims.1 = entry.text()?,
            "backup" => self.backup = entry.bool()?,
            "rollback" => self.rollback = entry.bool()?,
            "make_dirs" => self.make_dirs = entry.bool()?,
            "output_format" => self.output_format = Some(entry.text()?.parse().map_err(here)?),
            "min_reload_interval" => self.min_reload_interval = wait::duration(&entry.text()?).map_err(here)?,
            key => {
                let hint = nearest(key, KEYS.into_iter());
                let hint = hint.map_or_else(String::new, |hint| format!("; did you mean {hint:?}?"));
                warnings.push(format!("{}:{}: {key:?} is no key of [template]{hint}", path.display(), entry.line));
            }
        }
        Ok(())
    }

    fn finish(self, path: &Path, settings: &Settings) -> Result<Resource, String> {
        let present =
            |text: Option<String>, error: &str| text.filter(|text| !text.is_empty()).ok_or(format!("1: {error}"));
        let src = present(self.src, "empty src template")?;
        let dest = present(self.dest, "there is no dest")?;
        let dest = std::path::absolute(&dest)
            .ok()
            .filter(|path| path.file_name().is_some() && !dest.ends_with('/'))
            .ok_or_else(|| format!("1: dest {dest:?} must be the path of a file"))?;
        let prefix = match settings.dialect {
            // Its prefixes are joined.
            Dialect::Abtreece => format!("{}/{}", settings.prefix, self.prefix),
            _ if settings.prefix.is_empty() => self.prefix,
            _ => settings.prefix.clone(),
        };
        let joined = |parts: &[&str]| {
            String::from_utf8_lossy(&clean_path(format!("/{}", parts.join("/")).as_bytes())).into_owned()
        };
        let prefix = joined(&[&prefix]);
        let keys: Vec<String> = self.keys.iter().map(|key| joined(&[&prefix, key])).collect();
        keys.iter()
            .try_for_each(|key| source::check_key(settings.backend, key))
            .map_err(|error| format!("{}: keys: {error}", self.keys_line))?;
        let with_timeout = |line: Option<CommandLine>, timeout: Option<Duration>, default: Duration| {
            line.map(|line| line.with_timeout(timeout.unwrap_or(default)))
        };
        Ok(Resource {
            path: path.to_owned(),
            src: settings.confdir.join("templates").join(src),
            dest,
            keys,
            prefix,
            mode: self.mode,
            uid: self.uid.or(self.owner),
            gid: self.gid.or(self.group),
            check: with_timeout(self.check, self.check_timeout, settings.check_timeout),
            reload: with_timeout(self.reload, self.reload_timeout, settings.reload_timeout),
            wait: self.wait,
            dialect: self.dialect.unwrap_or(settings.dialect),
            delims: self.delims,
            backup: self.backup,
            rollback: self.rollback,
            make_dirs: self.make_dirs,
            output_format: self.output_format,
            min_reload_interval: self.min_reload_interval,
        })
    }
}

fn command_line(entry: &Entry<'_>) -> Result<Option<CommandLine>, String> {
    let line = if entry.is_list() { CommandLine::list(entry.texts()?) } else { CommandLine::shell(entry.text()?) };
    Ok(Some(line).filter(|line| !line.is_empty()))
}

/// A mode as Go reads it: `0644`, `0o644`, `0x1a4`. One without a prefix is decimal there and gives a mode that nobody
/// wants; here it is octal, and the second part true.
fn parse_mode(text: &str) -> Result<(u32, bool), String> {
    let is_bare = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    let digits = if is_bare { format!("0{text}") } else { text.to_owned() };
    let mode = go::strconv::parse_uint(digits.as_bytes(), 0)
        .map_err(|error| format!("strconv.ParseUint: parsing {text:?}: {}; write it as \"0644\"", error.reason))?;
    match u32::try_from(mode) {
        Ok(mode) if mode <= 0o7777 => Ok((mode, is_bare)),
        _ => Err(format!("{text:?} is no mode of a file; write it as \"0644\"")),
    }
}

/// The number of a user or group by name, or of one that is a number already.
fn id_of(file: &str, name: &str) -> Result<u32, String> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let fields = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let mut found =
        fields.filter(|fields| fields.first() == Some(&name)).filter_map(|fields| fields.get(2)?.parse().ok());
    found.next().ok_or_else(|| format!("{file} has no {name:?}"))
}

#[cfg(test)]
impl Resource {
    /// A resource with these keys and nothing else.
    pub(crate) fn for_tests(keys: &[&str]) -> Self {
        Self {
            path: "a.toml".into(),
            src: "a".into(),
            dest: "/a".into(),
            keys: keys.iter().map(|&key| key.to_owned()).collect(),
            prefix: "/".to_owned(),
            mode: None,
            uid: None,
            gid: None,
            check: None,
            reload: None,
            wait: None,
            dialect: Dialect::default(),
            delims: (String::new(), String::new()),
            backup: false,
            rollback: false,
            make_dirs: false,
            output_format: None,
            min_reload_interval: Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal() {
        assert_eq!(parse_mode("0644"), Ok((0o644, false)));
        assert_eq!(parse_mode("0o600"), Ok((0o600, false)));
        assert_eq!(parse_mode("0x1a4"), Ok((0o644, false)));
        assert_eq!(parse_mode("644"), Ok((0o644, true)));
        let error = "strconv.ParseUint: parsing \"rw\": invalid syntax; write it as \"0644\"";
        assert_eq!(parse_mode("rw"), Err(error.to_owned()));
        assert_eq!(parse_mode("077777"), Err("\"077777\" is no mode of a file; write it as \"0644\"".to_owned()));
    }

    #[test]
    fn an_empty_string_says_nothing() {
        let text =
            "[template]\nmode = \"\"\nowner = \"\"\ngroup = \"\"\noutput_format = \"\"\nmin_reload_interval = \"\"\n";
        let mut warnings = Vec::new();
        let mut draft = Draft::default();
        for entry in &Table::parse(text).unwrap().table("template").unwrap().unwrap() {
            draft.take(entry, Path::new("t.toml"), &mut warnings).unwrap();
        }
        assert_eq!((draft.mode, draft.owner, draft.group, draft.output_format.is_none()), (None, None, None, true));
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn a_key_covers_what_is_below_it() {
        assert!(covers("/app", b"/app") && covers("/app", b"/app/name") && covers("/", b"/x"));
        assert!(!covers("/app", b"/apple") && !covers("/app/x", b"/app"));
    }
}

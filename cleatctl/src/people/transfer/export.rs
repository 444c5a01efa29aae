//! `export [PREFIX]`.

use super::{Entries, Kind, STANDARD, directory, document, dotenv};
use crate::people::pages::Pages;
use crate::people::{Session, print, text};
use anyhow::{Context as _, Result, ensure};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct ExportArgs {
    /// What the keys begin with, and what the file does not have of them.
    pub(crate) prefix: Vec<u8>,
    /// File or directory; `-` is standard output.
    pub(crate) output: String,
    /// None: what the output's name says, else YAML.
    pub(crate) kind: Option<Kind>,
    /// The parts of keys are maps within maps.
    pub(crate) is_nested: bool,
    /// 0 is the present one.
    pub(crate) rev: i64,
}

/// Writes the keys of a prefix, all as they were at one revision.
///
/// # Errors
/// The cluster's or the file system's; a key or value that the format cannot have.
pub(crate) async fn export(session: &Session, args: &ExportArgs) -> Result<()> {
    session.only_text("export")?;
    let default = (args.output == STANDARD).then_some(Kind::Yaml);
    let kind = Kind::choose(args.kind, &args.output, default)?;
    ensure!(kind != Kind::Directory || args.output != STANDARD, "name a new directory with --output");
    ensure!(
        !args.is_nested || matches!(kind, Kind::Yaml | Kind::Json),
        "only YAML and JSON have maps within maps; leave --nested out"
    );
    let prefix = args.prefix.as_slice();
    let mut pages = Pages::new(&session.client()?, prefix, args.rev);
    let mut entries = Entries::default();
    while let Some(kv) = pages.next().await? {
        let name = kv.key.strip_prefix(prefix).unwrap_or(&kv.key);
        entries.add(name.to_vec(), kv.value.to_vec())?;
    }
    let entries = entries.sorted()?;
    let file = match kind {
        Kind::Yaml => document::to_yaml(&entries, args.is_nested)?,
        Kind::Json => document::to_json(&entries, args.is_nested)?,
        Kind::Dotenv => dotenv::write(&entries)?,
        Kind::Directory => {
            directory::write(&entries, Path::new(&args.output))?;
            String::new()
        }
    };
    if args.output == STANDARD {
        return print(&file);
    }
    if kind != Kind::Directory {
        replace(Path::new(&args.output), file.as_bytes())?;
    }
    let keys = text::count(entries.len(), "key", "keys");
    print(&format!("{keys} written to {}, as of revision {}\n", args.output, pages.revision()))
}

/// Writes a file that appears whole or not at all, and that only this user can read: values may be secrets.
fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    let named = || format!("cannot write {}", path.display());
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .map_or_else(|| PathBuf::from("."), Path::to_owned);
    let mut file = tempfile::NamedTempFile::new_in(parent).with_context(named)?;
    file.write_all(contents).and_then(|()| file.as_file().sync_all()).with_context(named)?;
    file.persist(path).map_err(|error| error.error).with_context(named)?;
    Ok(())
}

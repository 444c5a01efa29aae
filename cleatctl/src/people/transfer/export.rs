//! `export [PREFIX]`.

use super::{BYTES_MAX, Entries, Kind, STANDARD, directory, document, dotenv};
use crate::people::pages::Pages;
use crate::people::{Session, print, text};
use anyhow::{Context as _, Result, ensure};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
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
    // With its quotes it may be larger than what went in.
    ensure!(
        file.len() <= BYTES_MAX,
        "the file would have more than {} MiB, which import does not take; name a longer prefix, or --format dir",
        BYTES_MAX >> 20
    );
    if args.output == STANDARD {
        return print(&file);
    }
    let is_kept = kind == Kind::Directory || write(Path::new(&args.output), &file)?;
    let keys = text::count(entries.len(), "key", "keys");
    let done = format!("{keys} written to {}, as of revision {}\n", args.output, pages.revision());
    if is_kept {
        return print(&done);
    }
    // Standard output may be what the keys were written to.
    tell!("{}", done.trim_end());
    Ok(())
}

/// Writes to standard output by whatever name, to a device or a pipe, or makes a file. Returns true for a file that was made.
fn write(path: &Path, contents: &str) -> Result<bool> {
    // Asked before links are followed by name: what a shell has behind `/dev/stdout` or `>(command)` has none.
    let found = std::fs::metadata(path).ok();
    if found.as_ref().is_some_and(|found| is_of(found, std::io::stdout().as_fd())) {
        // A file that the shell has opened: what it has already stays before the keys.
        print(contents)?;
        return Ok(false);
    }
    if found.is_some_and(|found| !found.is_file()) {
        let written = OpenOptions::new().write(true).open(path);
        let written = written.and_then(|mut stream| stream.write_all(contents.as_bytes()));
        written.with_context(|| format!("cannot write {}", path.display()))?;
        return Ok(false);
    }
    replace(path, contents.as_bytes())?;
    Ok(true)
}

/// True if a file that is open is this one.
fn is_of(named: &Metadata, open: BorrowedFd<'_>) -> bool {
    let open = open.try_clone_to_owned().and_then(|open| File::from(open).metadata());
    open.is_ok_and(|open| (open.dev(), open.ino()) == (named.dev(), named.ino()))
}

/// Writes a file that appears whole or not at all, and that only this user can read: values may be secrets. Behind a link the
/// file that it leads to is replaced.
fn replace(path: &Path, contents: &[u8]) -> Result<()> {
    let named = || format!("cannot write {}", path.display());
    let target = match std::fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == ErrorKind::NotFound && std::fs::symlink_metadata(path).is_err() => {
            path.to_owned()
        }
        // A link that leads nowhere is one of them.
        Err(error) => return Err(anyhow::Error::from(error).context(named())),
    };
    let parent = target
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .map_or_else(|| PathBuf::from("."), Path::to_owned);
    let mut file = tempfile::NamedTempFile::new_in(parent).with_context(named)?;
    file.write_all(contents).and_then(|()| file.as_file().sync_all()).with_context(named)?;
    file.persist(&target).map_err(|error| error.error).with_context(named)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};

    #[test]
    fn what_is_no_file_is_written_to_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        assert!(write(&file, "one").unwrap());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        symlink(&file, &link).unwrap();
        assert!(write(&link, "two").unwrap());
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        // A pipe with a reader.
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || {
                let mut text = String::new();
                File::open(pipe).unwrap().read_to_string(&mut text).unwrap();
                text
            }
        });
        assert!(!write(&pipe, "three").unwrap());
        assert_eq!(reader.join().unwrap(), "three");
        assert!(std::fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
        // A link to nothing is not what anybody meant to write.
        std::fs::remove_file(&file).unwrap();
        assert!(write(&link, "four").unwrap_err().to_string().starts_with("cannot write "));
    }
}

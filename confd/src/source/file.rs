//! Files of YAML, JSON or TOML as keys: `{"a": {"b": [1]}}` is `/a/b/0`. Later files win.

use super::{Change, Entries};
use crate::template::{Text, strconv};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// Between two looks at the files, in watch mode.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const MAX_FILE_BYTES: u64 = 64 << 20;
const MAX_FILES: usize = 10_000;
const MAX_DEPTH: usize = 64;

/// Files and directories.
pub(crate) struct Files {
    paths: Vec<PathBuf>,
    filter: regex::Regex,
    /// What was seen last, while they are followed.
    seen: Vec<Seen>,
    /// What a round reads, once for all resources.
    read: OnceCell<Arc<Entries>>,
}

/// The Debug output has no values.
impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { paths, filter, seen: _, read: _ } = self;
        f.debug_struct("Files").field("paths", paths).field("filter", filter).finish_non_exhaustive()
    }
}

/// How a file looked: another one looks different.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    modified: Option<std::time::SystemTime>,
    len: u64,
    inode: u64,
}

impl Files {
    pub(super) fn new(paths: Vec<PathBuf>, filter: &str) -> Result<Self, String> {
        let mut pattern = String::from("^");
        for c in filter.chars() {
            match c {
                '*' => pattern.push_str(".*"),
                '?' => pattern.push('.'),
                '[' | ']' | '-' | '^' => pattern.push(c),
                c => pattern.push_str(&regex::escape(&c.to_string())),
            }
        }
        pattern.push('$');
        let filter = regex::Regex::new(&pattern).map_err(|_| format!("-filter {filter:?} is no pattern of a shell"))?;
        Ok(Self { paths, filter, seen: Vec::new(), read: OnceCell::new() })
    }

    /// The files that are there now, those of a directory in order.
    fn list(&self) -> Result<Vec<PathBuf>, String> {
        let mut found = Vec::new();
        for path in &self.paths {
            self.find(path, &mut found, 0)?;
        }
        Ok(found)
    }

    fn find(&self, path: &Path, found: &mut Vec<PathBuf>, depth: usize) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        if !std::fs::metadata(path).map_err(failed)?.is_dir() {
            found.push(path.to_owned());
            return Ok(());
        }
        if depth > MAX_DEPTH || found.len() > MAX_FILES {
            return Err(format!("{}: too many files or directories within each other", path.display()));
        }
        let mut entries = std::fs::read_dir(path).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let is_dir = entry.file_type().map_err(failed)?.is_dir();
            if is_dir || self.filter.is_match(&entry.file_name().to_string_lossy()) {
                self.find(&entry.path(), found, depth + 1)?;
            }
        }
        Ok(())
    }

    /// All keys, read once until [`Files::forget`]. What failed is tried again.
    pub(super) async fn read(&self) -> Result<Arc<Entries>, String> {
        self.read.get_or_try_init(|| async { self.read_now().await.map(Arc::new) }).await.cloned()
    }

    /// The end of a round.
    pub(super) fn forget(&mut self) {
        self.read = OnceCell::new();
    }

    async fn read_now(&self) -> Result<Entries, String> {
        let paths = self.list()?;
        let read = move || {
            let mut entries = Entries::new();
            for path in paths {
                read_file(&path, &mut entries).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            Ok(entries)
        };
        tokio::task::spawn_blocking(read).await.map_err(|error| error.to_string())?
    }

    fn look(&self) -> Result<Vec<Seen>, String> {
        use std::os::unix::fs::MetadataExt as _;
        let seen = |path: PathBuf| {
            let metadata = std::fs::metadata(&path).ok()?;
            Some(Seen { modified: metadata.modified().ok(), len: metadata.len(), inode: metadata.ino(), path })
        };
        Ok(self.list()?.into_iter().filter_map(seen).collect())
    }

    /// A file that is away for a moment is found by [`Files::changed`].
    pub(super) fn follow(&mut self) {
        self.seen = self.look().unwrap_or_default();
    }

    pub(super) async fn changed(&mut self) -> Change {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            // A file that is away for a moment is looked for again.
            if let Ok(seen) = self.look()
                && seen != self.seen
            {
                self.seen = seen;
                return Change::Everything;
            }
        }
    }
}

/// Reads one file. The error names the place, and shows nothing of what is there.
fn read_file(path: &Path, entries: &mut Entries) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let len = std::fs::metadata(path).map_err(failed)?.len();
    if len > MAX_FILE_BYTES {
        return Err(format!("it has {len} bytes, the limit is {MAX_FILE_BYTES}"));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let document: serde_json::Value = if path.extension().is_some_and(|extension| extension == "toml") {
        // The error's whole text shows the source's line, which may hold a secret.
        toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            format!("line {}: {}", 1 + before.matches('\n').count(), error.message().replace('\n', "; "))
        })?
    } else {
        // JSON is YAML, too.
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(&text, options).map_err(|error| error.to_string())?
    };
    flatten(&document, "", 0, entries)
}

fn flatten(value: &serde_json::Value, key: &str, depth: usize, entries: &mut Entries) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("more than {MAX_DEPTH} levels within each other"));
    }
    let text = match value {
        serde_json::Value::Null => return Ok(()),
        serde_json::Value::Object(object) => {
            return object
                .iter()
                .try_for_each(|(name, value)| flatten(value, &format!("{key}/{name}"), depth + 1, entries));
        }
        serde_json::Value::Array(items) => {
            let mut numbered = items.iter().enumerate();
            return numbered
                .try_for_each(|(number, value)| flatten(value, &format!("{key}/{number}"), depth + 1, entries));
        }
        serde_json::Value::Bool(truth) => truth.to_string(),
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => strconv::format_float(float, 'f', None),
            _ => number.to_string(),
        },
    };
    entries.insert(Text::from(key.as_bytes()), Text::from(text.as_bytes()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_show_nothing_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text, place) in [
            ("a.toml", "a = 1\npassword = hunter2\n", "line 2"),
            ("b.toml", "password = \"hunter2\n", "line 1"),
            ("c.toml", "hunter2\n", "line 1"),
            ("a.yaml", "a: 1\npassword: \"hunter2\nb: 2\n", "line"),
            ("b.yaml", "a: 1\n password: [hunter2\n", "line"),
            ("a.json", "{\"a\": 1,\n\"password\": \"hunter2\"", "line"),
        ] {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            let error = read_file(&path, &mut Entries::new()).unwrap_err();
            assert!(error.contains(place) && !error.contains("hunter2"), "{name}: {error}");
        }
    }

    #[tokio::test]
    async fn a_round_reads_the_files_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        let write = |value: &str| std::fs::write(&path, format!("a: {value}\n")).unwrap();
        let mut files = Files::new(vec![path.clone()], "*").unwrap();
        let value = async |files: &Files| files.read().await.map(|entries| entries[&b"/a"[..]].to_vec());
        assert!(value(&files).await.is_err());
        write("one");
        assert_eq!(value(&files).await, Ok(b"one".to_vec()));
        write("two");
        assert_eq!(value(&files).await, Ok(b"one".to_vec()));
        files.forget();
        assert_eq!(value(&files).await, Ok(b"two".to_vec()));
    }
}

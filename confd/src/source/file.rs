//! Files of YAML, JSON or TOML as keys: `{"a": {"b": [1]}}` is `/a/b/0`. Later files win.

use super::leaves::Rules;
use super::{Change, Entries};
use crate::resource::is_of_kubelet;
use go::strconv;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Between two looks at the files, in watch mode.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const MAX_FILE_BYTES: u64 = 64 << 20;
const MAX_FILES: usize = 10_000;
const MAX_DEPTH: usize = 64;
/// Null is no key, as in confd.
const RULES: Rules = Rules { null: None, names_elements: false, max_depth: MAX_DEPTH };

/// Files and directories.
pub(crate) struct Files {
    places: Arc<Places>,
    /// What was seen last, while they are followed.
    seen: Vec<Seen>,
    next_look: Instant,
    /// A look that has begun.
    looking: Option<JoinHandle<Result<Vec<Seen>, String>>>,
    /// What a round reads, once for all resources.
    read: OnceCell<Arc<Entries>>,
}

/// The Debug output has no values.
impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("places", &self.places).finish_non_exhaustive()
    }
}

/// Where files are. Everything here blocks.
#[derive(Debug)]
struct Places {
    paths: Vec<PathBuf>,
    filter: regex::Regex,
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
        let places = Arc::new(Places { paths, filter });
        Ok(Self { places, seen: Vec::new(), next_look: Instant::now(), looking: None, read: OnceCell::new() })
    }

    /// All keys, read once until [`Files::forget`]. What failed is tried again.
    pub(super) async fn read(&self) -> Result<Arc<Entries>, String> {
        let read = async || blocking(&self.places, Places::read).await?.map(Arc::new);
        self.read.get_or_try_init(read).await.cloned()
    }

    /// The end of a round.
    pub(super) fn forget(&mut self) {
        self.read = OnceCell::new();
    }

    /// A file that is away for a moment is found by [`Files::changed`].
    pub(super) async fn follow(&mut self) {
        self.looking = None;
        self.seen = blocking(&self.places, Places::look).await.flatten().unwrap_or_default();
        self.next_look = Instant::now() + LOOK_INTERVAL;
    }

    /// The next change. Cancel safe: what has begun goes on at the next call, however soon each is given up.
    pub(super) async fn changed(&mut self) -> Change {
        loop {
            if self.looking.is_none() {
                tokio::time::sleep_until(self.next_look).await;
            }
            let places = self.places.clone();
            let looking = self.looking.get_or_insert_with(|| tokio::task::spawn_blocking(move || places.look()));
            let seen = looking.await;
            self.looking = None;
            self.next_look = Instant::now() + LOOK_INTERVAL;
            // A file that is away for a moment is looked for again.
            if let Ok(Ok(seen)) = seen
                && seen != self.seen
            {
                self.seen = seen;
                return Change::Everything;
            }
        }
    }
}

/// Does work that blocks where that is allowed.
async fn blocking<T: Send + 'static>(
    places: &Arc<Places>,
    work: impl FnOnce(&Places) -> T + Send + 'static,
) -> Result<T, String> {
    let places = places.clone();
    tokio::task::spawn_blocking(move || work(&places)).await.map_err(|error| error.to_string())
}

impl Places {
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
        for entry in entries.iter().filter(|entry| !is_of_kubelet(&entry.file_name())) {
            let is_dir = entry.file_type().map_err(failed)?.is_dir();
            if is_dir || self.filter.is_match(&entry.file_name().to_string_lossy()) {
                self.find(&entry.path(), found, depth + 1)?;
            }
        }
        Ok(())
    }

    /// All keys.
    fn read(&self) -> Result<Entries, String> {
        let mut entries = Entries::new();
        for path in self.list()? {
            read_file(&path, &mut entries).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(entries)
    }

    /// How all files look.
    fn look(&self) -> Result<Vec<Seen>, String> {
        use std::os::unix::fs::MetadataExt as _;
        let seen = |path: PathBuf| {
            let metadata = std::fs::metadata(&path).ok()?;
            Some(Seen { modified: metadata.modified().ok(), len: metadata.len(), inode: metadata.ino(), path })
        };
        Ok(self.list()?.into_iter().filter_map(seen).collect())
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
        let document = toml::from_str(&text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            format!("line {}: {}", 1 + before.matches('\n').count(), error.message().replace('\n', "; "))
        })?;
        as_json(toml::Value::Table(document))
    } else {
        // JSON is YAML, too.
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(&text, options).map_err(|error| error.to_string())?
    };
    RULES.add(&document, "", entries)
}

/// A document of TOML with what JSON has: times, and numbers that it has not, become texts. The depth is bounded by what the
/// parser takes.
fn as_json(value: toml::Value) -> serde_json::Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) if number.is_finite() => number.into(),
        toml::Value::Float(number) => strconv::format_float(number, 'f', None).into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(as_json).collect(),
        toml::Value::Table(table) => table.into_iter().map(|(name, value)| (name, as_json(value))).collect(),
    }
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

    #[test]
    fn yaml_json_and_toml_give_the_same_keys() {
        let directory = tempfile::tempdir().unwrap();
        let expected = "/at=1979-05-27T07:32:00Z /big=1000000000000000000000 /day=2024-02-29 /f=1.5 /list/0=x /list/1/a=b \
                        /n=-7 /t/name=z /up=true";
        for (name, text) in [
            (
                "a.toml",
                "at = 1979-05-27T07:32:00Z\nbig = 1e21\nday = 2024-02-29\nf = 1.5\nlist = [\"x\", {a = \"b\"}]\nn = -7\nup = true\n[t]\nname = \"z\"\n",
            ),
            (
                "a.yaml",
                "at: 1979-05-27T07:32:00Z\nbig: 1e21\nday: 2024-02-29\nf: 1.5\nlist: [x, {a: b}]\nn: -7\nup: true\nt:\n  name: z\nno: null\n",
            ),
            (
                "a.json",
                r#"{"at": "1979-05-27T07:32:00Z", "big": 1e21, "day": "2024-02-29", "f": 1.5, "list": ["x", {"a": "b"}], "n": -7, "up": true, "t": {"name": "z"}, "no": null}"#,
            ),
        ] {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            let mut entries = Entries::new();
            read_file(&path, &mut entries).unwrap();
            let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let found: Vec<String> =
                entries.iter().map(|(key, value)| format!("{}={}", shown(key), shown(value))).collect();
            assert_eq!(found.join(" "), expected, "{name}");
        }
        let path = directory.path().join("b.toml");
        std::fs::write(&path, "a = inf\nb = nan\n").unwrap();
        let mut entries = Entries::new();
        read_file(&path, &mut entries).unwrap();
        assert_eq!((&entries[&b"/a"[..]][..], &entries[&b"/b"[..]][..]), (&b"+Inf"[..], &b"NaN"[..]));
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

    #[tokio::test]
    async fn a_change_is_found_however_soon_each_wait_for_it_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        std::fs::write(&path, "a: one\n").unwrap();
        let mut files = Files::new(vec![path.clone()], "*").unwrap();
        files.follow().await;
        std::fs::write(&path, "a: another\n").unwrap();
        let found = async { while tokio::time::timeout(Duration::from_millis(10), files.changed()).await.is_err() {} };
        assert!(tokio::time::timeout(Duration::from_mins(1), found).await.is_ok());
    }
}

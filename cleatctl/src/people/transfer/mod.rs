//! `export` and `import`: keys as YAML, JSON, a dotenv file, or a directory with a file for each key.
//!
//! A file has what is behind the prefix of a key, so what was exported from one prefix can be imported to another. YAML, JSON
//! and directories give back exactly what went in; names in a dotenv file are made from keys and stay what they are.

mod directory;
mod document;
mod dotenv;
mod export;
mod import;

pub(crate) use export::{ExportArgs, export};
pub(crate) use import::{ImportArgs, import};

use anyhow::{Result, bail, ensure};
use std::path::Path;
use std::str::FromStr;

/// What a file may have: more is a case for `snapshot save`.
const BYTES_MAX: usize = 256 << 20;

/// The name that means standard input or output.
const STANDARD: &str = "-";

/// A form of keys and values outside of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Yaml,
    Json,
    Dotenv,
    Directory,
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "yaml" => Self::Yaml,
            "json" => Self::Json,
            "dotenv" => Self::Dotenv,
            "dir" => Self::Directory,
            _ => bail!("{text:?} is no format; the formats are yaml, json, dotenv and dir"),
        })
    }
}

impl Kind {
    /// What a path's name says.
    fn of(path: &str) -> Option<Self> {
        if path.ends_with('/') || Path::new(path).is_dir() {
            return Some(Self::Directory);
        }
        let name = Path::new(path).file_name()?.to_str()?;
        match name.rsplit_once('.')?.1 {
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            "env" => Some(Self::Dotenv),
            _ if name.starts_with(".env.") => Some(Self::Dotenv),
            _ => None,
        }
    }

    /// The one that is asked for, else what the path says, else the default.
    ///
    /// # Errors
    /// None of them says anything.
    fn choose(asked: Option<Self>, path: &str, default: Option<Self>) -> Result<Self> {
        match asked.or_else(|| Self::of(path)).or(default) {
            Some(kind) => Ok(kind),
            None => bail!(
                "the name {path:?} does not say what it is; name the format with --format yaml, json, dotenv or dir"
            ),
        }
    }
}

/// A key, without the prefix, and its value.
type Entry = (Vec<u8>, Vec<u8>);

/// Keys and values, which together are not larger than what is taken.
#[derive(Debug, Default)]
struct Entries {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Entries {
    /// Adds a key and its value.
    ///
    /// # Errors
    /// It is too much.
    fn add(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<()> {
        self.bytes += key.len() + value.len();
        ensure!(
            self.bytes <= BYTES_MAX,
            "there are more than {} MiB; name a longer prefix, or take everything with `cleatctl snapshot save`",
            BYTES_MAX >> 20
        );
        self.entries.push((key, value));
        Ok(())
    }

    /// In ascending order of keys.
    ///
    /// # Errors
    /// A key is there twice.
    fn sorted(self) -> Result<Vec<Entry>> {
        let mut entries = self.entries;
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = entries.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            bail!("the key {} is there twice", super::text::show(&pair[0].0));
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys and values that each of the forms has its difficulty with.
    pub(super) fn difficult() -> Vec<Entry> {
        let mut entries: Vec<Entry> = [
            (&b"plain"[..], &b"value"[..]),
            (b"a", b"beside a directory of its name"),
            (b"a/b", b""),
            (b"a/", b"ends with a slash"),
            (b"a//c", b"an empty part"),
            (b"/leading", b" spaces "),
            (b"..", b"parent"),
            (b"./x", b"here"),
            (b"100%", b"50%25"),
            (b"number", b"0123"),
            (b"true", b"no"),
            (b"null", b"~"),
            (b"lines", b"one\ntwo\n"),
            (b"lines kept", b"one\n\n\n"),
            (b"lines kept behind two", b"one\ntwo\n\n\n"),
            (b"lines without an end", b"one\n  two"),
            (b"lines indented", b"  one\ntwo"),
            (b"lines with tabs", b"a:\tb\n\t- c\r\n"),
            (b"just a line break", b"\n"),
            (b"line breaks", b"\n\nx"),
            (b"colon: #comment", b"a: b # c"),
            (b"quotes\"'", b"\"it's\" $HOME `x` \\n"),
            ("größe 漢字 😀".as_bytes(), "grün\u{2028}\u{feff} \u{85}".as_bytes()),
            (b"binary", b"\x00\xff\xfe"),
            (b"$base64", b"a key that looks like a mark"),
            (b"- dash", b"- item"),
            (b"? question", b"!tag &anchor *alias"),
            (b"{flow}", b"[list, {map: x}]"),
            (b"---", b"..."),
        ]
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .into();
        entries.push((b"long".to_vec(), "word ".repeat(100).into_bytes()));
        entries.sort();
        entries
    }

    #[test]
    fn names_say_what_they_are() {
        for (path, expected) in [
            ("a.yaml", Some(Kind::Yaml)),
            ("x/a.yml", Some(Kind::Yaml)),
            ("a.json", Some(Kind::Json)),
            (".env", Some(Kind::Dotenv)),
            ("prod.env", Some(Kind::Dotenv)),
            (".env.local", Some(Kind::Dotenv)),
            ("out/", Some(Kind::Directory)),
            ("/tmp", Some(Kind::Directory)),
            ("a.txt", None),
            ("-", None),
        ] {
            assert_eq!(Kind::of(path), expected, "{path}");
        }
        assert_eq!(Kind::choose(Some(Kind::Json), "a.yaml", None).unwrap(), Kind::Json);
        assert_eq!(Kind::choose(None, "-", Some(Kind::Yaml)).unwrap(), Kind::Yaml);
        assert!(Kind::choose(None, "-", None).unwrap_err().to_string().contains("--format"));
        assert!("xml".parse::<Kind>().unwrap_err().to_string().contains("yaml, json, dotenv and dir"));
    }

    #[test]
    fn what_is_too_much_or_twice_is_refused() {
        let mut entries = Entries::default();
        entries.add(b"k".to_vec(), vec![0; BYTES_MAX - 1]).unwrap();
        assert!(entries.add(b"l".to_vec(), Vec::new()).unwrap_err().to_string().contains("snapshot save"));
        let mut entries = Entries::default();
        for key in ["b", "a", "b"] {
            entries.add(key.into(), Vec::new()).unwrap();
        }
        assert_eq!(entries.sorted().unwrap_err().to_string(), "the key b is there twice");
    }
}

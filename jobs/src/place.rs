//! Where snapshots are kept: a directory, or a bucket of an S3-compatible service.
//!
//! A snapshot is called by the time when it was stored, `20261128T142300Z.db`, so the order of names is that of time. Nothing
//! else at the place is looked at, let alone deleted.

use crate::s3::Bucket;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

const ENDING: &str = ".db";
/// What a name looks like: 0 is a digit.
const PATTERN: &str = "00000000T000000Z.db";

/// A directory or a bucket.
#[derive(Debug)]
pub(crate) enum Place {
    Directory(PathBuf),
    Bucket(Box<Bucket>),
}

/// The name of a snapshot that is stored at a time.
pub(crate) fn name_at(now: chrono::DateTime<chrono::Utc>) -> String {
    now.format("%Y%m%dT%H%M%SZ.db").to_string()
}

fn is_name(name: &str) -> bool {
    let fits = |(have, want): (u8, u8)| if want == b'0' { have.is_ascii_digit() } else { have == want };
    name.len() == PATTERN.len() && name.bytes().zip(PATTERN.bytes()).all(fits)
}

impl Place {
    /// Reads `s3://BUCKET/PREFIX`, or the path of a directory that is there.
    ///
    /// # Errors
    /// It is neither, or what is needed for a bucket is not in the environment.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("s3://") {
            return Ok(Self::Bucket(Box::new(Bucket::of_environment(rest)?)));
        }
        ensure!(!text.contains("://"), "{text:?} is no place for snapshots: write a directory or s3://BUCKET/PREFIX");
        ensure!(Path::new(text).is_dir(), "{text:?} is no directory");
        Ok(Self::Directory(PathBuf::from(text)))
    }

    /// Puts a file there under a name. A file on the same volume is renamed, and so is no longer where it was.
    ///
    /// # Errors
    /// It cannot be written, or was not written whole.
    pub(crate) async fn put(&self, file: &Path, name: &str) -> Result<()> {
        match self {
            Self::Directory(directory) => move_file(file, directory, name)
                .with_context(|| format!("cannot store {name} in {}", directory.display())),
            Self::Bucket(bucket) => {
                bucket.put(file, name).await.with_context(|| format!("cannot store {name} in {bucket}"))
            }
        }
    }

    /// Names of all snapshots, the oldest first.
    ///
    /// # Errors
    /// They cannot be listed.
    pub(crate) async fn list(&self) -> Result<Vec<String>> {
        let mut names = match self {
            Self::Directory(directory) => {
                let context = || format!("cannot list {}", directory.display());
                let mut names = Vec::new();
                for entry in std::fs::read_dir(directory).with_context(context)? {
                    names.extend(entry.with_context(context)?.file_name().into_string());
                }
                names
            }
            Self::Bucket(bucket) => bucket.list().await.with_context(|| format!("cannot list {bucket}"))?,
        };
        names.retain(|name| is_name(name));
        names.sort_unstable();
        Ok(names)
    }

    /// Deletes a snapshot.
    ///
    /// # Errors
    /// It cannot be deleted.
    pub(crate) async fn delete(&self, name: &str) -> Result<()> {
        match self {
            Self::Directory(directory) => {
                std::fs::remove_file(directory.join(name)).with_context(|| format!("cannot delete {name}"))
            }
            Self::Bucket(bucket) => {
                bucket.delete(name).await.with_context(|| format!("cannot delete {name} in {bucket}"))
            }
        }
    }

    /// A snapshot as a local file: the one in the directory, or a copy at `to`. `latest` is the newest.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be read.
    pub(crate) async fn fetch(&self, name: &str, to: &Path) -> Result<PathBuf> {
        let name = if name == "latest" {
            self.list().await?.pop().context("there is no snapshot at this place")?
        } else {
            ensure!(!name.contains('/'), "{name:?} is no name of a snapshot: write latest, or as 20261128T142300Z.db");
            let ending = if name.ends_with(ENDING) { "" } else { ENDING };
            format!("{name}{ending}")
        };
        match self {
            Self::Directory(directory) => {
                let path = directory.join(&name);
                if !path.is_file() {
                    bail!("there is no {name} in {}: there are {}", directory.display(), self.list().await?.join(", "));
                }
                Ok(path)
            }
            Self::Bucket(bucket) => {
                bucket.get(&name, to).await.with_context(|| format!("cannot fetch {name} from {bucket}"))?;
                Ok(to.to_owned())
            }
        }
    }
}

/// Renames a file, or copies it to another volume under another name first: a snapshot is never seen half written.
fn move_file(file: &Path, directory: &Path, name: &str) -> io::Result<()> {
    let target = directory.join(name);
    match std::fs::rename(file, &target) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            let part = directory.join(format!(".{name}.part"));
            std::fs::copy(file, &part)?;
            File::open(&part)?.sync_all()?;
            std::fs::rename(&part, &target)?;
        }
        renamed => renamed?,
    }
    File::open(&target)?.sync_all()?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_snapshots_are_snapshots() {
        assert!(is_name(&name_at(chrono::Utc::now())));
        for other in ["", "latest", "20261128T142300Z", "20261128T142300Z.db.part", "2026-11-28T14:23Z.db", ".incoming"]
        {
            assert!(!is_name(other), "{other}");
        }
    }

    #[tokio::test]
    async fn a_directory_keeps_snapshots_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::parse(dir.path().to_str().unwrap()).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "").unwrap();
        for name in ["20260102T000000Z.db", "20260101T000000Z.db"] {
            let file = dir.path().join(".incoming");
            std::fs::write(&file, name).unwrap();
            place.put(&file, name).await.unwrap();
            assert!(!file.exists());
        }
        assert_eq!(place.list().await.unwrap(), ["20260101T000000Z.db", "20260102T000000Z.db"]);
        let newest = place.fetch("latest", Path::new("/nowhere")).await.unwrap();
        assert_eq!(std::fs::read(newest).unwrap(), b"20260102T000000Z.db");
        let error = place.fetch("20250101T000000Z", Path::new("/nowhere")).await.unwrap_err();
        assert!(format!("{error:#}").contains("there are 20260101T000000Z.db"), "{error:#}");
        assert!(place.fetch("../secret", Path::new("/nowhere")).await.is_err());
        place.delete("20260101T000000Z.db").await.unwrap();
        assert_eq!(place.list().await.unwrap().len(), 1);
    }

    #[test]
    fn a_place_that_is_none_is_named() {
        for text in ["ftp://host/dir", "/no/such/directory"] {
            assert!(Place::parse(text).unwrap_err().to_string().contains(text));
        }
    }
}

//! A directory with a file for each key: the slashes of a key are directories.
//!
//! Any key has a path and every path is one key. Bytes that names should not have, and `%` itself, are written as `%XX`. A
//! `%` at the end of a name is dropped when it is read: the name of an empty part is `%`, and the value of a key that is a
//! directory as well stands beside it in a file with `%` at the end.

use super::{BYTES_MAX, Entries, Entry};
use crate::people::text;
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// What file systems take.
const NAME_BYTES_MAX: usize = 255;

/// Directories within each other.
const DEPTH_MAX: usize = 128;

/// Only the user may look at what may be a secret.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Writes a new directory. One that is there must be empty.
///
/// # Errors
/// The file system's; a key has a part that is too long for a file's name.
pub(super) fn write(entries: &[Entry], directory: &Path) -> Result<()> {
    let named = |what: &str, path: &Path| format!("cannot {what} {}", path.display());
    let make = |path: &Path| DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(path);
    // Nothing is written if one of them has no path.
    let paths = entries.iter().map(|(key, _)| parts(key)).collect::<Result<Vec<_>>>()?;
    make(directory).with_context(|| named("make the directory", directory))?;
    let mut found = std::fs::read_dir(directory).with_context(|| named("read the directory", directory))?;
    ensure!(found.next().is_none(), "{} is not empty; name a new directory", directory.display());
    let directories: BTreeSet<&[Vec<u8>]> =
        paths.iter().flat_map(|parts| (1..parts.len()).map(|n| &parts[..n])).collect();
    for ((_, value), parts) in entries.iter().zip(&paths) {
        let Some((last, above)) = parts.split_last() else { continue };
        let mut path = directory.to_owned();
        above.iter().for_each(|part| path.push(OsString::from_vec(part.clone())));
        make(&path).with_context(|| named("make the directory", &path))?;
        let mut name = last.clone();
        if directories.contains(parts.as_slice()) {
            name.push(b'%');
        }
        path.push(OsString::from_vec(name));
        let file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&path);
        file.and_then(|mut file| file.write_all(value)).with_context(|| named("write", &path))?;
    }
    Ok(())
}

/// The names of a key's path.
fn parts(key: &[u8]) -> Result<Vec<Vec<u8>>> {
    let parts: Vec<_> = key.split(|byte| *byte == b'/').map(encode).collect();
    ensure!(
        parts.len() <= DEPTH_MAX,
        "the key {} has more than {DEPTH_MAX} parts",
        text::cut(&text::show(key), 100, true)
    );
    // Room for the mark at the end.
    if parts.iter().any(|part| part.len() >= NAME_BYTES_MAX) {
        bail!("the key {} has a part that is too long for the name of a file; use another --format", text::show(key));
    }
    Ok(parts)
}

fn encode(part: &[u8]) -> Vec<u8> {
    match part {
        b"" => return b"%".to_vec(),
        b"." => return b"%2E".to_vec(),
        b".." => return b"%2E%2E".to_vec(),
        _ => {}
    }
    let is_text = std::str::from_utf8(part).is_ok_and(|text| !text.chars().any(char::is_control));
    let mut name = Vec::with_capacity(part.len());
    for byte in part {
        if *byte == b'%' || byte.is_ascii_control() || (!is_text && !byte.is_ascii()) {
            name.extend(format!("%{byte:02X}").into_bytes());
        } else {
            name.push(*byte);
        }
    }
    name
}

/// The part of a key that a name means; None if it means none.
fn decode(name: &[u8]) -> Option<Vec<u8>> {
    let name = if name == b"%%" { b"" } else { name.strip_suffix(b"%").unwrap_or(name) };
    let mut part = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'%' {
            part.push(*byte);
            continue;
        }
        let digits = [*bytes.next()?, *bytes.next()?];
        let digits = std::str::from_utf8(&digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
        part.push(u8::from_str_radix(digits, 16).ok()?);
    }
    Some(part)
}

/// Reads a directory. Links are not followed: they may lead anywhere.
///
/// # Errors
/// The file system's; something in it is neither a file nor a directory, or has a name that means no key.
pub(super) fn read(directory: &Path) -> Result<Entries> {
    let mut entries = Entries::default();
    visit(directory, &[], 0, &mut entries)?;
    Ok(entries)
}

fn visit(directory: &Path, above: &[u8], depth: usize, entries: &mut Entries) -> Result<()> {
    ensure!(depth < DEPTH_MAX, "{}: more than {DEPTH_MAX} directories within each other", directory.display());
    let named = |path: &Path| format!("cannot read {}", path.display());
    let found = std::fs::read_dir(directory).with_context(|| named(directory))?;
    let mut paths: Vec<PathBuf> = found
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .with_context(|| named(directory))?;
    paths.sort();
    for path in paths {
        let name = path.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
        let part = decode(&name).with_context(|| {
            format!(
                "the name of {} means no key: % stands before two hexadecimal digits, or at the end",
                path.display()
            )
        })?;
        let mut key = above.to_vec();
        key.extend(part);
        let metadata = std::fs::symlink_metadata(&path).with_context(|| named(&path))?;
        if metadata.is_dir() {
            key.push(b'/');
            visit(&path, &key, depth + 1, entries)?;
        } else if metadata.is_file() {
            ensure!(metadata.len() <= BYTES_MAX as u64, "{} is too large for a value", path.display());
            entries.add(key, std::fs::read(&path).with_context(|| named(&path))?)?;
        } else {
            bail!("{} is neither a file nor a directory; links are not followed", path.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn any_key_comes_back_from_its_file() {
        let mut entries = super::super::tests::difficult();
        entries.extend([
            (b"\xff\x00/\n".to_vec(), b"bytes".to_vec()),
            (Vec::new(), b"the key that is the prefix".to_vec()),
            (b"/".to_vec(), b"slash".to_vec()),
            (b"%".to_vec(), b"percent".to_vec()),
            (b"a%".to_vec(), b"percent at the end".to_vec()),
        ]);
        entries.sort();
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("new");
        write(&entries, &target).unwrap();
        assert_eq!(read(&target).unwrap().sorted().unwrap(), entries);
        let mode = |path: &str| std::fs::metadata(target.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("a"), mode("a%"), mode("plain")), (0o700, 0o600, 0o600));
        let error = write(&entries, &target).unwrap_err().to_string();
        assert!(error.ends_with("is not empty; name a new directory"), "{error}");
    }

    #[test]
    fn what_is_no_file_of_a_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", directory.path().join("link")).unwrap();
        let error = read(directory.path()).unwrap_err().to_string();
        assert!(error.ends_with("links are not followed"), "{error}");
        for name in ["%2", "%zz", "%+1x"] {
            assert_eq!(decode(name.as_bytes()), None, "{name}");
        }
        let error = write(&[(vec![b'x'; 255], Vec::new())], &directory.path().join("new")).unwrap_err().to_string();
        assert!(error.contains("too long for the name of a file"), "{error}");
        assert!(!directory.path().join("new").exists());
    }
}

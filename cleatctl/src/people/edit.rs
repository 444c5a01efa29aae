//! `edit KEY`: a value in the person's editor, written back only if nobody else changed it meanwhile.

use crate::failure::whole;
use crate::people::{Session, print, text};
use crate::scratch::Scratch;
use anyhow::{Context as _, Result, bail, ensure};
use api::etcdserverpb::{PutRequest, TxnRequest};
use api::mvccpb::KeyValue;
use bytes::Bytes;
use client::message;
use std::ffi::OsString;
use std::path::Path;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// More than any server takes; what is larger than its limit (etcd's is 1.5 MiB by default) it refuses in its own words.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct EditArgs {
    /// The key; it is created if it does not exist
    pub(crate) key: Vec<u8>,
}

/// Opens the editor and writes what comes out of it.
///
/// # Errors
/// The cluster's or the editor's; the value is no text; the key was changed meanwhile, and then the error names the
/// file with what was typed.
pub(crate) async fn edit(session: &Session, args: &EditArgs) -> Result<()> {
    let client = session.client()?;
    let key = Bytes::from(args.key.clone());
    let shown = text::show(&key);
    let now = client.get(key.clone()).await?;
    let before = now.as_ref().map_or(&[][..], |kv| &kv.value);
    ensure!(
        std::str::from_utf8(before).is_ok(),
        "the value of {shown} is no text; write it to a file with `cleatctl get --print-value-only`, and back with `put`"
    );
    // Only this user can look into the directory: the value may be a secret.
    let (scratch, name) = (Scratch::new()?, file_name(&String::from_utf8_lossy(&args.key)));
    let file = scratch.file(&name);
    std::fs::write(&file, before).map_err(|error| scratch.explain(Some(before.len() as u64), error.into()))?;
    let editor = editor(|name| std::env::var_os(name));
    open(&editor, &file).await?;
    let after = read(&file)?;
    let Some(after) = saved(before, after, now.is_some()) else {
        return print(&format!("{shown} is left as it was\n"));
    };
    let written = client.txn(plan(&key, now.as_ref(), after)).await;
    let failure = match written {
        Ok(answer) if answer.succeeded => {
            let revision = answer.header.map_or(0, |header| header.revision);
            return print(&format!("{shown} is written, at revision {revision}\n"));
        }
        Ok(_) => anyhow::anyhow!("{shown} was changed by somebody else in the meantime"),
        Err(error) => error.into(),
    };
    // What was typed must not be lost.
    let kept = scratch.keep().join(name);
    bail!("{}; what you wrote is in {}", whole(&failure), kept.display())
}

/// A file name that ends as the key does, so that editors know the kind of text.
fn file_name(key: &str) -> String {
    let last = key.rsplit('/').find(|part| !part.is_empty()).unwrap_or("value");
    let safe: String =
        last.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')).take(64).collect();
    let safe = safe.trim_start_matches(['.', '-']);
    if safe.is_empty() { "value".to_owned() } else { safe.to_owned() }
}

/// The editor: `VISUAL`, `EDITOR`, or vi. It may have arguments in it.
fn editor(variable: impl Fn(&str) -> Option<OsString>) -> OsString {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".into())
}

/// Runs the editor until it ends. A shell splits its arguments; the file's path never becomes part of a command.
async fn open(editor: &OsString, file: &Path) -> Result<()> {
    let mut line = editor.clone();
    line.push(" \"$1\"");
    let shown = editor.to_string_lossy();
    // Who listens is not ended by them; the editor finds what the system does by default, which it would not if they were
    // ignored.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(line)
        .arg("cleatctl")
        .arg(file)
        .spawn()
        .with_context(|| format!("cannot start the editor {shown:?}"))?;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.with_context(|| format!("cannot wait for the editor {shown:?}"))?,
            _ = interrupt.recv() => {}
            _ = quit.recv() => {}
        }
    };
    ensure!(
        status.success(),
        "the editor {shown:?} ended with {status}, and nothing was written; EDITOR names another"
    );
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let length = std::fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len();
    ensure!(length <= FILE_BYTES_MAX, "{} has become {length} bytes long, too many for a value", file.display());
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The value to write; None if nothing was changed. Editors end a file with a line break that the value did not have.
fn saved(before: &[u8], mut after: Vec<u8>, exists: bool) -> Option<Vec<u8>> {
    if !before.ends_with(b"\n") && after.ends_with(b"\n") {
        after.pop();
    }
    (after != before || (!exists && !after.is_empty())).then_some(after)
}

/// Writes on the condition that the key is as it was read.
fn plan(key: &Bytes, now: Option<&KeyValue>, after: Vec<u8>) -> TxnRequest {
    let put = message::put(key.clone(), after);
    let (unchanged, put) = match now {
        Some(now) => (message::modified_at(key.clone(), now.mod_revision), PutRequest { ignore_lease: true, ..put }),
        None => (message::is_absent(key.clone()), put),
    };
    TxnRequest { compare: vec![unchanged], success: vec![message::op::put(put)], failure: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_editors_line_break_is_no_change() {
        for (before, after, exists, expected) in [
            ("red", "red", true, None),
            ("red", "red\n", true, None),
            ("red\n", "red\n", true, None),
            ("red\n", "red", true, Some("red")),
            ("red", "green\n", true, Some("green")),
            ("red", "", true, Some("")),
            ("red", "a\nb\n\n", true, Some("a\nb\n")),
            ("", "", false, None),
            ("", "\n", false, None),
            ("", "new\n", false, Some("new")),
        ] {
            let expected = expected.map(|text| text.as_bytes().to_vec());
            assert_eq!(saved(before.as_bytes(), after.as_bytes().to_vec(), exists), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn file_names_tell_the_kind_and_nothing_else() {
        for (key, expected) in [
            ("/app/config.yaml", "config.yaml"),
            ("/app/dir/", "dir"),
            ("", "value"),
            ("/..", "value"),
            ("-rf", "rf"),
            ("$(touch x);.json", "touchx.json"),
        ] {
            assert_eq!(file_name(key), expected, "{key}");
        }
    }

    #[test]
    fn the_editor_is_the_persons() {
        let of = |set: &'static [(&str, &str)]| {
            editor(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(*value)))
        };
        assert_eq!(of(&[]), "vi");
        assert_eq!(of(&[("EDITOR", "nano")]), "nano");
        assert_eq!(of(&[("EDITOR", "nano"), ("VISUAL", "code --wait")]), "code --wait");
        assert_eq!(of(&[("EDITOR", "nano"), ("VISUAL", "")]), "nano");
    }

    #[tokio::test]
    async fn editors_with_arguments_get_any_path_whole() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a b;$(c)'\"");
        std::fs::write(&file, "red").unwrap();
        open(&"sed -i s/red/green/".into(), &file).await.unwrap();
        assert_eq!(read(&file).unwrap(), b"green");
        let error = open(&"false".into(), &file).await.unwrap_err().to_string();
        assert!(error.contains("\"false\" ended with"), "{error}");
    }
}

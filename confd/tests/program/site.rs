//! A directory with a configuration, and the program that uses it.

use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest time for anything to happen, on a machine with much else to do.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A directory with `conf.d`, `templates` and `out`.
pub(crate) struct Site {
    directory: tempfile::TempDir,
}

impl Site {
    pub(crate) fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        for name in ["conf.d", "templates", "out"] {
            fs::create_dir(directory.path().join(name))?;
        }
        Ok(Self { directory })
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.path("out").join(name)
    }

    /// A resource `NAME.toml` with template `NAME.tmpl` and destination `out/NAME`.
    pub(crate) fn resource(&self, name: &str, template: &str, more: &str) -> Result<()> {
        let dest = self.out(name);
        let text = format!("[template]\nsrc = '{name}.tmpl'\ndest = '{}'\n{more}\n", dest.display());
        fs::write(self.path("conf.d").join(format!("{name}.toml")), text)?;
        fs::write(self.path("templates").join(format!("{name}.tmpl")), template)?;
        Ok(())
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_confd"));
        let (first, rest) = match arguments.split_first() {
            Some((first, rest)) if *first == "check" => (Some(*first), rest),
            _ => (None, arguments),
        };
        command
            .args(first)
            .arg("-confdir")
            .arg(self.directory.path())
            .args(["-config-file", "/nonexistent"])
            .args(rest);
        command.env_clear().env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
        let mut command = self.command(arguments);
        command.envs(environment.iter().copied());
        command.output().context("run confd")
    }

    /// Runs a script where it may mount file systems that nobody else sees. It finds the directory as `B`, the program as
    /// `CONFD`.
    pub(crate) fn with_mounts(&self, script: &str) -> Result<Output> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", script]).env("B", self.directory());
        command.env("CONFD", env!("CARGO_BIN_EXE_confd")).stdin(Stdio::null());
        command.output().context("run unshare, which needs root")
    }

    pub(crate) fn leftovers(&self) -> Result<Vec<String>> {
        let names = fs::read_dir(self.path("out"))?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names: Vec<String> = names.collect::<Result<_>>()?;
        Ok(names.into_iter().filter(|name| name.starts_with('.')).collect())
    }
}

/// A confd that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    log: tempfile::NamedTempFile,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let log = tempfile::NamedTempFile::new()?;
        Ok(Self { child: command.stderr(log.reopen()?).spawn()?, log })
    }

    /// What it has printed on stderr.
    pub(crate) fn log(&self) -> String {
        read(self.log.path())
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        let mut status = None;
        until("the end of confd", || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        })?;
        status.context("it has ended")
    }

    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.id().to_string();
        ensure!(Command::new("kill").args([&format!("-{name}"), &pid]).status()?.success(), "kill -{name} {pid}");
        Ok(())
    }
}

pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        ensure!(Instant::now() < deadline, "{what} did not happen within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

pub(crate) fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

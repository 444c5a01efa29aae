//! What goes wrong at each step from a resource to its file. `strace` lets system calls fail, and kills confd in them.

use crate::site::{Running, Site, read, text, until};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const MODE: u32 = 0o640;

/// A resource whose file is to be replaced, backed up and reloaded.
fn site() -> Result<Site> {
    let site = Site::new()?;
    let more = format!(
        "keys = ['/a']\nmode = '0640'\nbackup = true\nreload_cmd = 'cat {} >> {}'",
        site.out("a").display(),
        site.path("reloads").display()
    );
    site.resource("a", "{{range 3000}}{{getv \"/a\"}}{{end}}", &more)?;
    fs::write(site.out("a"), "old")?;
    fs::set_permissions(site.out("a"), fs::Permissions::from_mode(MODE))?;
    Ok(site)
}

fn new_content() -> String {
    "new".repeat(3000)
}

/// Runs one round with a system call that does something else, the first ones aside. With a path, only calls on it count.
fn tampered(site: &Site, calls: &str, what: &str, when: u32, path: &str) -> Result<Output> {
    let confd = site.command(&["-backend", "env", "-onetime"]);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
    strace.args(["-e", &format!("inject={calls}:{what}:when={when}")]);
    if !path.is_empty() {
        strace.arg("-P").arg(site.directory().join(path));
    }
    strace.arg(confd.get_program()).args(confd.get_args()).env_clear().env("PATH", "/usr/bin:/bin").env("A", "new");
    strace.stdin(Stdio::null()).output().context("run strace, which has to be installed")
}

/// The file is one of both, with its mode.
fn whole(site: &Site, what: &str) -> Result<bool> {
    let found = read(&site.out("a"));
    let mode = fs::metadata(site.out("a"))?.permissions().mode() & 0o7777;
    ensure!(mode == MODE, "{what}: mode {mode:o}");
    ensure!(found == "old" || found == new_content(), "{what}: {} bytes, {:?}", found.len(), found.get(..20));
    Ok(found != "old")
}

/// A round without a fault makes up for everything.
fn made_up_for(site: &Site, what: &str) -> Result<()> {
    let output = site.run(&["-backend", "env", "-onetime"], &[("A", "new")])?;
    ensure!(output.status.success(), "{what}: {}", text(&output));
    ensure!(whole(site, what)?, "{what}: the file is the old one");
    ensure!(read(&site.path("reloads")).ends_with(&new_content()), "{what}: a reload was lost");
    ensure!(!site.out(".a.reload").exists(), "{what}: a reload is still owed");
    Ok(())
}

/// Where the file system is changed, in this order: the call, the how manieth of its thread, and on which path if others are
/// made as well. Names differ between processors.
const STEPS: [(&str, u32, &str); 8] = [
    // The new file gets its mode, and is synced.
    ("fchmod", 1, ""),
    ("fsync", 1, ""),
    // The old one gets a second name, which becomes that of the backup.
    ("linkat", 1, ""),
    ("?rename,?renameat,?renameat2", 1, "out/a.bak.new"),
    // It is noted that a reload is owed, and the new one gets its place.
    ("?open,openat", 1, "out/.a.reload"),
    ("?renameat,?renameat2", 1, ""),
    // The directory is synced, and after the reload the note goes.
    ("fsync", 1, "out"),
    ("?unlink,?unlinkat", 1, "out/.a.reload"),
];

#[test]
fn a_kill_at_any_step_leaves_a_whole_file_and_no_reload_undone() -> Result<()> {
    for (calls, when, path) in STEPS {
        let (site, what) = (site()?, format!("killed in {calls} {when} {path}"));
        let output = tampered(&site, calls, "signal=KILL", when, path)?;
        let status = output.status;
        ensure!(status.signal() == Some(9) || status.code() == Some(137), "{what}: {status}, {}", text(&output));
        whole(&site, &what)?;
        made_up_for(&site, &what)?;
    }
    Ok(())
}

#[test]
fn a_full_disk_at_any_step_leaves_a_whole_file_and_no_reload_undone() -> Result<()> {
    for (calls, when, path) in STEPS {
        let (site, what) = (site()?, format!("no space in {calls} {when} {path}"));
        let output = tampered(&site, calls, "error=ENOSPC", when, path)?;
        whole(&site, &what)?;
        // A copy does where a second name cannot be had. A note that cannot be taken away is told, and the reload has run.
        let succeeds = calls == "linkat" || calls.contains("unlink");
        ensure!(output.status.code() == Some(i32::from(!succeeds)), "{what}: {} {}", output.status, text(&output));
        let is_told = text(&output).contains("No space left on device");
        ensure!(is_told || calls == "linkat", "{what}: {}", text(&output));
        // A reload is owed to a file that has its place.
        let is_owed = path == "out" || calls.contains("unlink");
        let expected: &[&str] = if is_owed { &[".a.reload"] } else { &[] };
        ensure!(site.leftovers()? == expected, "{what}: {:?}", site.leftovers()?);
        made_up_for(&site, &what)?;
    }
    Ok(())
}

/// A command of the shell that kills confd while it runs, the first time.
fn kill_once(site: &Site) -> String {
    let done = site.path("killed").display().to_string();
    format!("test -e {done} || {{ touch {done}; kill -9 $PPID; }}")
}

#[test]
fn a_kill_while_a_command_runs_leaves_a_whole_file_and_no_reload_undone() -> Result<()> {
    for step in ["check", "reload", "reload of the old file"] {
        let site = site()?;
        let [dest, reloads, runs] = [site.out("a"), site.path("reloads"), site.path("runs")];
        let [dest, reloads, runs] = [dest, reloads, runs].map(|path| path.display().to_string());
        let kill = kill_once(&site);
        let noted = format!("cat {dest} >> {reloads}");
        let commands = match step {
            "check" => format!("check_cmd = '{kill}'\nreload_cmd = '{noted}'"),
            "reload" => format!("reload_cmd = '{kill}; {noted}'"),
            // The new file is refused, and confd killed when the old one has its place again.
            _ => format!(
                "rollback = true\nreload_cmd = 'echo x >> {runs}; test $(wc -l < {runs}) != 1 || exit 1; {kill}; {noted}'"
            ),
        };
        let more = format!("keys = ['/a']\nmode = '0640'\nbackup = true\n{commands}");
        site.resource("a", "{{range 3000}}{{getv \"/a\"}}{{end}}", &more)?;
        let output = site.run(&["-backend", "env", "-onetime"], &[("A", "new")])?;
        ensure!(output.status.signal() == Some(9), "{step}: {}, {}", output.status, text(&output));
        ensure!(whole(&site, step)? == (step == "reload"), "{step}: {} bytes", read(&site.out("a")).len());
        made_up_for(&site, step)?;
    }
    Ok(())
}

#[test]
fn a_kill_while_a_file_is_written_in_place_is_made_up_for() -> Result<()> {
    let site = Site::new()?;
    let reload = format!("cat {} >> {}", site.out("hosts").display(), site.path("reloads").display());
    site.resource("hosts", "rendered", &format!("keys = ['/a']\nreload_cmd = '{reload}'"))?;
    // There is no way to be killed in between and leave a whole file where none can be replaced.
    let script = "
        touch $B/out/hosts $B/target && mount --bind $B/target $B/out/hosts
        for call in fallocate ftruncate fchmod fsync; do
            echo 'old, and longer than the new one' > $B/target && : > $B/reloads
            strace -f -qq -o /dev/null -e trace=$call -e inject=$call:signal=KILL -P $B/out/hosts $CONFD \
                -confdir $B -config-file /nonexistent -backend env -onetime && exit 9
            test -e $B/out/.hosts.reload
            $CONFD -confdir $B -config-file /nonexistent -backend env -onetime
            test \"$(cat $B/target) $(cat $B/reloads) $(ls $B/out)\" = 'rendered rendered hosts'
            test ! -e $B/out/.hosts.reload
            echo $call
        done";
    let output = site.with_mounts(script)?;
    let done = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success() && done.lines().count() == 4, "{done:?} {} {}", output.status, text(&output));
    Ok(())
}

#[test]
fn mounted_files_and_full_file_systems_keep_what_they_have() -> Result<()> {
    let site = Site::new()?;
    let large = "{{range 40000}}0123456789{{end}}";
    for (name, template) in [("inplace", large), ("locked", "new"), ("inodes", "new"), ("short", "s")] {
        fs::create_dir(site.path(name))?;
        let dest = site.path(name).join("file");
        let toml = format!("[template]\nsrc = '{name}.tmpl'\ndest = '{}'\nkeys = ['/a']\n", dest.display());
        fs::write(site.path("conf.d").join(format!("{name}.toml")), toml)?;
        fs::write(site.path("templates").join(format!("{name}.tmpl")), template)?;
    }
    // A file on a full disk that is mounted by itself; one that is mounted read-only; no room for one more file; and one that
    // is written in place and becomes shorter.
    let script = "
        mkdir $B/full && mount -t tmpfs -o size=64k tmpfs $B/full && echo old > $B/full/target
        touch $B/inplace/file && mount --bind $B/full/target $B/inplace/file
        echo old > $B/ro && touch $B/locked/file && mount --bind $B/ro $B/locked/file
        mount -o remount,bind,ro $B/locked/file
        mount -t tmpfs -o nr_inodes=2 tmpfs $B/inodes && echo old > $B/inodes/file
        echo longer > $B/long && touch $B/short/file && mount --bind $B/long $B/short/file
        $CONFD -confdir $B -config-file /nonexistent -backend env -onetime && exit 9
        cat $B/inplace/file $B/locked/file $B/inodes/file $B/short/file
        ls -A $B/inplace $B/locked $B/inodes $B/short | grep -v : | sort -u";
    let output = site.with_mounts(script)?;
    let found = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(0) && found == "old\nold\nold\ns\nfile\n", "{found:?} {}", text(&output));
    let log = text(&output);
    ensure!(log.matches("No space left on device").count() >= 2 && log.contains("Read-only file system"), "{log}");
    Ok(())
}

#[test]
fn a_reload_is_owed_on_the_disk_before_a_file_is_written_in_place() -> Result<()> {
    let site = Site::new()?;
    site.resource("hosts", "rendered", "keys = ['/a']\nreload_cmd = 'true'")?;
    let script = "
        echo old > $B/out/hosts && echo old > $B/target && mount --bind $B/target $B/out/hosts
        strace -f -qq -y -o $B/calls -e trace=fsync,write,?unlink,?unlinkat $CONFD \
            -confdir $B -config-file /nonexistent -backend env -onetime";
    let output = site.with_mounts(script)?;
    ensure!(output.status.success() && read(&site.path("target")) == "rendered", "{}", text(&output));
    let calls = read(&site.path("calls"));
    let first = |call: &str, path: &str| {
        let is_it = |line: &str| line.contains(call) && line.contains(path);
        calls.lines().position(is_it).with_context(|| format!("no {call} of {path} in\n{calls}"))
    };
    let place = site.path("out").display().to_string();
    let synced = first("fsync(", &format!("{place}>"))?;
    let written = first("write(", &format!("{place}/hosts>"))?;
    let forgotten = first("unlink", &format!("{place}/.hosts.reload"))?;
    ensure!(synced < written && written < forgotten, "{calls}");
    Ok(())
}

#[test]
fn commands_that_hang_are_ended_with_all_their_processes() -> Result<()> {
    let site = Site::new()?;
    let (log, gate) = (site.path("log"), site.path("gate"));
    let hang =
        |what: &str| format!("echo $$ {what} >> {}; test -e {} || sleep 1000 & wait", log.display(), gate.display());
    let more = format!("keys = ['/a']\ncheck_cmd = '{}'\ncheck_cmd_timeout = '300ms'", hang("check"));
    site.resource("a", "{{getv \"/a\"}}", &more)?;
    let more = format!("keys = ['/a']\nreload_cmd = '{}'\nreload_cmd_timeout = '300ms'", hang("reload"));
    site.resource("b", "{{getv \"/a\"}}", &more)?;
    fs::write(site.out("a"), "old")?;
    let mut running = Running::start(site.command(&["-backend", "env", "-interval", "1000"]).env("A", "new"))?;
    let times = |what: &str| read(&log).lines().filter(|line| line.ends_with(what)).count();
    until("each command twice", || times("check") >= 2 && times("reload") >= 2)?;
    ensure!((read(&site.out("a")), read(&site.out("b"))) == ("old".to_owned(), "new".to_owned()));
    let told = running.log();
    ensure!(told.contains("Config check failed: command timed out after 300ms"), "{told}");
    ensure!(told.contains("reload command failed, it will run again: command timed out after 300ms"), "{told}");
    fs::write(&gate, "")?;
    until("both", || read(&site.out("a")) == "new" && site.leftovers().is_ok_and(|names| names.is_empty()))?;
    // None of the shells that hung is left, nor what they started.
    for pid in read(&log).lines().filter_map(|line| line.split(' ').next()) {
        until("the end of a command", || !Path::new("/proc").join(pid).exists())?;
    }
    running.signal("TERM")?;
    ensure!(running.wait()?.success());
    Ok(())
}

//! Programs that confd keeps running, and what it owes to processes as the first one of a container.

use crate::site::{Running, Site, read, text, until};
use anyhow::{Result, ensure};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// A program that notes its start with what the file says then, each signal, and ends when it is asked to with 7.
const PROGRAM: &str = "
trap 'echo hup $(cat $B/out/a) >> $B/events' HUP
trap 'echo usr1 >> $B/events' USR1
trap 'echo usr2 >> $B/events; exit 9' USR2
trap 'echo term >> $B/events; exit 7' TERM
echo start $(cat $B/out/a) >> $B/events
while true; do sleep 0.05; done
";

/// A site with data in a file, the resource `a` of it, and the program above.
fn site() -> Result<Site> {
    let site = Site::new()?;
    data(&site, "one")?;
    site.resource("a", "{{getv \"/a\"}}", "keys = ['/a']")?;
    fs::write(site.path("program.sh"), PROGRAM)?;
    Ok(site)
}

/// At once, as confd's users should write it.
fn data(site: &Site, value: &str) -> Result<()> {
    fs::write(site.path("data.new"), format!("a: {value}\n"))?;
    Ok(fs::rename(site.path("data.new"), site.path("data.yaml"))?)
}

fn command(site: &Site, flags: &[&str], program: &[&str]) -> Command {
    let file = site.path("data.yaml").display().to_string();
    let mut command = site.command(&["-backend", "file", "-file", &file, "-watch"]);
    command.args(flags).args(program).env("B", site.directory()).stdout(Stdio::null());
    command
}

fn events(site: &Site) -> Vec<String> {
    read(&site.path("events")).lines().map(str::to_owned).collect()
}

fn until_events(site: &Site, expected: &[&str]) -> Result<()> {
    until(&format!("{expected:?}"), || events(site) == expected)
}

#[test]
fn a_program_starts_with_its_file_and_is_started_again_for_another() -> Result<()> {
    let site = site()?;
    let script = site.path("program.sh").display().to_string();
    let mut running = Running::start(&mut command(&site, &[], &["--", "sh", &script]))?;
    until_events(&site, &["start one"])?;
    // What is the program's goes to it.
    running.signal("USR1")?;
    until_events(&site, &["start one", "usr1"])?;
    data(&site, "two")?;
    until_events(&site, &["start one", "usr1", "term", "start two"])?;
    // A hangup is confd's own: it reads its resources, and nothing has changed.
    site.resource("b", "b", "keys = ['/a']\nreload_cmd = 'true'")?;
    running.signal("HUP")?;
    until("the round after the hangup", || read(&site.out("b")) == "b")?;
    running.signal("TERM")?;
    let status = running.wait()?;
    ensure!(events(&site) == ["start one", "usr1", "term", "start two", "term"], "{:?}", events(&site));
    ensure!(status.code() == Some(7), "the program's exit code: {status}\n{}", running.log());
    Ok(())
}

#[test]
fn a_program_can_be_told_by_a_signal_or_not_at_all() -> Result<()> {
    for (on_change, expected) in [("HUP", &["start one", "hup two", "hup three"][..]), ("none", &["start one"])] {
        let site = site()?;
        let script = format!("exec sh {}", site.path("program.sh").display());
        // The shell's form, from the environment.
        let mut command = command(&site, &["-exec-reload-signal", on_change], &[]);
        let mut running = Running::start(command.env("CONFD_EXEC", script))?;
        until_events(&site, &["start one"])?;
        for value in ["two", "three"] {
            data(&site, value)?;
            until("the file", || read(&site.out("a")) == value)?;
            if on_change == "HUP" {
                until("the signal", || events(&site).last().is_some_and(|last| *last == format!("hup {value}")))?;
            }
        }
        ensure!(events(&site) == expected, "{on_change}: {:?}", events(&site));
        running.signal("INT")?;
        ensure!(running.wait()?.code() == Some(7));
    }
    Ok(())
}

#[test]
fn a_program_waits_for_all_files() -> Result<()> {
    let site = site()?;
    site.resource("b", "{{getv \"/b\"}}", "keys = ['/b']")?;
    let script = site.path("program.sh").display().to_string();
    let mut running = Running::start(&mut command(&site, &[], &["--", "sh", &script]))?;
    until("the first file", || read(&site.out("a")) == "one")?;
    until("the failure", || running.log().contains("key does not exist: /b"))?;
    ensure!(events(&site).is_empty());
    fs::write(site.path("data.yaml"), "a: one\nb: two\n")?;
    until_events(&site, &["start one"])?;
    running.signal("TERM")?;
    ensure!(running.wait()?.code() == Some(7));
    Ok(())
}

#[test]
fn the_end_of_a_program_is_that_of_confd() -> Result<()> {
    for (program, code) in [("exit 3", 3), ("exit 0", 0), ("kill -9 $$", 137)] {
        let site = site()?;
        let mut running = Running::start(&mut command(&site, &["-exec", program], &[]))?;
        ensure!(running.wait()?.code() == Some(code), "{program}: {}", running.log());
    }
    // One that does not want to end is killed; one that the signal ends was asked to.
    for (program, flags, code) in [
        (
            "trap '' TERM; echo x > $B/events; while true; do sleep 0.05; done",
            &["-exec-kill-timeout", "200ms"][..],
            137,
        ),
        ("echo x > $B/events; exec sleep 1000", &[], 0),
    ] {
        let site = site()?;
        let mut running = Running::start(&mut command(&site, &[flags, &["-exec", program]].concat(), &[]))?;
        until_events(&site, &["x"])?;
        running.signal("TERM")?;
        ensure!(running.wait()?.code() == Some(code), "{program}: {}", running.log());
    }
    let site = site()?;
    let mut running = Running::start(&mut command(&site, &[], &["--", "/no/such/program"]))?;
    ensure!(running.wait()?.code() == Some(1));
    ensure!(running.log().contains("the program cannot be started: No such file"), "{}", running.log());
    Ok(())
}

#[test]
fn a_program_whose_files_have_reload_commands_is_left_alone() -> Result<()> {
    let site = site()?;
    site.resource("a", "{{getv \"/a\"}}", "keys = ['/a']\nreload_cmd = 'echo reload >> $B/events'")?;
    let script = site.path("program.sh").display().to_string();
    let mut running = Running::start(&mut command(&site, &[], &["--", "sh", &script]))?;
    until_events(&site, &["reload", "start one"])?;
    data(&site, "two")?;
    until_events(&site, &["reload", "start one", "reload"])?;
    running.signal("TERM")?;
    ensure!(running.wait()?.code() == Some(7));
    Ok(())
}

/// A round that is under way, in which a file of the program has changed, and a reload that goes on until there is a gate.
fn in_a_round(site: &Site) -> Result<(Running, impl Fn() -> Result<()>)> {
    let gate = site.path("gate");
    fs::write(&gate, "")?;
    let wait = "echo reload >> $B/events; until test -e $B/gate; do sleep 0.05; done";
    site.resource(
        "b",
        "{{getv \"/a\"}}",
        &format!("keys = ['/a']\nreload_cmd = '{wait}'\nreload_cmd_timeout = '10m'"),
    )?;
    let script = site.path("program.sh").display().to_string();
    let running = Running::start(&mut command(site, &[], &["--", "sh", &script]))?;
    until_events(site, &["reload", "start one"])?;
    fs::remove_file(&gate)?;
    data(site, "two")?;
    until_events(site, &["reload", "start one", "reload"])?;
    Ok((running, move || Ok(fs::write(&gate, "")?)))
}

#[test]
fn a_program_gets_its_signals_in_a_round_too() -> Result<()> {
    let site = site()?;
    let (mut running, open) = in_a_round(&site)?;
    running.signal("USR1")?;
    until_events(&site, &["reload", "start one", "reload", "usr1"])?;
    running.signal("TERM")?;
    until_events(&site, &["reload", "start one", "reload", "usr1", "term"])?;
    open()?;
    ensure!(running.wait()?.code() == Some(7), "{}", running.log());
    Ok(())
}

#[test]
fn a_program_that_ends_in_a_round_is_not_started_again() -> Result<()> {
    let site = site()?;
    let (mut running, open) = in_a_round(&site)?;
    running.signal("USR2")?;
    until("the end of the program", || running.log().contains("the program has ended: exit status: 9"))?;
    open()?;
    ensure!(running.wait()?.code() == Some(9), "{}", running.log());
    ensure!(events(&site) == ["reload", "start one", "reload", "usr2"], "{:?}", events(&site));
    Ok(())
}

#[test]
fn wrong_settings_of_a_program_are_told() -> Result<()> {
    let site = site()?;
    for (arguments, code, expected) in [
        (&["-onetime", "-exec", "true"][..], 1, "-exec goes with -watch or -interval"),
        (&["-noop", "-watch", "-exec", "true"], 1, "-exec goes with -watch or -interval"),
        (&["-watch", "--"], 2, "there is no program behind --"),
        (&["-watch", "-exec", "true", "-exec-reload-signal", "HOP"], 1, "\"HOP\" is no signal that can be sent"),
        (
            &["-watch", "-exec", "true", "-exec-kill-signal", "restart"],
            1,
            "-exec-kill-signal: \"restart\" is no signal",
        ),
        (&["-watch", "-exec", "true", "-exec-kill-timeout", "5"], 1, "-exec-kill-timeout: \"5\" is no duration"),
    ] {
        let output = site.run(&[&["-backend", "env"], arguments].concat(), &[])?;
        ensure!(
            output.status.code() == Some(code) && text(&output).contains(expected),
            "{arguments:?}: {}",
            text(&output)
        );
    }
    Ok(())
}

/// Runs confd as the first process of a namespace. Its program leaves processes behind that end later.
#[test]
fn processes_without_a_parent_are_taken_note_of() -> Result<()> {
    let site = site()?;
    // A file that a command of confd itself needs, again and again, while others end.
    site.resource(
        "b",
        "{{getv \"/a\"}}",
        "keys = ['/a']\ncheck_cmd = 'true'\nreload_cmd = 'echo reload >> $B/events'",
    )?;
    let program = "
        for n in 1 2 3 4 5; do (sh -c 'sleep 0.2 & exec true'); done
        while true; do
            for stat in /proc/[0-9]*/stat; do cat $stat; done 2>/dev/null | grep -c ') Z 1 ' > $B/zombies.new
            mv $B/zombies.new $B/zombies
            test -e $B/late && exit 5
            test -e $B/begin || { sleep 0.5; touch $B/begin; }
            sleep 0.05
        done";
    fs::write(site.path("reaped.sh"), program)?;
    let confd = command(&site, &["-exec-reload-signal", "none", "-log-level", "debug"], &["--", "sh"]);
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(confd.get_program()).args(confd.get_args());
    unshare.arg(site.path("reaped.sh")).env("B", site.directory()).stdin(Stdio::null());
    let mut running = Running::start(&mut unshare)?;
    let zombies = || read(&site.path("zombies"));
    until("the children's ends", || site.path("begin").exists() && zombies() == "0\n")?;
    for value in ["two", "three", "four"] {
        data(&site, value)?;
        until("the file", || read(&site.out("b")) == value)?;
    }
    until("four reloads", || events(&site).len() == 4)?;
    until("no zombies", || zombies() == "0\n")?;
    fs::write(site.path("late"), "")?;
    // unshare ends as its child does, and that as the program.
    ensure!(running.wait()?.code() == Some(5), "{}", running.log());
    ensure!(!running.log().contains("ERROR reload") && Path::new("/proc/1").exists());
    Ok(())
}

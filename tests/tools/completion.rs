//! What shells offer where a command line of `cleatctl` is not complete.

use anyhow::{Context as _, Result, ensure};
use harness::server::built_binary;
use harness::tool::run;
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_mins(1);

/// What a shell prints for a script.
async fn shell(program: &str, args: &[&str], script: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).args(["-c", script]).env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
    let output =
        run(command, b"", DEADLINE).await.with_context(|| format!("scripts/check tools installs {program}"))?;
    ensure!(output.code == Some(0), "{program}: {output:?}");
    Ok(output.stdout)
}

/// The script as bash runs it; what readline makes of a line is made here by hand.
#[tokio::test]
async fn bash_completes_what_stands_behind_an_address() -> Result<()> {
    let cleatctl = built_binary("cleatctl")?;
    let complete = async |words: &[&str]| {
        let list: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let script = format!(
            "source <('{0}' completion bash); COMP_WORDS=('{0}' {1}); COMP_CWORD={2}; _cleatctl; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            cleatctl.display(),
            list.join(" "),
            words.len()
        );
        let offered = shell("bash", &["--norc"], &script).await?;
        anyhow::Ok(offered.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    ensure!(complete(&["endpoint", "hea"]).await? == ["health"]);
    // bash takes = and : for words of their own.
    ensure!(complete(&["--endpoints", "=", "10.0.0.1", ":", "2379", "endpoint", "hea"]).await? == ["health"]);
    ensure!(complete(&["--endpoints", "=", "http", ":", "//a", ":", "1", "compact"]).await? == ["compaction"]);
    ensure!(complete(&["get", "--print-v"]).await? == ["--print-value-only"]);
    ensure!(complete(&["get", "--write-out", "=", "j"]).await? == ["json"]);
    ensure!(complete(&["get", "--sort-by", "=", "V"]).await? == ["VALUE", "VERSION"]);
    ensure!(complete(&["--api", "2", "mk"]).await? == ["mk", "mkdir"]);
    ensure!(complete(&["--api", "=", "2", "--output", "=", "e"]).await? == ["extended"]);
    ensure!(complete(&["--api", "2", "set", "/a", "1", "--swap-with-v"]).await? == ["--swap-with-value="]);
    Ok(())
}

/// What stands before a command on its line is its environment to bash, and to the program that is asked.
#[tokio::test]
async fn the_environment_says_which_commands_there_are() -> Result<()> {
    let cleatctl = built_binary("cleatctl")?;
    for (api, line, expected) in [("2", "clus", "cluster-health\n"), ("3", "snap", "snapshot\n"), ("2", "snap", "")] {
        let script = format!(
            "source <('{0}' completion bash --no-descriptions); export ETCDCTL_API={api}; COMP_WORDS=('{0}' {line}); COMP_CWORD=1; \
             _cleatctl; ((${{#COMPREPLY[@]}})) && printf '%s\n' \"${{COMPREPLY[@]}}\"; true",
            cleatctl.display()
        );
        let offered = shell("bash", &["--norc"], &script).await?;
        ensure!(offered == expected, "{api} {line}: {offered:?}");
    }
    Ok(())
}

/// PowerShell itself is not asked: what can be seen without it is that its script is whole, and what the program answers to
/// the words that the script passes on.
#[tokio::test]
async fn the_script_for_powershell_is_whole_and_is_answered() -> Result<()> {
    let cleatctl = built_binary("cleatctl")?;
    let ask = async |args: &[&str]| {
        let mut command = Command::new(&cleatctl);
        command.args(args).env_remove("ETCDCTL_API");
        let output = run(command, b"", DEADLINE).await?;
        ensure!(output.code == Some(0), "{args:?}: {output:?}");
        Ok(output.stdout)
    };
    let script = ask(&["completion", "powershell"]).await?;
    is_balanced(&script)?;
    let called: Vec<&str> = script.lines().filter(|line| line.contains("__complete")).collect();
    ensure!(called == ["    & cleatctl __complete @words 2>$null | ForEach-Object {"], "{called:?}");
    let plain = ask(&["completion", "powershell", "--no-descriptions"]).await?;
    ensure!(plain == script.replace("__complete", "__complete --no-descriptions"), "{plain}");
    // An empty word is passed with its quotes.
    let offered = ask(&["__complete", "snapshot", "\"\""]).await?;
    let names: Vec<&str> = offered.lines().filter_map(|line| line.split('\t').next()).collect();
    ensure!(names == ["restore", "save", "status"], "{offered}");
    ensure!(ask(&["__complete", "--no-descriptions", "--api", "2", "mk"]).await? == "mk\nmkdir\n");
    Ok(())
}

/// Brackets and quotes of a script in PowerShell are closed where they have to be.
fn is_balanced(script: &str) -> Result<()> {
    let (mut open, mut quote) = (Vec::new(), None);
    for line in script.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let mut escaped = false;
        for c in line.chars() {
            match (quote, c) {
                _ if escaped => escaped = false,
                // Between single quotes a backquote is one.
                (None | Some('"'), '`') => escaped = true,
                (Some(begun), _) => quote = Some(begun).filter(|begun| *begun != c),
                (None, '"' | '\'') => quote = Some(c),
                (None, '(' | '[' | '{') => open.push(c),
                (None, ')' | ']' | '}') => {
                    let begun = open.pop().with_context(|| format!("{c} is too much in {line:?}"))?;
                    ensure!(["()", "[]", "{}"].contains(&&*format!("{begun}{c}")), "{begun} and {c} in {line:?}");
                }
                (None, _) => {}
            }
        }
        ensure!(quote.is_none(), "a quote is open behind {line:?}");
    }
    ensure!(open.is_empty(), "{open:?} are open at the end");
    Ok(())
}

#[test]
fn a_script_that_is_not_whole_is_found() {
    for script in ["{ a", "a )", "'a", "( ]", "\"a`\""] {
        assert!(is_balanced(script).is_err(), "{script}");
    }
    assert!(is_balanced("# it's\n{ '\"' + \"`\"\" + '`' }").is_ok());
}

/// fish tells what it would offer.
#[tokio::test]
async fn fish_offers_commands_flags_values_and_files() -> Result<()> {
    let (cleatctl, scratch) = (built_binary("cleatctl")?, tempfile::tempdir()?);
    let file = scratch.path().join("backup.db");
    std::fs::write(&file, "")?;
    let begun = format!("snapshot save {}", scratch.path().join("back").display());
    let lines = [
        ("endpoint hea", &["health"][..]),
        ("lease ", &["grant", "keep-alive", "list", "revoke", "timetolive"]),
        ("--endpoints http://a:1 compact", &["compaction"]),
        ("get --print-v", &["--print-value-only"]),
        ("get --lim", &["--limit="]),
        ("get --write-out=j", &["--write-out=json"]),
        ("get -w j", &["json"]),
        ("--api 2 mk", &["mk", "mkdir"]),
        ("--api=2 --output=e", &["--output=extended"]),
        ("get --order D", &["DESCEND"]),
    ];
    for (line, expected) in lines {
        let offered = in_fish(&cleatctl, line).await?;
        ensure!(offered == expected, "{line}: {offered:?}");
    }
    ensure!(in_fish(&cleatctl, &begun).await? == [file.display().to_string()]);
    Ok(())
}

async fn in_fish(cleatctl: &Path, line: &str) -> Result<Vec<String>> {
    let directory = cleatctl.parent().unwrap_or(cleatctl).display();
    let script =
        format!("set PATH '{directory}' $PATH; cleatctl completion fish | source; complete -C 'cleatctl {line}'");
    let offered = shell("fish", &["--no-config"], &script).await?;
    // A description stands behind a tab.
    Ok(offered.lines().filter_map(|line| line.split('\t').next().map(str::to_owned)).collect())
}

/// zsh completes only where somebody types, so it gets a terminal, and a key that shows the line.
#[tokio::test]
async fn zsh_completes_commands_flags_values_and_files() -> Result<()> {
    let (cleatctl, scratch) = (built_binary("cleatctl")?, tempfile::tempdir()?);
    let file = scratch.path().join("backup.db");
    std::fs::write(&file, "")?;
    let begun = format!("snapshot save {}", scratch.path().join("back").display());
    let whole = format!("snapshot save {} ", file.display());
    let lines = [
        ("endpoint hea", "endpoint health "),
        ("--endpoints http://a:1 compact", "--endpoints http://a:1 compaction "),
        ("--endpoints=http://a:1 compact", "--endpoints=http://a:1 compaction "),
        ("get --print-v", "get --print-value-only "),
        // The value goes on behind it.
        ("get --lim", "get --limit="),
        ("get --write-out=j", "get --write-out=json "),
        ("get -w j", "get -w json "),
        ("--api 2 cluster", "--api 2 cluster-health "),
        ("--api 2 ls --rec", "--api 2 ls --recursive "),
        ("--api=2 member rem", "--api=2 member remove "),
        ("nosuch ", "nosuch "),
        (&begun, &whole),
    ];
    for (line, expected) in lines {
        let completed = in_zsh(&cleatctl, scratch.path(), line).await?;
        ensure!(completed == format!("cleatctl {expected}"), "{line}: {completed:?}");
    }
    Ok(())
}

/// What a line is when the tabulator key was pressed behind it.
async fn in_zsh(cleatctl: &Path, home: &Path, line: &str) -> Result<String> {
    let result = home.join("line");
    std::fs::write(&result, "")?;
    let (directory, home, result_path) =
        (cleatctl.parent().unwrap_or(cleatctl).display(), home.display(), result.display());
    let script = format!(
        r#"zmodload zsh/zpty
zpty shell 'env -i HOME={home} TERM=xterm LC_ALL=C.UTF-8 PATH={directory}:'$PATH' zsh -f -i'
zpty -w shell 'autoload -Uz compinit; compinit -u -D; source <(cleatctl completion zsh); show() {{ print -rn -- "$BUFFER|" > {result_path}; zle send-break }}; zle -N show; bindkey "^X" show; print re''ady'
zpty -r shell seen '*ready*' || exit 1
zpty -w -n shell 'cleatctl {line}'$'\t\x18'
for ((i = 0; i < 300; i++)); do [[ -s {result_path} ]] && break; zpty -r -t shell seen; sleep 0.1; done
zpty -d shell
"#
    );
    shell("zsh", &["-f"], &script).await?;
    let shown = std::fs::read_to_string(&result)?;
    Ok(shown.trim_end_matches('|').to_owned())
}

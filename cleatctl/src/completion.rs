//! `help`, and the scripts that let a shell complete a command line. A script asks this program: what it offers is what
//! there is, whatever release is installed.

use crate::cli::{Command, Flag, Group, HELP, Kind, Path, help};
use crate::commands::ROOT;
use crate::context::Context;
use crate::failure::Failure;
use crate::program::{self, print_page};
use crate::{cli, print, v2};
use std::ffi::OsString;

const MAN: Flag = Flag::switch("man", "the manual of all commands, for man -l").cleat();
const NO_DESCRIPTIONS: Flag = Flag::switch("no-descriptions", "disable completion descriptions");

/// What the scripts call. It is not listed.
pub(crate) const ASK: &str = "__complete";

pub(crate) const HELP_COMMAND: Command = Command {
    name: HELP,
    usage: "[command]",
    short: "Help about any command",
    long: "Help provides help for any command in the application.
Simply type {program} help [path to command] for full details.",
    group: Group::Other,
    flags: &[MAN],
    run: Some(|context| Box::pin(async move { help(&context) })),
    ..Command::NONE
};

pub(crate) const COMMAND: Command = Command {
    name: "completion",
    short: "Generate the autocompletion script for the specified shell",
    long: "Generate the autocompletion script for {program} for the specified shell.
See each sub-command's help for details on how to use the generated script.",
    group: Group::Other,
    commands: &[&BASH, &FISH, &POWERSHELL, &ZSH],
    ..Command::NONE
};

const BASH: Command = Command {
    name: "bash",
    short: "Generate the autocompletion script for bash",
    long: "In this session:

\tsource <({program} completion bash)

In every new one, with the package bash-completion:

\t{program} completion bash > /etc/bash_completion.d/{program}",
    flags: &[NO_DESCRIPTIONS],
    run: Some(|context| Box::pin(async move { script(&context, BASH_SCRIPT) })),
    ..Command::NONE
};

const FISH: Command = Command {
    name: "fish",
    short: "Generate the autocompletion script for fish",
    long: "In this session:

\t{program} completion fish | source

In every new one:

\t{program} completion fish > ~/.config/fish/completions/{program}.fish",
    flags: &[NO_DESCRIPTIONS],
    run: Some(|context| Box::pin(async move { script(&context, FISH_SCRIPT) })),
    ..Command::NONE
};

const POWERSHELL: Command = Command {
    name: "powershell",
    short: "Generate the autocompletion script for powershell",
    long: "In this session:

\t{program} completion powershell | Out-String | Invoke-Expression

In every new one: add the output of this command to the profile.",
    flags: &[NO_DESCRIPTIONS],
    run: Some(|context| Box::pin(async move { script(&context, POWERSHELL_SCRIPT) })),
    ..Command::NONE
};

const ZSH: Command = Command {
    name: "zsh",
    short: "Generate the autocompletion script for zsh",
    long: "In this session:

\tsource <({program} completion zsh)

In every new one, if compinit is loaded:

\t{program} completion zsh > \"${fpath[1]}/_{program}\"",
    flags: &[NO_DESCRIPTIONS],
    run: Some(|context| Box::pin(async move { script(&context, ZSH_SCRIPT) })),
    ..Command::NONE
};

const BASH_SCRIPT: &str = r#"# bash completion of PROGRAM
_PROGRAM() {
    local words=() part joins= i word head line
    # = and : are words of their own to bash: they are put back between what stands beside them.
    for ((i = 1; i <= COMP_CWORD; i++)); do
        part=${COMP_WORDS[i]}
        if [[ (-n $joins || $part == [=:]*) && ${#words[@]} -gt 0 ]]; then
            words[${#words[@]} - 1]+=$part
        else
            words+=("$part")
        fi
        joins=
        [[ $part == *[=:] ]] && joins=1
    done
    word=${words[${#words[@]} - 1]}
    # Only what stands behind the last of them is replaced.
    head=${word%"${word##*[=:]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r line _; do
        [[ $line == "$word"* ]] && COMPREPLY+=("${line#"$head"}")
    done < <("${COMP_WORDS[0]}" __complete "${words[@]}" 2>/dev/null)
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o default -F _PROGRAM PROGRAM
"#;

const FISH_SCRIPT: &str = r"# fish completion of PROGRAM
function __PROGRAM_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] __complete $words[2..-1] 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path $words[-1]
    end
end
complete -c PROGRAM -f -a '(__PROGRAM_complete)'
";

const POWERSHELL_SCRIPT: &str = r#"# PowerShell completion of PROGRAM
Register-ArgumentCompleter -Native -CommandName PROGRAM -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @($commandAst.CommandElements | Select-Object -Skip 1 | ForEach-Object { "$_" })
    if ($wordToComplete -eq '') { $words += '""' }
    & PROGRAM __complete @words 2>$null | ForEach-Object {
        $name, $about = $_ -split "`t", 2
        if ($name -like "$wordToComplete*") {
            [System.Management.Automation.CompletionResult]::new($name, $name, 'ParameterValue', "$about ")
        }
    }
}
"#;

const ZSH_SCRIPT: &str = r#"#compdef PROGRAM
# zsh completion of PROGRAM
_PROGRAM() {
    # Behind = a value goes on without a space.
    local -a whole begun
    local name about
    while IFS=$'\t' read -r name about; do
        if [[ $name == *= ]]; then
            begun+=("${name//:/\\:}:$about")
        else
            whole+=("${name//:/\\:}${about:+:$about}")
        fi
    done < <("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    local none=1
    _describe 'PROGRAM' whole && none=0
    _describe 'PROGRAM' begun -S '' && none=0
    ((none)) && _files
}
if [ "$funcstack[1]" = "_PROGRAM" ]; then
    _PROGRAM "$@"
else
    compdef _PROGRAM PROGRAM
fi
"#;

fn script(context: &Context, script: &str) -> Result<(), Failure> {
    let mut script = script.replace("PROGRAM", context.personality().program());
    if context.switch(&NO_DESCRIPTIONS) {
        script = script.replace(ASK, &format!("{ASK} --no-descriptions"));
    }
    print::out(script.as_bytes())
}

/// The page of the command that the arguments name.
fn help(context: &Context) -> Result<(), Failure> {
    if context.switch(&MAN) {
        let (version, _) = crate::v3::version::of(context.personality());
        return print::out(manual(context.personality(), version).as_bytes());
    }
    let mut path = Path { personality: context.personality(), commands: vec![&ROOT] };
    for word in &context.args {
        let Some(child) = cli::parse::child(&path, word) else {
            // Words behind a command are its arguments.
            if path.commands.len() == 1 {
                let words: Vec<String> = context.args.iter().map(|word| format!("`{}`", word.display())).collect();
                tell!("Unknown help topic [{}]", words.join(" "));
            }
            break;
        };
        path.commands.push(child);
    }
    print_page(&path)
}

/// Answers a script: what may stand in the place of the last word, each with a description behind a tab.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn answer(personality: cli::Personality, words: &[OsString]) -> Result<(), Failure> {
    let (plain, words) = match words {
        [flag, rest @ ..] if flag == "--no-descriptions" => (true, rest),
        words => (false, words),
    };
    let (last, before) = words.split_last().map_or((String::new(), &[][..]), |(last, before)| {
        // PowerShell gives an empty word its quotes.
        (last.to_string_lossy().trim_matches('"').to_owned(), before)
    });
    let offers = if program::api(personality, before).is_some_and(|api| api == "2") {
        v2::offers(personality, before, &last)
    } else {
        offers(personality, before, &last)
    };
    let offers = offers.into_iter().filter(|(name, _)| name.starts_with(&last));
    let lines: String =
        offers.map(|(name, about)| if plain { format!("{name}\n") } else { format!("{name}\t{about}\n") }).collect();
    print::out(lines.as_bytes())
}

/// What a shell may put in the place of a word, and what that is.
pub(crate) type Offer = (String, String);

/// The values of a flag, each behind what the word begins with.
pub(crate) fn values(begin: &str, values: &[&str]) -> Vec<Offer> {
    values.iter().map(|value| (format!("{begin}{value}"), String::new())).collect()
}

/// A flag as a word: what takes a value goes on behind `=`.
pub(crate) fn dashed(name: &str, has_value: bool) -> String {
    format!("--{name}{}", if has_value { "=" } else { "" })
}

/// What may stand behind some words: of commands and flags all, of values those that are known.
fn offers(personality: cli::Personality, before: &[OsString], last: &str) -> Vec<Offer> {
    let (path, rest) = cli::parse::find(Path { personality, commands: vec![&ROOT] }, before.to_vec());
    let previous = before.last().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    if let Some(flag) = cli::parse::flag_before(&path, previous.as_bytes()) {
        return values("", flag.values);
    }
    if let Some((name, _)) = last.strip_prefix("--").and_then(|word| word.split_once('=')) {
        return path.flag(name).map(|flag| values(&dashed(name, true), flag.values)).unwrap_or_default();
    }
    if last.starts_with('-') {
        let flags = path.local().into_iter().chain(path.inherited());
        let flags = flags.map(|flag| (dashed(flag.name, flag.kind != Kind::Bool), flag.about()));
        return flags.chain([(format!("--{HELP}"), "help for this command".to_owned())]).collect();
    }
    if cli::parse::without_flags(&path, &rest).is_empty() {
        return path.children().map(|child| (child.name.to_owned(), child.about(path.personality))).collect();
    }
    Vec::new()
}

/// Every page as one text in the form of a manual, for `man -l`.
fn manual(personality: cli::Personality, version: &str) -> String {
    let program = personality.program();
    let root = Path { personality, commands: vec![&ROOT] };
    let escape = |text: &str| {
        let text = text.replace('\\', "\\e").replace('-', "\\-");
        text.lines()
            .map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() })
            .collect::<Vec<_>>()
            .join("\n")
    };
    let option = |flag: &Flag| {
        let short = flag.short.map(|short| format!("\\-{short}, ")).unwrap_or_default();
        let value = if flag.kind == Kind::Bool { String::new() } else { format!("=\\fI{}\\fR", escape(flag.default)) };
        format!(".TP\n\\fB{short}\\-\\-{}\\fR{value}\n{}\n", escape(flag.name), escape(&flag.about()))
    };
    let mut text = format!(
        ".TH {} 1 \"\" \"{program} {version}\"\n.SH NAME\n{program} \\- {}\n",
        program.to_uppercase(),
        escape(ROOT.short)
    );
    text += &format!(
        ".SH SYNOPSIS\n.B {program}\n[options] command [arguments]\n.SH OPTIONS\nEach is also a variable of the environment: ETCDCTL_ and the name in capitals.\n"
    );
    root.local().into_iter().for_each(|flag| text += &option(flag));
    text += ".SH COMMANDS\n";
    for (_, path) in help::all(&root) {
        let command = path.command();
        text += &format!(
            ".SS \"{}\"\n{}.\n.PP\n.nf\n{}\n.fi\n",
            escape(&path.name()),
            escape(&command.about(personality)),
            escape(&help::usage(&path))
        );
        if !command.long.is_empty() {
            text += &format!(".PP\n.nf\n{}\n.fi\n", escape(command.long.trim()));
        }
        path.local().into_iter().for_each(|flag| text += &option(flag));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::offers;
    use crate::cli::Personality;

    fn names(words: &[&str]) -> Vec<String> {
        let (last, before) = words.split_last().unwrap();
        let before: Vec<_> = before.iter().map(Into::into).collect();
        let offers = offers(Personality::Cleatctl, &before, last).into_iter();
        offers.map(|(name, _)| name).filter(|name| name.starts_with(last)).collect()
    }

    #[test]
    fn commands_flags_and_values_are_offered() {
        assert_eq!(names(&["sna"]), ["snapshot"]);
        assert_eq!(names(&["snapshot", ""]), ["restore", "save", "status"]);
        assert_eq!(names(&["--endpoints", "a:1", "lease", "gr"]), ["grant"]);
        assert_eq!(names(&["get", "--keys"]), ["--keys-only"]);
        assert_eq!(names(&["get", "-w", ""]), ["fields", "json", "protobuf", "simple", "table"]);
        assert_eq!(names(&["get", "--write-out=j"]), ["--write-out=json"]);
        assert_eq!(names(&["get", "--order", "D"]), ["DESCEND"]);
        assert_eq!(names(&["get", "--sort-by=V"]), ["--sort-by=VALUE", "--sort-by=VERSION"]);
        assert_eq!(names(&["check", "perf", "--load", ""]), ["s", "m", "l", "xl"]);
        assert_eq!(names(&["--api", ""]), ["2", "3"]);
        // A file is offered by the shell.
        assert_eq!(names(&["--cacert", ""]), Vec::<String>::new());
        assert_eq!(names(&["get", "some-key", ""]), Vec::<String>::new());
    }
}

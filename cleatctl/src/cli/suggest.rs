//! What may have been meant.

use super::Path;
use terminal::suggest::distance;

/// Further than this from a name, nothing is meant by it. The distance that etcdctl's library takes.
const DISTANCE_MAX: usize = 2;

/// Names of commands near an unknown one, as etcdctl prints them; empty if there are none.
pub(crate) fn of_command(path: &Path, typed: &str) -> String {
    let near = near(typed, path.children().map(|child| child.name));
    if near.is_empty() {
        return String::new();
    }
    format!("\n\nDid you mean this?\n\t{}\n", near.join("\n\t"))
}

/// Those of some names that are near an unknown one.
pub(crate) fn near(typed: &str, names: impl Iterator<Item = &'static str>) -> Vec<&'static str> {
    names.filter(|name| is_near(typed, name)).collect()
}

/// The flag that is nearest to an unknown one. etcdctl has nothing like it.
pub(crate) fn of_flag(path: &Path, typed: &str) -> Option<String> {
    let flags = path.local().into_iter().chain(path.inherited());
    let near = flags.map(|flag| (distance(typed, flag.name), flag.name)).min()?;
    let is_near = near.0 <= DISTANCE_MAX || typed.len() > 2 && near.1.starts_with(typed);
    is_near.then(|| format!("did you mean --{}?", near.1))
}

/// Of a command that runs another one: whose the flag may be.
pub(super) fn of_command_to_run(path: &Path) -> Option<String> {
    let runs = path.command().usage.contains("exec-command");
    runs.then(|| "the command to run stands behind --, with its flags".to_owned())
}

fn is_near(typed: &str, name: &str) -> bool {
    let typed = typed.to_lowercase();
    distance(&typed, &name.to_lowercase()) <= DISTANCE_MAX || name.to_lowercase().starts_with(&typed)
}

#[cfg(test)]
mod tests {
    use super::{near, of_command_to_run};
    use crate::cli::{Path, Personality};
    use crate::commands::ROOT;

    #[test]
    fn a_command_to_run_has_flags_of_its_own() {
        let at = |name: &str| {
            let command = *ROOT.commands.iter().find(|command| command.name == name).unwrap();
            of_command_to_run(&Path { personality: Personality::Cleatctl, commands: vec![&ROOT, command] })
        };
        assert!(at("lock").unwrap().contains("behind --") && at("watch").is_some() && at("get").is_none());
    }

    #[test]
    fn what_is_near_is_offered() {
        let names = || ["ls", "rm", "set", "setdir"].into_iter();
        assert_eq!(near("lss", names()), ["ls"]);
        assert_eq!(near("setdri", names()), ["setdir"]);
        assert_eq!(near("exec", names()), Vec::<&str>::new());
    }
}

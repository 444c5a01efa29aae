//! `version`.

use crate::cli::{Command, Group, Personality};
use crate::context::Context;
use crate::failure::Failure;
use crate::print;

pub(crate) const COMMAND: Command = Command {
    name: "version",
    short: "Prints the version of {program}",
    group: Group::Other,
    run: Some(|context| Box::pin(async move { version(&context) })),
    ..Command::NONE
};

/// The release and the API that a program of this name says it is of.
pub(crate) fn of(personality: Personality) -> (&'static str, &'static str) {
    match personality {
        Personality::Cleatctl => (server::version::CLEAT_VERSION, "3.5"),
        // Scripts look at this.
        Personality::Etcdctl => ("3.4.23", "3.4"),
    }
}

fn version(context: &Context) -> Result<(), Failure> {
    let (version, api) = of(context.personality());
    print::line(&format!("{} version: {version}\nAPI version: {api}", context.personality().program()))
}

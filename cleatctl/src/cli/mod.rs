//! What a command line looks like: commands, their flags, and the pages that explain them, as data.
//!
//! Commands are constants that other constants refer to, so that nothing is built before it is needed. [`parse`] reads
//! words by the rules of etcdctl's library for flags, [`help`] prints its pages, [`suggest`] finds what may have been
//! meant. Nothing here knows what a command does.

pub(crate) mod help;
pub(crate) mod parse;
pub(crate) mod suggest;
mod tab;
mod values;

pub(crate) use values::Values;

use crate::context::Context;
use crate::failure::Failure;
use std::pin::Pin;

/// What a command does, once it is polled.
pub(crate) type Running = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// Begins a command.
pub(crate) type Run = fn(Context) -> Running;

/// A command, or a group of commands.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    /// What stands behind the name in a line of usage, without flags.
    pub(crate) usage: &'static str,
    pub(crate) short: &'static str,
    /// More about it, several lines; empty if there is nothing to add.
    pub(crate) long: &'static str,
    /// Sorted by name.
    pub(crate) flags: &'static [Flag],
    /// Flags that the commands below have, too.
    pub(crate) persistent: &'static [Flag],
    /// Sorted by name.
    pub(crate) commands: &'static [&'static Self],
    /// None for a group.
    pub(crate) run: Option<Run>,
    /// Variables of the environment that it reads besides those of its flags.
    pub(crate) variables: &'static [&'static str],
    pub(crate) origin: Origin,
    /// Under which heading of the first page it stands.
    pub(crate) group: Group,
}

impl Command {
    /// The command that others differ from.
    pub(crate) const NONE: Self = Self {
        name: "",
        usage: "",
        short: "",
        long: "",
        flags: &[],
        persistent: &[],
        commands: &[],
        run: None,
        variables: &[],
        origin: Origin::Etcdctl,
        group: Group::Keys,
    };

    /// What it does, in one line, with the program's name where the text has `{program}`.
    pub(crate) fn about(&self, personality: Personality) -> String {
        self.short.replace("{program}", personality.program())
    }
}

/// Who has something. A program that is called `etcdctl` has nothing that etcdctl has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// etcdctl 3.4, which is what `etcdctl` means here.
    Etcdctl,
    /// etcdctl 3.4 alone: here something else has the name.
    EtcdctlAlone,
    /// A later etcdctl, or etcdutl.
    Later,
    /// Cleat alone.
    Cleat,
}

/// Headings of the first page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Keys,
    Leases,
    Cluster,
    Users,
    Data,
    People,
    Other,
}

impl Group {
    pub(crate) const ALL: [(Self, &str); 7] = [
        (Self::Keys, "KEYS"),
        (Self::Leases, "LEASES AND LOCKS"),
        (Self::People, "FOR PEOPLE"),
        (Self::Cluster, "CLUSTER"),
        (Self::Users, "USERS AND ROLES"),
        (Self::Data, "DATA AND FILES"),
        (Self::Other, "OTHER"),
    ];
}

/// A flag.
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    /// One letter for it.
    pub(crate) short: Option<char>,
    pub(crate) kind: Kind,
    /// As it would be written.
    pub(crate) default: &'static str,
    /// What it is for; see [`Flag::about`].
    pub(crate) help: &'static str,
    /// The values that it takes, as a shell offers them; empty if they are not known.
    pub(crate) values: &'static [&'static str],
    pub(crate) origin: Origin,
}

/// What a flag's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Needs no value.
    Bool,
    String,
    /// 64 bits, with a sign.
    Int,
    /// Without a sign.
    Uint,
    Duration,
    /// Values with commas between them; given again, it is added to.
    List,
}

impl Flag {
    pub(crate) const fn switch(name: &'static str, help: &'static str) -> Self {
        Self { name, short: None, kind: Kind::Bool, default: "false", help, values: &[], origin: Origin::Etcdctl }
    }

    pub(crate) const fn string(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { name, short: None, kind: Kind::String, default, help, values: &[], origin: Origin::Etcdctl }
    }

    pub(crate) const fn int(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { name, short: None, kind: Kind::Int, default, help, values: &[], origin: Origin::Etcdctl }
    }

    pub(crate) const fn uint(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { name, short: None, kind: Kind::Uint, default, help, values: &[], origin: Origin::Etcdctl }
    }

    pub(crate) const fn duration(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { name, short: None, kind: Kind::Duration, default, help, values: &[], origin: Origin::Etcdctl }
    }

    pub(crate) const fn list(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self { name, short: None, kind: Kind::List, default, help, values: &[], origin: Origin::Etcdctl }
    }

    /// With one letter for it.
    pub(crate) const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }

    /// With another default.
    pub(crate) const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    /// With one of these values.
    pub(crate) const fn one_of(mut self, values: &'static [&'static str]) -> Self {
        self.values = values;
        self
    }

    /// What it is for, with its values where the text has `{values}`.
    pub(crate) fn about(&self) -> String {
        self.help.replace("{values}", &self.values.join(", "))
    }

    /// Of Cleat alone.
    pub(crate) const fn cleat(mut self) -> Self {
        self.origin = Origin::Cleat;
        self
    }

    /// Of a later etcdctl.
    pub(crate) const fn later(mut self) -> Self {
        self.origin = Origin::Later;
        self
    }
}

/// The flag that every command has.
pub(crate) const HELP: &str = "help";

/// Whose rules and pages count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Personality {
    Cleatctl,
    /// Called by that name: nothing more and nothing else than etcdctl 3.4.
    Etcdctl,
}

impl Personality {
    /// True if something of this origin exists for it.
    pub(crate) fn has(self, origin: Origin) -> bool {
        match origin {
            Origin::Etcdctl => true,
            Origin::EtcdctlAlone => self == Self::Etcdctl,
            Origin::Later | Origin::Cleat => self == Self::Cleatctl,
        }
    }

    /// The name that pages and errors call the program.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Self::Cleatctl => "cleatctl",
            Self::Etcdctl => "etcdctl",
        }
    }
}

/// A command with the groups it is in; the first is the program.
#[derive(Clone)]
pub(crate) struct Path {
    pub(crate) personality: Personality,
    pub(crate) commands: Vec<&'static Command>,
}

impl Path {
    /// The command itself.
    pub(crate) fn command(&self) -> &'static Command {
        self.commands[self.commands.len() - 1]
    }

    /// The names of the commands, without the program's.
    pub(crate) fn name(&self) -> String {
        self.commands[1..].iter().map(|command| command.name).collect::<Vec<_>>().join(" ")
    }

    /// Commands below this one.
    pub(crate) fn children(&self) -> impl Iterator<Item = &'static Command> + use<> {
        let personality = self.personality;
        self.command().commands.iter().copied().filter(move |child| personality.has(child.origin))
    }

    /// Flags of this command alone, and those that the commands below have, too.
    pub(crate) fn local(&self) -> Vec<&'static Flag> {
        let command = self.command();
        self.sorted(command.flags.iter().chain(command.persistent))
    }

    /// Flags of the groups that this command is in.
    pub(crate) fn inherited(&self) -> Vec<&'static Flag> {
        let above = &self.commands[..self.commands.len() - 1];
        self.sorted(above.iter().flat_map(|command| command.persistent))
    }

    /// The flag of this name.
    pub(crate) fn flag(&self, name: &str) -> Option<&'static Flag> {
        self.local().into_iter().chain(self.inherited()).find(|flag| flag.name == name)
    }

    /// The flag with this letter.
    pub(crate) fn short(&self, short: char) -> Option<&'static Flag> {
        self.local().into_iter().chain(self.inherited()).find(|flag| flag.short == Some(short))
    }

    fn sorted(&self, flags: impl Iterator<Item = &'static Flag>) -> Vec<&'static Flag> {
        let mut flags: Vec<_> = flags.filter(|flag| self.personality.has(flag.origin)).collect();
        flags.sort_by_key(|flag| flag.name);
        flags
    }
}

//! Who may read what: a client's rules as a tree beside the data, and the walk that reads both.
//!
//! A rule names a path, where `*` stands for any one name, and a mode. Going down, a name that the rules know by itself
//! wins over `*` wholly; a node without a mode of its own has that of the nearest node above that was entered.

use crate::path;
use crate::shown::Shown;
use crate::tree::{Name, Node};
use std::sync::Arc;

/// Names in the path of a rule.
const MAX_NAMES: usize = 128;

/// What a rule says about its path and all below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing: the rule above counts.
    None,
    Forbidden,
    Read,
}

impl Mode {
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::None => -1,
            Self::Forbidden => 0,
            Self::Read => 1,
        }
    }

    pub(crate) fn of(number: i64) -> Option<Self> {
        [Self::None, Self::Forbidden, Self::Read].into_iter().find(|mode| mode.number() == number)
    }
}

/// A rule as the manage API has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) path: String,
    pub(crate) mode: Mode,
}

/// The rules of one client.
#[derive(Debug)]
pub(crate) struct Access {
    root: RuleNode,
}

#[derive(Debug)]
struct RuleNode {
    name: Name,
    mode: Mode,
    /// In the order in which the rules named them, which is also that of the answer to who asks for the rules.
    children: Vec<Self>,
}

impl RuleNode {
    fn new(name: &[u8]) -> Self {
        Self { name: Arc::from(name), mode: Mode::None, children: Vec::new() }
    }

    /// The child of that name, else the one for any name.
    fn child(&self, name: &[u8]) -> Option<&Self> {
        let mut any = None;
        for child in &self.children {
            if *child.name == *name {
                return Some(child);
            }
            if *child.name == *b"*" {
                any = Some(child);
            }
        }
        any
    }

    fn collect(&self, at: &str, found: &mut Vec<Rule>) {
        let path = match (at, String::from_utf8_lossy(&self.name)) {
            ("", _) => "/".to_owned(),
            ("/", name) => format!("/{name}"),
            (at, name) => format!("{at}/{name}"),
        };
        if self.mode != Mode::None {
            found.push(Rule { path: path.clone(), mode: self.mode });
        }
        for child in &self.children {
            child.collect(&path, found);
        }
    }
}

impl Access {
    /// Of these rules. Of two with the same path the later counts.
    pub(crate) fn new<'r>(rules: impl IntoIterator<Item = (&'r [u8], Mode)>) -> Self {
        let mut root = RuleNode::new(b"/");
        for (path, mode) in rules {
            let mut node = &mut root;
            for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).take(MAX_NAMES) {
                let at = node.children.iter().position(|child| *child.name == *name).unwrap_or_else(|| {
                    node.children.push(RuleNode::new(name));
                    node.children.len() - 1
                });
                node = &mut node.children[at];
            }
            node.mode = mode;
        }
        Self { root }
    }

    /// The rules as they are shown: those with a mode, from the root down.
    pub(crate) fn rules(&self) -> Vec<Rule> {
        let mut found = Vec::new();
        self.root.collect("", &mut found);
        found
    }

    /// Where the walk begins.
    pub(crate) fn enter<'a>(&'a self, data: &'a Arc<Node>) -> Place<'a> {
        Place { node: data, rule: Some(&self.root), mode: self.root.mode }
    }
}

/// A place in the data that the client has entered.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    node: &'a Arc<Node>,
    rule: Option<&'a RuleNode>,
    /// Of the nearest place above, or this one, that has one.
    mode: Mode,
}

impl<'a> Place<'a> {
    fn child(self, name: &[u8]) -> Option<Self> {
        self.enter_node(name, self.node.child(name)?)
    }

    fn enter_node(self, name: &[u8], node: &'a Arc<Node>) -> Option<Self> {
        let rule = self.rule.and_then(|rule| rule.child(name));
        let is_open = match rule {
            // Something below may be open.
            Some(rule) => !rule.children.is_empty() || rule.mode == Mode::Read,
            None => self.mode == Mode::Read,
        };
        let mode = rule.map(|rule| rule.mode).filter(|mode| *mode != Mode::None).unwrap_or(self.mode);
        is_open.then_some(Self { node, rule, mode })
    }

    /// The place at a path from here, if it exists and the client may enter it.
    pub(crate) fn at(self, path: &[u8]) -> Option<Self> {
        path::names(path).into_iter().try_fold(self, Self::child)
    }

    /// What the client sees here. Directories in which it sees nothing are left out, but for this one.
    pub(crate) fn shown(self) -> Shown {
        if let Some(value) = self.node.leaf() {
            return Shown::Leaf(Arc::clone(value));
        }
        match self.rule {
            None if self.mode == Mode::Read => Shown::All(Arc::clone(self.node)),
            None => Shown::Map(Vec::new()),
            // Only what the rules name can be entered, and they are few beside the data.
            Some(rule) if self.mode != Mode::Read && rule.child(b"*").is_none() => {
                let mut names: Vec<&Name> = rule.children.iter().map(|child| &child.name).collect();
                names.sort_unstable();
                self.map(names.into_iter().filter_map(|name| Some((name, self.node.child(name)?))))
            }
            Some(_) => self.map(self.node.children().into_iter().flatten()),
        }
    }

    fn map(self, children: impl Iterator<Item = (&'a Name, &'a Arc<Node>)>) -> Shown {
        let shown = |(name, node): (&Name, &'a Arc<Node>)| {
            let shown = self.enter_node(name, node)?.shown();
            (!shown.is_empty()).then(|| (Arc::clone(name), shown))
        };
        Shown::Map(children.filter_map(shown).collect())
    }

    /// Revision of the last change here or below.
    pub(crate) fn version(self) -> i64 {
        self.node.version()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    fn data() -> Tree {
        let mut tree = Tree::default();
        for path in [
            "/clusters/cl-1/env/username",
            "/clusters/cl-1/env/secret",
            "/clusters/cl-1/public_key",
            "/clusters/cl-2/env/secret",
            "/clusters/cl-2/public_key",
            "/other/x",
        ] {
            tree.put(path.as_bytes(), b"v", 1);
        }
        tree
    }

    fn access(rules: &[(&str, i64)]) -> Access {
        Access::new(rules.iter().map(|(path, mode)| (path.as_bytes(), Mode::of(*mode).unwrap())))
    }

    fn seen(rules: &[(&str, i64)]) -> String {
        let tree = data();
        String::from_utf8(access(rules).enter(tree.root()).shown().text()).unwrap().replace("\tv\n", " ")
    }

    /// The example of metad's documentation, and what its rules lead to.
    #[test]
    fn the_nearest_rule_decides_and_names_win_over_any() {
        let rules = [("/", 0), ("/clusters", 1), ("/clusters/*/env", 0), ("/clusters/cl-1", 1)];
        let all_of_one = "/clusters/cl-1/env/secret /clusters/cl-1/env/username /clusters/cl-1/public_key ";
        assert_eq!(seen(&rules), format!("{all_of_one}/clusters/cl-2/public_key "));
        // A name that only leads to a deeper rule takes the mode from above, and hides the rule for any name.
        let trap = [("/", 0), ("/clusters", 1), ("/clusters/*/env", 0), ("/clusters/cl-1/env/secret", 1)];
        assert_eq!(seen(&trap), format!("{all_of_one}/clusters/cl-2/public_key "));
        assert_eq!(seen(&[("/clusters/cl-1/public_key", 1)]), "/clusters/cl-1/public_key ");
        assert_eq!(seen(&[("/", 1), ("/clusters", 0)]), "/other/x ");
        assert_eq!(seen(&[]), "");
    }

    #[test]
    fn a_directory_with_a_rule_below_can_be_entered() {
        let (tree, access) = (data(), access(&[("/", 0), ("/clusters/*/env", 0), ("/clusters/cl-2", 1)]));
        let at = |path: &str| access.enter(tree.root()).at(path.as_bytes()).map(|place| place.shown().is_empty());
        assert_eq!((at("/clusters/cl-1"), at("/clusters/cl-1/public_key")), (Some(true), None));
        assert_eq!((at("/clusters/cl-2/env/secret"), at("/nothing"), at("/other")), (Some(false), None, None));
    }

    #[test]
    fn rules_are_shown_in_the_order_of_their_tree() {
        let rules = access(&[("b", 1), ("/a/c", 0), ("/b/d", 1), ("/", 0), ("/b", 0), ("/gone", -1)]).rules();
        let shown: Vec<_> = rules.iter().map(|rule| (rule.path.as_str(), rule.mode.number())).collect();
        assert_eq!(shown, [("/", 0), ("/b", 0), ("/b/d", 1), ("/a/c", 0)]);
    }
}

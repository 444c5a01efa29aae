//! Who may read what: a client's rules as a tree beside the data, and the walk that reads both.
//!
//! A rule names a path, where `*` stands for any one name, and a mode. Going down, a name that the rules know by itself
//! wins over `*` wholly; a node without a mode of its own has that of the nearest node above that was entered.

use crate::path;
use crate::shown::Shown;
use crate::tree::{Name, Node};
use std::collections::BTreeMap;
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
    /// Where they are; a client may have thousands.
    by_name: BTreeMap<Name, usize>,
    /// Who may read this place may read all below it.
    is_open_below: bool,
}

impl RuleNode {
    fn new(name: &[u8]) -> Self {
        Self {
            name: Arc::from(name),
            mode: Mode::None,
            children: Vec::new(),
            by_name: BTreeMap::new(),
            is_open_below: true,
        }
    }

    /// The child of that name, else the one for any name.
    fn child(&self, name: &[u8]) -> Option<&Self> {
        let at = self.by_name.get(name).or_else(|| self.by_name.get(b"*".as_slice()))?;
        self.children.get(*at)
    }

    /// The child of that very name, which is there afterwards.
    fn entry(&mut self, name: &[u8]) -> &mut Self {
        let at = self.by_name.get(name).copied().unwrap_or_else(|| {
            let child = Self::new(name);
            self.by_name.insert(Arc::clone(&child.name), self.children.len());
            self.children.push(child);
            self.children.len() - 1
        });
        &mut self.children[at]
    }

    /// Says of each place whether it is open below.
    fn finish(&mut self) {
        for child in &mut self.children {
            child.finish();
            // A rule that says nothing closes its place, unless it leads to others.
            let is_open = child.mode == Mode::Read || (child.mode == Mode::None && !child.children.is_empty());
            self.is_open_below &= is_open && child.is_open_below;
        }
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
                node = node.entry(name);
            }
            node.mode = mode;
        }
        root.finish();
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
            // What holds nothing is no text: the client must not learn here that it is there.
            let is_seen = value.text().is_some() || self.mode == Mode::Read;
            return if is_seen { Shown::Leaf(value.clone()) } else { Shown::Map(Vec::new()) };
        }
        match self.rule {
            None if self.mode != Mode::Read => Shown::Map(Vec::new()),
            None => Shown::All(Arc::clone(self.node)),
            // As below what a client is mapped to.
            Some(rule) if self.mode == Mode::Read && rule.is_open_below => Shown::All(Arc::clone(self.node)),
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
        let entries = children.filter_map(shown).collect();
        if self.node.was_list() { Shown::List(entries) } else { Shown::Map(entries) }
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
            tree.put(path.as_bytes(), b"v");
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

    /// Whole directories have their JSON at hand.
    #[test]
    fn what_is_open_is_shown_whole() {
        let tree = data();
        let is_whole = |rules: &[(&str, i64)], path: &str| {
            let access = access(rules);
            let shown = access.enter(tree.root()).at(path.as_bytes()).unwrap().shown();
            matches!(shown, Shown::All(_))
        };
        let (all, one) = (("/clusters", 1), ("/clusters/cl-1/env", 1));
        assert!(is_whole(&[all], "/clusters") && is_whole(&[all], "/clusters/cl-1"));
        assert!(is_whole(&[all, one], "/clusters") && is_whole(&[all, one], "/clusters/cl-1/env"));
        for closed in [("/clusters/cl-1/env", 0), ("/clusters/*/env", 0), ("/clusters/cl-1/env", -1)] {
            assert!(!is_whole(&[all, closed], "/clusters"), "{closed:?}");
            assert!(!seen(&[all, closed]).contains("cl-1/env"), "{closed:?}");
        }
        assert!(!is_whole(&[one], "/clusters") && !is_whole(&[("/", 0), one], "/"));
    }

    /// It is like a directory in which the client sees nothing.
    #[test]
    fn what_holds_nothing_is_shown_where_the_place_is_open() {
        let mut tree = Tree::default();
        for container in ["/a", "/b/c", "/b/d"] {
            tree.set(container.as_bytes(), crate::tree::Leaf::container("[]"));
        }
        let seen = |rules: &[(&str, i64)], path: &str| {
            let access = access(rules);
            let shown = access.enter(tree.root()).at(path.as_bytes())?.shown();
            (!shown.is_empty()).then(|| String::from_utf8(shown.json(true).text.to_vec()).unwrap())
        };
        assert_eq!(seen(&[("/a/x", 1)], "/a"), None);
        assert_eq!(seen(&[("/", 1), ("/a", 0), ("/a/x", 1)], "/a"), None);
        assert_eq!(seen(&[("/a/x", 1), ("/b/c/x", 1), ("/b/d", 1)], "/").as_deref(), Some(r#"{"b":{"d":[]}}"#));
        assert_eq!(seen(&[("/a", 1), ("/a/x", 0)], "/a").as_deref(), Some("[]"));
        assert_eq!(seen(&[("/", 1), ("/b/d", 0)], "/").as_deref(), Some(r#"{"a":[],"b":{"c":[]}}"#));
    }

    #[test]
    fn rules_are_shown_in_the_order_of_their_tree() {
        let rules = access(&[("b", 1), ("/a/c", 0), ("/b/d", 1), ("/", 0), ("/b", 0), ("/gone", -1)]).rules();
        let shown: Vec<_> = rules.iter().map(|rule| (rule.path.as_str(), rule.mode.number())).collect();
        assert_eq!(shown, [("/", 0), ("/b", 0), ("/b/d", 1), ("/a/c", 0)]);
    }
}

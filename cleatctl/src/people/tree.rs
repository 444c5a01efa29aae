//! `tree [PREFIX]`: keys as the directories that their slashes make.

use crate::people::pages::Pages;
use crate::people::terminal::{Terminal, Tone};
use crate::people::text;
use crate::people::{Session, print};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// Lines that are still read by somebody.
const NODES_MAX: usize = 100_000;

/// What names and values may take of the memory.
const BYTES_MAX: usize = 256 << 20;

/// Levels that are looked into, so that a key of nothing but slashes cannot exhaust the stack.
const DEPTH_MAX: u32 = 128;

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct TreeArgs {
    /// What the keys begin with; every key by default
    pub(crate) prefix: Vec<u8>,
    /// Show so many levels, and of what is deeper how many keys it has
    pub(crate) depth: Option<u32>,
    /// Show values, too
    pub(crate) values: bool,
    /// Show the tree as it was at this revision
    pub(crate) rev: i64,
}

/// A directory, or a key if nothing is below it. The name of a directory ends with a slash, so `a` and `a/` are two.
#[derive(Debug, Default)]
struct Node {
    /// Keys here and below.
    keys: usize,
    value: Option<String>,
    children: BTreeMap<Vec<u8>, Self>,
}

/// The tree, and how large it may become.
#[derive(Debug)]
struct Tree {
    root: Node,
    depth: usize,
    nodes: usize,
    /// Of names and values, and what they may come to.
    bytes: usize,
    bytes_max: usize,
    terminal: Terminal,
}

impl Tree {
    fn new(depth: Option<u32>, terminal: &Terminal) -> Self {
        let depth = depth.unwrap_or(DEPTH_MAX).min(DEPTH_MAX) as usize;
        Self { root: Node::default(), depth, nodes: 0, bytes: 0, bytes_max: BYTES_MAX, terminal: *terminal }
    }

    /// Adds a key by what is behind the prefix. False if the tree has become too large.
    fn add(&mut self, name: &[u8], value: Option<&[u8]>) -> bool {
        let mut node = &mut self.root;
        node.keys += 1;
        let mut parts = name.split_inclusive(|byte| *byte == b'/').peekable();
        for _ in 0..self.depth {
            let Some(part) = parts.next() else { break };
            if !node.children.contains_key(part) {
                self.nodes += 1;
                self.bytes += part.len();
            }
            node = node.children.entry(part.to_vec()).or_default();
            node.keys += 1;
        }
        if parts.peek().is_none() {
            // No line is longer than the terminal is wide; one column more shows that the value goes on.
            let fitting = |shown: String| match self.terminal.width {
                Some(width) => text::cut(&shown, width + 1, self.terminal.has_unicode),
                None => shown,
            };
            node.value = value.map(|value| fitting(text::show(value)));
            self.bytes += node.value.as_ref().map_or(0, String::len);
        }
        self.nodes <= NODES_MAX && self.bytes <= self.bytes_max
    }
}

/// Prints the tree.
///
/// # Errors
/// The cluster's, or that there is more than anybody reads.
pub(crate) async fn tree(session: &Session, args: &TreeArgs) -> Result<()> {
    let prefix = args.prefix.as_slice();
    let pages = Pages::new(&session.client()?, prefix, args.rev);
    let mut pages = if args.values { pages } else { pages.keys_only() };
    let mut tree = Tree::new(args.depth, &session.terminal);
    while let Some(kv) = pages.next().await? {
        let name = kv.key.strip_prefix(prefix).unwrap_or(&kv.key);
        let fits = tree.add(name, args.values.then_some(&kv.value));
        ensure!(
            fits,
            "there are more than {NODES_MAX} lines or {} MiB to show; name a longer prefix, or fewer levels with --depth",
            BYTES_MAX >> 20
        );
    }
    print(&render(&args.prefix, &tree, &session.terminal))
}

/// The characters that a tree is drawn with.
struct Strokes {
    branch: &'static str,
    last: &'static str,
    trunk: &'static str,
}

const LINES: Strokes = Strokes { branch: "├── ", last: "└── ", trunk: "│   " };
const ASCII: Strokes = Strokes { branch: "|-- ", last: "`-- ", trunk: "|   " };

fn render(prefix: &[u8], tree: &Tree, terminal: &Terminal) -> String {
    let strokes = if terminal.has_unicode { &LINES } else { &ASCII };
    let mut lines = String::new();
    let root = if prefix.is_empty() { ".".to_owned() } else { text::show(prefix) };
    text::push(&mut lines, format_args!("{}\n", terminal.paint(Tone::Strong, &root)));
    let mut directories = 0;
    draw(&tree.root, "", strokes, terminal, &mut lines, &mut directories);
    let summary = format!(
        "{}, {}",
        text::count(directories, "directory", "directories"),
        text::count(tree.root.keys, "key", "keys")
    );
    text::push(&mut lines, format_args!("\n{}\n", terminal.paint(Tone::Quiet, &summary)));
    lines
}

fn draw(
    node: &Node,
    indent: &str,
    strokes: &Strokes,
    terminal: &Terminal,
    lines: &mut String,
    directories: &mut usize,
) {
    for (at, (name, child)) in node.children.iter().enumerate() {
        let is_last = at + 1 == node.children.len();
        // Directories with nothing but one directory in them share a line.
        let (mut name, mut child) = (name.clone(), child);
        let is_directory = name.ends_with(b"/");
        *directories += usize::from(is_directory);
        while let Some((inner, only)) = only_directory(child) {
            name.extend_from_slice(inner);
            child = only;
            *directories += 1;
        }
        let stroke = if is_last { strokes.last } else { strokes.branch };
        let shown = text::show(&name);
        let mut rest = String::new();
        if is_directory && child.children.is_empty() && child.keys > 0 && !(child.keys == 1 && child.value.is_some()) {
            text::push(&mut rest, format_args!("  {}", text::count(child.keys, "key", "keys")));
        }
        if let Some(value) = &child.value {
            text::push(&mut rest, format_args!(" = {value}"));
        }
        if let Some(columns) = terminal.width {
            let taken = text::width(indent) + text::width(stroke) + text::width(&shown);
            rest = text::cut(&rest, columns.saturating_sub(taken), terminal.has_unicode);
        }
        let tone = if is_directory { terminal.paint(Tone::Strong, &shown) } else { shown.as_str().into() };
        text::push(lines, format_args!("{indent}{stroke}{tone}{}\n", terminal.paint(Tone::Quiet, &rest)));
        let deeper = format!("{indent}{}", if is_last { "    " } else { strokes.trunk });
        draw(child, &deeper, strokes, terminal, lines, directories);
    }
}

/// The only thing in a directory, if that is a directory that has been looked into.
fn only_directory(node: &Node) -> Option<(&Vec<u8>, &Node)> {
    let (name, child) = node.children.first_key_value()?;
    let is_alone = node.children.len() == 1 && node.value.is_none() && name.ends_with(b"/");
    (is_alone && child.keys == node.keys && !child.children.is_empty()).then_some((name, child))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::people::snapshots::{assert_recorded, outputs};
    use crate::people::terminal::tests::{PIPED, of_width};

    const KEYS: [(&str, &str); 9] = [
        ("/registry/pods/default/web-0", "pod"),
        (
            "/registry/pods/default/web-1",
            "a value that is much longer than a line of eighty columns can take in, whatever is in front",
        ),
        ("/registry/pods/kube-system/dns", "pod"),
        ("/registry/services", "a key beside a directory of its name"),
        ("/registry/services/web", "two\nlines"),
        ("/registry/services//odd", "an empty part"),
        ("/registry/größe", "ü"),
        ("plain", ""),
        ("plain/", "a key that ends with a slash"),
    ];

    fn tree(depth: Option<u32>, prefix: &str, with_values: bool, terminal: &Terminal) -> Tree {
        let mut tree = Tree::new(depth, terminal);
        for (key, value) in KEYS {
            if let Some(name) = key.strip_prefix(prefix) {
                assert!(tree.add(name.as_bytes(), with_values.then_some(value.as_bytes())));
            }
        }
        tree
    }

    #[test]
    fn every_output_is_as_recorded() {
        for (name, terminal) in outputs() {
            assert_recorded(&format!("tree-{name}"), &render(b"", &tree(None, "", true, &terminal), &terminal));
        }
        let piped = outputs()[0].1;
        let ascii = Terminal { has_unicode: false, ..piped };
        assert_recorded("tree-ascii", &render(b"/registry/", &tree(None, "/registry/", false, &ascii), &ascii));
        assert_recorded("tree-depth", &render(b"/registry/", &tree(Some(1), "/registry/", false, &piped), &piped));
        assert_recorded("tree-empty", &render(b"none", &Tree::new(None, &PIPED), &piped));
    }

    #[test]
    fn what_is_below_the_depth_is_only_counted() {
        let mut tree = Tree::new(Some(2), &PIPED);
        for n in 0..3 * NODES_MAX {
            assert!(tree.add(format!("a/b/{n}").as_bytes(), None));
        }
        assert_eq!((tree.nodes, tree.root.keys), (2, 3 * NODES_MAX));
        let mut deep = Tree::new(None, &PIPED);
        assert!(deep.add(&b"/".repeat(1_000_000), None));
        assert_eq!(deep.nodes, DEPTH_MAX as usize);
        let mut flat = Tree::new(None, &PIPED);
        assert!((0..NODES_MAX).all(|n| flat.add(n.to_string().as_bytes(), None)));
        assert!(!flat.add(b"one more", None));
    }

    #[test]
    fn values_are_kept_as_far_as_they_are_shown() {
        const LONG: usize = 10_000;
        let long = [b'x'; LONG];
        let mut tree = Tree::new(None, &of_width(80));
        assert!((0..100).all(|n: u32| tree.add(&n.to_be_bytes(), Some(&long))));
        assert!(tree.bytes < 10 * LONG, "{}", tree.bytes);
        // Whoever reads a pipe gets all of them, but not more than there is memory for.
        let mut whole = Tree { bytes_max: 10 * LONG, ..Tree::new(None, &PIPED) };
        assert_eq!((0..20_u32).take_while(|n| whole.add(&n.to_be_bytes(), Some(&long))).count(), 9);
    }
}

//! Where the keys of metad are in a store: those of yunify's metad, so that both can share a cluster.
//!
//! ```text
//! PREFIX/PATH                          data, one key for each leaf
//! PREFIX/_metad/mapping-type/PATH      types in the data, for what is no text
//! /_metad/mapping/GROUP/CLIENT/NAME    mappings, one key for each path
//! /_metad/rule/GROUP/HOST              rules, one key with a JSON list for each host
//! ```

use super::MAX_DEPTH;
use crate::path;
use crate::state::Table;
use bytes::Bytes;
use client::message;

/// The directory of metad's own keys.
pub(super) const OWN: &str = "/_metad";

/// What metad's own keys beside the data begin with.
const HIDDEN: &str = "/_metad/mapping-";
/// The directory of the types.
const TYPES: &str = "/_metad/mapping-type";

/// Where the keys are.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Without a slash at the end; empty for the root.
    prefix: String,
    group: String,
}

impl Layout {
    pub(super) fn new(prefix: &str, group: &str) -> Self {
        let prefix = String::from_utf8_lossy(&path::clean(prefix.as_bytes())).trim_end_matches('/').to_owned();
        Self { prefix, group: group.to_owned() }
    }

    /// What stands before the paths of a table.
    pub(super) fn base(&self, table: Table) -> String {
        match table {
            Table::Data => self.prefix.clone(),
            Table::Mapping => format!("{OWN}/mapping/{}", self.group),
            Table::Rule => format!("{OWN}/rule/{}", self.group),
        }
    }

    pub(super) fn key(&self, table: Table, path: &[u8]) -> Vec<u8> {
        let path = if path == b"/" { b"" } else { path };
        [self.base(table).as_bytes(), path].concat()
    }

    /// The directory of the markers of a table, which is followed with it. metad shows none of its keys when the data
    /// is at the root, because they begin like those of mappings.
    pub(super) fn markers(&self, table: Table) -> Vec<u8> {
        let own = if table == Table::Data { format!("{HIDDEN}stage/") } else { "/_stage/".to_owned() };
        [self.base(table).as_bytes(), own.as_bytes()].concat()
    }

    /// The key of the type at a path of the data. These are with the data, so that both are written and told at once, and
    /// are hidden like markers.
    pub(super) fn type_key(&self, path: &[u8]) -> Vec<u8> {
        [self.prefix.as_bytes(), TYPES.as_bytes(), path].concat()
    }

    /// The path of a key of a table, and whether it is that of its type; None if it is none of its leaves.
    pub(super) fn path(&self, table: Table, key: &[u8]) -> Option<(Vec<u8>, bool)> {
        let below = key.strip_prefix(self.base(table).as_bytes()).filter(|below| below.starts_with(b"/"))?;
        let typed =
            below.strip_prefix(TYPES.as_bytes()).filter(|below| table == Table::Data && below.starts_with(b"/"));
        let path = path::clean(typed.unwrap_or(below));
        let is_reserved =
            self.is_reserved(table, &path) || (typed.is_none() && key.starts_with(&self.reserved(table).0));
        (path != b"/" && !is_reserved && path::names(&path).len() <= MAX_DEPTH).then_some((path, typed.is_some()))
    }

    /// True for clean paths that no leaf of a table can have: those of markers, and in the data those of metad's own keys.
    pub(super) fn is_reserved(&self, table: Table, path: &[u8]) -> bool {
        if table == Table::Data && self.prefix.is_empty() {
            let below = path.strip_prefix(OWN.as_bytes());
            return below.is_some_and(|below| below.is_empty() || below.starts_with(b"/"));
        }
        self.key(table, path).starts_with(&self.reserved(table).0)
    }

    /// The range of the keys below a table's base that are no leaves of it.
    pub(super) fn reserved(&self, table: Table) -> (Bytes, Bytes) {
        if table == Table::Data && self.prefix.is_empty() {
            message::prefix_range(format!("{OWN}/"))
        } else if table == Table::Data {
            message::prefix_range(format!("{}{HIDDEN}", self.prefix))
        } else {
            message::prefix_range(self.markers(table))
        }
    }

    /// The range of the keys of the types below a path of the data.
    pub(super) fn types_below(&self, path: &[u8]) -> (Bytes, Bytes) {
        let path = if path == b"/" { b"" } else { path };
        message::prefix_range([self.type_key(path).as_slice(), b"/"].concat())
    }

    /// Ranges of the keys below a path that can be leaves of the table, in their order.
    pub(super) fn ranges(&self, table: Table, path: &[u8]) -> Vec<(Bytes, Bytes)> {
        let below = message::prefix_range([self.key(table, path).as_slice(), b"/"].concat());
        let reserved = self.reserved(table);
        // One is within the other, or they have nothing in common.
        if reserved.1 <= below.0 || below.1 <= reserved.0 {
            vec![below]
        } else {
            [(below.0, reserved.0), (reserved.1, below.1)].into_iter().filter(|(first, end)| first < end).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(prefix: &str) -> Layout {
        Layout::new(prefix, "g")
    }

    #[test]
    fn keys_are_yunifys() {
        let root = layout("");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert_eq!(text(root.key(Table::Data, b"/nodes/1")), "/nodes/1");
        assert_eq!(text(layout("/p").key(Table::Data, b"/a")), "/p/a");
        assert_eq!(text(root.key(Table::Mapping, b"/1.1.1.1/node")), "/_metad/mapping/g/1.1.1.1/node");
        assert_eq!(text(root.key(Table::Rule, b"/1.1.1.1")), "/_metad/rule/g/1.1.1.1");
        for (prefix, table, key, expected) in [
            ("", Table::Data, "/a//b", Some("/a/b")),
            ("", Table::Data, "/_metad/rule/default/x", None),
            ("", Table::Data, "/_metad/mappingX", None),
            ("", Table::Data, "/_metadx/a", Some("/_metadx/a")),
            ("", Table::Data, "a", None),
            ("/u/1", Table::Data, "/u/12/x", None),
            ("/u/1", Table::Data, "/u/1/_metad/x", Some("/_metad/x")),
            ("/u/1", Table::Data, "/u/1/_metad/mapping-stage/0", None),
            ("", Table::Mapping, "/_metad/mapping/g/1.1.1.1/a", Some("/1.1.1.1/a")),
            ("", Table::Mapping, "/_metad/mapping/gg/1.1.1.1/a", None),
            ("", Table::Mapping, "/_metad/mapping/g/_stage/a", None),
            ("", Table::Rule, "/_metad/rule/g/h", Some("/h")),
        ] {
            let path = layout(prefix).path(table, key.as_bytes()).map(|(path, is_type)| (text(path), is_type));
            assert_eq!(path, expected.map(|path| (path.to_owned(), false)), "{prefix} {key}");
        }
        for prefix in ["", "/p"] {
            let of = |path: &[u8]| layout(prefix).path(Table::Data, &layout(prefix).type_key(path));
            assert_eq!(of(b"/a/b"), Some((b"/a/b".to_vec(), true)));
            assert_eq!((of(b"/"), of(b"-x"), of(b"/_metad/mapping-stage/0")), (None, None, None));
        }
        assert_eq!(text(layout("/p").type_key(b"/a")), "/p/_metad/mapping-type/a");
        assert_eq!(
            root.path(Table::Rule, b"/_metad/rule/g/_metad/mapping-type/h").map(|(_, is_type)| is_type),
            Some(false)
        );
    }

    #[test]
    fn what_is_reserved_is_in_no_range() {
        let is_in = |prefix: &str, table, path: &str, key: &str| {
            let ranges = layout(prefix).ranges(table, path.as_bytes());
            ranges.iter().any(|(first, end)| first <= key.as_bytes() && end > key.as_bytes())
        };
        for key in ["/a", "/_metadx", "/_metad0", "/_metab"] {
            assert!(is_in("", Table::Data, "/", key), "{key}");
        }
        for key in ["/_metad/rule/g/h", "/_metad/mapping-stage/0", "0", "."] {
            assert!(!is_in("", Table::Data, "/", key), "{key}");
        }
        assert!(is_in("/p", Table::Data, "/", "/p/_metad/x") && is_in("/p", Table::Data, "/_metad", "/p/_metad/z"));
        for path in ["/", "/_metad", "/_metad/mapping-stage", "/_metad/mapping-stage/0"] {
            assert!(!is_in("/p", Table::Data, path, "/p/_metad/mapping-stage/0"), "{path}");
            assert!(!is_in("/p", Table::Data, path, "/p/_metad/mapping-stage/0/1"), "{path}");
        }
        for table in [Table::Mapping, Table::Rule] {
            let base = layout("").base(table);
            assert!(!is_in("", table, "/", &format!("{base}/_stage/0")));
            assert!(is_in("", table, "/", &format!("{base}/192.168.1.1/x")));
            assert!(is_in("", table, "/", &format!("{base}/default/x")));
        }
        assert_eq!(layout("").types_below(b"/a"), message::prefix_range("/_metad/mapping-type/a/"));
        assert_eq!(layout("/p").types_below(b"/"), message::prefix_range("/p/_metad/mapping-type/"));
        assert_eq!(layout("").ranges(Table::Data, b"/a"), [message::prefix_range("/a/")]);
        assert_eq!(layout("").ranges(Table::Mapping, b"/1.1.1.1").len(), 1);
        for (prefix, table, path, expected) in [
            ("", Table::Data, "/_metad", true),
            ("", Table::Data, "/_metad/x", true),
            ("", Table::Data, "/_metadx", false),
            ("/p", Table::Data, "/_metad", false),
            ("/p", Table::Data, "/_metad/mapping-stage/x", true),
            ("", Table::Rule, "/_stage/x", true),
            ("", Table::Mapping, "/1.1.1.1/_stage", false),
        ] {
            assert_eq!(layout(prefix).is_reserved(table, path.as_bytes()), expected, "{prefix} {path}");
        }
    }
}

//! Mappings: which names a client has below `/self`, and the paths of the data that they stand for.

use crate::access::{Access, Mode, Place};
use crate::address::{self, Net};
use crate::path;
use crate::shown::Shown;
use crate::tree::{Leaf, Name, Node};
use go::json::Json;
use std::sync::Arc;

const NO_OBJECT: &str = "mapping data should be json object.";
const NO_ADDRESS: &str = "mapping's first level key should be ip .";
const NO_NAME: &str = "mapping key should not be path.";
const NO_PATH: &str = "mapping's value should be path .";

/// A client that has a mapping.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// Names, possibly within names, with paths at the ends.
    links: Arc<Node>,
    /// What the client may read if no rule says so: what its paths lead to.
    pub(crate) access: Access,
}

impl Mapped {
    /// Of the mapping of one client. None if it is none, but a text.
    pub(crate) fn new(links: &Arc<Node>) -> Option<Self> {
        links.children()?;
        let access = Access::new(links.leaves().into_iter().map(|(_, path)| (path.as_ref(), Mode::Read)));
        Some(Self { links: Arc::clone(links), access })
    }

    /// What the client sees at a path below `/self`, as far as it may enter it from `root`.
    pub(crate) fn shown(&self, names: &[&[u8]], root: Place<'_>) -> Option<Shown> {
        shown(&self.links, names, root)
    }

    /// Paths of the data that a path below `/self` leads to. None if a name on the way is unknown. The path goes on below
    /// the end of a link; then `true` is with it.
    pub(crate) fn targets(&self, names: &[&[u8]]) -> Option<(Vec<Vec<u8>>, bool)> {
        let mut links = &self.links;
        for (at, name) in names.iter().enumerate() {
            if let Some(link) = links.leaf().and_then(Leaf::text) {
                return Some((vec![joined(link, &names[at..])], true));
            }
            links = links.child(name)?;
        }
        Some((links.leaves().into_iter().map(|(_, link)| path::clean(link)).collect(), false))
    }
}

fn shown(links: &Node, names: &[&[u8]], root: Place<'_>) -> Option<Shown> {
    if let Some(link) = links.leaf().and_then(Leaf::text) {
        return Some(root.at(&joined(link, names))?.shown());
    }
    if let Some((name, rest)) = names.split_first() {
        return shown(links.child(name)?, rest, root);
    }
    // A link to nothing is left out; what has only such links is empty.
    let entry = |(name, links): (&Name, &Arc<Node>)| Some((Arc::clone(name), shown(links, &[], root)?));
    Some(Shown::Map(links.children().into_iter().flatten().filter_map(entry).collect()))
}

fn joined(link: &[u8], names: &[&[u8]]) -> Vec<u8> {
    path::join(link, &names.join(b"/".as_slice()))
}

/// True for what a mapping can be for: an address, a network, or everybody else.
fn is_client(name: &str) -> bool {
    name == address::DEFAULT || address::parse(name).is_some() || Net::parse(name).is_some()
}

/// The name of a client in the tree, where a slash would end it.
pub(crate) fn client_name(name: &str) -> String {
    if Net::parse(name).is_some() { name.replace('/', "_") } else { name.to_owned() }
}

/// Checks a mapping that is to be written at a path. The error is metad's text.
pub(crate) fn check(path: &[u8], body: &Json) -> Result<(), &'static str> {
    let names = path::names(path);
    let Some((client, rest)) = names.split_first() else {
        let Json::Map(clients) = body else { return Err(NO_OBJECT) };
        return clients.iter().try_for_each(
            |(client, links)| {
                if is_client(client) { check_links(links) } else { Err(NO_ADDRESS) }
            },
        );
    };
    if !is_client(&String::from_utf8_lossy(client)) {
        return Err(NO_ADDRESS);
    }
    match body {
        Json::Map(_) => check_links(body),
        _ if rest.is_empty() => Err(NO_OBJECT),
        _ => check_link(body),
    }
}

fn check_links(links: &Json) -> Result<(), &'static str> {
    let Json::Map(links) = links else { return Err(NO_OBJECT) };
    links.iter().try_for_each(|(name, link)| match link {
        _ if name.contains('/') => Err(NO_NAME),
        Json::Map(_) => check_links(link),
        _ => check_link(link),
    })
}

fn check_link(link: &Json) -> Result<(), &'static str> {
    match link {
        Json::Text(path) if path.starts_with('/') => Ok(()),
        _ => Err(NO_PATH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;
    use crate::tree::Tree;

    fn checked(path: &str, body: &str) -> Result<(), &'static str> {
        check(path.as_bytes(), &json::decode(body.as_bytes()).unwrap())
    }

    #[test]
    fn mappings_are_checked_with_metads_words() {
        for (path, body, expected) in [
            ("/", r#"{"1.1.1.1":{"a":"/x","b":{"c":"/y"}},"::1":{}}"#, Ok(())),
            ("/", r#"{"10.0.0.0/8":{"a":"/x"},"default":{"a":"/x"}}"#, Ok(())),
            ("/", "[]", Err(NO_OBJECT)),
            ("/", r#"{"host":{"a":"/x"}}"#, Err(NO_ADDRESS)),
            ("/", r#"{"1.1.1.1":"/x"}"#, Err(NO_OBJECT)),
            ("/", r#"{"1.1.1.1":{"a/b":"/x"}}"#, Err(NO_NAME)),
            ("/", r#"{"1.1.1.1":{"a":{"b":"x"}}}"#, Err(NO_PATH)),
            ("/", r#"{"1.1.1.1":{"a":""}}"#, Err(NO_PATH)),
            ("/", r#"{"1.1.1.1":{"a":null}}"#, Err(NO_PATH)),
            ("/1.1.1.1", r#""/x""#, Err(NO_OBJECT)),
            ("/1.1.1.1/a", r#""/x""#, Ok(())),
            ("/1.1.1.1/a", r#"{"b":"/x"}"#, Ok(())),
            ("/1.1.1.1/a", "1", Err(NO_PATH)),
            ("/host/a", r#""/x""#, Err(NO_ADDRESS)),
        ] {
            assert_eq!(checked(path, body), expected, "{path} {body}");
        }
    }

    #[test]
    fn links_are_followed_once_and_may_lead_nowhere() {
        let (mut data, mut mapping) = (Tree::default(), Tree::default());
        for path in ["/nodes/1/ip", "/nodes/2/ip", "/secret"] {
            data.put(path.as_bytes(), b"v");
        }
        for (name, link) in
            [("node", "/nodes/1"), ("links/peer", "/nodes/2"), ("links/gone", "/nodes/9"), ("no/x", "/nil")]
        {
            mapping.put(name.as_bytes(), link.as_bytes());
        }
        let mapped = Mapped::new(mapping.root()).unwrap();
        let at = |path: &str| {
            let shown = mapped.shown(&path::names(path.as_bytes()), mapped.access.enter(data.root()));
            shown.map(|shown| String::from_utf8(shown.json(false).text.to_vec()).unwrap())
        };
        let all = r#"{"links":{"peer":{"ip":"v"}},"no":{},"node":{"ip":"v"}}"#;
        assert_eq!(at("/").as_deref(), Some(all));
        assert_eq!(at("/links/peer/ip").as_deref(), Some("\"v\""));
        assert_eq!(at("/node/../../secret"), None);
        assert_eq!((at("/links/gone"), at("/other"), at("/node/ip/x")), (None, None, None));
        let targets = |path: &str| mapped.targets(&path::names(path.as_bytes()));
        assert_eq!(targets("/links"), Some((vec![b"/nodes/9".to_vec(), b"/nodes/2".to_vec()], false)));
        assert_eq!(targets("/node/ip"), Some((vec![b"/nodes/1/ip".to_vec()], true)));
        assert_eq!(targets("/other"), None);
    }
}

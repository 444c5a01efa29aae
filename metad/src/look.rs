//! What a client sees at a place, and which changes can show there.

use crate::access::{self, Access};
use crate::address::{DEFAULT, Source};
use crate::app::App;
use crate::hub::Topic;
use crate::mapping::Mapped;
use crate::path;
use crate::pods::{self, Pod};
use crate::settings::DefaultAccess;
use crate::shown::{self, Shown};
use crate::state::State;
use crate::tree::{Tag, Written};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

/// What who may read nothing may read.
static NOTHING: LazyLock<Access> = LazyLock::new(|| Access::new([]));

/// A client.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    /// Where the request comes from, which waits are counted by.
    pub(crate) source: Option<Source>,
    /// What mappings and rules are found by.
    pub(crate) address: Option<IpAddr>,
    /// Of the pod whose token the request has.
    pub(crate) uid: Option<String>,
}

/// What is asked for.
pub(crate) struct Place {
    /// Below `/self`, instead of the data.
    pub(crate) is_self: bool,
    pub(crate) names: Vec<Vec<u8>>,
}

/// What a client sees at a place, and the version of that.
pub(crate) struct Seen {
    pub(crate) shown: Option<Shown>,
    /// None if it is one of the content, which is made only where it is told or compared.
    version: Option<i64>,
}

impl Seen {
    pub(crate) fn new(shown: Option<Shown>, version: i64) -> Self {
        Self { shown, version: Some(version) }
    }

    /// The version, by the JSON of what is seen if that has been made already: with types, or without.
    pub(crate) fn version(&self, json: Option<&Written>, is_typed: bool) -> i64 {
        match (self.version, json, &self.shown) {
            (Some(version), ..) => version,
            (None, Some(json), _) => version(json.tag),
            (None, None, Some(shown)) => version(shown.json(is_typed).tag),
            (None, None, None) => 0,
        }
    }
}

/// A client at a place.
pub(crate) struct Looking {
    pub(crate) app: Arc<App>,
    pub(crate) who: Who,
    pub(crate) place: Place,
    /// An answer that goes on. metad has none, so nothing of it has to be as there.
    pub(crate) is_stream: bool,
    /// Only names are asked for, so only these can change.
    pub(crate) is_shallow: bool,
    /// Values are asked for with their types.
    pub(crate) is_typed: bool,
}

impl Looking {
    /// What the client sees in a state.
    pub(crate) fn look(&self, state: &State) -> Seen {
        let app = &self.app;
        // metad has no version for what a client may not see in the data, and the present one below /self.
        let nothing = Seen::new(None, if self.place.is_self && app.compat { state.version() } else { 0 });
        let pod = self.pod();
        let Some(client) = self.client(state, pod.as_deref()) else {
            app.metrics.unknown_clients.inc();
            return nothing;
        };
        let names: Vec<&[u8]> = self.place.names.iter().map(Vec::as_slice).collect();
        let shown = if self.place.is_self {
            client.own(state, &names)
        } else {
            let place = state.enter(client.access).at(&path::join(b"/", &names.join(b"/".as_slice())));
            let own = if names.is_empty() { client.own(state, &[]) } else { None };
            match (place.map(access::Place::shown), own) {
                (Some(shown), Some(own)) => Some(shown.with(b"self", own)),
                (shown, _) => shown,
            }
        };
        // A directory that is there and shows nothing would tell that it is there.
        match shown.filter(|shown| app.compat || names.is_empty() || !shown.is_empty()) {
            Some(shown) => Seen { shown: Some(shown), version: app.compat.then(|| state.version()) },
            None => nothing,
        }
    }

    /// True if the client has been told the second when it was told the first.
    pub(crate) fn is_same(&self, before: &Seen, seen: &Seen) -> bool {
        match (&before.shown, &seen.shown) {
            (Some(before), Some(seen)) if self.is_shallow => match (before.names(), seen.names()) {
                (None, None) => before.is_same(seen, self.is_typed),
                (before, seen) => before == seen,
            },
            (Some(before), Some(seen)) => before.is_same(seen, self.is_typed),
            (None, None) => true,
            _ => false,
        }
    }

    /// The pod that asks, if it is one.
    fn pod(&self) -> Option<Arc<Pod>> {
        let all = self.app.pods.as_ref()?;
        match &self.who.uid {
            Some(uid) => all.with_uid(uid),
            None => all.at(self.who.address?),
        }
    }

    /// What is known of the client; None if it may read nothing. A pod may always read what it is told about itself.
    fn client<'s>(&self, state: &'s State, pod: Option<&'s Pod>) -> Option<Client<'s>> {
        let mapped = self.who.address.and_then(|address| state.mapped(address)).map(Arc::as_ref);
        let rules = self.who.address.and_then(|address| state.access(address)).map(Arc::as_ref);
        let denied = (self.app.query.default_access == DefaultAccess::Nothing).then_some(&*NOTHING);
        let by_mapping = mapped.filter(|_| denied.is_none()).map(|mapped| &mapped.access);
        let by_pod = || {
            let links = pod?.mapped.as_ref().map(|links| &links.access);
            denied.or(links).or(Some(&*NOTHING))
        };
        let access = rules.or(by_mapping).or_else(by_pod)?;
        Some(Client { access, in_place_of_links: rules.or(denied), mapped, pod })
    }

    /// What a change must touch to be seen here. None if there is nothing to wait for.
    pub(crate) fn watched(&self, state: &State) -> Option<Vec<(Topic, Vec<u8>)>> {
        let pod = self.pod();
        let client = self.client(state, pod.as_deref())?;
        let names: Vec<&[u8]> = self.place.names.iter().map(Vec::as_slice).collect();
        let mut watched = Vec::new();
        if let Some(address) = self.who.address {
            // What is for networks and for everybody is told under one path.
            let own = [format!("/{address}"), format!("/{DEFAULT}")];
            watched.extend(own.map(|own| (Topic::Client, own.into_bytes())));
            if self.app.pods.is_some() {
                watched.push((Topic::Pod, pods::address_path(address)));
            }
        }
        watched.extend(client.pod.map(Pod::topic));
        if self.place.is_self {
            let (targets, is_below) = client.targets(&names)?;
            // metad knows no change below the end of a link, and answers at once.
            if is_below && self.app.compat && !self.is_stream {
                return None;
            }
            watched.extend(targets.into_iter().map(|target| (Topic::Data, target)));
        } else {
            watched.push((Topic::Data, path::join(b"/", &names.join(b"/".as_slice()))));
        }
        Some(watched)
    }
}

/// A client that may read something: what it is mapped to in the store, and what it is as a pod.
#[derive(Clone, Copy)]
struct Client<'s> {
    access: &'s Access,
    /// What a pod's links may lead to, if it is not just what they name: rules are for pods, too.
    in_place_of_links: Option<&'s Access>,
    mapped: Option<&'s Mapped>,
    pod: Option<&'s Pod>,
}

impl Client<'_> {
    /// What it sees at a path below `/self`. Names of the store's mapping win over those that every pod has.
    fn own(self, state: &State, names: &[&[u8]]) -> Option<Shown> {
        let mapped = self.mapped.and_then(|mapped| mapped.shown(names, state.enter(self.access)));
        let Some(pod) = self.pod else { return mapped };
        let view = Shown::All(Arc::clone(&pod.view));
        let links = pod.mapped.as_ref().and_then(|links| {
            let access = self.in_place_of_links.unwrap_or(&links.access);
            links.shown(names, state.enter(access))
        });
        match names {
            [] => {
                let mut own = links.unwrap_or(Shown::Map(Vec::new())).with(b"pod", view);
                if let Some(Shown::Map(entries)) = mapped {
                    for (name, shown) in entries {
                        own = own.with(&name, shown);
                    }
                }
                Some(own)
            }
            [b"pod", rest @ ..] if mapped.is_none() => shown::all(&pod.view, &rest.join(b"/".as_slice())),
            _ => mapped.or(links),
        }
    }

    /// Paths of the data that a path below `/self` leads to, and whether it goes on below the end of a link.
    fn targets(self, names: &[&[u8]]) -> Option<(Vec<Vec<u8>>, bool)> {
        let of = |mapped: Option<&Mapped>| mapped.and_then(|mapped| mapped.targets(names));
        let by_pod = self.pod.and_then(|pod| of(pod.mapped.as_ref()));
        let is_view = self.pod.is_some() && names.first().is_none_or(|name| *name == b"pod");
        match (of(self.mapped), by_pod) {
            (Some((mut one, is_below)), Some((other, _))) => {
                one.extend(other);
                Some((one, is_below))
            }
            (Some(one), None) | (None, Some(one)) => Some(one),
            (None, None) => is_view.then(|| (Vec::new(), false)),
        }
    }
}

/// The version of a content, the same on every instance: a part of its tag. Clients only ask whether it is another. It has
/// 53 bits, which JavaScript's numbers hold.
fn version(tag: Tag) -> i64 {
    let number = tag.iter().take(size_of::<u64>()).fold(0, |number: u64, byte| (number << 8) | u64::from(*byte));
    // 0 is the version of nothing.
    i64::try_from(number >> 11).unwrap_or_default().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    #[test]
    fn a_version_is_the_one_that_was_given_or_one_of_the_content() {
        let shown = |value: &[u8]| {
            let mut tree = Tree::default();
            tree.put(b"/a", value);
            Shown::of(tree.root())
        };
        let of = |shown: Shown| Seen { shown: Some(shown), version: None };
        let (one, two) = (of(shown(b"1")), of(shown(b"2")));
        let json = shown(b"1").json(false);
        assert_eq!(one.version(None, false), one.version(Some(&json), false));
        assert_ne!(one.version(None, false), two.version(None, false));
        assert_eq!(Seen::new(Some(shown(b"1")), 7).version(Some(&json), false), 7);
        assert_eq!(Seen::new(None, 0).version(None, false), 0);
    }
}

//! The operations on the tree. A refused one changes nothing and does not count in the index.

use super::changed::Changed;
use super::history::History;
use super::node::{Content, Node, names, push, split};
use super::rows::record;
use super::{
    AUTH, AUTH_ENABLED, Action, Answer, Code, DEPTH_MAX, EXPIRATION_MIN, Event, FIRST_INDEX, KEYS, NAMESPACES,
    NodeView, Refusal, Scan, Stats, Told,
};
use api::cleatpb::v2_request::Method;
use api::cleatpb::{V2Node, V2Request};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// See [`super`].
pub(crate) struct Tree {
    pub(super) root: Node,
    pub(super) index: u64,
    /// What expires, by time.
    pub(super) expiring: BTreeSet<(i64, Box<[u8]>)>,
    pub(super) history: History,
    /// What the nodes count for in the quota.
    pub(super) node_bytes: u64,
    pub(super) changed: Changed,
    pub(super) stats: Stats,
    /// Whether requests need a user.
    auth_enabled: bool,
    /// Grows whenever a user, a role or [`AUTH_ENABLED`] changes.
    auth_changes: u64,
}

impl Default for Tree {
    fn default() -> Self {
        let mut root = Node::dir(0, 0);
        if let Some(children) = root.children_mut() {
            children.extend(NAMESPACES.map(|name| (name.as_bytes().into(), Node::dir(0, 0))));
        }
        Self {
            root,
            index: FIRST_INDEX,
            expiring: BTreeSet::new(),
            history: History::default(),
            node_bytes: 0,
            changed: Changed::default(),
            stats: Stats::default(),
            auth_enabled: false,
            auth_changes: 0,
        }
    }
}

/// What an operation makes.
type Made = Result<Told, Refusal>;

impl Tree {
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// What it counts for in the quota.
    pub(crate) fn bytes(&self) -> u64 {
        self.node_bytes + self.history.bytes()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.stats
    }

    /// When the next node expires; none if none does.
    pub(crate) fn next_expiration(&self) -> Option<i64> {
        self.expiring.first().map(|(at, _)| *at)
    }

    /// Whether requests need a user, and a number that grows with every change of users and roles.
    pub(crate) fn auth(&self) -> (bool, u64) {
        (self.auth_enabled, self.auth_changes)
    }

    /// Takes the place of another tree: to whoever remembers the number of its changes, everything has changed.
    pub(crate) fn replace(&mut self, other: &Self) {
        self.auth_changes += other.auth_changes + 1;
    }

    /// Applies a request of the log entry `applied`; none for [`Method::Expire`] and what is no method.
    pub(crate) fn apply(&mut self, request: &V2Request, applied: u64, told: &mut Vec<Told>) -> Option<Answer> {
        if !is_clean(&request.path) {
            let refusal = self.refuse(Code::InvalidField, b"the path is not clean");
            return Some(Answer { result: Err(refusal), applied });
        }
        let (made, count): (_, fn(&mut Stats) -> &mut super::Count) = match Method::try_from(request.method).ok()? {
            Method::Expire => {
                self.expire(request.now, told);
                return None;
            }
            Method::Set => (self.set(request), |stats| &mut stats.sets),
            Method::Create => (self.create(request, false), |stats| &mut stats.creates),
            Method::CreateInOrder => (self.create(request, true), |stats| &mut stats.creates),
            Method::Update => (self.update(request), |stats| &mut stats.updates),
            Method::CompareAndSwap => (self.compare_and_swap(request), |stats| &mut stats.swaps),
            Method::Delete => (self.delete(request), |stats| &mut stats.deletes),
            Method::CompareAndDelete => (self.compare_and_delete(request), |stats| &mut stats.compared_deletes),
        };
        let counts_as_done = match &made {
            Ok(_) => true,
            Err(refusal) => is_counted_as_done(request.method(), refusal.code),
        };
        count(&mut self.stats).count(counts_as_done);
        let result = made.map(|made| {
            let event = Arc::clone(&made.event);
            self.history.push(Arc::clone(&event));
            if !event.is_refresh {
                told.push(made);
            }
            event
        });
        Some(Answer { result, applied })
    }

    fn set(&mut self, request: &V2Request) -> Made {
        let path = &*request.path;
        let before = match self.find(path) {
            Ok(node) => Some((node.view(path, request.now), node.value().cloned())),
            Err(refusal) if refusal.code == Code::KeyNotFound && !request.refresh => None,
            Err(refusal) => return Err(refusal),
        };
        let value = match &before {
            Some((_, kept)) if request.refresh => kept.clone().unwrap_or_default(),
            _ => copy(&request.value),
        };
        let mut event = self.put(path.into(), request, value, true, Action::Set)?;
        event.prev_node = before.map(|(view, _)| view);
        event.is_refresh = request.refresh;
        Ok(Told::alone(event))
    }

    fn create(&mut self, request: &V2Request, in_order: bool) -> Made {
        let mut path = request.path.to_vec();
        if in_order {
            push(&mut path, format!("{:020}", self.index + 1).as_bytes());
        }
        let event = self.put(path.into(), request, copy(&request.value), false, Action::Create);
        if event.as_ref().is_err_and(|refusal| refusal.code == Code::NotDir) {
            // As etcd counts it.
            self.stats.sets.failed += 1;
        }
        Ok(Told::alone(event?))
    }

    /// Puts a new node at a path, in directories that are made for it.
    fn put(
        &mut self,
        path: Box<[u8]>,
        request: &V2Request,
        value: Bytes,
        replace: bool,
        action: Action,
    ) -> Result<Event, Refusal> {
        self.check_writable(&path)?;
        if names(&path).count() > DEPTH_MAX {
            let cause = format!("a key has at most {} parts", DEPTH_MAX - 1);
            return Err(self.refuse(Code::InvalidField, cause.as_bytes()));
        }
        // Invariant: the root is not writable.
        let (parent, name) = split(&path).unwrap_or((b"/", &path));
        let expiration = if request.expiration < EXPIRATION_MIN { 0 } else { request.expiration };
        self.make_dirs(parent)?;
        let old = match self.find(&path) {
            Err(_) => None,
            Ok(_) if !replace => return Err(self.refuse(Code::KeyExists, &path)),
            Ok(node) if node.is_dir() => return Err(self.refuse(Code::NotFile, &path)),
            Ok(node) => Some((node.bytes(&path), node.expiration)),
        };
        if let Some((bytes, expiration)) = old {
            self.node_bytes -= bytes;
            self.forget_expiration(expiration, &path);
        }
        self.index += 1;
        let node =
            if request.dir { Node::dir(self.index, expiration) } else { Node::file(self.index, expiration, value) };
        let (view, row) = (node.view(&path, request.now), record(&node));
        self.node_bytes += node.bytes(&path);
        if expiration != 0 {
            self.expiring.insert((expiration, path.clone()));
        }
        if let Some(children) = self.find_mut(parent).and_then(Node::children_mut) {
            children.insert(name.into(), node);
        }
        self.change(path, Some(row));
        Ok(Event { action, node: view, prev_node: None, is_refresh: false })
    }

    fn update(&mut self, request: &V2Request) -> Made {
        let path = &*request.path;
        self.check_writable(path)?;
        let node = self.find(path)?;
        if node.is_dir() && !request.value.is_empty() {
            return Err(self.refuse(Code::NotFile, path));
        }
        self.write(request, Action::Update)
    }

    fn compare_and_swap(&mut self, request: &V2Request) -> Made {
        self.check_writable(&request.path)?;
        self.compare(request)?;
        self.write(request, Action::CompareAndSwap)
    }

    /// Gives a node that is there a new value and another expiration. A directory has no value, and as in etcd it keeps its
    /// modified index while the event shows the new one.
    fn write(&mut self, request: &V2Request, action: Action) -> Made {
        let path = &*request.path;
        let index = self.index + 1;
        let Some(node) = self.find_mut(path) else { return Err(self.refuse(Code::KeyNotFound, path)) };
        let (before, bytes) = (node.view(path, request.now), node.bytes(path));
        if let Content::File(value) = &mut node.content {
            if !request.refresh {
                *value = copy(&request.value);
            }
            node.modified_index = index;
        }
        node.expiration = request.expiration;
        let view = NodeView { modified_index: index, ..node.view(path, request.now) };
        let (bytes_now, row) = (node.bytes(path), record(node));
        self.index = index;
        self.node_bytes = self.node_bytes - bytes + bytes_now;
        self.forget_expiration(before.expiration, path);
        if request.expiration != 0 {
            self.expiring.insert((request.expiration, path.into()));
        }
        self.change(path.into(), Some(row));
        Ok(Told::alone(Event { action, node: view, prev_node: Some(before), is_refresh: request.refresh }))
    }

    fn delete(&mut self, request: &V2Request) -> Made {
        let path = &*request.path;
        self.check_writable(path)?;
        let node = self.find(path)?;
        if let Some(children) = node.children() {
            if !request.dir && !request.recursive {
                return Err(self.refuse(Code::NotFile, path));
            }
            if !children.is_empty() && !request.recursive {
                return Err(self.refuse(Code::DirNotEmpty, path));
            }
        }
        Ok(self.remove(path, request.now, Action::Delete))
    }

    fn compare_and_delete(&mut self, request: &V2Request) -> Made {
        self.compare(request)?;
        Ok(self.remove(&request.path, request.now, Action::CompareAndDelete))
    }

    /// Refuses what is no file, or another one than the request says.
    fn compare(&self, request: &V2Request) -> Result<(), Refusal> {
        let node = self.find(&request.path)?;
        let Some(value) = node.value() else { return Err(self.refuse(Code::NotFile, &request.path)) };
        let other_value = !request.prev_value.is_empty() && request.prev_value != value;
        let other_index = request.prev_index != 0 && request.prev_index != node.modified_index;
        let mut cause = Vec::new();
        if other_value {
            cause.extend([b"[", &*request.prev_value, b" != ", value, b"]"].concat());
        }
        if other_index {
            let space = if other_value { " " } else { "" };
            cause.extend(format!("{space}[{} != {}]", request.prev_index, node.modified_index).bytes());
        }
        if cause.is_empty() { Ok(()) } else { Err(self.refuse(Code::CompareFailed, &cause)) }
    }

    /// Removes what has expired by `now`, oldest first, each at an index of its own.
    fn expire(&mut self, now: i64, told: &mut Vec<Told>) {
        while let Some((at, path)) = self.expiring.first()
            && *at <= now
        {
            let path = path.clone();
            let made = self.remove(&path, now, Action::Expire);
            self.stats.expired += 1;
            self.history.push(Arc::clone(&made.event));
            told.push(made);
        }
    }

    /// Removes a node that is there, with all that is in it.
    fn remove(&mut self, path: &[u8], now: i64, action: Action) -> Told {
        self.index += 1;
        let mut view = NodeView { key: path.into(), modified_index: self.index, ..NodeView::default() };
        let (mut before, mut removed) = (None, Vec::new());
        let (parent, name) = split(path).unwrap_or((b"/", path));
        let children = self.find_mut(parent).and_then(Node::children_mut);
        if let Some(node) = children.and_then(|children| children.remove(name)) {
            view.is_dir = node.is_dir();
            view.created_index = node.created_index;
            before = Some(node.view(path, now));
            self.forget(&node, &mut path.to_vec(), &mut removed);
            // The last one is the node itself.
            removed.pop();
        } else {
            // Invariant: the caller found it. What expires once must not come again.
            self.expiring.retain(|(_, expiring)| **expiring != *path);
        }
        Told { event: Arc::new(Event { action, node: view, prev_node: before, is_refresh: false }), removed }
    }

    /// Takes a removed node and what is in it off the books; appends their paths, the node's own last.
    fn forget(&mut self, node: &Node, path: &mut Vec<u8>, removed: &mut Vec<Box<[u8]>>) {
        self.node_bytes -= node.bytes(path);
        self.forget_expiration(node.expiration, path);
        if let Some(children) = node.children() {
            let length = path.len();
            for (name, child) in &**children {
                push(path, name);
                self.forget(child, path, removed);
                path.truncate(length);
            }
        }
        self.change(path.as_slice().into(), None);
        removed.push(path.as_slice().into());
    }

    fn forget_expiration(&mut self, expiration: i64, path: &[u8]) {
        if expiration != 0 {
            self.expiring.remove(&(expiration, path.into()));
        }
    }

    /// Notes that the node at a path is another one now, or none.
    fn change(&mut self, path: Box<[u8]>, row: Option<V2Node>) {
        if path.starts_with(AUTH.as_bytes()) {
            self.look_at_auth(&path);
        }
        self.changed.note(path, row);
    }

    pub(super) fn look_at_auth(&mut self, path: &[u8]) {
        self.auth_changes += 1;
        if path == AUTH_ENABLED.as_bytes() || path == AUTH.as_bytes() {
            let enabled = self.find(AUTH_ENABLED.as_bytes()).ok().and_then(Node::value);
            self.auth_enabled = enabled.is_some_and(|value| **value == *b"true");
        }
    }

    /// Makes the directories along a path that are missing.
    fn make_dirs(&mut self, path: &[u8]) -> Result<(), Refusal> {
        match self.find(path) {
            Ok(node) if node.is_dir() => return Ok(()),
            Ok(_) => return Err(self.refuse(Code::NotDir, path)),
            Err(refusal) if refusal.code == Code::NotDir => return Err(refusal),
            Err(_) => {}
        }
        let index = self.index + 1;
        let (mut node, mut end, mut made) = (&mut self.root, 0, Vec::new());
        for name in names(path) {
            end += 1 + name.len();
            // Invariant: all of them are directories.
            let Some(children) = node.children_mut() else { break };
            node = children.entry(name.into()).or_insert_with(|| {
                made.push(end);
                Node::dir(index, 0)
            });
        }
        for end in made {
            let dir = Node::dir(index, 0);
            self.node_bytes += dir.bytes(&path[..end]);
            self.change(path[..end].into(), Some(record(&dir)));
        }
        Ok(())
    }

    pub(super) fn find(&self, path: &[u8]) -> Result<&Node, Refusal> {
        let (mut node, mut end) = (&self.root, 0);
        for name in names(path) {
            let Some(children) = node.children() else { return Err(self.refuse(Code::NotDir, &path[..end])) };
            end = (end + 1 + name.len()).min(path.len());
            node = children.get(name).ok_or_else(|| self.refuse(Code::KeyNotFound, &path[..end]))?;
        }
        Ok(node)
    }

    pub(super) fn find_mut(&mut self, path: &[u8]) -> Option<&mut Node> {
        let mut node = &mut self.root;
        for name in names(path) {
            node = node.children_mut()?.get_mut(name)?;
        }
        Some(node)
    }

    /// What a new watcher finds; `since` 0 means what comes next.
    pub(crate) fn scan(&self, key: &[u8], recursive: bool, since: u64, applied: u64) -> Result<Scan, Refusal> {
        let since = if since == 0 { self.index + 1 } else { since };
        let start = self.history.start(self.index);
        if since < start {
            let cause = format!("the requested history has been cleared [{start}/{since}]");
            return Err(self.refuse(Code::HistoryCleared, cause.as_bytes()));
        }
        let event = if since > self.index { None } else { self.history.scan(key, recursive, since).map(Arc::clone) };
        Ok(Scan { event, since, index: self.index, applied })
    }

    fn check_writable(&self, path: &[u8]) -> Result<(), Refusal> {
        let is_root = path == b"/" || path == b"/0" || path == KEYS.as_bytes();
        if is_root { Err(self.refuse(Code::RootReadOnly, b"/")) } else { Ok(()) }
    }

    fn refuse(&self, code: Code, cause: &[u8]) -> Refusal {
        Refusal { code, cause: cause.into(), index: self.index }
    }
}

impl Told {
    fn alone(event: Event) -> Self {
        Self { event: Arc::new(event), removed: Vec::new() }
    }
}

/// True for paths from the root without empty parts.
fn is_clean(path: &[u8]) -> bool {
    path == b"/"
        || path.strip_prefix(b"/").is_some_and(|rest| rest.split(|byte| *byte == b'/').all(|name| !name.is_empty()))
}

/// etcd's counters take some refusals for successes.
fn is_counted_as_done(method: Method, code: Code) -> bool {
    match method {
        Method::Update => matches!(code, Code::RootReadOnly | Code::NotFile),
        Method::CompareAndSwap | Method::Delete => code == Code::RootReadOnly,
        Method::CompareAndDelete => matches!(code, Code::NotFile | Code::CompareFailed),
        Method::Set | Method::Create | Method::CreateInOrder | Method::Expire => false,
    }
}

/// A decoded field is a slice of the whole message, which must not be kept for it.
fn copy(value: &Bytes) -> Bytes {
    Bytes::copy_from_slice(value)
}

//! The objects, their versions, and the history that watches read.

use crate::failure::Failure;
use crate::fields::{self, Change as FieldChange};
use crate::resource::Resource;
use crate::selector::Selector;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// Objects at once; more are refused.
const MAX_OBJECTS: usize = 20_000;

/// Where an object is. Versions of a group share their objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) group: String,
    pub(crate) plural: String,
    /// Empty for cluster-wide objects.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Added,
    Modified,
    Deleted,
}

/// One change, as history has it.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) version: u64,
    pub(crate) kind: Kind,
    pub(crate) key: Key,
    /// After the change; of a deleted object what it was, with the version of the deletion.
    pub(crate) object: Arc<Value>,
    pub(crate) before: Option<Arc<Value>>,
}

/// How a write is to be made.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) manager: String,
    pub(crate) dry_run: bool,
    pub(crate) force: bool,
    /// Empty, or `status`.
    pub(crate) subresource: String,
    /// RFC 3339.
    pub(crate) now: String,
}

/// How an object is to be deleted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deletion {
    /// More than 0 makes a pod terminating instead: it is gone when somebody deletes it with 0.
    pub(crate) grace_seconds: u64,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) now: String,
}

/// Objects and history of one cluster.
pub(crate) struct Store {
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Event>,
    history_max: usize,
    version: u64,
    /// Events up to this version are forgotten.
    floor: u64,
    /// For uids and generated names.
    made: u64,
}

impl Store {
    pub(crate) fn new(history_max: usize) -> Self {
        // A version of 0 has a meaning of its own in requests.
        Self { objects: BTreeMap::new(), history: VecDeque::new(), history_max, version: 1, floor: 1, made: 0 }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Forgets all history: who watches from an earlier version is told that it is gone.
    pub(crate) fn expire(&mut self) {
        self.history.clear();
        // A version that nobody has seen, so that the newest that anybody has is gone, too.
        self.version += 1;
        self.floor = self.version;
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.objects.get(key).cloned()
    }

    /// The objects of a resource that a selector matches, in order, behind a key.
    pub(crate) fn list<'a>(
        &'a self,
        resource: &'a Resource,
        namespace: &'a str,
        behind: Option<&Key>,
        selector: &'a Selector,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let first = Key {
            group: resource.group.clone(),
            plural: resource.plural.clone(),
            namespace: namespace.to_owned(),
            name: String::new(),
        };
        let start = behind.map_or(Bound::Included(first), |key| Bound::Excluded(key.clone()));
        let of_resource = move |key: &Key| key.group == resource.group && key.plural == resource.plural;
        self.objects
            .range((start, Bound::Unbounded))
            .take_while(move |(key, _)| of_resource(key))
            .filter(move |(key, object)| in_namespace(key, namespace) && selector.matches(object))
    }

    /// Events behind a version, and the version up to which these are all.
    ///
    /// # Errors
    /// They are forgotten.
    pub(crate) fn since(&self, version: u64) -> Result<(Vec<Event>, u64), Failure> {
        if version < self.floor {
            return Err(Failure::expired(version, self.floor));
        }
        let first = self.history.partition_point(|event| event.version <= version);
        Ok((self.history.range(first..).cloned().collect(), self.version.max(version)))
    }

    /// Checks that a list can be made as of a version.
    ///
    /// # Errors
    /// It is forgotten.
    pub(crate) fn check_version(&self, version: u64) -> Result<(), Failure> {
        if version < self.floor { Err(Failure::expired(version, self.floor)) } else { Ok(()) }
    }

    /// Makes a new object.
    ///
    /// # Errors
    /// It exists, has no name, or there are too many.
    pub(crate) fn create(
        &mut self,
        resource: &Resource,
        key: &mut Key,
        mut object: Value,
        write: &Write,
    ) -> Result<Arc<Value>, Failure> {
        self.made += 1;
        if key.name.is_empty() {
            let prefix = object["metadata"]["generateName"].as_str().filter(|prefix| !prefix.is_empty());
            let prefix = prefix.ok_or_else(|| Failure::invalid("metadata.name: Required value: name is required"))?;
            key.name = format!("{prefix}{:05x}", self.made);
        }
        if self.objects.contains_key(key) {
            return Err(Failure::already_exists(&resource.qualified(), &key.name));
        }
        if self.objects.len() >= MAX_OBJECTS {
            return Err(Failure { code: 507, reason: "InsufficientStorage", message: "too many objects".to_owned() });
        }
        let metadata = members(&mut object["metadata"]);
        metadata.insert("name".to_owned(), json!(key.name));
        if resource.namespaced {
            metadata.insert("namespace".to_owned(), json!(key.namespace));
        }
        metadata.insert("uid".to_owned(), json!(format!("00000000-0000-4000-8000-{:012x}", self.made)));
        metadata.insert("creationTimestamp".to_owned(), json!(write.now));
        if object.get("spec").is_some() {
            object["metadata"]["generation"] = json!(1);
        }
        Ok(self.commit(key, object, None, write.dry_run))
    }

    /// Replaces an object by a changed copy of it, after what only the server decides has been put right.
    ///
    /// # Errors
    /// It changed since the version that the change is based on.
    pub(crate) fn replace(
        &mut self,
        resource: &Resource,
        key: &Key,
        live: &Arc<Value>,
        mut object: Value,
        write: &Write,
    ) -> Result<Arc<Value>, Failure> {
        let (claimed, current) = (&object["metadata"]["resourceVersion"], &live["metadata"]["resourceVersion"]);
        if claimed.as_str().is_some_and(|version| !version.is_empty()) && claimed != current {
            return Err(changed(resource, &key.name));
        }
        let (claimed, current) = (&object["metadata"]["uid"], &live["metadata"]["uid"]);
        if claimed.as_str().is_some_and(|uid| !uid.is_empty()) && claimed != current {
            let message = format!("Precondition failed: UID in precondition: {claimed}, UID in object meta: {current}");
            return Err(Failure::conflict(message));
        }
        for field in ["apiVersion", "kind"] {
            object[field] = live[field].clone();
        }
        let kept = ["name", "namespace", "uid", "creationTimestamp", "resourceVersion", "generation"];
        let metadata = members(&mut object["metadata"]);
        for field in kept.into_iter().chain(["deletionTimestamp", "deletionGracePeriodSeconds"]) {
            match live["metadata"].get(field) {
                Some(value) => metadata.insert(field.to_owned(), value.clone()),
                None => metadata.remove(field),
            };
        }
        // Each of the two ways to write leaves alone what belongs to the other.
        if resource.has_status {
            let others = if write.subresource == "status" { "spec" } else { "status" };
            keep(&mut object, live, others);
        }
        if object.get("spec") != live.get("spec") {
            object["metadata"]["generation"] = json!(live["metadata"]["generation"].as_u64().unwrap_or(0) + 1);
        }
        let terminating = object["metadata"].get("deletionTimestamp").is_some();
        let has_finalizers =
            |object: &Value| object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if terminating && has_finalizers(live) && !has_finalizers(&object) {
            return Ok(self.drop_object(key, &object));
        }
        if *live.as_ref() == object {
            return Ok(Arc::clone(live));
        }
        Ok(self.commit(key, object, Some(Arc::clone(live)), write.dry_run))
    }

    /// Replaces an object, and records whose the changed fields are.
    ///
    /// # Errors
    /// As [`Self::replace`].
    pub(crate) fn update(
        &mut self,
        resource: &Resource,
        key: &Key,
        live: &Arc<Value>,
        mut object: Value,
        write: &Write,
    ) -> Result<Arc<Value>, Failure> {
        if resource.has_status && write.subresource.is_empty() {
            keep(&mut object, live, "status");
        }
        fields::record_update(live, &mut object, &field_change(write));
        self.replace(resource, key, live, object, write)
    }

    /// Deletes an object, or marks it as terminating.
    ///
    /// # Errors
    /// It is not there, or not the one that is meant.
    pub(crate) fn delete(
        &mut self,
        resource: &Resource,
        key: &Key,
        deletion: &Deletion,
    ) -> Result<Arc<Value>, Failure> {
        let live = self.get(key).ok_or_else(|| missing(resource, &key.name))?;
        let is = |field: &str, wanted: &Option<String>| {
            wanted.as_deref().is_none_or(|wanted| live["metadata"][field] == wanted)
        };
        if !is("uid", &deletion.uid) || !is("resourceVersion", &deletion.resource_version) {
            return Err(changed(resource, &key.name));
        }
        let has_finalizers = live["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
        let waits = resource.plural == "pods" && deletion.grace_seconds > 0;
        if !has_finalizers && !waits {
            return Ok(self.drop_object(key, &live));
        }
        if live["metadata"].get("deletionTimestamp").is_some() {
            return Ok(live);
        }
        let mut object = live.as_ref().clone();
        object["metadata"]["deletionTimestamp"] = json!(deletion.now);
        object["metadata"]["deletionGracePeriodSeconds"] = json!(deletion.grace_seconds);
        Ok(self.commit(key, object, Some(live), false))
    }

    fn drop_object(&mut self, key: &Key, last: &Value) -> Arc<Value> {
        let before = self.objects.remove(key);
        let object = self.stamp(last.clone());
        self.record(Event {
            version: self.version,
            kind: Kind::Deleted,
            key: key.clone(),
            object: Arc::clone(&object),
            before,
        });
        object
    }

    fn commit(&mut self, key: &Key, object: Value, before: Option<Arc<Value>>, dry_run: bool) -> Arc<Value> {
        if dry_run {
            return Arc::new(object);
        }
        let object = self.stamp(object);
        self.objects.insert(key.clone(), Arc::clone(&object));
        let kind = if before.is_some() { Kind::Modified } else { Kind::Added };
        self.record(Event { version: self.version, kind, key: key.clone(), object: Arc::clone(&object), before });
        object
    }

    /// Gives an object the next version.
    fn stamp(&mut self, mut object: Value) -> Arc<Value> {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        Arc::new(object)
    }

    fn record(&mut self, event: Event) {
        self.history.push_back(event);
        while self.history.len() > self.history_max {
            if let Some(dropped) = self.history.pop_front() {
                self.floor = dropped.version;
            }
        }
    }
}

/// An empty namespace stands for all of them.
pub(crate) fn in_namespace(key: &Key, namespace: &str) -> bool {
    namespace.is_empty() || key.namespace == namespace
}

pub(crate) fn field_change(write: &Write) -> FieldChange<'_> {
    FieldChange { manager: &write.manager, subresource: &write.subresource, force: write.force, now: &write.now }
}

pub(crate) fn missing(resource: &Resource, name: &str) -> Failure {
    Failure::not_found(format!("{} \"{name}\" not found", resource.qualified()))
}

fn changed(resource: &Resource, name: &str) -> Failure {
    Failure::conflict(format!(
        "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please apply your changes to the \
         latest version and try again",
        resource.qualified()
    ))
}

/// Gives an object a field as it is in another one.
fn keep(object: &mut Value, live: &Value, field: &str) {
    let object = members(object);
    match live.get(field) {
        Some(value) => object.insert(field.to_owned(), value.clone()),
        None => object.remove(field),
    };
}

/// The members of what has to be an object, made if it is something else.
fn members(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("invariant: it is an object now")
}

//! The resources that are served, and the documents that tell clients about them.

use crate::failure::Failure;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// One resource of one version of one API group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Empty for the core group.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Such as `StatefulSet`.
    pub kind: String,
    /// Such as `statefulsets`: what stands in a path.
    pub plural: String,
    /// Whether its objects live in a namespace.
    pub namespaced: bool,
    /// Whether the status is written through a subresource, and ignored elsewhere.
    pub has_status: bool,
}

impl Resource {
    /// Reads `GROUP/VERSION/KIND/PLURAL/SCOPE`, where the scope is `namespaced` or `cluster`, as in
    /// `monitoring.coreos.com/v1/ServiceMonitor/servicemonitors/namespaced`.
    ///
    /// # Errors
    /// The text is not of this form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let [group, version, kind, plural, scope @ ("namespaced" | "cluster")] = parts[..] else {
            return Err(format!("'{text}' is not GROUP/VERSION/KIND/PLURAL/namespaced, nor .../cluster"));
        };
        if version.is_empty() || kind.is_empty() || plural.is_empty() {
            return Err(format!("'{text}' has an empty version, kind or plural"));
        }
        Ok(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
            plural: plural.to_owned(),
            namespaced: scope == "namespaced",
            has_status: true,
        })
    }

    /// `v1`, or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The name in messages: `pods`, `statefulsets.apps`.
    pub(crate) fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// Group, version, then kinds with plural, `n` for namespaced or `c` for cluster-wide, and `s` if the status is a
/// subresource.
const BUILT_IN: &[(&str, &str, &[(&str, &str, &str)])] = &[
    (
        "",
        "v1",
        &[
            ("ConfigMap", "configmaps", "n"),
            ("Endpoints", "endpoints", "n"),
            ("Event", "events", "n"),
            ("Namespace", "namespaces", "cs"),
            ("Node", "nodes", "cs"),
            ("PersistentVolume", "persistentvolumes", "cs"),
            ("PersistentVolumeClaim", "persistentvolumeclaims", "ns"),
            ("Pod", "pods", "ns"),
            ("Secret", "secrets", "n"),
            ("Service", "services", "ns"),
            ("ServiceAccount", "serviceaccounts", "n"),
        ],
    ),
    (
        "apps",
        "v1",
        &[
            ("ControllerRevision", "controllerrevisions", "n"),
            ("DaemonSet", "daemonsets", "ns"),
            ("Deployment", "deployments", "ns"),
            ("ReplicaSet", "replicasets", "ns"),
            ("StatefulSet", "statefulsets", "ns"),
        ],
    ),
    ("autoscaling", "v2", &[("HorizontalPodAutoscaler", "horizontalpodautoscalers", "ns")]),
    ("batch", "v1", &[("CronJob", "cronjobs", "ns"), ("Job", "jobs", "ns")]),
    ("coordination.k8s.io", "v1", &[("Lease", "leases", "n")]),
    ("discovery.k8s.io", "v1", &[("EndpointSlice", "endpointslices", "n")]),
    ("events.k8s.io", "v1", &[("Event", "events", "n")]),
    ("networking.k8s.io", "v1", &[("Ingress", "ingresses", "ns"), ("NetworkPolicy", "networkpolicies", "n")]),
    ("policy", "v1", &[("PodDisruptionBudget", "poddisruptionbudgets", "ns")]),
    (
        "rbac.authorization.k8s.io",
        "v1",
        &[
            ("ClusterRole", "clusterroles", "c"),
            ("ClusterRoleBinding", "clusterrolebindings", "c"),
            ("Role", "roles", "n"),
            ("RoleBinding", "rolebindings", "n"),
        ],
    ),
    ("scheduling.k8s.io", "v1", &[("PriorityClass", "priorityclasses", "c")]),
    ("storage.k8s.io", "v1", &[("StorageClass", "storageclasses", "c")]),
    ("authentication.k8s.io", "v1", &[("TokenReview", "tokenreviews", "c")]),
];

/// Everything that is served.
pub(crate) struct Resources(Vec<Resource>);

impl Resources {
    /// The built-in resources, and those that a test adds as a custom resource definition would.
    pub(crate) fn new(added: &[Resource]) -> Self {
        let mut all = Vec::new();
        for (group, version, kinds) in BUILT_IN {
            for (kind, plural, flags) in *kinds {
                all.push(Resource {
                    group: (*group).to_owned(),
                    version: (*version).to_owned(),
                    kind: (*kind).to_owned(),
                    plural: (*plural).to_owned(),
                    namespaced: flags.starts_with('n'),
                    has_status: flags.ends_with('s'),
                });
            }
        }
        all.extend_from_slice(added);
        Self(all)
    }

    /// The resource at a path.
    ///
    /// # Errors
    /// It is not served: the answer that clients take for a missing definition.
    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Result<&Resource, Failure> {
        let found = self.0.iter().find(|r| r.group == group && r.version == version && r.plural == plural);
        found.ok_or_else(|| Failure::not_found("the server could not find the requested resource".to_owned()))
    }

    /// The resource of an object.
    ///
    /// # Errors
    /// No such kind is served.
    pub(crate) fn of_kind(&self, api_version: &str, kind: &str) -> Result<&Resource, Failure> {
        let found = self.0.iter().find(|r| r.api_version() == api_version && r.kind == kind);
        found.ok_or_else(|| Failure::not_found(format!("no matches for kind \"{kind}\" in version \"{api_version}\"")))
    }

    /// `/api`.
    pub(crate) fn core_versions() -> Value {
        json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
    }

    /// `/apis`.
    pub(crate) fn groups(&self) -> Value {
        let names: BTreeSet<&str> = self.0.iter().map(|r| r.group.as_str()).filter(|group| !group.is_empty()).collect();
        let groups: Vec<Value> = names.into_iter().filter_map(|name| self.group(name)).collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }

    /// `/apis/GROUP`.
    pub(crate) fn group(&self, name: &str) -> Option<Value> {
        let versions: BTreeMap<String, &str> =
            self.0.iter().filter(|r| r.group == name).map(|r| (r.api_version(), r.version.as_str())).collect();
        let versions: Vec<Value> =
            versions.into_iter().map(|(full, version)| json!({"groupVersion": full, "version": version})).collect();
        let preferred = versions.last()?.clone();
        let kind = "APIGroup";
        Some(json!({
            "kind": kind, "apiVersion": "v1", "name": name, "versions": versions, "preferredVersion": preferred,
        }))
    }

    /// `/api/v1` or `/apis/GROUP/VERSION`.
    pub(crate) fn list(&self, group: &str, version: &str) -> Option<Value> {
        let mut listed = Vec::new();
        for resource in self.0.iter().filter(|r| r.group == group && r.version == version) {
            let Resource { plural, kind, namespaced, .. } = resource;
            let verbs = if plural == "tokenreviews" {
                json!(["create"])
            } else {
                json!(["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"])
            };
            let singular = kind.to_lowercase();
            listed.push(json!({
                "name": plural, "singularName": singular, "namespaced": namespaced, "kind": kind, "verbs": verbs,
            }));
            if resource.has_status {
                let (name, verbs) = (format!("{plural}/status"), ["get", "patch", "update"]);
                listed.push(json!({
                    "name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": verbs,
                }));
            }
        }
        let of = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        let kind = "APIResourceList";
        (!listed.is_empty()).then(|| json!({"kind": kind, "apiVersion": "v1", "groupVersion": of, "resources": listed}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_found_and_listed() {
        let added = Resource::parse("monitoring.coreos.com/v1/ServiceMonitor/servicemonitors/namespaced").unwrap();
        let all = Resources::new(&[added]);
        assert_eq!(all.find("apps", "v1", "statefulsets").unwrap().kind, "StatefulSet");
        assert_eq!(all.of_kind("v1", "Pod").unwrap().plural, "pods");
        assert_eq!(all.find("apps", "v2", "statefulsets").unwrap_err().code, 404);
        assert!(all.groups().to_string().contains("monitoring.coreos.com/v1"));
        assert!(!Resources::new(&[]).groups().to_string().contains("monitoring"));
        let core = all.list("", "v1").unwrap().to_string();
        assert!(core.contains("\"pods/status\"") && !core.contains("\"secrets/status\""), "{core}");
        assert_eq!(all.list("none", "v1"), None);
    }

    #[test]
    fn what_is_not_a_resource_is_refused() {
        for text in ["", "apps/v1/Pod/pods", "apps/v1/Pod/pods/both", "a//K/ks/cluster", "a/v1/K/ks/cluster/x"] {
            assert!(Resource::parse(text).is_err(), "{text}");
        }
    }
}

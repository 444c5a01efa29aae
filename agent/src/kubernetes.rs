//! What the API server is asked and told. Every call needs a rule of the agent's Role, and no other rule is there.

use crate::plan::{Desired, Mark, Pod, Role};
use anyhow::{Context as _, Result};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod as KubePod};
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use std::fmt::Write as _;

/// The label with a pod's role.
pub const ROLE_LABEL: &str = "cleat.io/role";

/// The key of the mark in its `ConfigMap`.
pub const MARK_KEY: &str = "cluster-id";

/// The field manager of what the agent writes, and the controller in its Events.
const MANAGER: &str = "cleat-agent";

/// Pods of a `StatefulSet` that are looked at; clusters are far smaller.
const PODS_MAX: u32 = 100;

/// Bytes of an Event's note, as the API server allows.
const NOTE_BYTES_MAX: usize = 1024;

/// The API server, and what belongs to the agent there.
pub struct Kubernetes {
    client: Client,
    namespace: String,
    statefulset: String,
    pod: String,
    mark: Option<String>,
}

/// What an agent needs of the API server to make a plan.
#[derive(Clone, Debug)]
pub struct View {
    /// The number of replicas, and what belongs to it.
    pub desired: Desired,
    /// The `StatefulSet`'s pods.
    pub pods: Vec<Pod>,
    /// The mark.
    pub mark: Mark,
    /// The version of its `ConfigMap`; none without one.
    pub mark_version: Option<String>,
    /// What Events are about.
    pub about: ObjectReference,
}

impl Kubernetes {
    /// For a `StatefulSet` and the agent's own pod; `mark` is the name of the `ConfigMap` with the mark, if one is wanted.
    pub fn new(client: Client, namespace: &str, statefulset: &str, pod: &str, mark: Option<&str>) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            statefulset: statefulset.to_owned(),
            pod: pod.to_owned(),
            mark: mark.map(str::to_owned),
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Looks at the `StatefulSet`, its pods, and the mark.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn view(&self) -> Result<View> {
        let sets: Api<StatefulSet> = self.api();
        let what = || format!("look at the StatefulSet {}", self.statefulset);
        let set = sets.get(&self.statefulset).await.map_err(told).with_context(what)?;
        let spec = set.spec.clone().unwrap_or_default();
        let desired = Desired {
            // Kubernetes' defaults.
            first: spec
                .ordinals
                .and_then(|ordinals| ordinals.start)
                .map_or(0, |start| u32::try_from(start).unwrap_or(0)),
            replicas: u32::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0),
            is_deleted: set.metadata.deletion_timestamp.is_some(),
        };
        let labels = spec.selector.match_labels.unwrap_or_default();
        let pods = self.pods(&labels.into_iter().collect::<Vec<_>>()).await?;
        let (mark, mark_version) = self.read_mark().await?;
        let about = ObjectReference {
            api_version: Some("apps/v1".to_owned()),
            kind: Some("StatefulSet".to_owned()),
            name: Some(self.statefulset.clone()),
            namespace: Some(self.namespace.clone()),
            uid: set.uid(),
            ..ObjectReference::default()
        };
        Ok(View { desired, pods, mark, mark_version, about })
    }

    async fn pods(&self, labels: &[(String, String)]) -> Result<Vec<Pod>> {
        let mut selector = String::new();
        for (key, value) in labels {
            let comma = if selector.is_empty() { "" } else { "," };
            write!(selector, "{comma}{key}={value}")?;
        }
        let pods: Api<KubePod> = self.api();
        let params = ListParams::default().labels(&selector).limit(PODS_MAX);
        let listed = pods.list_metadata(&params).await.map_err(told).context("list the pods of the StatefulSet")?;
        let of_set =
            listed.items.into_iter().filter(|pod| crate::plan::ordinal(&self.statefulset, &pod.name_any()).is_some());
        Ok(of_set.map(|pod| Pod { name: pod.name_any(), role: pod.labels().get(ROLE_LABEL).cloned() }).collect())
    }

    async fn read_mark(&self) -> Result<(Mark, Option<String>)> {
        let Some(name) = &self.mark else { return Ok((Mark::Unwanted, None)) };
        let maps: Api<ConfigMap> = self.api();
        let map = maps.get(name).await.map_err(told).with_context(|| format!("read the ConfigMap {name}"))?;
        let version = map.resource_version();
        let mark = match map.data.unwrap_or_default().get(MARK_KEY).map_or("", |text| text.trim()) {
            "" => Mark::Empty,
            text => u64::from_str_radix(text, 16).map_or(Mark::Unreadable, Mark::Cluster),
        };
        Ok((mark, version))
    }

    /// Writes the mark in the place of the one that was seen.
    ///
    /// # Errors
    /// The API server does not answer, or refuses; somebody has changed the `ConfigMap` meanwhile.
    pub async fn write_mark(&self, seen: &View, cluster_id: u64) -> Result<()> {
        let Some(name) = &self.mark else { return Ok(()) };
        let maps: Api<ConfigMap> = self.api();
        let metadata = json!({"resourceVersion": seen.mark_version});
        let patch = Patch::Merge(json!({"metadata": metadata, "data": {MARK_KEY: format!("{cluster_id:x}")}}));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        maps.patch(name, &params, &patch).await.map_err(told).with_context(|| format!("write the ConfigMap {name}"))?;
        Ok(())
    }

    /// Gives a pod its label, or takes it away.
    ///
    /// # Errors
    /// The API server does not answer, or refuses; the pod is gone.
    pub async fn label(&self, pod: &str, role: Option<Role>) -> Result<()> {
        let pods: Api<KubePod> = self.api();
        let patch = Patch::Merge(json!({"metadata": {"labels": {ROLE_LABEL: role.map(Role::text)}}}));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        pods.patch_metadata(pod, &params, &patch)
            .await
            .map_err(told)
            .with_context(|| format!("label the pod {pod}"))?;
        Ok(())
    }

    /// Publishes an Event about the `StatefulSet`. kube's own recorder would need the right to patch Events, too: it counts
    /// those that are alike.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn publish(&self, about: &ObjectReference, is_warning: bool, reason: &str, note: &str) -> Result<()> {
        let events: Api<Event> = self.api();
        let mut note = note.to_owned();
        note.truncate(note.floor_char_boundary(NOTE_BYTES_MAX));
        let event = Event {
            metadata: kube::api::ObjectMeta {
                generate_name: Some(format!("{}-", self.statefulset)),
                namespace: Some(self.namespace.clone()),
                ..kube::api::ObjectMeta::default()
            },
            action: Some("Reconcile".to_owned()),
            event_time: Some(MicroTime(k8s_openapi::jiff::Timestamp::now())),
            note: Some(note),
            reason: Some(reason.to_owned()),
            regarding: Some(about.clone()),
            reporting_controller: Some(format!("cleat.io/{MANAGER}")),
            reporting_instance: Some(self.pod.clone()),
            type_: Some(if is_warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        };
        events.create(&PostParams::default(), &event).await.map_err(told).context("publish an Event")?;
        Ok(())
    }
}

/// An error that quotes nothing of an answer: what a `StatefulSet`'s containers have in their environment may be secrets.
#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn told(error: kube::Error) -> anyhow::Error {
    anyhow::Error::msg(apiserver::shown(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::config::{KubeConfigOptions, Kubeconfig};
    use kube_fake::FakeKube;

    async fn kubernetes(kube: &FakeKube) -> Kubernetes {
        let read = Kubeconfig::from_yaml(&kube.kubeconfig(None, "default")).unwrap();
        let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.unwrap();
        Kubernetes::new(Client::try_from(config).unwrap(), "default", "db", "db-0", Some("mark"))
    }

    fn put(kube: &FakeKube, api_version: &str, kind: &str, name: &str, rest: &serde_json::Value) {
        let mut object = json!({"apiVersion": api_version, "kind": kind});
        object["metadata"] = json!({"name": name, "namespace": "default"});
        for (key, value) in rest.as_object().unwrap() {
            object[key] = value.clone();
        }
        kube.put(object).unwrap();
    }

    #[tokio::test]
    async fn a_view_has_ordinals_and_a_mark_that_is_not_overwritten() {
        let kube = FakeKube::start(kube_fake::Options::default()).await.unwrap();
        let spec = json!({
            "replicas": 4, "ordinals": {"start": 3}, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {},
        });
        put(&kube, "apps/v1", "StatefulSet", "db", &json!({"spec": spec}));
        put(&kube, "v1", "ConfigMap", "mark", &json!({}));
        let agent = kubernetes(&kube).await;
        let seen = agent.view().await.unwrap();
        assert_eq!(seen.desired, Desired { first: 3, replicas: 4, is_deleted: false });
        assert_eq!(seen.mark, Mark::Empty);
        // Somebody else writes one between the look and the write.
        put(&kube, "v1", "ConfigMap", "mark", &json!({"data": {MARK_KEY: "cafe"}}));
        let refused = format!("{:#}", agent.write_mark(&seen, 0xbeef).await.unwrap_err());
        assert!(refused.contains("write the ConfigMap mark"), "{refused}");
        assert_eq!(agent.view().await.unwrap().mark, Mark::Cluster(0xcafe));
        // Emptied, it is free again.
        put(&kube, "v1", "ConfigMap", "mark", &json!({"data": {MARK_KEY: ""}}));
        let seen = agent.view().await.unwrap();
        agent.write_mark(&seen, 0xbeef).await.unwrap();
        assert_eq!(agent.view().await.unwrap().mark, Mark::Cluster(0xbeef));
        kube.stop().await;
    }

    #[tokio::test]
    async fn a_view_comes_over_https_with_a_clients_certificate() {
        let certificates = Some(kube_fake::Certificates::make(true).unwrap());
        let options = kube_fake::Options { certificates, ..kube_fake::Options::default() };
        let kube = FakeKube::start(options).await.unwrap();
        put(&kube, "apps/v1", "StatefulSet", "db", &json!({"spec": {"replicas": 2}}));
        put(&kube, "v1", "ConfigMap", "mark", &json!({}));
        let seen = kubernetes(&kube).await.view().await.unwrap();
        assert_eq!(seen.desired.replicas, 2);
        kube.stop().await;
    }
}

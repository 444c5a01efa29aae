//! A `StatefulSet`, played: members and agents as processes, pods as objects of the fake API server.

use anyhow::{Context as _, Result, ensure};
use api::etcdserverpb::{Member, MemberListRequest};
use harness::server::built_binary;
use harness::{Kind, Options, Server};
use kube_fake::{Access, Account, FakeKube, Fault};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const TOKEN: &str = "agent-token";
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// What docs/operations/agent.md lists: no more may be needed.
fn rules() -> serde_json::Value {
    json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch"]},
        {"apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["get"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["db-cluster"], "verbs": ["get", "patch"]},
    ])
}

/// An agent's process.
struct Agent {
    child: Child,
    log: PathBuf,
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) struct Set {
    pub(crate) kube: FakeKube,
    pub(crate) members: Vec<Server>,
    agents: Vec<Agent>,
    dir: tempfile::TempDir,
}

impl Set {
    /// A `StatefulSet` called `db` whose members have not started.
    pub(crate) async fn new(size: usize) -> Result<Self> {
        let kube = FakeKube::start(kube_fake::Options::default()).await?;
        let access = Access::Rules { namespace: Some("default".to_owned()), rules: rules() };
        kube.add_account(TOKEN, Account { username: "agent".to_owned(), access, ..Account::default() })?;
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("kubeconfig"), kube.kubeconfig(Some(TOKEN), "default"))?;
        std::fs::write(dir.path().join("token"), "join-token\n")?;
        let mut members = Vec::new();
        for number in 0..size {
            let flags = [
                "--heartbeat-interval=100".to_owned(),
                "--election-timeout=1000".to_owned(),
                "--initial-cluster-state=auto".to_owned(),
                format!("--join-token-file={}", dir.path().join("token").display()),
            ];
            let options = Options { name: format!("db-{number}"), flags: flags.into(), ..Options::default() };
            members.push(Server::prepare(Kind::Cleat, options)?);
        }
        let pairs: Vec<String> =
            members.iter().enumerate().map(|(number, member)| format!("db-{number}={}", member.peer_url())).collect();
        for member in &mut members {
            member.options_mut().initial_cluster = pairs.join(",");
        }
        let set = Self { kube, members, agents: Vec::new(), dir };
        set.scale(size)?;
        set.kube.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "db-cluster", "namespace": "default"}}))?;
        Ok(set)
    }

    /// Starts these members and their agents, and waits for the members.
    pub(crate) async fn start(&mut self, numbers: &[usize]) -> Result<()> {
        for &number in numbers {
            self.put_pod(number)?;
            self.members[number].spawn()?;
            let agent = self.agent(number)?;
            self.agents.push(agent);
        }
        for &number in numbers {
            self.members[number].wait_ready().await?;
        }
        Ok(())
    }

    fn agent(&self, number: usize) -> Result<Agent> {
        let log = self.dir.path().join(format!("agent-{number}.log"));
        let child = Command::new(built_binary("cleat-agent")?)
            .args(["--namespace=default", "--statefulset=db", "--cluster-configmap=db-cluster"])
            .args(["--interval-seconds=1", "--member-gone-seconds=2"])
            .arg(format!("--pod=db-{number}"))
            .arg(format!("--member-url={}", self.members[number].client_url()))
            .arg(format!("--kubeconfig={}", self.dir.path().join("kubeconfig").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("start cleat-agent")?;
        Ok(Agent { child, log })
    }

    /// Makes a pod, as the `StatefulSet` does: without a role.
    pub(crate) fn put_pod(&self, number: usize) -> Result<()> {
        let name = format!("db-{number}");
        let metadata = json!({"name": name, "namespace": "default", "labels": {"app": "db"}});
        self.kube.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}}))?;
        Ok(())
    }

    /// Asks a pod to end of which nobody will say that it did.
    pub(crate) fn hang_pod(&self, number: usize) -> Result<()> {
        let name = format!("db-{number}");
        let mut pod = self.kube.get("v1", "Pod", "default", &name)?;
        pod["metadata"]["finalizers"] = json!(["cleat.io/silent-kubelet"]);
        self.kube.put(pod)?;
        self.kube.delete("v1", "Pod", "default", &name)?;
        let pod = self.kube.get("v1", "Pod", "default", &name)?;
        ensure!(pod["metadata"]["deletionTimestamp"].is_string(), "{name} does not end: {pod}");
        Ok(())
    }

    /// Takes a pod away, by force if it hangs.
    pub(crate) fn delete_pod(&self, number: usize) -> Result<()> {
        let name = format!("db-{number}");
        let mut pod = self.kube.get("v1", "Pod", "default", &name)?;
        if pod["metadata"]["deletionTimestamp"].is_null() {
            return Ok(self.kube.delete("v1", "Pod", "default", &name)?);
        }
        pod["metadata"]["finalizers"] = json!([]);
        self.kube.put(pod)?;
        Ok(())
    }

    /// Changes the number of replicas, and nothing else.
    pub(crate) fn scale(&self, replicas: usize) -> Result<()> {
        let spec = json!({
            "replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": {},
        });
        let metadata = json!({"name": "db", "namespace": "default"});
        self.kube.put(json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec}))?;
        Ok(())
    }

    /// Lets that many requests of agents fail.
    pub(crate) fn fail(&self, code: u16, count: u32) -> Result<()> {
        Ok(self.kube.fail(Fault { verb: None, plural: None, code, count })?)
    }

    /// Lets all requests of one kind fail.
    pub(crate) fn fail_to(&self, verb: &str, plural: &str) -> Result<()> {
        let (verb, plural) = (Some(verb.to_owned()), Some(plural.to_owned()));
        Ok(self.kube.fail(Fault { verb, plural, code: 500, count: u32::MAX })?)
    }

    /// Pods and their roles.
    pub(crate) fn roles(&self) -> Result<Vec<(String, String)>> {
        let pods = self.kube.list("v1", "Pod", "default")?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        Ok(pods
            .iter()
            .map(|pod| (text(&pod["metadata"]["name"]), text(&pod["metadata"]["labels"]["cleat.io/role"])))
            .collect())
    }

    /// The notes of the Events with a reason.
    pub(crate) fn events(&self, reason: &str) -> Result<Vec<String>> {
        let events = self.kube.list("events.k8s.io/v1", "Event", "default")?;
        let of_reason = events.iter().filter(|event| event["reason"] == reason && event["regarding"]["name"] == "db");
        Ok(of_reason.filter_map(|event| event["note"].as_str().map(str::to_owned)).collect())
    }

    pub(crate) fn mark(&self) -> Result<String> {
        let map = self.kube.get("v1", "ConfigMap", "default", "db-cluster")?;
        Ok(map["data"]["cluster-id"].as_str().unwrap_or_default().to_owned())
    }

    /// The number of a pod.
    pub(crate) fn number(pod: &str) -> Result<usize> {
        Ok(pod.strip_prefix("db-").context("a pod of the set")?.parse()?)
    }

    pub(crate) async fn cluster_id(&self) -> Result<u64> {
        let mut client = self.members[0].client().await?;
        let listed = client.cluster.member_list(MemberListRequest::default()).await?.into_inner();
        Ok(listed.header.context("a list has a header")?.cluster_id)
    }

    pub(crate) async fn member_names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = self.list().await?.into_iter().map(|member| member.name).collect();
        names.sort();
        Ok(names)
    }

    pub(crate) async fn member_ids(&self) -> Result<BTreeSet<u64>> {
        Ok(self.list().await?.into_iter().map(|member| member.id).collect())
    }

    async fn list(&self) -> Result<Vec<Member>> {
        let mut client = self.members[0].client().await?;
        Ok(client.cluster.member_list(MemberListRequest { linearizable: true }).await?.into_inner().members)
    }

    /// Ends the agents, which have to obey, and adds to a failure what everybody said.
    pub(crate) async fn end(mut self, told: Result<()>) -> Result<()> {
        let agents = self.agents.iter().map(|agent| std::fs::read_to_string(&agent.log).unwrap_or_default());
        let said = format!(
            "{}\n{}",
            agents.collect::<Vec<_>>().join("\n--- agent ---\n"),
            self.members.iter().map(Server::log_tail).collect::<Vec<_>>().join("\n--- member ---\n"),
        );
        told.with_context(|| said.clone())?;
        ensure!(
            !self.kube.requests().iter().any(|request| request.code == 403),
            "an agent asked for more than its rules"
        );
        for agent in &mut self.agents {
            let pid = agent.child.id().to_string();
            ensure!(Command::new("kill").args(["-TERM", &pid]).status()?.success(), "cannot signal an agent");
            let deadline = Instant::now() + STOPS_WITHIN;
            while agent.child.try_wait()?.is_none() {
                ensure!(Instant::now() < deadline, "an agent does not end");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }
}

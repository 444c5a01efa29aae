//! Looks and acts, again and again.

use crate::kubernetes::{Kubernetes, View};
use crate::observe::Members;
use crate::plan::{Action, Member, Observed, happened, ordinal, plan, remember};
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The same warning is published as an Event once in this time.
const WARNING_INTERVAL: Duration = Duration::from_mins(5);

/// Warnings that are remembered; others are told once one of them is forgotten.
const WARNINGS_MAX: usize = 32;

/// When things are done.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Between two looks.
    pub interval: Duration,
    /// How long a pod has to be gone until its member is removed.
    pub gone: Duration,
}

/// An agent, and what it remembers between two looks.
pub struct Agent {
    members: Members,
    kubernetes: Kubernetes,
    statefulset: String,
    pace: Pace,
    /// The members at the last look.
    before: Vec<Member>,
    /// Replicas without a pod, since when.
    absent: BTreeMap<u32, Instant>,
    warned: BTreeMap<String, Warned>,
    /// What went wrong at the last look, so that it is logged once.
    trouble: String,
}

/// A warning that was logged.
struct Warned {
    at: Instant,
    is_published: bool,
}

impl Agent {
    /// An agent that has seen nothing yet.
    pub fn new(members: Members, kubernetes: Kubernetes, statefulset: &str, pace: Pace) -> Self {
        Self {
            members,
            kubernetes,
            statefulset: statefulset.to_owned(),
            pace,
            before: Vec::new(),
            absent: BTreeMap::new(),
            warned: BTreeMap::new(),
            trouble: String::new(),
        }
    }

    /// Looks and acts until the future is dropped.
    pub async fn run(&mut self) {
        loop {
            match self.look().await {
                Ok(()) => {
                    if !std::mem::take(&mut self.trouble).is_empty() {
                        tracing::info!("the member and the API server answer again");
                    }
                }
                Err(error) => {
                    let trouble = format!("{error:#}");
                    if trouble != self.trouble {
                        tracing::warn!(error = trouble, "cannot look after the cluster, trying again");
                    }
                    self.trouble = trouble;
                }
            }
            tokio::time::sleep(self.pace.interval).await;
        }
    }

    /// One look, and what follows from it. What cannot be done does not keep the rest from being done.
    ///
    /// # Errors
    /// The first of those who do not answer, or refuse. Everything is looked at anew the next time.
    pub async fn look(&mut self) -> Result<()> {
        let standing = self.members.standing().await?;
        let leads = standing.leader != 0 && standing.leader == standing.me;
        let now = self.members.list(leads).await?;
        if !leads {
            self.absent.clear();
            self.before = now;
            return Ok(());
        }
        let view = self.kubernetes.view().await?;
        let observed = Observed {
            cluster_id: standing.cluster_id,
            me: standing.me,
            leader: standing.leader,
            gone: self.gone(&view, &now),
            members: now.clone(),
            pods: view.pods.clone(),
            mark: view.mark.clone(),
        };
        let mut failed = Ok(());
        for action in plan(&observed, &view.desired) {
            let done = self.act(&view, action).await;
            failed = failed.and(done);
        }
        failed.and(self.publish(&view, now).await)
    }

    /// Events of what happened to the members since the last look. The first one shows nothing new.
    async fn publish(&mut self, view: &View, now: Vec<Member>) -> Result<()> {
        if self.before.is_empty() {
            self.before = now;
            return Ok(());
        }
        let mut failed = Ok(());
        for happening in happened(&self.before, &now) {
            let (reason, note) = (happening.reason, happening.note);
            let published = self.kubernetes.publish(&view.about, false, reason, &note).await;
            if published.is_ok() {
                tracing::info!(reason, note, "the members have changed");
                // Not before: what could not be published is news the next time, too.
                remember(&mut self.before, &now, &happening.name);
            }
            failed = failed.and(published);
        }
        failed
    }

    /// Replicas of members whose pod has been gone for long enough.
    fn gone(&mut self, view: &View, members: &[Member]) -> BTreeSet<u32> {
        let pods: BTreeSet<u32> = view.pods.iter().filter_map(|pod| ordinal(&self.statefulset, &pod.name)).collect();
        let absent: BTreeSet<u32> =
            members.iter().filter_map(|member| member.ordinal).filter(|ordinal| !pods.contains(ordinal)).collect();
        self.absent.retain(|ordinal, _| absent.contains(ordinal));
        let now = Instant::now();
        for ordinal in absent {
            self.absent.entry(ordinal).or_insert(now);
        }
        let long = self.absent.iter().filter(|(_, since)| since.elapsed() >= self.pace.gone);
        long.map(|(ordinal, _)| *ordinal).collect()
    }

    async fn act(&mut self, view: &View, action: Action) -> Result<()> {
        match action {
            Action::Label { pod, role } => self.kubernetes.label(&pod, role).await,
            Action::Mark { cluster_id } => {
                tracing::info!(cluster_id = format_args!("{cluster_id:x}"), "marking that the cluster is founded");
                self.kubernetes.write_mark(view, cluster_id).await
            }
            Action::Remove { id, name } => {
                tracing::warn!(member_id = format_args!("{id:x}"), name, "removing a member that was scaled away");
                self.members.remove(id).await
            }
            Action::Warn { reason, note } => self.warn(view, reason, note).await,
        }
    }

    async fn warn(&mut self, view: &View, reason: &str, note: String) -> Result<()> {
        self.warned.retain(|_, warned| warned.at.elapsed() < WARNING_INTERVAL);
        if !self.warned.contains_key(&note) {
            if self.warned.len() >= WARNINGS_MAX {
                return Ok(());
            }
            tracing::warn!(reason, note, "the cluster needs attention");
            self.warned.insert(note.clone(), Warned { at: Instant::now(), is_published: false });
        }
        let is_published = |warned: &Warned| warned.is_published;
        if self.warned.get(&note).is_none_or(is_published) {
            return Ok(());
        }
        self.kubernetes.publish(&view.about, true, reason, &note).await?;
        if let Some(warned) = self.warned.get_mut(&note) {
            warned.is_published = true;
        }
        Ok(())
    }
}

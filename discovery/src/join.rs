//! How a member joins through a discovery service, whatever the service is.
//!
//! A [`Registry`] keeps, for one token, the number of members and what each member registered. The first that
//! registered are the cluster. `url` and `v3` are the two registries; the order of their requests is decided here and
//! is etcd's: size and list, register, size and list again, wait for the others. An answer to a wait only means
//! that it is time to look again, so what else a service may tell there does no harm.

use crate::error::ServiceError;
use crate::id;
use crate::static_cluster::{InitialCluster, InitialMember};
use crate::{Me, Options};
use rand::Rng as _;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Most members of a first cluster: far more than raft works with, few enough to keep a list of them small.
pub(crate) const MAX_MEMBERS: usize = 100;
/// Between two looks at a service that says at once that something is new, when nothing is.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What a member registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    /// The member's id in hexadecimal.
    pub(crate) id: String,
    /// `name=url,name=url2`.
    pub(crate) value: String,
}

/// Why a request to a registry failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// May go better later.
    Passing(String),
    /// Will not.
    Final(ServiceError),
}

/// Where the members of one token are registered.
pub(crate) trait Registry {
    /// Who is asked, for errors and logs.
    fn place(&self) -> String;
    /// How many members the cluster has, and where that is written.
    async fn size(&mut self) -> Result<(String, String), Failure>;
    /// The registrations, oldest first.
    async fn list(&mut self) -> Result<Vec<Registration>, Failure>;
    /// Registers, unless the id is registered already.
    async fn register(&mut self, own: &Registration) -> Result<(), Failure>;
    /// Returns when something may have changed since the last list.
    async fn changed(&mut self) -> Result<(), Failure>;
}

/// Joins: registers this member, waits for the others, and returns all of them. Cancellation safe: a registration
/// that was made is found by the next attempt.
pub(crate) async fn join(
    registry: &mut impl Registry,
    me: &Me,
    token: &str,
    options: &Options,
) -> Result<InitialCluster, ServiceError> {
    let own = own_registration(registry, me, token)?;
    let deadline = Instant::now() + options.member_patience;
    let mut session = Session { registry, retries: Retries { options, failures: 0 } };
    let (size, members) = session.check(&own).await?;
    match members.iter().find(|member| member.id == own.id) {
        Some(_) => tracing::warn!(
            member_id = own.id,
            found = members.len(),
            size,
            "this member is registered already: going on with a start that was cut off"
        ),
        None => session.register(&own).await?,
    }
    let (size, mut members) = session.check(&own).await?;
    while members.len() < size {
        let missing = size - members.len();
        tracing::info!(place = session.registry.place(), found = members.len(), missing, "waiting for other members");
        let (started, found) = (Instant::now(), members.len());
        let Ok(changed) = tokio::time::timeout_at(deadline, session.changed()).await else {
            let members = members.into_iter().map(|member| member.value).collect();
            return Err(ServiceError::Incomplete { size, members, patience: options.member_patience });
        };
        changed?;
        members = session.list(size, &own).await?;
        if members.len() == found {
            tokio::time::sleep_until(started + LOOK_INTERVAL).await;
        }
    }
    to_cluster(&members, token)
}

/// What this member registers. Its text must mean this member again when it is read.
fn own_registration(registry: &impl Registry, me: &Me, token: &str) -> Result<Registration, ServiceError> {
    let member = InitialMember { name: me.name.clone(), peer_urls: me.peer_urls.clone() };
    let value = InitialCluster { members: vec![member], token: token.to_owned() }.to_string();
    let id = format!("{:x}", id::member_id(&me.peer_urls, token));
    let unreadable = |reason: String| ServiceError::BadEndpoint { place: registry.place(), reason };
    match InitialCluster::parse(&value, token) {
        Ok(read) if read.members.len() == 1 && read.members[0].name == me.name => Ok(Registration { id, value }),
        Ok(_) => Err(unreadable(format!("this member cannot register as {value:?}; use a --name without , and ="))),
        Err(error) => Err(ServiceError::InvalidPeerUrl { id, value, reason: error.to_string() }),
    }
}

/// A registry, and how often it failed.
struct Session<'a, R> {
    registry: &'a mut R,
    retries: Retries<'a>,
}

impl<R: Registry> Session<'_, R> {
    /// The result of a request, or None after the pause before the next try.
    async fn settle<T>(&mut self, step: &str, result: Result<T, Failure>) -> Result<Option<T>, ServiceError> {
        match result {
            Ok(done) => {
                self.retries.failures = 0;
                Ok(Some(done))
            }
            Err(Failure::Final(error)) => Err(error),
            Err(Failure::Passing(reason)) => {
                self.retries.pause(self.registry.place(), step, reason).await?;
                Ok(None)
            }
        }
    }

    async fn check(&mut self, own: &Registration) -> Result<(usize, Vec<Registration>), ServiceError> {
        let (key, value) = loop {
            let result = self.registry.size().await;
            if let Some(done) = self.settle("read the size", result).await? {
                break done;
            }
        };
        let Some(size) = value.trim().parse().ok().filter(|size| (1..=MAX_MEMBERS).contains(size)) else {
            return Err(ServiceError::BadSize { key, value, max: MAX_MEMBERS });
        };
        Ok((size, self.list(size, own).await?))
    }

    /// The registrations that count. A place that another one took first is taken.
    async fn list(&mut self, size: usize, own: &Registration) -> Result<Vec<Registration>, ServiceError> {
        let mut members = loop {
            let result = self.registry.list().await;
            if let Some(done) = self.settle("list the members", result).await? {
                break done;
            }
        };
        members.truncate(size);
        match members.iter().find(|member| member.id == own.id) {
            Some(same) if !means_the_same(&same.value, &own.value) => {
                let (id, registered, own) = (own.id.clone(), same.value.clone(), own.value.clone());
                Err(ServiceError::DuplicateId { id, registered, own })
            }
            None if members.len() >= size => {
                let members = members.into_iter().map(|member| member.value).collect();
                Err(ServiceError::Full { size, members })
            }
            _ => Ok(members),
        }
    }

    async fn register(&mut self, own: &Registration) -> Result<(), ServiceError> {
        loop {
            let result = self.registry.register(own).await;
            if self.settle("register", result).await?.is_some() {
                break;
            }
        }
        tracing::info!(place = self.registry.place(), member_id = own.id, registered = own.value, "registered");
        Ok(())
    }

    async fn changed(&mut self) -> Result<(), ServiceError> {
        loop {
            let result = self.registry.changed().await;
            if self.settle("wait for other members", result).await?.is_some() {
                return Ok(());
            }
        }
    }
}

/// Consecutive failures and the pauses between them.
struct Retries<'a> {
    options: &'a Options,
    failures: u32,
}

impl Retries<'_> {
    async fn pause(&mut self, place: String, step: &str, reason: String) -> Result<(), ServiceError> {
        self.failures += 1;
        if self.failures >= self.options.tries {
            return Err(ServiceError::TooManyRetries { place, tries: self.failures, reason });
        }
        let pause = self.options.pause(self.failures);
        tracing::warn!(place, step, %reason, ?pause, "the discovery service failed; trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

impl Options {
    /// The pause after so many failures in a row: doubled each time up to the longest, and up to a tenth longer, so
    /// that members that started together do not ask together.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        let factor = 2_u32.saturating_pow(failures.saturating_sub(1));
        let pause = self.first_pause.saturating_mul(factor).min(self.longest_pause);
        pause + pause.mul_f64(rand::rng().random_range(0.0..0.1))
    }
}

/// The order of URLs does not matter.
fn means_the_same(left: &str, right: &str) -> bool {
    let read = |text| InitialCluster::parse(text, "").map(|cluster| cluster.to_string());
    left == right || matches!((read(left), read(right)), (Ok(left), Ok(right)) if left == right)
}

fn to_cluster(registrations: &[Registration], token: &str) -> Result<InitialCluster, ServiceError> {
    let texts: Vec<&str> = registrations.iter().map(|registration| registration.value.as_str()).collect();
    let all = texts.join(",");
    let mut names = BTreeSet::new();
    for Registration { id, value } in registrations {
        let invalid = |reason: String| ServiceError::InvalidPeerUrl { id: id.clone(), value: value.clone(), reason };
        let read = InitialCluster::parse(value, token).map_err(|error| invalid(error.to_string()))?;
        let [member] = read.members.as_slice() else {
            return Err(invalid("it must be one member".to_owned()));
        };
        if !names.insert(member.name.clone()) {
            return Err(ServiceError::DuplicateName { name: member.name.clone() });
        }
        let expected = format!("{:x}", id::member_id(&member.peer_urls, token));
        if *id != expected {
            tracing::warn!(
                registered_id = id,
                registered = value,
                expected,
                "the id of a member is not of its URLs and this token: give every member exactly the same token or URL"
            );
        }
    }
    // All parts were good: what is left to go wrong is a URL of two members.
    InitialCluster::parse(&all, token).map_err(|source| ServiceError::DuplicateUrl { cluster: all.clone(), source })
}

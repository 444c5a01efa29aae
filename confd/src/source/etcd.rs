//! The v3 API of etcd and Cleat.
//!
//! Without watching, the keys of a resource are read in transactions that all show one revision. With it, each range is
//! listed once and then watched (`mirror.rs`).

use super::mirror::{Ended, Failure, Follower, News};
use super::{Entries, Store, text};
use crate::resource::covers;
use api::etcdserverpb::TxnRequest;
use api::etcdserverpb::response_op::Response;
use api::mvccpb::{Event, event};
use client::message::{self, op};
use client::{Client, Options, TlsOptions, Update, User};
use std::collections::BTreeSet;

/// Operations that etcd takes in one transaction.
const MAX_OPERATIONS: usize = 128;

/// A client of the store. Clones share its connections.
#[derive(Clone, Debug)]
pub(crate) struct Etcd {
    client: Client,
    pub(super) has_user: bool,
}

impl Etcd {
    pub(super) fn new(nodes: &[String], tls: Option<TlsOptions>, user: Option<User>) -> Result<Self, String> {
        // A certificate can be the user, too.
        let has_user = user.is_some() || tls.as_ref().is_some_and(|tls| tls.cert_file.is_some());
        let options = Options { endpoints: nodes.to_vec(), tls, user, ..Options::default() };
        let client = Client::new(&options).map_err(|error| error.to_string())?;
        Ok(Self { client, has_user })
    }

    /// The wanted keys and what is below them, all at one revision.
    pub(super) async fn read(&self, keys: &[String]) -> Result<Entries, String> {
        let mut entries = Entries::new();
        let mut revision = 0;
        for chunk in keys.chunks(MAX_OPERATIONS) {
            let ranges = chunk.iter().map(|key| {
                let mut range = message::get_prefix(key.clone().into_bytes());
                range.revision = revision;
                op::range(range)
            });
            let request = TxnRequest { success: ranges.collect(), ..TxnRequest::default() };
            let answer = self.client.txn(request).await.map_err(|error| error.to_string())?;
            if revision == 0 {
                revision = answer.header.map_or(0, |header| header.revision);
            }
            for (wanted, response) in chunk.iter().zip(answer.responses) {
                let Some(Response::ResponseRange(range)) = response.response else { continue };
                let kvs = range.kvs.into_iter().filter(|kv| covers(wanted, &kv.key));
                entries.extend(kvs.map(|kv| (text(&kv.key), text(&kv.value))));
            }
        }
        Ok(entries)
    }

    /// True if the store answers, and be it that this key is not for this user.
    pub(super) async fn answers(&self, key: &str) -> bool {
        match self.client.get(key.as_bytes().to_vec()).await {
            Ok(_) => true,
            Err(error) => error.is(api::error::Error::PermissionDenied),
        }
    }

    /// Follows a range for as long as anybody listens.
    pub(super) async fn follow(&self, follower: &Follower) -> Ended {
        let mut keys = client::Mirror::new(self.client.clone(), follower.range.clone().into_bytes());
        loop {
            let told = match keys.next().await {
                Update::Listing(listing) => {
                    let present = listing.kvs.into_iter().map(|kv| (text(&kv.key), text(&kv.value))).collect();
                    follower.read(present, BTreeSet::new()).await.map(|_| ())
                }
                Update::Events(events) => follower.apply(events.events.into_iter().filter_map(news)).await,
                Update::Unread(error) => {
                    let is_refused = error.is(api::error::Error::PermissionDenied);
                    follower.unread(&Failure { error: error.to_string(), is_refused }).await
                }
                Update::Lost(error) => {
                    follower.lost(&error.to_string());
                    Ok(())
                }
            };
            if let Err(unheard) = told {
                return unheard.into();
            }
        }
    }
}

fn news(event: Event) -> Option<News> {
    let is_delete = event.r#type == i32::from(event::EventType::Delete);
    let kv = event.kv?;
    let key = text(&kv.key);
    Some(if is_delete { News::Deleted(key) } else { News::Put(key, text(&kv.value)) })
}

impl From<Etcd> for Store {
    fn from(etcd: Etcd) -> Self {
        Self::V3(etcd)
    }
}

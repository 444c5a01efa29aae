//! What the members say of the cluster and of themselves.

use crate::plan::{Member, ordinal};
use anyhow::{Context as _, Result};
use api::etcdserverpb::{Member as Listed, MemberRemoveRequest};
use client::{Client, Options};
use futures::future::join_all;
use std::collections::BTreeMap;

/// Members that are asked how they are; further ones count as silent.
const MEMBERS_MAX: usize = 32;

/// The members, through the agent's own one.
pub struct Members {
    own: Client,
    url: String,
    /// How every connection is made, but for the endpoint.
    options: Options,
    statefulset: String,
    /// Clients of the other members, by URL.
    others: BTreeMap<String, Client>,
}

/// Who the agent's member is, and who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The cluster.
    pub cluster_id: u64,
    /// The member.
    pub me: u64,
    /// Who leads; 0 for nobody.
    pub leader: u64,
}

impl Members {
    /// Makes a client of the member at `url`, with the rest of the options as they are.
    ///
    /// # Errors
    /// The URL or the certificates cannot be used.
    pub fn new(url: &str, options: &Options, statefulset: &str) -> Result<Self> {
        let options = Options { endpoints: vec![url.to_owned()], ..options.clone() };
        let own = Client::new(&options)?;
        let (url, statefulset) = (url.to_owned(), statefulset.to_owned());
        Ok(Self { own, url, options, statefulset, others: BTreeMap::new() })
    }

    /// Asks the own member.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn standing(&self) -> Result<Standing> {
        let status = self.own.status(&self.url).await?;
        let header = status.header.context("the member's answer has no header")?;
        Ok(Standing { cluster_id: header.cluster_id, me: header.member_id, leader: status.leader })
    }

    /// All members. Whether each answers is asked only if `asks` says so; else none does.
    ///
    /// # Errors
    /// The own member does not answer, or has no majority behind it.
    pub async fn list(&mut self, asks: bool) -> Result<Vec<Member>> {
        let listed = self.own.member_list().await?.members;
        if !asks {
            self.others.clear();
            return Ok(listed.iter().map(|member| self.member(member, false)).collect());
        }
        let urls: Vec<&String> = listed.iter().filter_map(|member| member.client_urls.first()).collect();
        self.others.retain(|url, _| urls.contains(&url));
        for url in urls.into_iter().take(MEMBERS_MAX) {
            if !self.others.contains_key(url) {
                let options = Options { endpoints: vec![url.clone()], ..self.options.clone() };
                // One that cannot be called is silent.
                if let Ok(client) = Client::new(&options) {
                    self.others.insert(url.clone(), client);
                }
            }
        }
        Ok(join_all(listed.iter().map(|member| self.look_at(member))).await)
    }

    async fn look_at(&self, listed: &Listed) -> Member {
        let url = listed.client_urls.first();
        let answers = match url.and_then(|url| self.others.get_key_value(url)) {
            Some((url, client)) => client.status(url).await.is_ok_and(|status| status.leader != 0),
            None => false,
        };
        self.member(listed, answers)
    }

    fn member(&self, listed: &Listed, answers: bool) -> Member {
        let name = if listed.name.is_empty() { name_in_url(listed) } else { listed.name.clone() };
        Member {
            id: listed.id,
            ordinal: ordinal(&self.statefulset, &name),
            name,
            is_learner: listed.is_learner,
            is_started: !listed.name.is_empty(),
            answers,
        }
    }

    /// Removes a member.
    ///
    /// # Errors
    /// The cluster refuses, or does not answer.
    pub async fn remove(&self, id: u64) -> Result<()> {
        self.own.member_remove(MemberRemoveRequest { id }).await?;
        Ok(())
    }
}

/// The first label of the host in a member's peer URL: the name of its pod.
fn name_in_url(listed: &Listed) -> String {
    let url = listed.peer_urls.first().map_or("", String::as_str);
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    host.split(['.', ':', '/']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_without_a_name_has_the_one_in_its_url() {
        for (url, expected) in
            [("https://db-2.db-headless.ns.svc:2380", "db-2"), ("http://db-0:2380", "db-0"), ("", "")]
        {
            let listed = Listed { peer_urls: vec![url.to_owned()], ..Listed::default() };
            assert_eq!(name_in_url(&listed), expected);
        }
    }
}

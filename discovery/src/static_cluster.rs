//! The first cluster as a list: `--initial-cluster`, and what every other way to discover it ends in.
//!
//! Parses `name=url,name=url2,...`, refuses what cannot become a cluster, and finds this member in it by etcd's rules.

use crate::id;
use crate::member_url::{MemberUrl, UrlError};
use crate::names::{NameError, addresses_in_time};
use crate::options::Options;
use client::without_user;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// A member of the first cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    /// Its `--name`, not empty.
    pub name: String,
    /// Its peer URLs, at least one, sorted.
    pub peer_urls: Vec<String>,
}

/// The members of the first cluster, and the token that tells it from other clusters. Names and URLs are distinct.
#[derive(Clone, PartialEq, Eq)]
pub struct InitialCluster {
    /// In the order in which they were found; ids do not depend on it.
    pub members: Vec<InitialMember>,
    /// Part of every id.
    pub token: String,
}

/// Without a password: the token may be a discovery URL.
impl fmt::Debug for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = without_user(&self.token);
        f.debug_struct("InitialCluster").field("members", &self.members).field("token", &token).finish()
    }
}

/// Why a text is not a list of members. The texts are etcd's where it has one, and name the part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// No part at all.
    #[error("initial cluster unset and no discovery URL found; list the members as name=URL,name=URL,...")]
    Empty,
    /// Nothing before the equals sign.
    #[error("empty member name in {part:?}; write name=URL with the --name of that member")]
    NoName {
        /// The part between two commas.
        part: String,
    },
    /// No equals sign, or nothing behind it.
    #[error("empty URL given for {part:?}; write name=URL, as in m1=http://10.0.0.1:2380")]
    NoUrl {
        /// The part between two commas.
        part: String,
    },
    /// A URL of the wrong form.
    #[error("{source} (in {part:?}; a peer URL is http://host:port or https://host:port)")]
    Url {
        /// The part between two commas.
        part: String,
        /// What is wrong with it.
        source: UrlError,
    },
    /// The same URL twice.
    #[error(
        "initial cluster {cluster} has duplicate url {url} (of {first:?} and of {second:?}); give each member its own"
    )]
    DuplicateUrl {
        /// The whole list.
        cluster: String,
        /// The URL.
        url: String,
        /// The member that has it first.
        first: String,
        /// The member that has it again; may be the same.
        second: String,
    },
}

/// Why this member is not part of the list.
#[derive(Debug, thiserror::Error)]
pub enum SelfError {
    /// No member has the name.
    #[error(
        "couldn't find local name {name:?} in the initial cluster configuration; it has {}: set --name to one of \
         them, or add {name}=URL to --initial-cluster",
        there.join(", ")
    )]
    NameMissing {
        /// This member's name.
        name: String,
        /// The names in the list.
        there: Vec<String>,
    },
    /// The list has URLs for this member that it does not advertise.
    #[error(
        "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} ({why}); {remedy}",
        missing.join(","), advertised.join(",")
    )]
    NotAdvertised {
        /// `name=url` of those URLs.
        missing: Vec<String>,
        /// What this member advertises.
        advertised: Vec<String>,
        /// How they were compared.
        why: String,
        /// What to change.
        remedy: String,
    },
    /// This member advertises URLs that the list does not have for it.
    #[error(
        "--initial-advertise-peer-urls has {} but missing from --initial-cluster={} ({why}); add them to \
         --initial-cluster as {name}=URL, or do not advertise them",
        missing.join(","), listed.join(",")
    )]
    NotListed {
        /// This member's name.
        name: String,
        /// Those URLs.
        missing: Vec<String>,
        /// `name=url` of what the list has for this member.
        listed: Vec<String>,
        /// How they were compared.
        why: String,
    },
    /// This member advertises something that is not a URL of a peer.
    #[error("--initial-advertise-peer-urls: {0}")]
    Advertised(#[from] UrlError),
}

impl InitialCluster {
    /// Parses `name=url,name=url2,...`; a name may come again for another URL of the same member. Empty parts are
    /// skipped, as in etcd.
    ///
    /// # Errors
    /// The first part that cannot be read, or a URL that comes twice.
    pub fn parse(text: &str, token: &str) -> Result<Self, ParseError> {
        let mut members: Vec<InitialMember> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, url) = part.split_once('=').unwrap_or((part, ""));
            let part = || part.to_owned();
            if name.is_empty() {
                return Err(ParseError::NoName { part: part() });
            }
            if url.is_empty() {
                return Err(ParseError::NoUrl { part: part() });
            }
            let url = MemberUrl::parse(url).map_err(|source| ParseError::Url { part: part(), source })?.to_string();
            match members.iter_mut().find(|member| member.name == name) {
                Some(member) => member.peer_urls.push(url),
                None => members.push(InitialMember { name: name.to_owned(), peer_urls: vec![url] }),
            }
        }
        for member in &mut members {
            member.peer_urls.sort_unstable();
        }
        let cluster = Self { members, token: token.to_owned() };
        cluster.check()?;
        Ok(cluster)
    }

    fn check(&self) -> Result<(), ParseError> {
        let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
        for member in &self.members {
            for url in &member.peer_urls {
                if let Some(first) = owners.insert(url, &member.name) {
                    return Err(ParseError::DuplicateUrl {
                        cluster: self.to_string(),
                        url: url.clone(),
                        first: first.to_owned(),
                        second: member.name.clone(),
                    });
                }
            }
        }
        if self.members.is_empty() { Err(ParseError::Empty) } else { Ok(()) }
    }

    /// The ids of the members, in the order of `members`.
    pub fn member_ids(&self) -> Vec<u64> {
        self.members.iter().map(|member| id::member_id(&member.peer_urls, &self.token)).collect()
    }

    /// The id of the cluster.
    pub fn cluster_id(&self) -> u64 {
        id::cluster_id(&self.member_ids())
    }

    /// Finds this member: the list must have its name, with exactly the URLs that it advertises. URLs that differ as
    /// text are compared by scheme, port and address. Cancellation safe; bounded by the patience for names.
    ///
    /// # Errors
    /// The name is not there, or the URLs differ.
    pub async fn find_self(
        &self,
        name: &str,
        advertised_peer_urls: &[String],
        options: &Options,
    ) -> Result<&InitialMember, SelfError> {
        let Some(own) = self.members.iter().find(|member| member.name == name) else {
            let there = self.members.iter().map(|member| member.name.clone()).collect();
            return Err(SelfError::NameMissing { name: name.to_owned(), there });
        };
        let advertised =
            advertised_peer_urls.iter().map(|url| MemberUrl::parse(url)).collect::<Result<BTreeSet<_>, _>>()?;
        let listed = own.peer_urls.iter().map(|url| MemberUrl::parse(url)).collect::<Result<BTreeSet<_>, _>>()?;
        let only_listed: Vec<&MemberUrl> = listed.difference(&advertised).collect();
        let only_advertised: Vec<&MemberUrl> = advertised.difference(&listed).collect();
        if only_listed.is_empty() && only_advertised.is_empty() {
            return Ok(own);
        }
        let why = if listed.len() == advertised.len() {
            match same_places(&only_listed, &only_advertised, options).await {
                Ok(None) => return Ok(own),
                Ok(Some(why)) => why,
                Err(error) => error.to_string(),
            }
        } else {
            format!("{} advertised and {} in the list", advertised.len(), listed.len())
        };
        if only_listed.is_empty() {
            let missing = only_advertised.iter().map(ToString::to_string).collect();
            let listed = own.peer_urls.iter().map(|url| format!("{name}={url}")).collect();
            return Err(SelfError::NotListed { name: name.to_owned(), missing, listed, why });
        }
        let remedy = if listed.len() > advertised.len() {
            format!("if {name:?} stands for several members, give each its own --name; else advertise all of its URLs")
        } else {
            format!("both must have the same URLs for {name:?}")
        };
        Err(SelfError::NotAdvertised {
            missing: only_listed.iter().map(|url| format!("{name}={url}")).collect(),
            advertised: advertised.iter().map(ToString::to_string).collect(),
            why,
            remedy,
        })
    }
}

/// A URL as the network sees it: scheme, port (None for a Unix socket) and addresses.
type Place<'a> = (&'a MemberUrl, BTreeSet<IpAddr>);

/// None if every URL of one side stands for a URL of the other; else, which does not. A host with several addresses
/// matches by any of them.
async fn same_places(
    left: &[&MemberUrl],
    right: &[&MemberUrl],
    options: &Options,
) -> Result<Option<String>, NameError> {
    let mut rest = places(right, options).await?;
    for (url, addresses) in places(left, options).await? {
        let found = rest.iter().position(|(other, others)| {
            url.scheme == other.scheme
                && url.port().is_some()
                && url.port() == other.port()
                && !addresses.is_disjoint(others)
        });
        match found {
            Some(at) => drop(rest.swap_remove(at)),
            None => {
                return Ok(Some(format!("resolved urls: {url} is none of {}", join(rest.iter().map(|(url, _)| *url)))));
            }
        }
    }
    Ok(None)
}

async fn places<'a>(urls: &[&'a MemberUrl], options: &Options) -> Result<Vec<Place<'a>>, NameError> {
    let mut places = Vec::with_capacity(urls.len());
    for url in urls {
        let addresses = match url.place() {
            Some((host, _)) => addresses_in_time(host, options).await?,
            None => BTreeSet::new(),
        };
        places.push((*url, addresses));
    }
    Ok(places)
}

fn join(urls: impl Iterator<Item = impl fmt::Display>) -> String {
    urls.map(|url| url.to_string()).collect::<Vec<_>>().join(",")
}

/// `name=url,...` sorted, as etcd writes it and `--initial-cluster` takes it.
impl fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = |member: &InitialMember| {
            let name = member.name.clone();
            member.peer_urls.iter().map(move |url| format!("{name}={url}")).collect::<Vec<_>>()
        };
        let mut pairs: Vec<String> = self.members.iter().flat_map(pairs).collect();
        pairs.sort_unstable();
        f.write_str(&pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn cluster(text: &str) -> InitialCluster {
        InitialCluster::parse(text, "etcd-cluster").unwrap()
    }

    #[test]
    fn a_name_may_come_again_for_another_url() {
        let parsed = cluster("b=http://b:2,a=http://a:1,, b=https://b:1,");
        let member = |name: &str, urls: &[&str]| InitialMember {
            name: name.to_owned(),
            peer_urls: urls.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(parsed.members, [member("b", &["http://b:2", "https://b:1"]), member("a", &["http://a:1"])]);
        assert_eq!(parsed.to_string(), "a=http://a:1,b=http://b:2,b=https://b:1");
        assert_eq!(cluster(&parsed.to_string()).cluster_id(), parsed.cluster_id());
    }

    #[test]
    fn a_bad_part_is_named() {
        let cases = [
            ("", "initial cluster unset and no discovery URL found"),
            (",", "initial cluster unset and no discovery URL found"),
            ("xx", "empty URL given for \"xx\""),
            ("a=http://a:1,b=", "empty URL given for \"b=\""),
            ("=http://a:1", "empty member name in \"=http://a:1\""),
            ("a=ftp://a:1", "URL scheme must be http, https, unix, or unixs: ftp://a:1 (in \"a=ftp://a:1\""),
            ("a=http://a", "URL address does not have the form \"host:port\": http://a (in \"a=http://a\""),
            ("a=http://a:1/x", "URL must not contain a path: http://a:1/x (in \"a=http://a:1/x\""),
            (
                "a=http://a:1,b=http://a:1",
                "initial cluster a=http://a:1,b=http://a:1 has duplicate url http://a:1 (of \"a\" and of \"b\")",
            ),
            (
                "a=http://a:1,a=http://a:1",
                "initial cluster a=http://a:1,a=http://a:1 has duplicate url http://a:1 (of \"a\" and of \"a\")",
            ),
        ];
        for (text, expected) in cases {
            let error = InitialCluster::parse(text, "").unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }

    #[test]
    fn ids_of_three_members_are_etcds() {
        // What etcd 3.4.23 reports for these flags with the default token.
        let cluster = cluster("m1=http://127.0.0.1:17002,m2=http://127.0.0.1:17003,m3=http://127.0.0.1:17004");
        assert_eq!(
            cluster.member_ids(),
            [543_920_851_605_942_143, 8_275_031_272_188_891_664, 3_615_539_596_011_589_631]
        );
        assert_eq!(cluster.cluster_id(), 7_946_524_042_496_633_167);
    }

    async fn find(text: &str, name: &str, advertised: &[&str]) -> Result<String, String> {
        let advertised: Vec<String> = advertised.iter().map(ToString::to_string).collect();
        let options = Options { name_patience: Duration::ZERO, ..Options::default() };
        let found = cluster(text).find_self(name, &advertised, &options).await.map(|member| member.name.clone());
        found.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn self_is_found_in_any_order_and_by_address() {
        let cases: [(&str, &[&str]); 4] = [
            ("m=http://127.0.0.1:1,n=http://127.0.0.1:2", &["http://127.0.0.1:1"]),
            ("m=http://b:1,m=http://a:1", &["http://a:1", "http://b:1"]),
            ("m=http://localhost:1", &["http://127.0.0.1:1"]),
            ("m=http://b:1,m=http://127.0.0.1:1", &["http://localhost:1", "http://b:1"]),
        ];
        for (text, advertised) in cases {
            assert_eq!(find(text, "m", advertised).await, Ok("m".to_owned()), "{text}");
        }
    }

    #[tokio::test]
    async fn who_is_not_in_the_list_hears_why() {
        let cases: [(&str, &[&str], &[&str]); 7] = [
            (
                "a=http://a:1,b=http://b:1",
                &["http://a:1"],
                &[
                    "couldn't find local name \"m\" in the initial cluster configuration; it has a, b:",
                    "add m=URL to --initial-cluster",
                ],
            ),
            (
                "m=http://127.0.0.1:3",
                &["http://127.0.0.1:2"],
                &[
                    "--initial-cluster has m=http://127.0.0.1:3 but missing from \
                     --initial-advertise-peer-urls=http://127.0.0.1:2 (resolved urls: ",
                    "both must have the same URLs for \"m\"",
                ],
            ),
            (
                "m=http://127.0.0.1:2,m=http://127.0.0.1:3",
                &["http://127.0.0.1:2"],
                &[
                    "--initial-cluster has m=http://127.0.0.1:3 but missing from \
                     --initial-advertise-peer-urls=http://127.0.0.1:2 (1 advertised and 2 in the list); ",
                    "if \"m\" stands for several members, give each its own --name",
                ],
            ),
            (
                "m=http://127.0.0.1:2",
                &["http://127.0.0.1:2", "http://127.0.0.1:3"],
                &[
                    "--initial-advertise-peer-urls has http://127.0.0.1:3 but missing from \
                     --initial-cluster=m=http://127.0.0.1:2 (2 advertised and 1 in the list); ",
                    "add them to --initial-cluster as m=URL",
                ],
            ),
            (
                "m=http://127.0.0.1:2",
                &["https://127.0.0.1:2"],
                &["--initial-cluster has m=http://127.0.0.1:2 but missing from"],
            ),
            (
                "m=http://nowhere.invalid:2",
                &["http://127.0.0.1:2"],
                &[
                    "--initial-cluster has m=http://nowhere.invalid:2 but missing",
                    "failed to resolve \"nowhere.invalid\"",
                ],
            ),
            ("m=http://a:1", &["a:1"], &["--initial-advertise-peer-urls: URL scheme must be http"]),
        ];
        for (text, advertised, expected) in cases {
            let error = find(text, "m", advertised).await.unwrap_err();
            for part in expected {
                assert!(error.contains(part), "{text}: {error}");
            }
        }
    }
}

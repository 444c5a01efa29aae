//! How a new member learns who the members of its first cluster are.
//!
//! Used by the member process before its first start, and by tools. Nothing here knows raft or a data directory: the
//! result of [`resolve`] is an [`InitialCluster`], the names, peer URLs and token from which every member computes the
//! same ids ([`id`]). A member that has data never asks.
//!
//! The ways are those of etcd: a list in a flag, a discovery URL, another cluster, and DNS ([`Source`]). All of them
//! end in the check that the member is in the list as it describes itself.
//!
//! What this does not do: ask whether the cluster has been bootstrapped already. A member whose data were lost finds
//! its old registration and takes it up; the caller asks the peers before it starts as a new one.

pub mod id;

mod error;
mod join;
mod member_url;
mod names;
mod options;
mod srv;
mod static_cluster;
mod url;
mod v3;

pub use error::{Error, ServiceError};
pub use member_url::{MemberUrl, UrlError};
pub use names::NameError;
pub use options::{Me, Options, Source, Srv};
pub use srv::{SrvError, srv_names, srv_records};
pub use static_cluster::{InitialCluster, InitialMember, ParseError, SelfError};
pub use v3::V3;

/// Finds the members of the first cluster, with this member among them. Waits, as [`Options`] says, for other
/// members and for DNS. Cancellation safe.
///
/// The token of the result is what ids are hashed with: the URL itself for a discovery URL, the token for v3
/// discovery, `--initial-cluster-token` for the others.
///
/// # Errors
/// The list is wrong, this member is not in it, or whoever knows it could not be asked in time.
pub async fn resolve(source: &Source, me: &Me, options: &Options) -> Result<InitialCluster, Error> {
    let cluster = match source {
        Source::Static(cluster) => cluster.clone(),
        Source::Url { url, proxy } => return Ok(url::discover(url, proxy.as_deref(), me, options).await?),
        Source::V3(v3) => return Ok(v3::discover(v3, me, options).await?),
        Source::Srv(srv) => srv::discover(srv, me, options).await?,
    };
    cluster.find_self(&me.name, &me.peer_urls, options).await?;
    Ok(cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me(name: &str, url: &str) -> Me {
        Me { name: name.to_owned(), peer_urls: vec![url.to_owned()] }
    }

    #[tokio::test]
    async fn a_list_needs_this_member_in_it() {
        let cluster = InitialCluster::parse("a=http://a:1,b=http://b:1", "token").unwrap();
        let source = Source::Static(cluster.clone());
        let found = tokio::spawn(async move { resolve(&source, &me("a", "http://a:1"), &Options::default()).await });
        assert_eq!(found.await.unwrap().unwrap(), cluster);
        let error = resolve(&Source::Static(cluster), &me("c", "http://a:1"), &Options::default()).await.unwrap_err();
        assert!(error.to_string().starts_with("couldn't find local name \"c\" in the initial cluster configuration"));
    }

    #[tokio::test]
    async fn settings_of_services_are_checked_before_anyone_is_asked() {
        let cases: [(Source, &str); 7] = [
            (url("ftp://a/x", None), "--discovery: the scheme must be http or https"),
            (url("http://u:secret@a", None), "http://a: the URL has no token; get one from http://a/new?size=3"),
            (url("http://a/x", Some("http://b c")), "--discovery-proxy: it is not a URL"),
            (v3("", "a:1", ""), "both --discovery-token and --discovery-endpoints must be set"),
            (v3("t", "a", ""), "bad endpoint \"a\""),
            (v3("t", "http://root:secret@a:1", ""), "http://a:1: bad endpoint \"http://a:1\": an endpoint has no user"),
            (v3("t", "a:1", "u"), "--discovery-user and --discovery-password are not supported yet"),
        ];
        for (source, expected) in cases {
            let error = resolve(&source, &me("a", "http://a:1"), &Options::default()).await.unwrap_err().to_string();
            assert!(
                error.starts_with("failed to join discovery cluster (discovery: bad discovery endpoint; "),
                "{error}"
            );
            assert!(error.contains(expected) && !error.contains("secret"), "{error}");
        }
        let cluster = InitialCluster::parse("a=http://a:1", "http://root:secret@a/x").unwrap();
        for (source, shown) in [
            (v3("t", "http://root:secret@a:1", "root"), "V3(V3 { endpoints: \"http://a:1\", token: \"t\", .. })"),
            (url("http://u:secret@a/x", Some("http://u:secret@b")), "url: \"http://a/x\", proxy: Some(\"http://b\")"),
            (Source::Static(cluster), "token: \"http://a/x\""),
        ] {
            let debug = format!("{source:?}");
            assert!(!debug.contains("secret") && debug.contains(shown), "{debug}");
        }
    }

    fn url(url: &str, proxy: Option<&str>) -> Source {
        Source::Url { url: url.to_owned(), proxy: proxy.map(str::to_owned) }
    }

    fn v3(token: &str, endpoint: &str, user: &str) -> Source {
        let password = if user.is_empty() { "" } else { "secret" }.to_owned();
        let (token, user, endpoints) = (token.to_owned(), user.to_owned(), vec![endpoint.to_owned()]);
        Source::V3(V3 { endpoints, token, user, password, ..V3::default() })
    }
}

//! How a member without data learns who the members of its cluster are: the flags of the three ways, as a
//! [`discovery::Source`].
//!
//! Whether this member is in the list is checked when the list is needed: a member that has data does not look at it.

use super::values::Values;
use client::TlsOptions;
use discovery::{InitialCluster, InitialMember, Source, Srv, V3};
use std::path::PathBuf;

/// etcd lets only one of the ways be given.
pub(super) fn check(values: &Values) -> Result<(), String> {
    let ways = ["initial-cluster", "discovery", "discovery-endpoints", "discovery-srv"];
    let set = ways.iter().filter(|name| values.is_set(name) && !values.text(name).is_empty()).count();
    if set > 1 {
        return Err(
            // etcd's text, which has no name for the fourth.
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\" or \
                    \"discovery-srv\""
                .to_owned(),
        );
    }
    let finds_out = values.text("initial-cluster-state") == "auto";
    if finds_out && ways.iter().any(|way| *way != "initial-cluster" && !values.text(way).is_empty()) {
        return Err("--initial-cluster-state=auto asks the members that --initial-cluster lists: give that, and no \
                    discovery flag"
            .to_owned());
    }
    if finds_out && values.boolean("force-new-cluster") {
        return Err(
            "--force-new-cluster makes a cluster of one member: leave --initial-cluster-state=auto out".to_owned()
        );
    }
    if !finds_out && !values.text("initial-cluster-id-file").is_empty() {
        return Err(
            "--initial-cluster-id-file is for --initial-cluster-state=auto: set that, or leave it out".to_owned()
        );
    }
    Ok(())
}

/// The way that the flags name; without any, this member alone.
pub(super) fn source(values: &Values, name: &str, advertised: &[String]) -> Result<Source, String> {
    let owned = |flag: &'static str| values.text(flag).to_owned();
    let token = owned("initial-cluster-token");
    if !values.text("discovery").is_empty() {
        let proxy = Some(owned("discovery-proxy")).filter(|proxy| !proxy.is_empty());
        return Ok(Source::Url { url: owned("discovery"), proxy });
    }
    if !values.text("discovery-endpoints").is_empty() || !values.text("discovery-token").is_empty() {
        return v3(values).map(Source::V3);
    }
    if !values.text("discovery-srv").is_empty() {
        let (domain, service_name) = (owned("discovery-srv"), owned("discovery-srv-name"));
        return Ok(Source::Srv(Srv { domain, service_name, token }));
    }
    match values.text("initial-cluster") {
        "" => {
            let alone = InitialMember { name: name.to_owned(), peer_urls: advertised.to_vec() };
            Ok(Source::Static(InitialCluster { members: vec![alone], token }))
        }
        text => InitialCluster::parse(text, &token).map(Source::Static).map_err(|error| error.to_string()),
    }
}

fn v3(values: &Values) -> Result<V3, String> {
    let owned = |flag: &'static str| values.text(flag).to_owned();
    let file = |flag: &'static str| Some(values.text(flag)).filter(|path| !path.is_empty()).map(PathBuf::from);
    let endpoints = values.text("discovery-endpoints").split(',').map(str::trim).filter(|part| !part.is_empty());
    Ok(V3 {
        endpoints: endpoints.map(str::to_owned).collect(),
        token: owned("discovery-token"),
        dial_timeout: values.duration("discovery-dial-timeout")?,
        request_timeout: values.duration("discovery-request-timeout")?,
        keepalive_time: values.duration("discovery-keepalive-time")?,
        keepalive_timeout: values.duration("discovery-keepalive-timeout")?,
        insecure_transport: values.boolean("discovery-insecure-transport"),
        tls: TlsOptions {
            ca_file: file("discovery-cacert"),
            cert_file: file("discovery-cert"),
            key_file: file("discovery-key"),
            insecure_skip_verify: values.boolean("discovery-insecure-skip-tls-verify"),
            ..TlsOptions::default()
        },
        user: owned("discovery-user"),
        password: owned("discovery-password"),
    })
}

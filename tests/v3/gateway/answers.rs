//! One request after the other to both servers; answers, statuses and errors must be the same.

use super::{Pair, error_of, normalised, object};
use anyhow::{Result, bail, ensure};
use harness::http::Answer;
use serde_json::json;

/// gRPC's codes, as the gateway writes them.
const INVALID_ARGUMENT: i64 = 3;
const FAILED_PRECONDITION: i64 = 9;
const UNIMPLEMENTED: i64 = 12;

/// How the answers of the two may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum As {
    /// Not at all.
    Etcd,
    /// Both refuse the text as no such message, each in its own words.
    Unreadable,
    /// Etcd 3.4 refuses what 3.6 and Cleat read. The answer is a success.
    ReadSince36,
    /// Etcd 3.4 reads what 3.6 and Cleat refuse.
    RefusedSince36,
}

const BODIES: &[(&str, &str, As)] = &[
    ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmFy"}"#, As::Etcd),
    ("/v3/kv/put", r#"{"key":"Zm9v","value":"YmF6","prev_kv":true}"#, As::Etcd),
    ("/v3/kv/put", r#"{"key":"Zm9w","value":"YmF6","prevKv":true}"#, As::Etcd),
    ("/v3/kv/put", r#"{"key":"Zm9x","lease":"404"}"#, As::Etcd),
    ("/v3/kv/put", r#"{"key":"Zm9x","value":"YQ==","ignore_value":true}"#, As::Etcd),
    ("/v3/kv/put", r#"{"value":"YQ=="}"#, As::Etcd),
    ("/v3/kv/put", r#"{"key":"YTw+JiI=","value":"\u0059Q=\u003d"}"#, As::Etcd),
    ("/v3beta/kv/range", r#"{"key":"Zm9v"}"#, As::Etcd),
    (
        "/v3/kv/range",
        r#"{"key":"AA==","rangeEnd":"AA==","limit":2,"sort_order":"DESCEND","sort_target":"MOD"}"#,
        As::Etcd,
    ),
    ("/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","limit":"1","sortOrder":1,"sortTarget":0}"#, As::Etcd),
    ("/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","count_only":true}"#, As::Etcd),
    ("/v3/kv/range", r#"{"key":"AA==","range_end":"AA==","keysOnly":true,"serializable":true}"#, As::Etcd),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":"2"}"#, As::Etcd),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":"200"}"#, As::Etcd),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":"-1","nope":{"a":[1,{"b":null}]},"revision":null}"#, As::Etcd),
    ("/v3/kv/range", r#"{"key":"Zm9v"} and more"#, As::Etcd),
    ("/v3/kv/range", r#"{"Key":"Zm9v"}"#, As::Etcd),
    ("/v3/kv/range", "", As::Etcd),
    ("/v3/kv/range", " \n", As::Etcd),
    ("/v3/kv/range", "null", As::Etcd),
    ("/v3/kv/range", "{}", As::Etcd),
    ("/v3/kv/range?key=Zm9v", "{}", As::Etcd),
    ("/v3/kv/range", "[]", As::Unreadable),
    ("/v3/kv/range", "nope", As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9v""#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9v",}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"!"}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":5}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":"x"}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":1.5}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":9223372036854775808}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":1e400}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":""}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":"01"}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":true}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9v","sort_order":"UP"}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9v","sort_order":"1"}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9v","serializable":"true"}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9v","nope":01}"#, As::Unreadable),
    ("/v3/kv/range", r#"{"key":"Zm9vLQ"}"#, As::ReadSince36),
    ("/v3/kv/range", r#"{"key":"_-_-"}"#, As::ReadSince36),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":1.0}"#, As::ReadSince36),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":"1e1"}"#, As::ReadSince36),
    ("/v3/kv/range", r#"{"key":"Zm9v","key":"YQ=="}"#, As::RefusedSince36),
    ("/v3/kv/range", r#"{"key":"YQ==","range_end":"Yg==","rangeEnd":"Yw=="}"#, As::RefusedSince36),
    ("/v3/kv/range", r#"{"key":[102,111,111]}"#, As::RefusedSince36),
    ("/v3/kv/range", r#"{"key":"Zm9v","limit":" 1"}"#, As::RefusedSince36),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"target":"CREATE","key":"Zm9v","createRevision":"0","result":"GREATER"},{"key":"Zm9v","target":3,"value":"YmF6"}],
            "success":[{"requestPut":{"key":"Zm9v","value":"cXV4","prevKv":true}},{"request_range":{"key":"Zm9v"}},
                {"request_txn":{"failure":[{"request_range":{"key":"Zm9v"}}],"success":[{"request_delete_range":{"key":"bm9uZQ=="}}]}}]}"#,
        As::Etcd,
    ),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"key":"Zm9v","version":"0"}],"failure":[{"request_range":{"key":"Zm9v","count_only":true}}]}"#,
        As::Etcd,
    ),
    ("/v3/kv/txn", r#"{"compare":[{"key":"Zm9v","value":""}]}"#, As::Etcd),
    (
        "/v3/kv/txn",
        r#"{"compare":[{"key":"AA==","range_end":"AA==","target":"MOD","result":"NOT_EQUAL"}],"success":null}"#,
        As::Etcd,
    ),
    ("/v3/kv/txn", r#"{"compare":[{"target":"VERSION"}]}"#, As::Etcd),
    ("/v3/kv/txn", r#"{"success":[{}]}"#, As::Etcd),
    ("/v3/kv/txn", r#"{"success":[{"request_range":null}]}"#, As::Etcd),
    ("/v3/kv/txn", r#"{"success":[{"request_put":{"key":"YQ=="}},{"request_put":{"key":"YQ=="}}]}"#, As::Etcd),
    ("/v3/kv/txn", r#"{"success":{}}"#, As::Unreadable),
    ("/v3/kv/txn", r#"{"success":["a"]}"#, As::Unreadable),
    ("/v3/kv/deleterange", r#"{"key":"Zm9w","prev_kv":true}"#, As::Etcd),
    ("/v3/kv/deleterange", r#"{"key":"bm9uZQ==","prev_kv":true}"#, As::Etcd),
    ("/v3/kv/compaction", r#"{"revision":"3","physical":true}"#, As::Etcd),
    ("/v3/kv/compaction", r#"{"revision":"3"}"#, As::Etcd),
    ("/v3/kv/compaction", r#"{"revision":99999999}"#, As::Etcd),
    ("/v3/kv/range", r#"{"key":"Zm9v","revision":"2"}"#, As::Etcd),
    ("/v3/lease/grant", r#"{"TTL":"60","ID":"1234"}"#, As::Etcd),
    ("/v3/lease/grant", r#"{"TTL":60,"ID":1234}"#, As::Etcd),
    ("/v3/lease/grant", r#"{"TTL":"9000000001","ID":"5"}"#, As::Etcd),
    ("/v3/kv/put", r#"{"key":"bA==","lease":"1234"}"#, As::Etcd),
    ("/v3/lease/keepalive", r#"{"ID":"1234"}"#, As::Etcd),
    ("/v3/lease/timetolive", r#"{"ID":"99","keys":true}"#, As::Etcd),
    ("/v3/kv/lease/timetolive", r#"{"ID":"99"}"#, As::Etcd),
    ("/v3/lease/leases", "{}", As::Etcd),
    ("/v3/kv/lease/leases", "", As::Etcd),
    ("/v3/lease/revoke", r#"{"ID":"1234"}"#, As::Etcd),
    ("/v3/kv/lease/revoke", r#"{"ID":"1234"}"#, As::Etcd),
    ("/v3/cluster/member/list", "{}", As::Etcd),
    ("/v3/cluster/member/add", "{}", As::Etcd),
    ("/v3/cluster/member/add", r#"{"peerURLs":["http://a<b"]}"#, As::Etcd),
    ("/v3/cluster/member/add", r#"{"peerURLs":[5]}"#, As::Unreadable),
    ("/v3/cluster/member/remove", r#"{"ID":"18446744073709551615"}"#, As::Etcd),
    ("/v3/cluster/member/remove", r#"{"ID":18446744073709551615}"#, As::Etcd),
    ("/v3/cluster/member/remove", r#"{"ID":"-1"}"#, As::Unreadable),
    ("/v3/cluster/member/update", r#"{"ID":"1","peerURLs":["http://127.0.0.1:1"]}"#, As::Etcd),
    ("/v3/cluster/member/promote", r#"{"ID":"1"}"#, As::Etcd),
    ("/v3/maintenance/defragment", "{}", As::Etcd),
    ("/v3/maintenance/transfer-leadership", r#"{"targetID":"1"}"#, As::Etcd),
];

/// Compares one pair of answers.
fn compare(way: As, [etcd, cleat]: &[Answer; 2]) -> Result<()> {
    ensure!(cleat.header("content-type") == "application/json", "{cleat:?}");
    match (way, etcd.status < 300, cleat.status < 300) {
        (As::Etcd, true, true) => {
            ensure!(etcd.status == cleat.status, "statuses");
            for name in ["content-type", "grpc-metadata-content-type"] {
                ensure!(etcd.header(name) == cleat.header(name), "header {name}");
            }
            ensure!(normalised(etcd.json()?) == normalised(cleat.json()?), "bodies");
        }
        (As::Etcd, false, false) => {
            let (theirs, ours) = (error_of(etcd)?, error_of(cleat)?);
            ensure!(theirs == ours, "errors");
            // 412 until 3.5.
            let status = if theirs.0 == FAILED_PRECONDITION { 400 } else { etcd.status };
            ensure!(cleat.status == status, "statuses");
        }
        (As::Unreadable, false, false) => {
            ensure!((etcd.status, cleat.status) == (400, 400), "statuses");
            ensure!((error_of(etcd)?.0, error_of(cleat)?.0) == (INVALID_ARGUMENT, INVALID_ARGUMENT), "codes");
        }
        (As::ReadSince36, false, true) => {}
        (As::RefusedSince36, true, false) => {
            ensure!(cleat.status == 400 && error_of(cleat)?.0 == INVALID_ARGUMENT, "what is refused");
        }
        _ => bail!("one refuses, or not"),
    }
    Ok(())
}

#[tokio::test]
async fn the_same_bodies_have_the_same_answers() -> Result<()> {
    let pair = Pair::start().await?;
    for (path, body, way) in BODIES {
        let answers = pair.post(path, body).await?;
        let [etcd, cleat] = &answers;
        compare(*way, &answers).map_err(|error| anyhow::anyhow!("{path} {body}: {error}: {etcd:#?} {cleat:#?}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn what_later_releases_added_is_there() -> Result<()> {
    let pair = Pair::start().await?;
    let [etcd, cleat] = pair.post("/v3/maintenance/status", "{}").await?;
    let (theirs, mut ours) = (normalised(etcd.json()?), normalised(cleat.json()?));
    for added in ["dbSizeQuota", "downgradeInfo", "storageVersion"] {
        ensure!(object(&mut ours)?.remove(added).is_some(), "{added}: {ours}");
    }
    ensure!(theirs == ours, "{theirs} {ours}");

    let [etcd, cleat] = pair.post("/v3/maintenance/alarm", r#"{"action":"GET"}"#).await?;
    ensure!(etcd.json()? == json!({}) && cleat.json()?["header"].is_object(), "{etcd:?} {cleat:?}");
    let body = r#"{"action":"ACTIVATE","alarm":"CORRUPT","memberID":"7"}"#;
    let [etcd, cleat] = pair.post("/v3/maintenance/alarm", body).await?;
    ensure!(etcd.json()?["alarms"] == json!([{ "memberID": "7", "alarm": "CORRUPT" }]), "{etcd:?}");
    ensure!(etcd.json()?["alarms"] == cleat.json()?["alarms"], "{cleat:?}");

    // 3.4 has only this one; its path has had the other one since 3.5.
    let [etcd, cleat] = pair.post("/v3/maintenance/hash", "{}").await?;
    ensure!(etcd.json()?["hash"].is_u64() && cleat.json()?["hash"].is_u64(), "{etcd:?} {cleat:?}");
    let [etcd, cleat] = pair.post("/v3/maintenance/hashkv", "{}").await?;
    ensure!(etcd.status == 404 && cleat.json()?["hash_revision"] == "1", "{etcd:?} {cleat:?}");
    Ok(())
}

/// A method whose service is not served says so; it is no unknown path.
#[tokio::test]
async fn a_path_is_known_before_its_service_is() -> Result<()> {
    let pair = Pair::start().await?;
    for path in ["/v3/auth/status", "/v3/auth/user/list", "/v3/lock/unlock", "/v3/election/resign"] {
        let [_, cleat] = pair.post(path, "{}").await?;
        if cleat.status != 200 {
            let (code, text) = error_of(&cleat)?;
            let is_known = cleat.status != 404 && (code != UNIMPLEMENTED || text.starts_with("unknown service"));
            ensure!(is_known, "{path}: {cleat:?}");
        }
    }
    Ok(())
}

//! What is accepted and refused, and random texts from a seed.

use super::super::write::Writer;
use super::*;
use api::descriptor::{METHODS, method};
use api::etcdserverpb::{
    LeaseGrantRequest, MemberAddRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchRequest,
    compare::TargetUnion, request_op, watch_request::RequestUnion,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Random texts and messages of a run; the next run has others.
const RANDOM_CASES: usize = 20_000;

fn input(path: &str) -> &'static Message {
    method(path).unwrap().input
}

fn parsed<M: prost::Message + Default>(path: &str, json: &str) -> Result<M, String> {
    let mut out = Vec::new();
    read(json.as_bytes(), input(path), &mut out).map_err(|error| error.to_string())?;
    Ok(M::decode(&*out).unwrap())
}

fn range(json: &str) -> Result<RangeRequest, String> {
    parsed("/etcdserverpb.KV/Range", json)
}

fn grant(json: &str) -> Result<LeaseGrantRequest, String> {
    parsed("/etcdserverpb.Lease/LeaseGrant", json)
}

fn txn(json: &str) -> Result<TxnRequest, String> {
    parsed("/etcdserverpb.KV/Txn", json)
}

#[test]
fn both_spellings_and_all_forms_of_a_value_are_read() {
    let expected = RangeRequest {
        key: "foo".into(),
        range_end: "fop".into(),
        limit: -5,
        sort_order: 2,
        sort_target: 77,
        serializable: true,
        ..Default::default()
    };
    for json in [
        r#"{"key":"Zm9v","range_end":"Zm9w","limit":"-5","sort_order":"DESCEND","sort_target":77,"serializable":true}"#,
        r#" { "sortTarget" : 77, "sortOrder" : 2, "serializable":true, "limit":-5.0, "rangeEnd":"Zm9w", "key":"Zm9v" } "#,
        r#"{"key":"Zm9v","range_end":"Zm9w","limit":-5,"sort_order":"DESCEND","sort_target":7.7e1,"serializable":true,
            "unknown":{"a":[1,{"b":null}]},"keys_only":null,"revision":null,"Key":"x"} trailing"#,
    ] {
        assert_eq!(range(json), Ok(expected.clone()), "{json}");
    }
    for nothing in ["", "  \n", "null", "{}", r#"{"":1}"#] {
        assert_eq!(range(nothing), Ok(RangeRequest::default()), "{nothing}");
    }
}

#[test]
fn base64_is_read_in_every_form_that_says_which_bytes_are_meant() {
    for (text, bytes) in [
        ("+/8=", &b"\xfb\xff"[..]),
        ("-_8=", b"\xfb\xff"),
        ("-_8", b"\xfb\xff"),
        ("+/8", b"\xfb\xff"),
        ("+/9=", b"\xfb\xff"),
        (r"+\u002f8=", b"\xfb\xff"),
        (r"+/\r\n8=\n", b"\xfb\xff"),
        ("", b""),
    ] {
        assert_eq!(
            range(&format!(r#"{{"key":"{text}"}}"#)).map(|request| request.key.to_vec()),
            Ok(bytes.to_vec()),
            "{text}"
        );
    }
    for text in ["+", "+/8==", "+_8=", "ä", " +/8=", "=", "+/8=+"] {
        assert!(range(&format!(r#"{{"key":"{text}"}}"#)).is_err(), "{text}");
    }
}

#[test]
fn integers_are_exact_or_refused() {
    for (text, ttl) in [
        ("9223372036854775807", i64::MAX),
        (r#""9223372036854775807""#, i64::MAX),
        ("-9223372036854775808", i64::MIN),
        (r#""-9223372036854775808""#, i64::MIN),
        ("1e3", 1000),
        (r#""1e3""#, 1000),
        ("-0", 0),
        ("0.0", 0),
        ("1125899906842623.0", 1_125_899_906_842_623),
    ] {
        assert_eq!(grant(&format!(r#"{{"TTL":{text}}}"#)).map(|request| request.ttl), Ok(ttl), "{text}");
    }
    for text in [
        "9223372036854775808",
        "-9223372036854775809",
        "1.5",
        "1e19",
        "1e400",
        "1125899906842624.0",
        r#""""#,
        r#"" 1""#,
        r#""1 ""#,
        r#""+1""#,
        r#""01""#,
        r#""0x1""#,
        r#""one""#,
        r#""1.5""#,
        "true",
        "[]",
        "{}",
        "01",
        "NaN",
        "--1",
    ] {
        assert!(grant(&format!(r#"{{"TTL":{text}}}"#)).is_err(), "{text}");
    }
    let add: MemberAddRequest =
        parsed("/etcdserverpb.Cluster/MemberAdd", r#"{"peerURLs":["a","b"],"isLearner":true}"#).unwrap();
    assert_eq!((add.peer_urls, add.is_learner), (vec!["a".to_owned(), "b".to_owned()], true));
    let remove = |id: &str| {
        let json = format!(r#"{{"ID":{id}}}"#);
        parsed::<api::etcdserverpb::MemberRemoveRequest>("/etcdserverpb.Cluster/MemberRemove", &json)
            .map(|remove| remove.id)
    };
    assert_eq!(remove("18446744073709551615"), Ok(u64::MAX));
    assert_eq!(remove(r#""18446744073709551615""#), Ok(u64::MAX));
    assert!(remove("-1").is_err() && remove("18446744073709551616").is_err());
}

#[test]
fn messages_within_messages_are_read() {
    let json = r#"{"compare":[{"key":"YQ==","target":"CREATE","create_revision":"0"},{"value":""},{"result":1}],
        "success":[{"request_put":{"key":"YQ==","value":"Yg=="}},{"requestTxn":{"failure":[{}]}}]}"#;
    let txn = txn(json).unwrap();
    let unions: Vec<_> = txn.compare.iter().map(|compare| compare.target_union.clone()).collect();
    assert_eq!(unions, [Some(TargetUnion::CreateRevision(0)), Some(TargetUnion::Value("".into())), None]);
    let put = PutRequest { key: "a".into(), value: "b".into(), ..Default::default() };
    assert_eq!(txn.success[0].request, Some(request_op::Request::RequestPut(put)));
    let Some(request_op::Request::RequestTxn(inner)) = &txn.success[1].request else { panic!("{txn:?}") };
    assert_eq!(inner.failure, [RequestOp::default()]);

    let watch: WatchRequest =
        parsed("/etcdserverpb.Watch/Watch", r#"{"create_request":{"filters":["NODELETE",0]}}"#).unwrap();
    let Some(RequestUnion::CreateRequest(create)) = watch.request_union else { panic!("{watch:?}") };
    assert_eq!(create.filters, [1, 0]);
    let progress: WatchRequest =
        parsed("/etcdserverpb.Watch/Watch", r#"{"progress_request":{},"cancel_request":null}"#).unwrap();
    assert!(matches!(progress.request_union, Some(RequestUnion::ProgressRequest(_))));
}

#[test]
fn what_does_not_fit_is_refused_with_the_name_of_the_field() {
    for (json, text) in [
        (r#"{"key":5}"#, "field key: a number, expected a string in base64"),
        (r#"{"key":["YQ=="]}"#, "field key: a list, expected a string in base64"),
        (r#"{"key":"YQ=="  "limit":1}"#, "expected `,` or `}`"),
        (r#"{"key":"YQ==""#, "EOF while parsing an object"),
        (r#"{"limit":"x"}"#, "field limit: a string without one, expected an integer"),
        (r#"{"sort_order":"UP"}"#, "field sort_order: this is no name of etcdserverpb.RangeRequest.SortOrder"),
        (r#"{"sort_order":2147483648}"#, "field sort_order: the number is out of range"),
        (r#"{"serializable":1}"#, "field serializable: a number, expected true or false"),
        (r#"{"serializable":"true"}"#, "field serializable: a string, expected true or false"),
        (r#"{"key":"YQ==","key":"YQ=="}"#, "field key is given twice"),
        (r#"{"range_end":"YQ==","rangeEnd":"YQ=="}"#, "field range_end is given twice"),
        ("[]", "expected an object for etcdserverpb.RangeRequest"),
        (r#""text""#, "a string, expected an object for etcdserverpb.RangeRequest"),
        ("nope", "expected ident"),
        ("{\"\u{0}\":1}", "control character"),
        (r#"{"unknown":[01]}"#, "invalid number"),
    ] {
        let error = range(json).unwrap_err();
        assert!(error.contains(text), "{json}: {error}");
    }
    for (json, text) in [
        (r#"{"success":{}}"#, "field success: an object, expected a list"),
        (r#"{"success":[null]}"#, "field success: null, expected an object"),
        (r#"{"success":[[]]}"#, "field success: a list, expected an object"),
        (r#"{"success":["a"]}"#, "field success: a string, expected an object"),
        (
            r#"{"success":[{"request_range":{},"requestPut":{}}]}"#,
            "field request_put: another one of the same oneof is given",
        ),
    ] {
        let error = txn(json).unwrap_err();
        assert!(error.contains(text), "{json}: {error}");
    }
}

#[test]
fn errors_do_not_show_values() {
    let secret = "c2VjcmV0LXRva2Vu";
    let name = input("/etcdserverpb.Auth/UserAdd");
    for json in [
        format!(r#"{{"password":["{secret}"]}}"#),
        format!(r#"{{"password":{{"{secret}":1}}}}"#),
        format!(r#"{{"options":"{secret}"}}"#),
        format!(r#"{{"options":{{"no_password":"{secret}"}}}}"#),
        format!(r#"{{"password":"{secret}" x"#),
        format!(r#"{{"password":"{secret}"#),
        format!(r#""{secret}""#),
        secret.to_owned(),
    ] {
        let error = read(json.as_bytes(), name, &mut Vec::new()).unwrap_err().to_string();
        assert!(!error.contains(secret), "{error}");
    }
    let error = range(&format!(r#"{{"sort_order":"{secret}"}}"#)).unwrap_err();
    assert!(!error.contains(secret), "{error}");
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| {
        let (open, close) = (r#"{"success":[{"request_txn":"#.repeat(depth), "}]}".repeat(depth));
        txn(&format!("{open}{{}}{close}"))
    };
    assert!(nested(40).is_ok());
    assert!(nested(50).unwrap_err().contains("recursion limit exceeded"));
    assert!(nested(100_000).is_err());
    // What is skipped takes no stack.
    let skipped = format!(r#"{{"key":"YQ==","unknown":{}{}}}"#, "[".repeat(1_000_000), "]".repeat(1_000_000));
    assert!(range(&skipped).is_ok());
}

/// A random message in canonical form: by number, nothing that is a default, lists not packed.
fn random_message(rng: &mut StdRng, message: &'static Message, depth: usize) -> Vec<u8> {
    let mut fields: Vec<&Field> = message.fields.iter().collect();
    fields.sort_by_key(|field| field.number);
    let mut oneofs = 0_u64;
    let mut out = Vec::new();
    for field in fields {
        if rng.random_bool(0.5) || field.oneof.is_some_and(|oneof| oneofs & 1 << oneof != 0) {
            continue;
        }
        oneofs |= field.oneof.map_or(0, |oneof| 1 << oneof);
        let times = if field.is_repeated { rng.random_range(0..4) } else { 1 };
        for _ in 0..times {
            random_value(rng, field, depth, &mut out);
        }
    }
    out
}

fn random_value(rng: &mut StdRng, field: &'static Field, depth: usize, out: &mut Vec<u8>) {
    let mut varint = |value: u64| {
        encode_key(field.number, WireType::Varint, out);
        encode_varint(value, out);
    };
    match field.kind {
        Kind::Bool => varint(1),
        Kind::Int32 | Kind::Enum(_) => varint(i64::from(rng.random::<i32>() | 1) as u64),
        Kind::Uint32 => varint(u64::from(rng.random::<u32>() | 1)),
        Kind::Int64 | Kind::Uint64 => varint(rng.random::<u64>() >> rng.random_range(0..63) | 1),
        Kind::String | Kind::Bytes | Kind::Message(_) => {
            let value: Vec<u8> = match field.kind {
                Kind::Message(inner) if depth > 0 => random_message(rng, inner, depth - 1),
                Kind::Message(_) => Vec::new(),
                Kind::String => {
                    (0..rng.random_range(1..6)).flat_map(|_| rng.random::<char>().to_string().into_bytes()).collect()
                }
                _ => (0..rng.random_range(1..6)).map(|_| rng.random()).collect(),
            };
            encode_key(field.number, WireType::LengthDelimited, out);
            encode_varint(value.len() as u64, out);
            out.extend(value);
        }
    }
}

fn seed() -> u64 {
    let seed = std::env::var("CLEAT_SEED")
        .or_else(|_| std::env::var("CLEAT_FIRST_SEED"))
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    eprintln!("CLEAT_SEED={seed}");
    seed
}

#[test]
fn random_messages_come_back_from_json() {
    let mut rng = StdRng::seed_from_u64(seed());
    for _ in 0..RANDOM_CASES {
        let method = &METHODS[rng.random_range(0..METHODS.len())];
        for message in [method.input, method.output] {
            let bytes = random_message(&mut rng, message, 4);
            let mut json = Vec::new();
            Writer::new(message, bytes.clone().into()).unwrap().write(&mut json, usize::MAX).unwrap();
            let mut back = Vec::new();
            let result = read(&json, message, &mut back);
            assert!(result.is_ok() && back == bytes, "{message:?}: {} {result:?}", String::from_utf8_lossy(&json));
        }
    }
}

#[test]
fn damaged_texts_are_read_or_refused_and_nothing_else() {
    const PIECES: [&str; 24] = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "null",
        "true",
        "-",
        "1e999",
        "18446744073709551616",
        "\"\\ud800\"",
        "\"key\":",
        "\"success\":[{",
        "\"request_txn\":{",
        "\u{0}",
        "\u{7f}",
        "\"YQ==\"",
        "\"\\u0000\"",
        " ",
        "0",
        "é",
    ];
    let mut rng = StdRng::seed_from_u64(seed());
    let mut accepted = 0;
    for _ in 0..RANDOM_CASES {
        let method = &METHODS[rng.random_range(0..METHODS.len())];
        let bytes = random_message(&mut rng, method.input, 3);
        let mut json = Vec::new();
        Writer::new(method.input, bytes.into()).unwrap().write(&mut json, usize::MAX).unwrap();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..=json.len());
            match rng.random_range(0..4) {
                0 => json.truncate(at),
                1 if at < json.len() => json[at] = rng.random(),
                2 => drop(json.drain(at..(at + rng.random_range(0..5)).min(json.len()))),
                _ => drop(json.splice(at..at, PIECES[rng.random_range(0..PIECES.len())].bytes())),
            }
        }
        let mut out = Vec::new();
        if read(&json, method.input, &mut out).is_ok() {
            accepted += 1;
            // Whatever was read is a message of that type, and no larger than what it was read from.
            assert!(Writer::new(method.input, out.clone().into()).is_ok(), "{}", String::from_utf8_lossy(&json));
            assert!(out.len() <= 2 * json.len(), "{}", String::from_utf8_lossy(&json));
        }
    }
    assert!(accepted > 0 && accepted < RANDOM_CASES, "{accepted}");
}

//! What combinations of command line, environment and file lead to.

mod tls;

use super::*;
use std::path::PathBuf;
use std::time::Duration;

fn load_with(args: &[&str], environment: &[(&str, &str)]) -> Result<Command, ConfigError> {
    load(
        args.iter().map(ToString::to_string),
        environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn config_with(args: &[&str], environment: &[(&str, &str)]) -> Config {
    match load_with(args, environment) {
        Ok(Command::Run(config)) => *config,
        other => panic!("{args:?} {environment:?}: {other:?}"),
    }
}

fn config(args: &[&str]) -> Config {
    config_with(args, &[])
}

fn error(args: &[&str]) -> ConfigError {
    load_with(args, &[]).expect_err(&format!("{args:?}"))
}

fn config_file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cleat.yaml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn defaults_are_etcds() {
    let config = config(&[]);
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("default.cleat"));
    assert_eq!(config.wal_dir, None);
    assert_eq!(config.advertise_client_urls, ["http://localhost:2379"]);
    assert_eq!(config.initial_advertise_peer_urls, ["http://localhost:2380"]);
    assert_eq!(config.initial_cluster_token, "etcd-cluster");
    assert_eq!(config.heartbeat_interval, Duration::from_millis(100));
    assert_eq!(config.election_timeout, Duration::from_secs(1));
    assert_eq!(config.quota_bytes, Some(2 << 30));
    assert_eq!(config.max_txn_ops, 128);
    assert_eq!(config.max_request_bytes, 1_572_864);
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(config.flush_interval, Duration::from_millis(100));
    let keepalive = GrpcKeepalive { interval: Duration::from_hours(2), timeout: Duration::from_secs(20) };
    assert_eq!(config.grpc_keepalive, Some(keepalive));
    assert_eq!(config.user_rate_limit, None);
    assert_eq!(config.auto_compaction, None);
    assert_eq!(config.watch_progress_notify_interval, Duration::from_mins(10));
    assert_eq!(config.log.format, None);
    assert_eq!(config.log.outputs, [LogOutput::Stderr]);
    assert_eq!(config.metrics, MetricsLevel::Basic);
    assert!(config.pre_vote && !config.unsafe_no_fsync);
    assert_eq!(config.cors, None);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn the_name_names_the_directory() {
    assert_eq!(config(&["--name", "a"]).data_dir, PathBuf::from("a.cleat"));
    assert_eq!(config(&["--name", "a", "--data-dir=/d"]).data_dir, PathBuf::from("/d"));
}

#[test]
fn flags_are_read_by_gos_rules() {
    let cases: [&[&str]; 6] = [
        &["--name", "x", "--unsafe-no-fsync"],
        &["-name", "x", "-unsafe-no-fsync"],
        &["-name=x", "--unsafe-no-fsync=true"],
        &["--name=y", "--name=x", "--unsafe-no-fsync=1"],
        &["--unsafe-no-fsync=false", "--unsafe-no-fsync", "-name=x"],
        &["--unsafe-no-fsync=T", "--name", "x"],
    ];
    for args in cases {
        let config = config(args);
        assert_eq!((config.name.as_str(), config.unsafe_no_fsync), ("x", true), "{args:?}");
    }
    assert!(!config(&["--pre-vote=false"]).pre_vote);
    assert_eq!(config(&["--name=a=b"]).name, "a=b");
    assert!(matches!(load_with(&["-h"], &[]), Ok(Command::Help)));
    assert!(matches!(load_with(&["--help"], &[]), Ok(Command::Help)));
    assert!(matches!(load_with(&["--version"], &[]), Ok(Command::Version)));
}

#[test]
fn flags_win_over_environment_over_file() {
    let (_dir, path) = config_file("name: file\nelection-timeout: 3000\nheartbeat-interval: 300\n");
    let file = format!("--config-file={path}");
    let name = |args: &[&str], env: &[(&str, &str)]| config_with(args, env).name;
    assert_eq!(name(&[], &[]), "default");
    assert_eq!(name(&[&file], &[]), "file");
    assert_eq!(name(&[&file], &[("ETCD_NAME", "env")]), "env");
    assert_eq!(name(&[&file, "--name=flag"], &[("ETCD_NAME", "env")]), "flag");
    assert_eq!(name(&[], &[("ETCD_CONFIG_FILE", &path)]), "file");
    assert_eq!(name(&[], &[("ETCD_NAME", "")]), "default");

    let mixed = config_with(&[&file, "--heartbeat-interval=200"], &[("ETCD_ELECTION_TIMEOUT", "2000")]);
    assert_eq!(mixed.heartbeat_interval, Duration::from_millis(200));
    assert_eq!(mixed.election_timeout, Duration::from_secs(2));
}

#[test]
fn shadowed_and_unknown_variables_are_warned_about() {
    let warnings = |env: &[(&str, &str)]| config_with(&["--name=a"], env).warnings;
    assert_eq!(warnings(&[("ETCD_NAME", "b")]), ["environment variable ETCD_NAME is shadowed by --name"]);
    assert_eq!(warnings(&[("ETCD_NAME", "a")]), Vec::<String>::new());
    assert_eq!(warnings(&[("ETCD_FOO", "1")]), ["unrecognized environment variable ETCD_FOO"]);
    assert_eq!(warnings(&[("ETCD_UNSUPPORTED_ARCH", "arm"), ("HOME", "/")]), Vec::<String>::new());
}

#[test]
fn etcd_warns_where_we_warn() {
    let cases = [
        ("--max-wals=9", "--max-wals has no effect: log segments are recycled as soon as no member needs them"),
        (
            "--grpc-keepalive-min-time=1s",
            "--grpc-keepalive-min-time has no effect: how often clients may ping is not limited",
        ),
        ("--quota-backend-bytes=9663676416", "quota-backend-bytes 9663676416 is above the recommended 8589934592"),
        ("--max-request-bytes=20000000", "max-request-bytes 20000000 is above the recommended 10485760"),
        ("--watch-progress-notify-interval=1ms", "watch-progress-notify-interval is raised to 100ms"),
    ];
    for (arg, warning) in cases {
        assert_eq!(config(&[arg]).warnings, [warning]);
    }
    for silent in ["--max-wals=5", "--feature-gates=LeaseCheckpoint=false", "--logger=zap"] {
        assert_eq!(config(&[silent]).warnings, Vec::<String>::new(), "{silent}");
    }
}

#[test]
fn unreadable_command_lines_exit_with_2() {
    let cases: [(&[&str], &str); 11] = [
        (&["--data-dri=/x"], "unknown flag --data-dri; did you mean --data-dir?"),
        (&["--nope"], "unknown flag --nope"),
        (&["--data-dir"], "flag needs an argument: --data-dir"),
        (&["--enable-pprof=zz"], "invalid boolean value \"zz\" for flag --enable-pprof: parse error"),
        (&["--quota-backend-bytes=abc"], "invalid value \"abc\" for flag --quota-backend-bytes: parse error"),
        (&["--snapshot-count=-1"], "invalid value \"-1\" for flag --snapshot-count: parse error"),
        (
            &["--max-concurrent-streams", "99999999999"],
            "invalid value \"99999999999\" for flag --max-concurrent-streams: parse error",
        ),
        (
            &["--warning-apply-duration=1x"],
            "invalid value \"1x\" for flag --warning-apply-duration: unknown unit \"x\" in duration \"1x\"",
        ),
        (
            &["--initial-cluster-state=x"],
            "invalid value \"x\" for flag --initial-cluster-state: must be one of new, existing, auto",
        ),
        (&["--metrics=foo"], "invalid value \"foo\" for flag --metrics: must be one of basic, extensive"),
        (
            &["--listen-client-urls=ftp://a:1"],
            "invalid value \"ftp://a:1\" for flag --listen-client-urls: URL scheme must be http, https, unix, or unixs: ftp://a:1",
        ),
    ];
    for (args, expected) in cases {
        let error = error(args);
        assert_eq!(error.exit_code(), 2, "{args:?}");
        assert_eq!(error.to_string(), format!("{expected}\nSee 'cleat --help'."), "{args:?}");
    }
}

#[test]
fn bad_settings_exit_with_1() {
    let cases: [(&[&str], &str); 25] = [
        (&["extra"], "'extra' is not a valid flag"),
        (
            &["--initial-cluster-state=auto", "--discovery-srv=example.org"],
            "--initial-cluster-state=auto asks the members that --initial-cluster lists: give that, and no discovery flag",
        ),
        (
            &["--initial-cluster-state=auto", "--force-new-cluster"],
            "--force-new-cluster makes a cluster of one member: leave --initial-cluster-state=auto out",
        ),
        (
            &["--initial-cluster-id-file=/x"],
            "--initial-cluster-id-file is for --initial-cluster-state=auto: set that, or leave it out",
        ),
        (&["--name", "x", "y"], "'y' is not a valid flag"),
        (&["--pre-vote", "false"], "'false' is not a valid flag (a boolean takes its value as --flag=false)"),
        (&["gateway", "start"], "'gateway' is not supported yet"),
        (
            &["--election-timeout=100"],
            "--election-timeout[100ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (&["--election-timeout=60000"], "--election-timeout[60000ms] is too long, and should be set less than 50000ms"),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (
            &["--listen-client-urls=http://foo:1", "--advertise-client-urls=http://foo:1"],
            "expected IP in URL for binding (http://foo:1)",
        ),
        (
            &["--listen-client-urls=http://:1", "--advertise-client-urls=http://foo:1"],
            "expected IP in URL for binding (http://:1)",
        ),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (&["--advertise-client-urls=http://:1"], "unexpected empty host (http://:1)"),
        (&["--enable-pprof"], "--enable-pprof is not supported yet"),
        (&["--feature-gates=AllBeta=true"], "feature gate AllBeta=true is not supported yet"),
        (&["--feature-gates=FastLeaseKeepAlive=false"], "feature gate FastLeaseKeepAlive=false is not supported yet"),
        (
            &["--discovery=http://a:1", "--initial-cluster=a=http://b:1"],
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\" or \"discovery-srv\"",
        ),
        (&["--initial-cluster=xx"], "empty URL given for \"xx\"; write name=URL, as in m1=http://10.0.0.1:2380"),
        (&["--auto-compaction-retention=-1"], "--auto-compaction-retention must not be negative (set to -1)"),
        (&["--auto-compaction-retention=abc"], "error parsing CompactionRetention: time: invalid duration \"abc\""),
        (
            &["--auto-compaction-mode=revision", "--auto-compaction-retention=1h"],
            "--auto-compaction-retention must be a number of revisions (set to 1h)",
        ),
        (&["--feature-gates=Foo=true"], "unrecognized feature gate: Foo"),
        (&["--feature-gates=LeaseCheckpoint"], "missing bool value for feature gate \"LeaseCheckpoint\""),
    ];
    for (args, expected) in cases {
        let error = error(args);
        assert_eq!(error.exit_code(), 1, "{args:?}");
        assert_eq!(error.to_string(), format!("error verifying flags, {expected}. See 'cleat --help'."), "{args:?}");
    }
}

#[test]
fn bad_variables_and_files_name_their_place() {
    let from_env = load_with(&[], &[("ETCD_QUOTA_BACKEND_BYTES", "abc")]).unwrap_err();
    let expected = "invalid value \"abc\" for ETCD_QUOTA_BACKEND_BYTES: parse error";
    assert_eq!(from_env, ConfigError::Invalid(expected.to_owned()));

    let (_dir, path) = config_file("max-txn-ops: many\n");
    let expected = format!("invalid value \"many\" for max-txn-ops in {path}: parse error");
    assert_eq!(error(&["--config-file", &path]), ConfigError::Invalid(expected));

    let (_dir, path) = config_file("enable-pprof: true\n");
    let expected = ConfigError::Invalid("--enable-pprof is not supported yet".to_owned());
    assert_eq!(error(&["--config-file", &path]), expected);

    let missing = error(&["--config-file=/nonexistent/x.yaml"]).to_string();
    assert!(missing.contains("cannot read /nonexistent/x.yaml"), "{missing}");
}

#[test]
fn tokens_and_passwords_are_read_as_by_etcd() {
    let auth = config(&["--auth-token-ttl=7", "--bcrypt-cost=12"]).auth;
    assert_eq!((auth.jwt, auth.token_ttl, auth.bcrypt_cost), (None, Duration::from_secs(7), 12));
    assert!(!auth.names_are_users);
    // What etcd replaces by its defaults.
    let replaced = config(&["--auth-token-ttl=0", "--bcrypt-cost=3"]);
    assert_eq!((replaced.auth.token_ttl, replaced.auth.bcrypt_cost), (Duration::from_mins(5), 10));
    assert!(replaced.warnings.iter().any(|warning| warning.contains("bcrypt-cost 3")), "{:?}", replaced.warnings);

    let jwt = config(&["--auth-token=jwt,pub-key=a,priv-key=b,sign-method=RS256,ttl=10m"]).auth.jwt.unwrap();
    assert_eq!((jwt.sign_method.as_str(), jwt.ttl), ("RS256", Duration::from_mins(10)));
    assert_eq!((jwt.public_key, jwt.private_key), (Some("a".into()), Some("b".into())));

    for bad in ["x", "", "jwt", "jwt,sign-method=none", "jwt,sign-method=RS256,ttl=x"] {
        let error = error(&[&format!("--auth-token={bad}")]).to_string();
        assert!(error.contains("--auth-token"), "{bad}: {error}");
    }
}

#[test]
fn retention_is_read_by_mode() {
    let cases: [(&[&str], Option<AutoCompaction>); 7] = [
        (&["--auto-compaction-retention=0"], None),
        (&["--auto-compaction-retention=0s"], None),
        (&["--auto-compaction-retention=2"], Some(AutoCompaction::Periodic(Duration::from_hours(2)))),
        (&["--auto-compaction-retention=1h30m"], Some(AutoCompaction::Periodic(Duration::from_mins(90)))),
        (&["--auto-compaction-retention=5m"], Some(AutoCompaction::Periodic(Duration::from_mins(5)))),
        (
            &["--auto-compaction-mode=revision", "--auto-compaction-retention=1000"],
            Some(AutoCompaction::Revision(1000)),
        ),
        (&["--auto-compaction-mode=revision"], None),
    ];
    for (args, expected) in cases {
        assert_eq!(config(args).auto_compaction, expected, "{args:?}");
    }
}

#[test]
fn zero_means_never_or_the_default() {
    let config = config(&["--grpc-keepalive-timeout=0", "--backend-batch-interval=0"]);
    assert_eq!(config.grpc_keepalive, None);
    assert_eq!(self::config(&["--grpc-keepalive-interval=0s"]).grpc_keepalive, None);
    assert_eq!(config.flush_interval, Duration::from_millis(100));
    assert_eq!(self::config(&["--quota-backend-bytes=-1"]).quota_bytes, None);
}

#[test]
fn a_member_alone_needs_no_initial_cluster() {
    let config = config(&["--name=a", "--initial-advertise-peer-urls=http://10.0.0.1:2380"]);
    assert_eq!(config.initial_advertise_peer_urls, ["http://10.0.0.1:2380"]);
    let with = self::config(&[
        "--name=a",
        "--initial-advertise-peer-urls=http://h:2,http://h:1",
        "--initial-cluster=a=http://h:1,a=http://h:2",
    ]);
    assert_eq!(with.initial_advertise_peer_urls, ["http://h:1", "http://h:2"]);
}

#[test]
fn log_flags_choose_the_shape() {
    assert_eq!(config(&["--log-level=debug"]).log.format, None);
    assert_eq!(config(&["--log-format=json"]).log.format, Some(LogFormat::Json));
    assert_eq!(
        config(&["--log-outputs=stdout,/x,stdout"]).log.outputs,
        [LogOutput::Stdout, LogOutput::File("/x".into())]
    );
    assert_eq!(config(&["--log-level=panic"]).log.level, LogLevel::Error);
    assert_eq!(config(&["--experimental-warning-apply-duration=1s"]).warning_apply_duration, Duration::from_secs(1));
}

/// What kubeadm passes.
#[test]
fn kubeadms_command_line_is_accepted() {
    let config = config(&[
        "--advertise-client-urls=https://10.0.0.1:2379",
        "--cert-file=/etc/kubernetes/pki/etcd/server.crt",
        "--client-cert-auth=true",
        "--data-dir=/var/lib/etcd",
        "--experimental-initial-corrupt-check=true",
        "--feature-gates=InitialCorruptCheck=true",
        "--initial-advertise-peer-urls=https://10.0.0.1:2380",
        "--initial-cluster=node=https://10.0.0.1:2380",
        "--key-file=/etc/kubernetes/pki/etcd/server.key",
        "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379",
        "--listen-metrics-urls=http://127.0.0.1:2381",
        "--listen-peer-urls=https://10.0.0.1:2380",
        "--name=node",
        "--peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt",
        "--peer-client-cert-auth=true",
        "--peer-key-file=/etc/kubernetes/pki/etcd/peer.key",
        "--peer-trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
        "--snapshot-count=10000",
        "--trusted-ca-file=/etc/kubernetes/pki/etcd/ca.crt",
        "--watch-progress-notify-interval=5s",
    ]);
    assert_eq!(config.listen_client_urls.len(), 2);
    assert_eq!(config.snapshot_count, 10_000);
    assert!(config.client_tls.is_some() && config.peer_tls.is_some());
    assert!(config.corruption_checks.at_start);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn members_compare_their_data_unless_told_not_to() {
    let checks = |args: &[&str]| config(args).corruption_checks;
    let default = checks(&[]);
    assert!(default.at_start);
    assert_eq!(default.interval, Some(Duration::from_hours(12)));
    assert_eq!(default.after_compaction, Some(Duration::from_mins(1)));
    assert_eq!(checks(&["--experimental-corrupt-check-time=5m"]).interval, Some(Duration::from_mins(5)));
    assert_eq!(checks(&["--corrupt-check-time=0s"]).interval, None);
    assert!(!checks(&["--experimental-initial-corrupt-check=false"]).at_start);
    assert!(!checks(&["--feature-gates=CompactHashCheck=true,InitialCorruptCheck=false"]).at_start);
    assert_eq!(checks(&["--experimental-compact-hash-check-enabled=false"]).after_compaction, None);
    assert_eq!(checks(&["--feature-gates=CompactHashCheck=false"]).after_compaction, None);
    assert_eq!(checks(&["--compact-hash-check-time=0s"]).after_compaction, None);
}

#[test]
fn an_audit_log_is_asked_for_and_bounded() {
    assert_eq!(config(&[]).audit, None);
    let audit = config(&["--audit-log-outputs=a.log,stderr,a.log", "--audit-log-max-megabytes=1"]).audit.unwrap();
    assert_eq!(audit.outputs, [LogOutput::File("a.log".into()), LogOutput::Stderr]);
    assert_eq!(audit.rotation, Rotation { max_bytes: 1 << 20, files: 10 });
    assert!(!audit.is_required);
    assert!(error(&["--audit-log-required"]).to_string().contains("--audit-log-required needs --audit-log-outputs"));
    let endless = error(&["--audit-log-outputs=stderr", "--audit-log-max-megabytes=0"]);
    assert!(endless.to_string().contains("--audit-log-max-megabytes must be >0"), "{endless}");
}

#[test]
fn traces_are_asked_for_by_either_name() {
    assert_eq!(config(&["--distributed-tracing-sampling-rate=5"]).traces, None);
    for prefix in ["", "experimental-"] {
        let flag = |rest: &str| format!("--{prefix}{rest}");
        let (on, rate) = (flag("enable-distributed-tracing"), flag("distributed-tracing-sampling-rate=5"));
        let traces = config(&[&on, &rate]).traces.unwrap();
        assert_eq!((traces.address.as_str(), traces.service_name.as_str()), ("localhost:4317", "etcd"));
        assert_eq!(traces.sampling_rate, 5);
    }
    let refused = error(&["--distributed-tracing-sampling-rate=1000001"]);
    assert!(refused.to_string().contains("must be from 0 to 1000000"), "{refused}");
}

#[test]
fn a_rate_limit_has_a_burst_of_a_second() {
    let limit = |args: &[&str]| config(args).user_rate_limit.map(|limit| (limit.per_second, limit.burst));
    assert_eq!(limit(&["--user-rate-limit=100"]), Some((100, 100)));
    assert_eq!(limit(&["--user-rate-limit=100", "--user-rate-limit-burst=7"]), Some((100, 7)));
    assert_eq!(limit(&["--user-rate-limit=0"]), None);
    let text = error(&["--user-rate-limit-burst=7"]).to_string();
    assert!(text.contains("--user-rate-limit-burst[7] needs --user-rate-limit"), "{text}");
}

//! The flags of every command, and what a connection is made from: etcdctl's names, defaults and rules.

use crate::cli::Flag;
use crate::print::Format;

/// Read before anything else, see `main`.
pub(crate) const API: Flag = Flag::string("api", "3", "version of etcd's API ({values})").one_of(&["2", "3"]).cleat();
pub(crate) const AUTH_JWT_TOKEN: Flag = Flag::string(
    "auth-jwt-token",
    "",
    "JWT token used for authentication (if this option is used, --user and --password should not be set)",
)
.later();
pub(crate) const CACERT: Flag =
    Flag::string("cacert", "", "verify certificates of TLS-enabled secure servers using this CA bundle");
pub(crate) const CERT: Flag = Flag::string("cert", "", "identify secure client using this TLS certificate file");
pub(crate) const COMMAND_TIMEOUT: Flag =
    Flag::duration("command-timeout", "5s", "timeout for short running command (excluding dial timeout)");
pub(crate) const DEBUG: Flag = Flag::switch("debug", "enable client-side debug logging");
pub(crate) const DIAL_TIMEOUT: Flag = Flag::duration("dial-timeout", "2s", "dial timeout for client connections");
pub(crate) const DISCOVERY_SRV: Flag =
    Flag::string("discovery-srv", "", "domain name to query for SRV records describing cluster endpoints").short('d');
pub(crate) const DISCOVERY_SRV_NAME: Flag =
    Flag::string("discovery-srv-name", "", "service name to query when using DNS discovery");
pub(crate) const ENDPOINTS: Flag = Flag::list("endpoints", "127.0.0.1:2379", "gRPC endpoints");
pub(crate) const HEX: Flag = Flag::switch("hex", "print byte strings as hex encoded strings");
pub(crate) const INSECURE_DISCOVERY: Flag =
    Flag::switch("insecure-discovery", "accept insecure SRV records describing cluster endpoints").default("true");
pub(crate) const INSECURE_SKIP_TLS_VERIFY: Flag = Flag::switch(
    "insecure-skip-tls-verify",
    "skip server certificate verification (CAUTION: this option should be enabled only for testing purposes)",
);
pub(crate) const INSECURE_TRANSPORT: Flag =
    Flag::switch("insecure-transport", "disable transport security for client connections").default("true");
pub(crate) const KEEPALIVE_TIME: Flag = Flag::duration("keepalive-time", "2s", "keepalive time for client connections");
pub(crate) const KEEPALIVE_TIMEOUT: Flag =
    Flag::duration("keepalive-timeout", "6s", "keepalive timeout for client connections");
pub(crate) const KEY: Flag = Flag::string("key", "", "identify secure client using this TLS key file");
pub(crate) const MAX_RECV_BYTES: Flag =
    Flag::int("max-recv-bytes", "0", "largest answer that is taken, in bytes (0: any)").later();
pub(crate) const MAX_REQUEST_BYTES: Flag =
    Flag::int("max-request-bytes", "0", "largest request that is sent, in bytes (0: any)").later();
pub(crate) const PASSWORD: Flag = Flag::string(
    "password",
    "",
    "password for authentication (if this option is used, --user option shouldn't include password)",
);
pub(crate) const USER: Flag =
    Flag::string("user", "", "username[:password] for authentication (prompt if password is not supplied)");
pub(crate) const WRITE_OUT: Flag =
    Flag::string("write-out", "simple", "set the output format ({values})").short('w').one_of(&Format::NAMES);

/// All of them.
pub(crate) const ALL: &[Flag] = &[
    API,
    AUTH_JWT_TOKEN,
    CACERT,
    CERT,
    COMMAND_TIMEOUT,
    DEBUG,
    DIAL_TIMEOUT,
    DISCOVERY_SRV,
    DISCOVERY_SRV_NAME,
    ENDPOINTS,
    HEX,
    INSECURE_DISCOVERY,
    INSECURE_SKIP_TLS_VERIFY,
    INSECURE_TRANSPORT,
    KEEPALIVE_TIME,
    KEEPALIVE_TIMEOUT,
    KEY,
    MAX_RECV_BYTES,
    MAX_REQUEST_BYTES,
    PASSWORD,
    USER,
    WRITE_OUT,
];

/// Flags whose values are not shown to anybody.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["user", "password", "token", "key"].iter().any(|word| name.contains(word))
}

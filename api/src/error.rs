//! The one table of errors that etcd's API can answer: gRPC code and exact text.
//!
//! Clients compare these texts (clientv3 re-authenticates on some of them, retries on others), so a text is
//! part of the wire format. Text and code follow etcd's `rpctypes`; where 3.4 and newer releases differ, the
//! row says so.

/// A gRPC status code, with its number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs, reason = "named by the gRPC specification")]
pub enum Code {
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

macro_rules! table {
    ($($(#[doc = $doc:literal])* $name:ident: $code:ident $text:literal;)*) => {
        /// An error of etcd's API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the texts say it")]
        pub enum Error {
            $($(#[doc = $doc])* $name,)*
        }

        impl Error {
            /// Every error, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The gRPC code.
            pub const fn code(self) -> Code {
                match self { $(Self::$name => Code::$code,)* }
            }

            /// The exact text that clients see.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

table! {
    EmptyKey: InvalidArgument "etcdserver: key is not provided";
    KeyNotFound: InvalidArgument "etcdserver: key not found";
    ValueProvided: InvalidArgument "etcdserver: value is provided";
    LeaseProvided: InvalidArgument "etcdserver: lease is provided";
    TooManyOps: InvalidArgument "etcdserver: too many operations in txn request";
    DuplicateKey: InvalidArgument "etcdserver: duplicate key given in txn request";
    InvalidClientApiVersion: InvalidArgument "etcdserver: invalid client api version";
    InvalidSortOption: InvalidArgument "etcdserver: invalid sort option";
    Compacted: OutOfRange "etcdserver: mvcc: required revision has been compacted";
    FutureRevision: OutOfRange "etcdserver: mvcc: required revision is a future revision";
    NoSpace: ResourceExhausted "etcdserver: mvcc: database space exceeded";

    LeaseNotFound: NotFound "etcdserver: requested lease not found";
    LeaseExists: FailedPrecondition "etcdserver: lease already exists";
    LeaseTtlTooLarge: OutOfRange "etcdserver: too large lease TTL";

    WatchCanceled: Cancelled "etcdserver: watch canceled";

    MemberExists: FailedPrecondition "etcdserver: member ID already exist";
    PeerUrlExists: FailedPrecondition "etcdserver: Peer URLs already exists";
    /// Left out of etcd's typed map, so clients see code Unknown.
    MemberNotEnoughStarted: Unknown "etcdserver: re-configuration failed due to not enough started members";
    MemberBadUrls: InvalidArgument "etcdserver: given member URLs are invalid";
    MemberNotFound: NotFound "etcdserver: member not found";
    MemberNotLearner: FailedPrecondition "etcdserver: can only promote a learner member";
    LearnerNotReady: FailedPrecondition "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners: FailedPrecondition "etcdserver: too many learner members in cluster";
    ClusterIdMismatch: FailedPrecondition "etcdserver: cluster ID mismatch";

    RequestTooLarge: InvalidArgument "etcdserver: request is too large";
    /// Left out of etcd's typed map, so clients see code Unknown.
    TooManyRequests: Unknown "etcdserver: too many requests";

    RootUserNotExist: FailedPrecondition "etcdserver: root user does not exist";
    RootRoleNotGranted: FailedPrecondition "etcdserver: root user does not have root role";
    UserExists: FailedPrecondition "etcdserver: user name already exists";
    UserEmpty: InvalidArgument "etcdserver: user name is empty";
    UserNotFound: FailedPrecondition "etcdserver: user name not found";
    RoleExists: FailedPrecondition "etcdserver: role name already exists";
    RoleNotFound: FailedPrecondition "etcdserver: role name not found";
    RoleEmpty: InvalidArgument "etcdserver: role name is empty";
    AuthFailed: InvalidArgument "etcdserver: authentication failed, invalid user ID or password";
    /// Left out of etcd's typed map, so clients see code Unknown.
    NoPasswordUser: Unknown "auth: authentication failed, password was given for no password user";
    /// As it comes from Go's library, which hashes no more than that.
    PasswordTooLong: Unknown "bcrypt: password length exceeds 72 bytes";
    /// Left out of etcd's typed map, so clients see code Unknown.
    TokenSigning: Unknown "auth: token signing attempted with verify-only key";
    PermissionNotGiven: InvalidArgument "etcdserver: permission not given";
    PermissionDenied: PermissionDenied "etcdserver: permission denied";
    RoleNotGranted: FailedPrecondition "etcdserver: role is not granted to the user";
    PermissionNotGranted: FailedPrecondition "etcdserver: permission is not granted to the role";
    AuthNotEnabled: FailedPrecondition "etcdserver: authentication is not enabled";
    InvalidAuthToken: Unauthenticated "etcdserver: invalid auth token";
    InvalidAuthManagement: InvalidArgument "etcdserver: invalid auth management";
    AuthOldRevision: InvalidArgument "etcdserver: revision of auth store is old";

    NoLeader: Unavailable "etcdserver: no leader";
    NotLeader: FailedPrecondition "etcdserver: not leader";
    LeaderChanged: Unavailable "etcdserver: leader changed";
    NotCapable: FailedPrecondition "etcdserver: not capable";
    Stopped: Unavailable "etcdserver: server stopped";
    Timeout: Unavailable "etcdserver: request timed out";
    TimeoutLeaderLost: Unavailable "etcdserver: request timed out, possibly due to previous leader failure";
    TimeoutConnectionLost: Unavailable "etcdserver: request timed out, possibly due to connection lost";
    TimeoutWaitApplied: Unavailable "etcdserver: request timed out, waiting for the applied index took too long";
    Unhealthy: Unavailable "etcdserver: unhealthy cluster";
    Corrupt: DataLoss "etcdserver: corrupt cluster";
    /// `FailedPrecondition` from 3.6 on.
    NotSupportedForLearner: Unavailable "etcdserver: rpc not supported for learner";
    BadLeaderTransferee: FailedPrecondition "etcdserver: bad leader transferee";

    ClusterVersionUnavailable: FailedPrecondition "etcdserver: cluster version not found during downgrade";
    WrongDowngradeFormat: InvalidArgument "etcdserver: wrong downgrade target version format";
    InvalidDowngradeTarget: InvalidArgument "etcdserver: invalid downgrade target version";
    DowngradeInProgress: FailedPrecondition "etcdserver: cluster has a downgrade job in progress";
    NoInflightDowngrade: FailedPrecondition "etcdserver: no inflight downgrade job";

    RequestCanceled: Cancelled "etcdserver: request canceled";
    DeadlineExceeded: DeadlineExceeded "context deadline exceeded";
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::Error;
    use std::collections::BTreeSet;

    #[test]
    fn texts_are_unique() {
        let texts: BTreeSet<_> = Error::ALL.iter().map(|e| e.text()).collect();
        assert_eq!(texts.len(), Error::ALL.len());
    }
}

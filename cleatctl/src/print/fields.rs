//! One field a line, with its name in quotes.

use api::etcdserverpb::ResponseHeader;
use api::mvccpb::KeyValue;
use go::strconv;
use std::fmt::Display;

/// Fields.
#[derive(Default)]
pub(crate) struct Fields {
    pub(crate) bytes: Vec<u8>,
}

impl Fields {
    /// A number, or anything else that is printed as it is.
    pub(crate) fn plain(&mut self, name: &str, value: impl Display) {
        self.line(&format!("\"{name}\" : {value}"));
    }

    /// A text in quotes.
    pub(crate) fn quoted(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.line(&format!("\"{name}\" : {}", strconv::quote(value.as_ref())));
    }

    pub(crate) fn line(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(b'\n');
    }

    /// Operations of a transaction have a header with a revision alone.
    pub(crate) fn header(&mut self, header: Option<&ResponseHeader>) {
        let header = header.copied().unwrap_or_default();
        self.plain("ClusterID", header.cluster_id);
        self.plain("MemberID", header.member_id);
        self.plain("Revision", header.revision);
        self.plain("RaftTerm", header.raft_term);
    }

    pub(crate) fn kv(&mut self, prefix: &str, kv: &KeyValue) {
        self.quoted(&format!("{prefix}Key"), &kv.key);
        self.plain(&format!("{prefix}CreateRevision"), kv.create_revision);
        self.plain(&format!("{prefix}ModRevision"), kv.mod_revision);
        self.plain(&format!("{prefix}Version"), kv.version);
        self.quoted(&format!("{prefix}Value"), &kv.value);
        self.plain(&format!("{prefix}Lease"), kv.lease);
    }
}

//! What etcd's messages and methods look like, as data: for the JSON gateway and its `OpenAPI` document.
//!
//! The build writes the descriptors from the same `.proto` files as the types. They are constants, so they take no
//! memory before somebody reads them, and none on the heap at any time.

use std::fmt;

/// A message.
pub struct Message {
    /// With its package.
    pub name: &'static str,
    /// In the order of the `.proto` file.
    pub fields: &'static [Field],
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Transactions contain transactions: not the fields.
        f.write_str(self.name)
    }
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// As in the `.proto` file; the name that etcd prints.
    pub name: &'static str,
    /// The same in lower camel case, which etcd also reads.
    pub json_name: &'static str,
    /// On the wire.
    pub number: u32,
    /// The type of the field, or of its elements.
    pub kind: Kind,
    /// True if it may occur any number of times.
    pub is_repeated: bool,
    /// The oneof that the field belongs to; its number within the message.
    pub oneof: Option<u8>,
}

/// The type of a field. The API uses no others.
#[derive(Debug)]
#[allow(missing_docs, reason = "named by protobuf")]
pub enum Kind {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    String,
    Bytes,
    Enum(&'static Enum),
    Message(&'static Message),
}

/// An enum.
#[derive(Debug)]
pub struct Enum {
    /// With its package, and the message that it is defined in.
    pub name: &'static str,
    /// Names and numbers.
    pub values: &'static [(&'static str, i32)],
}

impl Enum {
    /// The number of a name.
    pub fn number(&self, name: &str) -> Option<i32> {
        self.values.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
    }

    /// The name of a number.
    pub fn name_of(&self, number: i32) -> Option<&'static str> {
        self.values.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
    }
}

/// A method of a service.
#[derive(Debug)]
pub struct Method {
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// The request.
    pub input: &'static Message,
    /// The response.
    pub output: &'static Message,
    /// True if the client sends any number of requests.
    pub is_client_stream: bool,
    /// True if the server sends any number of responses.
    pub is_server_stream: bool,
}

/// The method with this path.
pub fn method(path: &str) -> Option<&'static Method> {
    METHODS.iter().find(|method| method.path == path)
}

include!(concat!(env!("OUT_DIR"), "/descriptors.rs"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_those_of_the_files() {
        let txn = method("/etcdserverpb.KV/Txn").unwrap();
        assert!(!txn.is_client_stream && !txn.is_server_stream);
        let compare = txn.input.fields.iter().find(|field| field.name == "compare").unwrap();
        assert!(compare.is_repeated);
        let Kind::Message(compare) = compare.kind else { panic!("{compare:?}") };
        let range_end = compare.fields.iter().find(|field| field.json_name == "rangeEnd").unwrap();
        assert_eq!((range_end.name, range_end.number, range_end.oneof), ("range_end", 64, None));
        assert_eq!(compare.fields.iter().filter(|field| field.oneof == Some(0)).count(), 5);
        let Kind::Enum(result) = compare.fields[0].kind else { panic!("{:?}", compare.fields[0]) };
        assert_eq!((result.number("LESS"), result.name_of(3)), (Some(2), Some("NOT_EQUAL")));

        // The types have names of their own for these; the API has not.
        let member = method("/etcdserverpb.Cluster/MemberAdd").unwrap().input;
        let names: Vec<_> = member.fields.iter().map(|field| (field.name, field.json_name)).collect();
        assert_eq!(names, [("peerURLs", "peerURLs"), ("isLearner", "isLearner")]);
        let watch = method("/etcdserverpb.Watch/Watch").unwrap();
        assert!(watch.is_client_stream && watch.is_server_stream);
    }
}

//! Ids as etcd computes them: the first eight bytes of a SHA-1.
//!
//! Every member of a first cluster computes all of them from the same texts, so nobody has to hand them out.

use sha1::{Digest, Sha1};

/// The id of a member of the first cluster: its peer URLs, sorted, and the cluster's token.
pub fn member_id<Url: AsRef<str>>(peer_urls: &[Url], token: &str) -> u64 {
    hash_of_member(peer_urls, token)
}

/// The id of a member that is added to a running cluster: the time in the token's place, so that an address that is
/// used again gets another id.
pub fn member_id_at<Url: AsRef<str>>(peer_urls: &[Url], unix_seconds: u64) -> u64 {
    hash_of_member(peer_urls, &unix_seconds.to_string())
}

/// The id of a cluster, from the ids of its first members in any order.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut sorted = member_ids.to_vec();
    sorted.sort_unstable();
    first_eight_bytes(sorted.iter().map(|id| id.to_be_bytes()))
}

fn hash_of_member<Url: AsRef<str>>(peer_urls: &[Url], last: &str) -> u64 {
    let mut sorted: Vec<&str> = peer_urls.iter().map(AsRef::as_ref).collect();
    sorted.sort_unstable();
    first_eight_bytes(sorted.into_iter().chain([last]).map(str::as_bytes))
}

fn first_eight_bytes(parts: impl Iterator<Item = impl AsRef<[u8]>>) -> u64 {
    let mut digest = Sha1::new();
    for part in parts {
        digest.update(part);
    }
    let digest: [u8; 20] = digest.finalize().into();
    digest.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_etcds() {
        // What etcd 3.4.23 reports for its default flags.
        let member = member_id(&["http://localhost:2380"], "etcd-cluster");
        assert_eq!(member, 0x8e9e_05c5_2164_694d);
        assert_eq!(cluster_id(&[member]), 0xcdf8_1819_4e3a_8c32);
    }

    #[test]
    fn the_order_of_urls_and_members_does_not_matter() {
        assert_eq!(member_id(&["http://b:1", "http://a:1"], "t"), member_id(&["http://a:1", "http://b:1"], "t"));
        assert_eq!(cluster_id(&[2, 1]), cluster_id(&[1, 2]));
        assert_ne!(member_id(&["http://a:1"], "t"), member_id(&["http://a:1"], "u"));
    }

    #[test]
    fn a_member_added_later_has_the_time_in_the_tokens_place() {
        assert_eq!(member_id_at(&["http://a:1"], 1_700_000_000), member_id(&["http://a:1"], "1700000000"));
    }
}

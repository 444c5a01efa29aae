//! Requests that are wrong below the level of their meaning: sizes, bytes, paths, unknown members.

use super::Generator;
use crate::op::{Op, this_member};
use api::etcdserverpb::{MemberAddRequest, MemberUpdateRequest, PutRequest, RangeRequest};
use bytes::Bytes;
use prost::Message;
use rand::Rng;

/// `--max-request-bytes`.
const MAX_REQUEST_BYTES: usize = 1_572_864;
/// What the server reads at all.
const MAX_FRAME_BYTES: usize = MAX_REQUEST_BYTES + 512 * 1024;

impl Generator {
    pub(super) fn oversized(&mut self) -> Op {
        let size = match self.rng.random_range(0..40) {
            0 => MAX_REQUEST_BYTES + 100,
            1 => MAX_FRAME_BYTES + 1_000,
            2 => MAX_REQUEST_BYTES - 1_000,
            _ => return Op::Range(RangeRequest { key: "big".into(), keys_only: true, ..Default::default() }),
        };
        // One value is stored and taken away again, or the store grows by it in each sequence.
        Op::Put(PutRequest { key: "big".into(), value: vec![b'x'; size].into(), ..Default::default() })
    }

    pub(super) fn bad_cluster_change(&mut self) -> Op {
        let bad_url =
            self.pick(&["", "127.0.0.1:1", "ftp://127.0.0.1:1", "http://127.0.0.1", "http://127.0.0.1:1/path"]);
        match self.rng.random_range(0..6) {
            0 => Op::MemberAdd(MemberAddRequest { peer_urls: vec![bad_url.to_owned()], is_learner: true }),
            1 => Op::MemberAdd(MemberAddRequest { peer_urls: Vec::new(), is_learner: true }),
            2 => Op::MemberRemove(77),
            3 => Op::MemberUpdate(MemberUpdateRequest { id: 77, peer_urls: vec!["http://127.0.0.1:1".to_owned()] }),
            4 => Op::MemberPromote(self.pick(&[77, this_member()])),
            _ => Op::MoveLeader(self.pick(&[77, 0])),
        }
    }

    pub(super) fn bad_bytes(&mut self) -> Op {
        const RANGE: &str = "/etcdserverpb.KV/Range";
        let valid = RangeRequest { key: "a".into(), ..Default::default() }.encode_to_vec();
        let (path, payload, what): (_, Vec<u8>, _) = match self.rng.random_range(0..10) {
            0 => (RANGE, vec![0xff; 7], "not protobuf"),
            1 => (RANGE, vec![0x0a, 0x50, b'a'], "cut short"),
            2 => (RANGE, vec![0x0f, 0x01], "bad wire type"),
            3 => (RANGE, [&valid[..], &[0xfa, 0x7f, 1, b'x']].concat(), "unknown field"),
            4 => ("/etcdserverpb.KV/Put", vec![0x08, 0x01], "field of another type"),
            5 => ("/etcdserverpb.KV/Nothing", valid, "unknown method"),
            6 => ("/etcdserverpb.Nothing/Range", valid, "unknown service"),
            7 => ("/nothing", valid, "bad path"),
            8 => ("/etcdserverpb.KV/Txn", vec![0x12, 0x7f], "cut short"),
            _ => ("/etcdserverpb.Lease/LeaseGrant", Vec::from([0x12, 0x00]), "field of another type"),
        };
        Op::Raw { path, payload: Bytes::from(payload), what }
    }
}

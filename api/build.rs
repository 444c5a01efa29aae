//! Compiles the .proto files in pure Rust (protox), so that building needs no `protoc`.
//!
//! Two passes: messages and clients use plain prost types; the server side answers with the types of
//! `api::encoded`, which carry stored key-values as the bytes they already are.

#[path = "build/descriptors.rs"]
mod descriptors;

use prost_types::FileDescriptorSet;
use std::path::{Path, PathBuf};

const PROTOS: [&str; 8] = [
    "kv.proto",
    "auth.proto",
    "rpc.proto",
    "v3lock.proto",
    "v3election.proto",
    "command.proto",
    "peer.proto",
    "health.proto",
];

/// Field names whose snake case would be unreadable (`peer_ur_ls`). The binary format has no names.
const READABLE: [(&str, &str); 2] = [("peerURLs", "peer_urls"), ("clientURLs", "client_urls")];

/// Responses that carry stored key-values.
const ENCODED: [&str; 6] =
    ["RangeResponse", "RangeStreamResponse", "PutResponse", "DeleteRangeResponse", "TxnResponse", "WatchResponse"];

/// Messages with passwords, their hashes or tokens: how they are printed is written by hand in `redacted.rs`. Users of the
/// v2 API are nodes of its tree.
const SECRET: [&str; 9] = [
    ".authpb.User",
    ".etcdserverpb.AuthenticateRequest",
    ".etcdserverpb.AuthenticateResponse",
    ".etcdserverpb.AuthUserAddRequest",
    ".etcdserverpb.AuthUserChangePasswordRequest",
    ".cleatpb.Authentication",
    ".cleatpb.V2Request",
    ".cleatpb.V2Node",
    ".cleatpb.V2EventNode",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("proto");
    println!("cargo:rerun-if-changed={}", root.display());
    println!("cargo:rerun-if-changed=build");
    let mut files = protox::compile(PROTOS, [&root])?;
    let out = std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    std::fs::write(Path::new(&out).join("descriptors.rs"), descriptors::source(&files)?)?;
    std::fs::write(Path::new(&out).join("all_descriptors.rs"), descriptors::source_for_tests(&files)?)?;
    rename(&mut files);

    let services = std::env::var_os("CARGO_FEATURE_SERVICES").is_some();
    tonic_prost_build::configure()
        .build_server(false)
        .build_client(services)
        .bytes(".")
        .skip_debug(SECRET)
        .emit_rerun_if_changed(false)
        .compile_fds(files.clone())?;
    if services {
        let out = Path::new(&out).join("server");
        std::fs::create_dir_all(&out)?;
        let mut server = tonic_prost_build::configure()
            .build_client(false)
            .codec_path("crate::codec::Codec")
            .emit_rerun_if_changed(false)
            .out_dir(out);
        for name in ENCODED {
            server = server.extern_path(format!(".etcdserverpb.{name}"), format!("crate::encoded::{name}"));
        }
        for package in ["mvccpb", "authpb", "etcdserverpb", "v3lockpb", "v3electionpb", "cleatpb"] {
            server = server.extern_path(format!(".{package}"), format!("crate::{package}"));
        }
        server = server.extern_path(".grpc.health.v1", "crate::health");
        server.compile_fds(files)?;
    }
    Ok(())
}

fn rename(files: &mut FileDescriptorSet) {
    let fields = files.file.iter_mut().flat_map(|f| &mut f.message_type).flat_map(|m| &mut m.field);
    for field in fields {
        if let Some((_, readable)) = READABLE.iter().find(|(proto, _)| field.name() == *proto) {
            field.name = Some((*readable).to_owned());
        }
    }
}

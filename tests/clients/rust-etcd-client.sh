#!/usr/bin/env bash
# Builds the examples of crates.io's etcd-client so that they ask ETCD_ENDPOINT: rust-etcd-client.sh SCRATCH_DIR
# They are in SCRATCH_DIR/examples then.
set -euo pipefail
dir=$1
mkdir -p "$dir/fetch/src"
cat >"$dir/fetch/Cargo.toml" <<'TOML'
[package]
name = "fetch"
version = "0.0.0"
edition = "2021"
[dependencies]
etcd-client = { version = "=0.21.1", features = ["tls"] }
[workspace]
TOML
touch "$dir/fetch/src/lib.rs"
# Its build wants protoc; PyPI has one that needs no rights.
python3 -m venv "$dir/protoc-venv"
"$dir/protoc-venv/bin/pip" install --quiet --disable-pip-version-check grpcio-tools setuptools
printf '#!/bin/sh\nexec "%s/protoc-venv/bin/python" -m grpc_tools.protoc "$@"\n' "$dir" >"$dir/protoc"
chmod +x "$dir/protoc"
manifest=$(cargo metadata --quiet --format-version 1 --manifest-path "$dir/fetch/Cargo.toml" |
  python3 -c 'import json, sys; print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "etcd-client"))')
cp -r "$(dirname "$manifest")" "$dir/crate"
chmod -R u+w "$dir/crate"
# The examples as they are, but for where they ask.
sed -i 's|"localhost:2379"|\&*std::env::var("ETCD_ENDPOINT").unwrap()|' "$dir"/crate/examples/*.rs
cd "$dir/crate"
CARGO_TARGET_DIR=$dir/target CARGO_PROFILE_DEV_DEBUG=false PROTOC=$dir/protoc cargo build --quiet --examples
mkdir "$dir/examples"
find "$dir/target/debug/examples" -maxdepth 1 -type f -perm -u+x ! -name '*-*' -exec mv {} "$dir/examples/" \;

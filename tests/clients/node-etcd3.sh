#!/usr/bin/env bash
# Runs npm's etcd3 client against a server: node-etcd3.sh HOST:PORT SCRATCH_DIR
set -euo pipefail
endpoint=$1 dir=$2/node
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$dir"
cp "$here/node_etcd3.js" "$dir/"
cd "$dir"
[ -d node_modules/etcd3 ] || npm install --silent --no-audit --no-fund --no-save etcd3@1.1.2
exec node node_etcd3.js "$endpoint"

#!/usr/bin/env bash
# Runs PyPI's etcd3 client against a server: python-etcd3.sh HOST:PORT SCRATCH_DIR
set -euo pipefail
endpoint=$1 dir=$2
here=$(cd "$(dirname "$0")" && pwd)
if [ ! -d "$dir/venv" ]; then
  python3 -m venv "$dir/venv"
  # The client needs the protobuf and tenacity of its time.
  "$dir/venv/bin/pip" install --quiet --disable-pip-version-check 'etcd3==0.12.0' 'protobuf<3.21' 'tenacity<7' setuptools
fi
exec "$dir/venv/bin/python" "$here/python_etcd3.py" "${endpoint%:*}" "${endpoint#*:}"

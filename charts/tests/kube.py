"""A Kubernetes API server for Helm's engine to install into: `cleat-kube-fake`, with the kinds of Prometheus' operator
and cert-manager."""

import atexit
import base64
import json
import os
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / os.environ.get("CARGO_TARGET_DIR", "target") / "debug/cleat-kube-fake"
# Where the chart is installed.
NAMESPACE = "store"
CUSTOM = [
    "monitoring.coreos.com/v1/ServiceMonitor/servicemonitors/namespaced",
    "monitoring.coreos.com/v1/PodMonitor/podmonitors/namespaced",
    "monitoring.coreos.com/v1/PrometheusRule/prometheusrules/namespaced",
    "cert-manager.io/v1/Certificate/certificates/namespaced",
]


class ApiServer:
    """Serves on a loopback port until `close`. `minor` is Kubernetes' minor version."""

    def __init__(self, minor):
        if not PROGRAM.is_file():
            raise SystemExit(f"there is no {PROGRAM}: run `cargo build -p cleat-kube-fake` first")
        self.directory = tempfile.TemporaryDirectory()
        self.config = Path(self.directory.name) / "kubeconfig"
        command = [PROGRAM, "--minor-version", str(minor), "--kubeconfig", self.config]
        for resource in CUSTOM:
            command += ["--resource", resource]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        # Also when a signal ends the tests.
        atexit.register(self.close)
        self.url = self.process.stdout.readline().strip()
        self.port = int(self.url.rsplit(":", 1)[1])

    def close(self):
        atexit.unregister(self.close)
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.directory.cleanup()

    def kubeconfig(self):
        return str(self.config)

    def _call(self, method, path, body=None, kind="application/json"):
        """The answer's JSON, or None if there is no such object."""
        data = None if body is None else json.dumps(body).encode()
        call = urllib.request.Request(f"{self.url}/{path}", data, {"Content-Type": kind}, method=method)
        try:
            with urllib.request.urlopen(call, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:300]}") from error

    def read(self, group, plural, name, namespace=NAMESPACE):
        return self._call("GET", f"{group}/namespaces/{namespace}/{plural}/{name}")

    def list(self, group, plural, namespace=NAMESPACE):
        return self._call("GET", f"{group}/namespaces/{namespace}/{plural}")["items"]

    def delete(self, group, plural, name, namespace=NAMESPACE):
        self._call("DELETE", f"{group}/namespaces/{namespace}/{plural}/{name}")

    def replace(self, group, plural, document, namespace=NAMESPACE):
        """Makes an object anew."""
        self.delete(group, plural, document["metadata"]["name"], namespace)
        self._call("POST", f"{group}/namespaces/{namespace}/{plural}", document)

    def patch(self, group, plural, name, change, namespace=NAMESPACE):
        self._call("PATCH", f"{group}/namespaces/{namespace}/{plural}/{name}", change, "application/merge-patch+json")

    def secret(self, namespace, name):
        """The texts of a Secret, or None."""
        found = self.read("api/v1", "secrets", name, namespace)
        return found and {key: base64.b64decode(value).decode() for key, value in found["data"].items()}

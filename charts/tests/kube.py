"""A Kubernetes API server for Helm's engine to install into: `cleat-kube-fake`, with the kinds of Prometheus' operator
and cert-manager."""

import base64
import json
import os
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

PROGRAM = Path(__file__).resolve().parents[2] / os.environ.get("CARGO_TARGET_DIR", "target") / "debug/cleat-kube-fake"
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
        self.url = self.process.stdout.readline().strip()

    def close(self):
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

    def secret(self, namespace, name):
        """The texts of a Secret, or None."""
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/namespaces/{namespace}/secrets/{name}", timeout=10) as answer:
                data = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

"""As much of a Kubernetes API server as Helm's engine asks for when it installs a chart: versions, groups, resources,
and a place to put objects. It keeps what was put there, so that `lookup` finds it at an upgrade."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml

# group/version -> kinds, all with what a namespaced resource can do.
BUILT_IN = {
    "v1": ["Namespace", "Pod", "Service", "ServiceAccount", "ConfigMap", "Secret", "PersistentVolumeClaim"],
    "apps/v1": ["StatefulSet", "Deployment", "DaemonSet"],
    "batch/v1": ["Job", "CronJob"],
    "policy/v1": ["PodDisruptionBudget"],
    "networking.k8s.io/v1": ["NetworkPolicy"],
    "rbac.authorization.k8s.io/v1": ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"],
}
CUSTOM = {
    "monitoring.coreos.com/v1": ["ServiceMonitor", "PodMonitor", "PrometheusRule"],
    "cert-manager.io/v1": ["Certificate", "Issuer"],
}
CLUSTER_WIDE = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
MAX_BODY_BYTES = 16 << 20


def plural(kind):
    return kind.lower()[:-1] + "ies" if kind.endswith("y") else kind.lower() + "s"


def merged(value, patch):
    """A JSON merge patch. Lists are replaced, which is enough here."""
    if not isinstance(value, dict) or not isinstance(patch, dict):
        return patch
    changed = {name: merged(value.get(name), inner) for name, inner in patch.items() if inner is not None}
    return {**{name: inner for name, inner in value.items() if name not in patch}, **changed}


class ApiServer:
    """Serves on a loopback port until `close`. `version` is Kubernetes' minor version, `custom` says whether the kinds of
    Prometheus' operator and cert-manager are there."""

    def __init__(self, minor, custom=True):
        self.minor = minor
        self.kinds = {**BUILT_IN, **(CUSTOM if custom else {})}
        self.objects = {}
        self.lock = threading.Lock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def kubeconfig(self):
        return yaml.safe_dump({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{self.http.server_port}"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "users": [{"name": "test", "user": {}}],
        })

    def discovery(self, path):
        """The answer to a question about versions, groups or resources; None for any other path."""
        if path == "/version":
            return {"major": "1", "minor": str(self.minor), "gitVersion": f"v1.{self.minor}.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": self._groups()}
        parts = path.strip("/").split("/")
        group_version = "/".join(parts[1:])
        if parts[0] in ("api", "apis") and group_version in self.kinds and len(parts) == (2 if parts[0] == "api" else 3):
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
                    "resources": [self._resource(kind) for kind in self.kinds[group_version]]}
        return None

    def _groups(self):
        groups = []
        for group_version in self.kinds:
            if "/" in group_version:
                group, version = group_version.split("/")
                entry = {"groupVersion": group_version, "version": version}
                groups.append({"name": group, "versions": [entry], "preferredVersion": entry})
        return groups

    def _resource(self, kind):
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        return {"name": plural(kind), "singularName": kind.lower(), "namespaced": kind not in CLUSTER_WIDE,
                "kind": kind, "verbs": verbs}

    def _handler(self):
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # An answer in one piece: the second of two would wait for the first's acknowledgement.
            wbufsize = -1

            def log_message(self, *_):
                pass

            def answer(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def missing(self):
                self.answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                                  "message": "not found", "code": 404})

            def body(self):
                length = int(self.headers.get("Content-Length", 0))
                if length > MAX_BODY_BYTES:
                    raise ValueError("the request is too large")
                return self.rfile.read(length)

            def do_GET(self):
                path = self.path.split("?")[0]
                found = server.discovery(path)
                if found is None:
                    with server.lock:
                        found = server.objects.get(path)
                self.missing() if found is None else self.answer(200, found)

            def do_POST(self):
                data, path = self.body(), self.path.split("?")[0]
                try:
                    posted = json.loads(data)
                except ValueError:
                    # The record of a release comes as protobuf; nobody reads it again.
                    self.answer(201, {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "release"}})
                    return
                with server.lock:
                    server.objects[f"{path}/{posted['metadata']['name']}"] = posted
                self.answer(201, posted)

            def do_PUT(self):
                data, path = self.body(), self.path.split("?")[0]
                try:
                    put = json.loads(data)
                except ValueError:
                    put = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "release"}}
                with server.lock:
                    server.objects[path] = put
                self.answer(200, put)

            def do_PATCH(self):
                patch, path = json.loads(self.body()), self.path.split("?")[0]
                with server.lock:
                    found = server.objects.get(path)
                    if found is not None:
                        found = server.objects[path] = merged(found, patch)
                self.missing() if found is None else self.answer(200, found)

            def do_DELETE(self):
                self.body()
                self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

        return Handler

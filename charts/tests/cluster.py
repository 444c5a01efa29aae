"""A release of the chart as containers: what a kubelet does with rendered pods, as far as the chart's need it.

Each pod is a container that only holds its network, and one for each of its containers. Secrets, ConfigMaps and claims are
directories; pods, the StatefulSet, Events and the mark are at the API server, which containers reach through a `Gateway`."""

import asyncio
import base64
import json
import os
import re
import shutil
import socket
import ssl
import threading
import time

import yaml

from kube import NAMESPACE
from load import request, trusting

IMAGE = "localhost/cleat:test"
NETWORK = f"cleat-test-{os.getpid()}"
USER = "65532:65532"
# What the chart asks of every container.
RESTRICTED = ["--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--user", USER]
# Lets a socket have an address before its network is up.
IP_FREEBIND = 15
# Where the test's kubeconfig is in containers that have a token in a cluster.
KUBECONFIG = "/var/run/secrets/kubernetes.io/serviceaccount/kubeconfig"
STATEFULSET = "kv-cleat"


def wait_for(what, check, seconds=90):
    """Until `check` gives something, however busy the machine is."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end:
        try:
            found = check()
            if found:
                return found
        except (OSError, AssertionError) as error:
            last = error
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {seconds} s ({last})")


def bind(address):
    """A socket at any port of an address that a container network is going to have."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
    bound.bind((address, 0))
    return bound


class Gateway:
    """Takes connections at an address of a container network, over TLS, and passes them on to a port of loopback. `certificate` is
    a file with a certificate and its key."""

    def __init__(self, address, port, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        bound = bind(address)
        self.url = "https://%s:%d" % bound.getsockname()
        self.loop = asyncio.new_event_loop()

        async def take(reader, writer):
            try:
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
            except asyncio.CancelledError:
                # At the end of the gateway, which asyncio would tell as a failure.
                pass

        self.server = self.loop.run_until_complete(asyncio.start_server(take, sock=bound, ssl=context))
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def close(self):
        asyncio.run_coroutine_threadsafe(self.end(), self.loop).result(timeout=10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=10)

    async def end(self):
        self.server.close()
        going_on = asyncio.all_tasks() - {asyncio.current_task()}
        for task in going_on:
            task.cancel()
        await asyncio.gather(*going_on, return_exceptions=True)


async def _copy(reader, writer):
    """Until one side ends, which ends the other."""
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


class Cluster:
    """The pods of a rendered release, on a network with DNS."""

    def __init__(self, podman, rendered, kube, directory, certify):
        """`certify` makes a Secret of a name with an authority of its own and a certificate for an address."""
        self.podman, self.directory, self.kube, self.certify = podman, directory, kube, certify
        podman.network(NETWORK)
        self.host = podman.gateway(NETWORK)
        certificate, authority = self.outside("kube-api")
        self.gateway = Gateway(self.host, kube.port, certificate)
        for name in ("kv-cleat-client-tls", "kv-cleat-peer-tls"):
            self.write(f"secret/{name}", kube.secret(NAMESPACE, name))
        config = yaml.safe_load(kube.config.read_text())
        # As in a pod, there is an authority beside the token.
        config["clusters"][0]["cluster"] |= {
            "server": self.gateway.url, "certificate-authority-data": base64.b64encode(authority.encode()).decode()}
        self.write("kube-api", {"kubeconfig": json.dumps(config)})
        self.use(rendered)

    def close(self):
        self.gateway.close()

    def outside(self, name):
        """Certificate and key of a service outside of the containers, as a file, and the authority that it has for itself."""
        self.certify(name, self.host)
        texts = self.kube.secret(NAMESPACE, name)
        file = self.directory / f"{name}.pem"
        file.write_text(texts["tls.crt"] + texts["tls.key"])
        return file, texts["ca.crt"]

    def use(self, rendered):
        """Takes a rendering, as if it were installed."""
        self.rendered = rendered
        for config in rendered.kind("ConfigMap"):
            self.write(f"config/{config['metadata']['name']}", config.get("data", {}))
            self.kube.replace("api/v1", "configmaps", config)
        [self.statefulset] = rendered.kind("StatefulSet")
        self.kube.replace("apis/apps/v1", "statefulsets", self.statefulset)
        self.spec = self.statefulset["spec"]["template"]["spec"]
        self.members = self.names(self.statefulset["spec"]["replicas"])

    def names(self, replicas):
        return [f"{STATEFULSET}-{ordinal}" for ordinal in range(replicas)]

    def scale(self, replicas):
        """What `kubectl scale` does, and then Kubernetes: pods are made, or end with their volumes, all at once."""
        self.kube.patch("apis/apps/v1", "statefulsets", STATEFULSET, {"spec": {"replicas": replicas}})
        before, self.members = self.members, self.names(replicas)
        for member in before[replicas:]:
            self.forget(member)
        for member in self.members[len(before):]:
            self.create(member)

    def write(self, name, texts):
        """Files of a Secret or ConfigMap, each exchanged at once, as the kubelet does it. Those that it lacks are removed."""
        directory = self.directory / name
        directory.mkdir(parents=True, exist_ok=True)
        for file, text in sorted(texts.items(), reverse=True):
            new = directory / f".{file}"
            new.write_text(text)
            new.chmod(0o440)
            shutil.chown(new, group=65532)
            new.rename(directory / file)
        for old in directory.iterdir():
            if old.name not in texts:
                old.unlink()

    def show_mark(self):
        """The mark as the agent wrote it, in the pods' files. Waits for it."""
        read = lambda: self.kube.read("api/v1", "configmaps", f"{STATEFULSET}-cluster").get("data", {}).get("cluster-id")
        mark = wait_for("the agent writes the mark", read)
        self.write(f"config/{STATEFULSET}-cluster", {"cluster-id": mark})
        return mark

    def source(self, pod, name, volume):
        """Where a volume of a pod is on this machine."""
        if volume is None:
            return self.volume(pod)
        for kind, key in (("config", "configMap"), ("secret", "secret")):
            if key in volume:
                directory = self.directory / kind / (volume[key].get("name") or volume[key]["secretName"])
                directory.mkdir(parents=True, exist_ok=True)
                return directory
        if "persistentVolumeClaim" in volume:
            return self.volume("backup")
        if "emptyDir" in volume:
            return self.volume(f"{pod}-{name}")
        sources = volume["projected"]["sources"]
        if any("serviceAccountToken" in source for source in sources):
            return self.directory / "kube-api"
        files = {}
        for source in sources:
            data = self.rendered.kind("ConfigMap", source["configMap"]["name"])["data"]
            for item in source["configMap"]["items"]:
                parent, file = item["path"].split("/")
                files.setdefault(parent, {})[file] = data[item["key"]]
        for parent, texts in files.items():
            self.write(f"projected/{pod}-{name}/{parent}", texts)
        return self.directory / f"projected/{pod}-{name}"

    def volume(self, name):
        """A directory that the containers' user may write to."""
        directory = self.directory / "data" / name
        directory.mkdir(parents=True, exist_ok=True)
        shutil.chown(directory, 65532, 65532)
        return directory

    def options(self, pod, spec, container, **given):
        """Environment and volumes of a container, and its command line."""
        given = {"POD_NAME": pod, "POD_NAMESPACE": NAMESPACE, "NODE_NAME": "node", **given}
        for variable in container.get("env", []):
            origin = variable.get("valueFrom", {}).get("configMapKeyRef")
            if origin:
                given[variable["name"]] = self.rendered.kind("ConfigMap", origin["name"])["data"][origin["key"]]
            elif "value" in variable:
                given[variable["name"]] = variable["value"]
        expand = lambda text: re.sub(r"\$\((\w+)\)", lambda name: given[name[1]], text)
        options = [word for name, value in given.items() for word in ("-e", f"{name}={value}")]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for mount in container["volumeMounts"]:
            source = self.source(pod, mount["name"], volumes.get(mount["name"]))
            options += ["-v", f"{source}:{mount['mountPath']}" + (":ro" if mount.get("readOnly") else "")]
        return options, [expand(word) for word in (*container["command"], *container.get("args", []))]

    def start_pod(self, pod, template, **given):
        """Starts the containers of a pod that go on."""
        metadata, spec, aliases = template["metadata"], template["spec"], [pod]
        if metadata["labels"]["app.kubernetes.io/component"] == "member":
            aliases = [f"{pod}.kv-cleat-headless.{NAMESPACE}.svc", f"{STATEFULSET}.{NAMESPACE}.svc"]
        options = [word for name in aliases for word in ("--network-alias", name)]
        # It waits for SIGTERM, which is all that it is for.
        self.podman.run("run", "-d", "--name", f"{pod}-pod", *RESTRICTED, "--network", NETWORK, *options,
                        "--entrypoint", "/usr/local/bin/cleat-jobs", IMAGE, "example", "--file=/etc/passwd")
        address = self.address(pod)
        self.kube.replace("api/v1", "pods", {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod, "namespace": NAMESPACE, "labels": metadata["labels"]},
            "spec": {"nodeName": "node", "containers": [{"name": c["name"], "image": c["image"]} for c in spec["containers"]]},
        })
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
        self.kube.patch("api/v1", "pods", f"{pod}/status", {"status": status})
        going_on = [c for c in spec.get("initContainers", []) if c.get("restartPolicy") == "Always"] + spec["containers"]
        for container in going_on:
            self.start(pod, spec, container, POD_IP=address, **given)

    def start(self, pod, spec, container, **given):
        """Starts a container of a pod. The one that the pod is about has its name."""
        name = pod if container is spec["containers"][0] else f"{pod}-{container['name']}"
        options, command = self.options(pod, spec, container, **given)
        self.podman.run("run", "-d", "--name", name, *RESTRICTED, "--network", f"container:{pod}-pod", *options,
                        "--entrypoint", command[0], IMAGE, *command[1:])

    def create(self, member):
        """Starts the pod of a member with its volume."""
        self.start_pod(member, self.statefulset["spec"]["template"])

    def run(self, spec, container, pod="job", **given):
        """Runs a container of a job, or an init container, to its end, and returns what it says."""
        options, command = self.options(pod, spec, container, **given)
        done = self.podman.run("run", "--rm", *RESTRICTED, "--network", NETWORK, *options,
                               "--entrypoint", command[0], IMAGE, *command[1:], limit=180)
        return done.stdout + done.stderr

    def forget(self, pod):
        """Takes a pod and its volumes away."""
        # podman fails where a container ends by itself while it is being stopped.
        for attempt in range(3):
            removed = self.podman.run("rm", "-f", "--depend", "-t", "1", f"{pod}-pod", check=attempt == 2)
            if removed.returncode == 0 or not self.podman.run("ps", "-a", "-q", "--filter", f"name=^{pod}-pod$").stdout.strip():
                break
        self.kube.delete("api/v1", "pods", pod)
        for directory in (self.directory / "data").glob(f"{pod}*"):
            shutil.rmtree(directory)

    def disconnect(self, pod):
        self.podman.run("network", "disconnect", "-f", NETWORK, f"{pod}-pod")

    def connect(self, pod):
        self.podman.run("network", "connect", "--alias", f"{pod}.kv-cleat-headless.{NAMESPACE}.svc", NETWORK, f"{pod}-pod")

    def address(self, pod):
        return self.podman.address(f"{pod}-pod", NETWORK)

    def is_ready(self, member):
        return request(self.address(member), 2381, "/readyz")[0] == 200

    def wait_ready(self, *members):
        for member in members or self.members:
            wait_for(f"{member} is ready", lambda member=member: self.is_ready(member))

    def call(self, member, method, body):
        """The answer of a member to a request, as `kv/put`."""
        status, answer = request(self.address(member), 2379, f"/v3/{method}", body, self.trust())
        if status != 200:
            raise AssertionError(f"{method}: {status} {answer}")
        return json.loads(answer)

    def ids(self):
        """The ids of the members by their names."""
        found = self.call(self.leader(), "cluster/member/list", {})["members"]
        return {member.get("name", ""): member["ID"] for member in found}

    def leader(self):
        def find():
            for member in self.members:
                if b"etcd_server_is_leader 1" in request(self.address(member), 2381, "/metrics")[1]:
                    return member
        return wait_for("a leader", find)

    def wait_for_event(self, reason, *words):
        """Until the agent has published an Event."""
        def find():
            events = self.kube.list("apis/events.k8s.io/v1", "events")
            return any(event["reason"] == reason and all(word in event["note"] for word in words) for event in events)
        wait_for(f"the Event {reason} {' '.join(words)}", find)

    def roles(self):
        """How many pods have which role."""
        pods = self.kube.list("api/v1", "pods")
        return sorted(pod["metadata"]["labels"].get("cleat.io/role", "none") for pod in pods)

    def running(self, name):
        return self.podman.inspect(name, "container")["State"]["Running"]

    def logs(self, name):
        done = self.podman.run("logs", name)
        return done.stdout + done.stderr

    def all_logs(self):
        """The ends of the logs of all containers that there are."""
        names = self.podman.run("ps", "-a", "--format", "{{.Names}}").stdout.split()
        return "".join(f"--- {name}\n{self.logs(name)[-2000:]}" for name in names)

    def trust(self):
        return trusting((self.directory / "secret/kv-cleat-client-tls/ca.crt").read_text())

#!/usr/bin/env python3
"""Tests of the image, and of a cluster of containers with the chart's own command lines, certificates and files.

The programs are those that are built already (`target/debug`), on a base of the libraries that they need."""

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import containers
from kube import PROGRAM, ApiServer
from load import Load, request, trusting
from render import NAMESPACE, render

ROOT = Path(__file__).resolve().parents[2]
BUILT = PROGRAM.parent
PROGRAMS = [name for name in ("cleat", "cleatctl", "cleat-discovery", "confd", "cleat-jobs", "metad", "cleat-agent")
            if (BUILT / name).is_file()]
IMAGE = "localhost/cleat:test"
NETWORK = "cleat-test"
USER = "65532:65532"
# What the chart asks of every container.
RESTRICTED = ["--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--user", USER]


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


def base_context(directory):
    """A context for the prebuilt image: the programs, and the libraries that they and the loader need."""
    (directory / "bin").mkdir()
    shutil.copy(ROOT / "docker/passwd", directory)
    libraries = set()
    for name in PROGRAMS:
        shutil.copy(BUILT / name, directory / "bin")
        # Debug information is most of such a program.
        subprocess.run(["strip", directory / "bin" / name], check=True, timeout=120)
        listed = subprocess.run(["ldd", BUILT / name], capture_output=True, text=True, check=True, timeout=60).stdout
        libraries |= set(re.findall(r"(/\S+) \(", listed))
    base = directory / "base"
    for library in libraries:
        target = base / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    (base / "Containerfile").write_text("FROM scratch\nCOPY lib /lib\nCOPY lib64 /lib64\n")
    return base


class Cluster:
    """The members of a rendered release as containers on a network with DNS."""

    def __init__(self, podman, rendered, kube, directory):
        self.podman, self.directory, self.kube = podman, directory, kube
        self.use(rendered)
        for config in rendered.kind("ConfigMap"):
            self.write(f"config/{config['metadata']['name']}", config.get("data", {}))
        for name in ("kv-cleat-client-tls", "kv-cleat-peer-tls"):
            self.write(f"secret/{name}", kube.secret(NAMESPACE, name))

    def use(self, rendered):
        """Takes what this rendering says of members."""
        self.rendered = rendered
        spec = rendered.kind("StatefulSet")[0]["spec"]
        self.spec = spec["template"]["spec"]
        self.members = [f"kv-cleat-{ordinal}" for ordinal in range(spec["replicas"])]

    def write(self, name, texts):
        """Files of a Secret or ConfigMap, each exchanged at once, as the kubelet does it."""
        directory = self.directory / name
        directory.mkdir(parents=True, exist_ok=True)
        for file, text in sorted(texts.items(), reverse=True):
            new = directory / f".{file}"
            new.write_text(text)
            new.chmod(0o440)
            shutil.chown(new, group=65532)
            new.rename(directory / file)

    def source(self, volume, data):
        """Where a volume of a pod is on this machine."""
        if volume is None:
            return data
        for kind, key in (("config", "configMap"), ("secret", "secret")):
            if key in volume:
                return self.directory / kind / (volume[key].get("name") or volume[key]["secretName"])
        return self.volume("backup")

    def volume(self, name):
        """A directory that the containers' user may write to."""
        directory = self.directory / "data" / name
        directory.mkdir(parents=True, exist_ok=True)
        shutil.chown(directory, 65532, 65532)
        return directory

    def options(self, spec, container, data=None, **given):
        """Environment and volumes of a container, and its command line."""
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
            source = self.source(volumes.get(mount["name"]), data)
            options += ["-v", f"{source}:{mount['mountPath']}" + (":ro" if mount.get("readOnly") else "")]
        return options, [expand(word) for word in (*container["command"], *container.get("args", []))]

    def create(self, member, network=NETWORK):
        """Starts a member with its volume, by the command line of its pod."""
        given = {"POD_NAME": member, "POD_NAMESPACE": NAMESPACE}
        options, command = self.options(self.spec, self.spec["containers"][0], self.volume(member), **given)
        names = [f"{member}.kv-cleat-headless.{NAMESPACE}.svc", f"kv-cleat.{NAMESPACE}.svc"]
        options += [word for name in names for word in ("--network-alias", name)]
        self.podman.run("run", "-d", "--name", member, *RESTRICTED, "--network", network, *options,
                        "--entrypoint", command[0], IMAGE, *command[1:])

    def run(self, spec, container, data=None, **given):
        """Runs a container of a job to its end, and returns what it says."""
        options, command = self.options(spec, container, data, **given)
        done = self.podman.run("run", "--rm", *RESTRICTED, "--network", NETWORK, *options,
                               "--entrypoint", command[0], IMAGE, *command[1:], limit=180)
        return done.stdout + done.stderr

    def forget(self, member):
        """Takes a member and its volume away."""
        self.podman.run("rm", "-f", "-t", "1", member)
        shutil.rmtree(self.directory / "data" / member)

    def address(self, member):
        return self.podman.address(member, NETWORK)

    def is_ready(self, member):
        return request(self.address(member), 2381, "/readyz")[0] == 200

    def wait_ready(self, *members):
        for member in members or self.members:
            try:
                wait_for(f"{member} is ready", lambda member=member: self.is_ready(member))
            except AssertionError as error:
                logs = "".join(f"--- {name}\n{self.logs(name)[-3000:]}" for name in self.members)
                raise AssertionError(f"{error}\n{logs}") from error

    def call(self, member, method, body):
        """The answer of a member to a request about members."""
        status, answer = request(self.address(member), 2379, f"/v3/cluster/{method}", body, load_trust(self))
        if status != 200:
            raise AssertionError(f"{method}: {status} {answer}")
        return json.loads(answer)

    def leader(self):
        def find():
            for member in self.members:
                if b"etcd_server_is_leader 1" in request(self.address(member), 2381, "/metrics")[1]:
                    return member
        return wait_for("a leader", find)

    def running(self, member):
        return self.podman.inspect(member, "container")["State"]["Running"]

    def logs(self, member):
        done = self.podman.run("logs", member)
        return done.stdout + done.stderr


class Image(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.podman = containers.Podman()
        cls.addClassCleanup(cls.podman.close)
        cls.directory = Path(tempfile.mkdtemp(prefix="cleat-cluster-"))
        cls.addClassCleanup(shutil.rmtree, cls.directory, ignore_errors=True)
        # Another user reads what is mounted from it.
        cls.directory.chmod(0o755)
        context = cls.directory / "context"
        context.mkdir()
        base = base_context(context)
        cls.podman.build("localhost/base:test", base / "Containerfile", base)
        cls.podman.build(IMAGE, ROOT / "docker/Dockerfile.prebuilt", context, BASE="localhost/base:test", VERSION="0.1.0")

    def test_the_image_says_what_it_is_and_has_no_shell(self):
        config = self.podman.inspect(IMAGE)["Config"]
        self.assertEqual(config["User"], USER)
        self.assertEqual(config["Labels"]["org.opencontainers.image.version"], "0.1.0")
        self.assertEqual(config["Labels"]["org.opencontainers.image.licenses"], "Apache-2.0")
        self.assertNotIn("Healthcheck", config)
        for shell in ("/bin/sh", "/bin/bash", "/usr/bin/env"):
            done = self.podman.run("run", "--rm", "--network", "none", "--entrypoint", shell, IMAGE, "-c", "true", check=False)
            self.assertNotEqual(done.returncode, 0, shell)

    def test_every_program_runs_without_rights(self):
        self.assertIn("cleat", PROGRAMS)
        for program in PROGRAMS:
            done = self.podman.run("run", "--rm", *RESTRICTED, "--network", "none", "--entrypoint", f"/usr/local/bin/{program}",
                                   IMAGE, "--help")
            self.assertIn(program, done.stdout + done.stderr)

    def test_the_dockerfiles_agree(self):
        """What the image from source has, the one from prebuilt programs has too."""
        parts = []
        for name in ("Dockerfile", "Dockerfile.prebuilt"):
            text = (ROOT / "docker" / name).read_text().split("\nFROM ")[-1]
            parts.append([line for line in text.splitlines()[1:] if not line.startswith("COPY")])
        self.assertEqual(*parts)

    def test_a_cluster_of_the_chart_survives_faults_under_load(self):
        rendered = render({"backup": {"enabled": True}})
        kube = ApiServer(33)
        self.addCleanup(kube.close)
        self.make_certificates(rendered, kube)
        self.podman.network(NETWORK)
        cluster = Cluster(self.podman, rendered, kube, self.directory)
        # One alone: the names of the others are not known yet.
        cluster.create(cluster.members[0])
        wait_for("the first member waits for the others", lambda: "cannot reach a member" in cluster.logs(cluster.members[0]))
        self.assertTrue(cluster.running(cluster.members[0]))
        for member in cluster.members[1:]:
            cluster.create(member)
        cluster.wait_ready()
        authority = kube.secret(NAMESPACE, "kv-cleat-client-tls")["ca.crt"]
        load = Load(lambda: [cluster.address(member) for member in cluster.members], authority)
        self.addCleanup(load.stop)
        load.start()
        for name in ("helm_test", "rolling_restart", "kill", "pause", "disconnect", "certificates", "volume_loss"):
            with self.subTest(name):
                began = time.monotonic()
                load.wait_for_writes(20)
                getattr(self, name)(cluster)
                cluster.wait_ready()
                load.wait_for_writes(20)
                print(f"{name}: {time.monotonic() - began:.1f} s, {load.acknowledged()} writes so far")
        self.nothing_is_lost(cluster, load)
        self.back_up_and_restore(cluster, load)
        self.require_users(cluster)

    def make_certificates(self, rendered, kube, *more):
        """Runs the chart's own job, with another API server than that of a pod."""
        [job] = [job for job in rendered.kind("Job") if "certificates" in job["metadata"]["name"]]
        program, *arguments = job["spec"]["template"]["spec"]["containers"][0]["command"]
        arguments = [argument.replace("$(POD_NAMESPACE)", NAMESPACE) for argument in arguments]
        given = [argument for argument in arguments if argument.split("=")[0] not in {word.split("=")[0] for word in more}]
        command = [BUILT / Path(program).name, *given, "--api-server", kube.url, *more]
        for said in ("written", "valid until")[: 1 if more else 2]:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(f"kv-cleat-peer-tls: {said}", done.stdout)

    def helm_test(self, cluster):
        [pod] = [pod for pod in cluster.rendered.kind("Pod") if pod["metadata"]["name"] == "kv-cleat-test"]
        said = cluster.run(pod["spec"], pod["spec"]["containers"][0])
        self.assertIn("ok: put, get, watch, transaction, lease, delete", said)
        self.assertEqual(said.count("/readyz"), 3)

    def certificates(self, cluster):
        """All certificates are renewed, and members show the new ones without a restart."""
        def shown(member):
            with socket.create_connection((cluster.address(member), 2379), timeout=10) as plain:
                with load_trust(cluster).wrap_socket(plain, server_hostname="localhost") as secure:
                    return secure.getpeercert(binary_form=True)
        before = {member: shown(member) for member in cluster.members}
        self.make_certificates(cluster.rendered, cluster.kube, "--renew-before-days=91", "--days=90")
        for name in ("kv-cleat-client-tls", "kv-cleat-peer-tls"):
            cluster.write(f"secret/{name}", cluster.kube.secret(NAMESPACE, name))
        for member in cluster.members:
            wait_for(f"{member} shows its new certificate", lambda member=member: shown(member) != before[member])

    def rolling_restart(self, cluster):
        for member in reversed(cluster.members):
            began = time.monotonic()
            self.podman.run("stop", "-t", "60", member)
            took = time.monotonic() - began
            state = self.podman.inspect(member, "container")["State"]
            self.assertEqual(state["ExitCode"], 0, cluster.logs(member)[-2000:])
            print(f"SIGTERM to the end of {member}: {took:.2f} s with podman's own time")
            self.podman.run("start", member)
            cluster.wait_ready(member)

    def kill(self, cluster):
        leader = cluster.leader()
        self.podman.run("kill", "-s", "KILL", leader)
        self.podman.run("start", leader)

    def pause(self, cluster):
        leader = cluster.leader()
        self.podman.run("pause", leader)
        time.sleep(4)
        self.podman.run("unpause", leader)

    def disconnect(self, cluster):
        leader = cluster.leader()
        self.podman.run("network", "disconnect", "-f", NETWORK, leader)
        time.sleep(4)
        self.podman.run("network", "connect", "--alias", f"{leader}.kv-cleat-headless.{NAMESPACE}.svc", NETWORK, leader)

    def volume_loss(self, cluster):
        """The member refuses its old id with an empty volume, and comes back as a new one."""
        lost = next(member for member in cluster.members if member != cluster.leader())
        cluster.forget(lost)
        cluster.create(lost)
        wait_for("the member refuses", lambda: not cluster.running(lost))
        self.assertIn("has already been bootstrapped", cluster.logs(lost))
        cluster.forget(lost)
        self.replace(cluster, lost)

    def replace(self, cluster, lost):
        other = next(member for member in cluster.members if member != lost)
        [old] = [m for m in cluster.call(other, "member/list", {})["members"] if m.get("name") == lost]
        cluster.call(other, "member/remove", {"ID": old["ID"]})
        url = f"https://{lost}.kv-cleat-headless.{NAMESPACE}.svc:2380"
        cluster.call(other, "member/add", {"peerURLs": [url]})
        # This member's own file, since only it begins anew.
        file = cluster.directory / "config/kv-cleat/cleat.yaml"
        before = file.read_text()
        file.write_text(before.replace("initial-cluster-state: new", "initial-cluster-state: existing"))
        cluster.create(lost)
        cluster.wait_ready(lost)

    def nothing_is_lost(self, cluster, load):
        """Stops the load, and looks for what was acknowledged at every member."""
        load.stop()
        acknowledged = load.written()
        self.assertGreater(len(acknowledged), 100)
        for member in cluster.members:
            found = load.read(cluster.address(member))
            lost = {key: value for key, value in acknowledged.items() if found.get(key) != value}
            self.assertEqual(lost, {}, f"{member} lacks what was acknowledged")
        print(f"{len(acknowledged)} acknowledged writes are at every member")

    def back_up_and_restore(self, cluster, load):
        """The job of the backup, and then a new release that begins with what it stored."""
        spec = cluster.rendered.kind("CronJob", "kv-cleat-backup")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        for container in (*spec["initContainers"], *spec["containers"]):
            said = cluster.run(spec, container, JOB_NAME="kv-cleat-backup-1")
        self.assertIn("stored ", said)
        for member in cluster.members:
            cluster.forget(member)
        cluster.use(render({"replicaCount": 1, "restore": {"enabled": True}, "backup": {"volume": {"existingClaim": "b"}}}))
        [member], [restore] = cluster.members, cluster.spec["initContainers"]
        given = {"POD_NAME": member, "POD_NAMESPACE": NAMESPACE}
        self.assertIn("restored latest", cluster.run(cluster.spec, restore, cluster.volume(member), **given))
        self.assertIn("nothing is restored", cluster.run(cluster.spec, restore, cluster.volume(member), **given))
        cluster.create(member)
        cluster.wait_ready()
        found = load.read(cluster.address(member))
        self.assertEqual({key: found.get(key) for key in load.written()}, load.written())
        print(f"{len(found)} keys are in the restored release")


    def require_users(self, cluster):
        """The job that makes root, which may run again; then the helm test's pod signs in, and nobody else does."""
        rendered = render({"auth": {"enabled": True}, "replicaCount": 1})
        cluster.use(rendered)
        [job] = [job for job in rendered.kind("Job") if "-auth-" in job["metadata"]["name"]]
        spec = job["spec"]["template"]["spec"]
        password = "a password of 32 characters, say"
        for says in ("users are required from now on", "root can sign in"):
            self.assertIn(says, cluster.run(spec, spec["containers"][0], ETCDCTL_PASSWORD=password))
        with self.assertRaisesRegex(AssertionError, "root cannot sign in"):
            cluster.run(spec, spec["containers"][0], ETCDCTL_PASSWORD="another")
        status, _ = request(cluster.address("kv-cleat-0"), 2379, "/v3/kv/range", {"key": "YQ=="}, load_trust(cluster))
        self.assertNotEqual(status, 200)
        [pod] = [pod for pod in rendered.kind("Pod") if pod["metadata"]["name"] == "kv-cleat-test"]
        said = cluster.run(pod["spec"], pod["spec"]["containers"][0], ETCDCTL_PASSWORD=password)
        self.assertIn("ok: put, get, watch, transaction, lease, delete", said)


def load_trust(cluster):
    return trusting((cluster.directory / "secret/kv-cleat-client-tls/ca.crt").read_text())


def main():
    reason = containers.missing()
    if reason:
        print(f"SKIPPED: the tests of the image: {reason}")
        print("image: 0 passed, 0 failed, 1 skipped")
        return 0
    outcome = unittest.TextTestRunner(verbosity=1).run(unittest.defaultTestLoader.loadTestsFromTestCase(Image))
    failed = len({str(test).split(" [")[0].split(" (")[0] for test, _ in outcome.failures + outcome.errors})
    print(f"image: {outcome.testsRun - min(failed, outcome.testsRun)} passed, {failed} failed, {len(outcome.skipped)} skipped")
    return 1 if failed or outcome.testsRun == 0 else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Tests of the image, and of a cluster of containers with the chart's own command lines, certificates and files.

The programs are those that are built already (`target/debug`), on a base of the libraries that they need. With
CLEAT_PROGRAMS they are in the directory of that name, as of docker/build, and their sizes are looked at. Arguments are parts
of the names of tests."""

import atexit
import concurrent.futures
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import yaml

import containers
import policy
import queries
import s3
from cluster import IMAGE, KUBECONFIG, NAMESPACE, RESTRICTED, USER, Cluster, bind, wait_for
from kube import PROGRAM, ApiServer
from load import Load, encoded, request
from render import CHART, render

ROOT = Path(__file__).resolve().parents[2]
# Without CLEAT_PROGRAMS not what is released: neither optimised nor static.
RELEASED = os.environ.get("CLEAT_PROGRAMS")
BUILT = Path(RELEASED or PROGRAM.parent)
# What an image has, as the one from source is built: files, and programs with the file that each is in.
FILES = re.search(r"for file in ([a-z -]+);", (ROOT / "docker/build").read_text()).group(1).split()
PROGRAMS = {name: file for names, file in re.findall(r"for program in ([a-z -]+); do\n +ln -sf ([a-z-]+) ", (ROOT / "docker/links").read_text())
            for name in names.split()}
# 40 MB with the certificates, which the image from source has besides.
SIZE_MAX = 39_700_000
# Most of it is code, which all programs of a node share.
SIDECAR_KIB_MAX = 10 * 1024
# Exit code of all programs but cleatctl for a command line that they cannot read.
USAGE = 2
# Members that begin as the chart has them by default, and whose agents do not wait as long as for people.
AGENT = {"extraArgs": [f"--kubeconfig={KUBECONFIG}", "--interval-seconds=1", "--member-gone-seconds=2"]}


def base_context(directory):
    """A context for the prebuilt image: the programs, and the libraries that they and the loader need, if any."""
    programs = directory / "bin"
    programs.mkdir()
    shutil.copy(ROOT / "docker/passwd", directory)
    base = directory / "base"
    needs = False
    for file in FILES:
        shutil.copy(BUILT / file, programs)
        # Debug information is most of such a program.
        subprocess.run(["strip", programs / file], check=True, timeout=120)
        needs |= copy_libraries(BUILT / file, base)
    subprocess.run([ROOT / "docker/links", programs], check=True, timeout=60)
    if not needs:
        return None
    (base / "Containerfile").write_text("FROM scratch\nCOPY lib /lib\nCOPY lib64 /lib64\n")
    return base


def copy_libraries(program, base):
    """Puts what a program and the loader need below `base`, and says whether that is anything."""
    # A static program needs nothing, which ldd calls an error.
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, timeout=60).stdout
    libraries = re.findall(r"(/\S+) \(", listed)
    for library in libraries:
        target = base / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)
    return bool(libraries)


# What the image from source is built with, but for a cargo that has built files of some size already.
TOOLS = {
    "apt-get": "mkdir -p /etc/ssl/certs; echo certificates >/etc/ssl/certs/ca-certificates.crt",
    "rustup": "true",
    "cargo": """case "$*" in "rustc --profile "*" --locked --target "*-unknown-linux-musl" -p cleat-programs --bin "*" -- "*) ;; *) exit 1 ;; esac
grep -q "^\\[profile.$3" Cargo.toml || exit 1
test -f Cargo.lock && test -f programs/src/main.rs && test ! -e target || exit 1
mkdir -p "$CARGO_TARGET_DIR/$6/$3" && head -c 1000 /dev/zero >"$CARGO_TARGET_DIR/$6/$3/${10}"
""",
}


def build_base(directory):
    """The image that the one from source is built on, from programs of this machine and `TOOLS`."""
    programs = directory / "bin"
    programs.mkdir(parents=True)
    for name in ("sh", "uname", "mkdir", "cp", "ln", "wc", "dirname", "head", "grep"):
        shutil.copy(shutil.which(name), programs / name)
        copy_libraries(shutil.which(name), directory)
    for name, script in TOOLS.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    (directory / "Containerfile").write_text("FROM scratch\nCOPY bin /bin\nCOPY lib /lib\nCOPY lib64 /lib64\nENV PATH=/bin\n")
    return directory


class Image(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = Path(tempfile.mkdtemp(prefix="cleat-cluster-"))
        # As what runs in containers, it goes also when a signal ends the tests: after them, who have it mounted. The last
        # that is registered is the first that is called.
        atexit.register(shutil.rmtree, cls.directory, ignore_errors=True)
        cls.podman = containers.Podman()
        cls.addClassCleanup(cls.podman.close)
        # Another user reads what is mounted from it.
        cls.directory.chmod(0o755)
        context = cls.directory / "context"
        context.mkdir()
        base, name = base_context(context), "scratch"
        if base:
            name = "localhost/base:test"
            cls.podman.build(name, base / "Containerfile", base)
        cls.podman.build(IMAGE, ROOT / "docker/Dockerfile.prebuilt", context, BASE=name, VERSION="0.1.0")
        cls.programs = context / "bin"
        cls.size = sum(path.stat().st_size for path in context.rglob("*") if path.is_file() and not path.is_symlink())

    def test_the_image_says_what_it_is_and_has_no_shell(self):
        config = self.podman.inspect(IMAGE)["Config"]
        self.assertEqual(config["User"], USER)
        self.assertEqual(config["Labels"]["org.opencontainers.image.version"], "0.1.0")
        self.assertEqual(config["Labels"]["org.opencontainers.image.licenses"], "Apache-2.0")
        self.assertNotIn("Healthcheck", config)
        for shell in ("/bin/sh", "/bin/bash", "/usr/bin/env"):
            done = self.podman.run("run", "--rm", "--network", "none", "--entrypoint", shell, IMAGE, "-c", "true", check=False)
            self.assertNotEqual(done.returncode, 0, shell)

    def test_the_image_has_few_files_by_many_names(self):
        size = self.podman.inspect(IMAGE)["Size"]
        print(f"the image has {size / 1e6:.1f} MB")
        # With a copy for each name it would be larger several times.
        self.assertLess(size, 1.1 * self.size)
        if RELEASED:
            self.assertLessEqual(size, SIZE_MAX)

    def test_every_program_runs_without_rights(self):
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

    def test_the_dockerfile_from_source_is_understood(self):
        """All of it but compilation, which takes minutes, and the network."""
        image = "localhost/from-source:test"
        base = build_base(self.directory / "from-source")
        self.podman.build("docker.io/library/rust:base", base / "Containerfile", base)
        self.podman.build(image, ROOT / "docker/Dockerfile", ROOT, RUST="base", VERSION="0.1.0")
        root = Path(self.podman.run("image", "mount", image).stdout.strip())
        try:
            programs = root / "usr/local/bin"
            self.assertEqual({path.name for path in programs.iterdir()}, {*FILES, *PROGRAMS})
            for name, file in PROGRAMS.items():
                self.assertEqual(os.readlink(programs / name), file)
                self.assertEqual((programs / name).stat().st_size, 1000)
            self.assertEqual((root / "etc/passwd").read_text(), (ROOT / "docker/passwd").read_text())
            self.assertTrue((root / "etc/ssl/certs/ca-certificates.crt").is_file())
            self.assertFalse((root / "source").exists())
        finally:
            self.podman.run("image", "unmount", image, check=False)

    def test_every_rendered_command_line_is_understood(self):
        """Each program takes the words that the chart gives it: it goes on until something is not there."""
        lines = {}
        for path in sorted((CHART / "ci").glob("*-values.yaml")):
            rendered = render(yaml.safe_load(path.read_text()) or {})
            for what, _, _, spec in policy.pod_templates(rendered):
                for container in policy.containers(spec):
                    # The members' own are those of containers below; foreign ones are none of ours.
                    words = [*container.get("command", []), *container.get("args", [])]
                    name = Path(words[0]).name if words else ""
                    if name in PROGRAMS and name not in ("cleat", "cleatctl"):
                        given = {variable["name"]: variable.get("value", "a=b") for variable in container.get("env", [])}
                        lines[(name, *words[1:])] = (f"{path.name}: {what}", given)
        seen = {line[0] for line in lines}
        self.assertEqual(seen, set(PROGRAMS) - {"cleat", "cleatctl", "cleat-discovery"})
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for program in seen:
                code, said = self.attempt((program, "--no-such-flag"), {}, limit=60)
                self.assertEqual(code, USAGE, f"{program}: {said}")
            outcomes = pool.map(self.attempt, lines, [given for _, given in lines.values()])
            for (line, (what, _)), (code, said) in zip(lines.items(), outcomes):
                with self.subTest(what):
                    self.assertNotEqual(code, USAGE, f"{' '.join(line)}: {said}")

    def attempt(self, line, given, limit=3):
        """Exit code and words of a program that reaches nobody; no code if it goes on for so many seconds."""
        scratch = self.directory / "attempt"
        place = lambda word: re.sub(r"(^|=)/(etc|var|backup|scratch)/", rf"\1{scratch}/", word)
        command = ["unshare", "-n", self.programs / line[0], *(place(word) for word in line[1:])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, stdin=subprocess.DEVNULL,
                                  env={"PATH": os.environ["PATH"], **given})
        except subprocess.TimeoutExpired:
            return None, ""
        return done.returncode, done.stderr[-500:]

    def test_a_cluster_of_the_chart_survives_faults_under_load(self):
        rendered = render({"backup": {"enabled": True}, "agent": AGENT})
        kube = ApiServer(33)
        self.addCleanup(kube.close)
        self.make_certificates(rendered, kube)
        cluster = Cluster(self.podman, rendered, kube, self.directory, lambda name, address: self.certify(kube, name, address))
        self.addCleanup(cluster.close)
        # One alone: the names of the others are not known yet.
        cluster.create(cluster.members[0])
        wait_for("the first member waits for the others", lambda: "cannot reach a member" in cluster.logs(cluster.members[0]))
        self.assertTrue(cluster.running(cluster.members[0]))
        for member in cluster.members[1:]:
            cluster.create(member)
        cluster.wait_ready()
        cluster.show_mark()
        authority = kube.secret(NAMESPACE, "kv-cleat-client-tls")["ca.crt"]
        load = Load(lambda: [cluster.address(member) for member in cluster.members], authority)
        self.addCleanup(load.stop)
        load.start()
        for name in ("helm_test", "rolling_restart", "kill", "pause", "disconnect", "certificates", "volume_loss", "scale"):
            with self.subTest(name):
                began = time.monotonic()
                try:
                    load.wait_for_writes(20)
                    getattr(self, name)(cluster, load)
                    cluster.wait_ready()
                    load.wait_for_writes(20)
                except AssertionError as error:
                    raise AssertionError(f"{error}\n{cluster.all_logs()}") from error
                print(f"{name}: {time.monotonic() - began:.1f} s, {load.acknowledged()} writes so far")
        self.nothing_is_lost(cluster, load)
        for name in ("monitoring", "users_story", "back_up_to_s3", "all_volumes_are_lost", "back_up_and_restore", "require_users",
                     "restore_from_s3"):
            with self.subTest(name):
                began = time.monotonic()
                try:
                    getattr(self, name)(cluster, load)
                except AssertionError as error:
                    raise AssertionError(f"{error}\n{cluster.all_logs()}") from error
                print(f"{name}: {time.monotonic() - began:.1f} s")

    def make_certificates(self, rendered, kube, *more):
        """Runs the chart's own job, with another API server than that of a pod."""
        [job] = [job for job in rendered.kind("Job") if "certificates" in job["metadata"]["name"]]
        program, *arguments = job["spec"]["template"]["spec"]["containers"][0]["command"]
        arguments = [argument.replace("$(POD_NAMESPACE)", NAMESPACE) for argument in arguments]
        given = [argument for argument in arguments if argument.split("=")[0] not in {word.split("=")[0] for word in more}]
        command = [self.programs / Path(program).name, *given, "--api-server", kube.url, *more]
        for said in ("written", "valid until")[: 1 if more else 2]:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(f"kv-cleat-peer-tls: {said}", done.stdout)

    def certify(self, kube, name, address):
        """By the chart's own job again, with an authority of its own."""
        command = [self.programs / "cleat-jobs", "certificates", f"--namespace={NAMESPACE}", f"--authority={name}-ca",
                   f"--server={name}={address}", f"--api-server={kube.url}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)

    def helm_test(self, cluster, load):
        [pod] = [pod for pod in cluster.rendered.kind("Pod") if pod["metadata"]["name"] == "kv-cleat-test"]
        said = cluster.run(pod["spec"], pod["spec"]["containers"][0])
        self.assertIn("ok: put, get, watch, transaction, lease, delete", said)
        self.assertEqual(said.count("/readyz"), 3)

    def certificates(self, cluster, load):
        """All certificates are renewed, and members show the new ones without a restart."""
        def shown(member):
            with socket.create_connection((cluster.address(member), 2379), timeout=10) as plain:
                with cluster.trust().wrap_socket(plain, server_hostname="localhost") as secure:
                    return secure.getpeercert(binary_form=True)
        before = {member: shown(member) for member in cluster.members}
        self.make_certificates(cluster.rendered, cluster.kube, "--renew-before-days=91", "--days=90")
        for name in ("kv-cleat-client-tls", "kv-cleat-peer-tls"):
            cluster.write(f"secret/{name}", cluster.kube.secret(NAMESPACE, name))
        for member in cluster.members:
            wait_for(f"{member} shows its new certificate", lambda member=member: shown(member) != before[member])

    def rolling_restart(self, cluster, load):
        for member in reversed(cluster.members):
            began = time.monotonic()
            self.podman.run("stop", "-t", "60", member)
            took = time.monotonic() - began
            state = self.podman.inspect(member, "container")["State"]
            self.assertEqual(state["ExitCode"], 0, cluster.logs(member)[-2000:])
            # Two seconds are promised where nobody else works; sixty are Kubernetes' patience.
            self.assertLess(took, 20)
            print(f"SIGTERM to the end of {member}: {took:.2f} s with podman's own time")
            self.podman.run("start", member)
            cluster.wait_ready(member)

    def kill(self, cluster, load):
        leader = cluster.leader()
        self.podman.run("kill", "-s", "KILL", leader)
        self.podman.run("start", leader)

    def pause(self, cluster, load):
        """The others go on without a leader that does nothing."""
        leader = cluster.leader()
        self.podman.run("pause", leader)
        try:
            load.wait_for_writes(20)
        finally:
            self.podman.run("unpause", leader)

    def disconnect(self, cluster, load):
        """The others go on without a leader that they cannot reach."""
        leader = cluster.leader()
        cluster.disconnect(leader)
        try:
            load.wait_for_writes(20)
        finally:
            cluster.connect(leader)

    def volume_loss(self, cluster, load):
        """A member whose volume is gone takes the place of its former self, and nobody does anything for it."""
        leader, before = cluster.leader(), cluster.ids()
        lost = next(member for member in cluster.members if member != leader)
        cluster.forget(lost)
        cluster.create(lost)
        cluster.wait_ready(lost)
        # It is ready a moment before the others have its name.
        after = wait_for(f"{lost} tells its name", lambda: (now := cluster.ids()) and "" not in now and now)
        self.assertEqual({name for name in after if after[name] != before.get(name)}, {lost})
        self.assertEqual(set(after), set(before))
        cluster.wait_for_event("MemberReplaced", lost)
        wait_for("pods have their roles", lambda: cluster.roles() == ["follower", "follower", "leader"])

    def scale(self, cluster, load):
        """From three to five and back: members join and are removed by themselves."""
        before = cluster.ids()
        cluster.scale(5)
        cluster.wait_ready()
        self.assertEqual(len(cluster.ids()), 5)
        load.wait_for_writes(20)
        cluster.scale(3)
        wait_for("members that were scaled away are removed", lambda: cluster.ids() == before)
        for member in ("kv-cleat-3", "kv-cleat-4"):
            cluster.wait_for_event("MemberRemoved", member)

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

    def monitoring(self, cluster, load):
        """What alerts and dashboard ask for, some member has, with the labels that they look at."""
        pages = [request(cluster.address(member), 2381, "/metrics")[1].decode() for member in cluster.members]
        self.assertEqual(queries.missing(pages), [])

    def users_story(self, cluster, load):
        """A key changes, confd writes the file and tells the application, and metad tells it who it is."""
        rendered = cluster.rendered
        cluster.rendered = render({"backup": {"enabled": True}, "agent": AGENT, "example": {"enabled": True},
                                   # Not what the load wrote as well: what metad serves it has in memory.
                                   "metad": {"prefix": "/app"}})
        put = lambda text: cluster.call(cluster.leader(), "kv/put", {"key": encoded("/app/greeting"), "value": encoded(text)})
        put("hello")
        [deployment] = cluster.rendered.kind("Deployment")
        cluster.start_pod("example", deployment["spec"]["template"], KUBECONFIG=KUBECONFIG)
        wait_for("the application has its file", lambda: "greeting = hello" in cluster.logs("example"))
        put("good evening")
        wait_for("the application read its file again", lambda: "greeting = good evening" in cluster.logs("example"))
        # metad may learn of the pod after the application's first question: the next reload asks again.
        def is_known():
            put(f"it is {time.monotonic()}")
            return re.search(r"this is: .*example", cluster.logs("example"), re.S)
        wait_for("the application knows who it is", is_known)
        self.probe(cluster, "example", deployment["spec"]["template"]["spec"])
        self.memory("example-confd", "example-metad", f"{cluster.leader()}-agent")
        cluster.forget("example")
        cluster.rendered = rendered

    def probe(self, cluster, pod, spec):
        """What a kubelet asks sidecars."""
        for container in spec["initContainers"]:
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
            probes = [container[kind] for kind in ("startupProbe", "livenessProbe", "readinessProbe") if kind in container]
            self.assertTrue(probes, container["name"])
            for probe in probes:
                if "exec" in probe:
                    self.podman.run("exec", f"{pod}-{container['name']}", *probe["exec"]["command"])
                else:
                    get = probe["httpGet"]
                    status, said = request(cluster.address(pod), ports[get["port"]], get["path"])
                    self.assertEqual(status, 200, f"{container['name']} {get['path']}: {said}")

    def memory(self, *containers):
        """What sidecars have resident, which is to be little in every pod that has them."""
        for name in containers:
            pid = self.podman.inspect(name, "container")["State"]["Pid"]
            kib = int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()).group(1))
            print(f"{name} has {kib / 1024:.1f} MiB resident")
            if RELEASED:
                self.assertLessEqual(kib, SIDECAR_KIB_MAX, name)

    def s3_values(self, **more):
        """Backups to the service, which has an authority of its own."""
        place = {"endpoint": self.service.url, "region": s3.REGION, "bucket": s3.BUCKET, "existingSecret": "s3-keys", "caSecret": "s3-ca"}
        return {"agent": AGENT, "backup": {"enabled": True, "destination": "s3", "keepLast": 1, "s3": place}, **more}

    def back_up_to_s3(self, cluster, load):
        """Two snapshots, of which the release wants to keep one. Nobody gets anything who signs with another key."""
        certificate, authority = cluster.outside("s3")
        self.service = s3.Service(bind(cluster.host), certificate)
        self.addCleanup(self.service.close)
        cluster.write("secret/s3-ca", {"ca.crt": authority})
        rendered, cluster.rendered = cluster.rendered, render(self.s3_values())
        spec = cluster.rendered.kind("CronJob", "kv-cleat-backup")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        [snapshot], [store] = spec["initContainers"], spec["containers"]
        cluster.run(spec, snapshot)
        with self.assertRaisesRegex(AssertionError, "403 Forbidden SignatureDoesNotMatch"):
            cluster.run(spec, store, **{**s3.ENVIRONMENT, "AWS_SECRET_ACCESS_KEY": "another"})
        self.assertEqual(self.service.objects, {})
        for _ in range(2):
            cluster.run(spec, snapshot)
            self.assertIn("stored ", cluster.run(spec, store, **s3.ENVIRONMENT))
            # Names have seconds.
            time.sleep(1)
        [name] = self.service.objects
        self.assertTrue(name.startswith(f"{NAMESPACE}/kv-cleat/"), name)
        cluster.rendered = rendered

    def restore_from_s3(self, cluster, load):
        """A release of one member begins with the snapshot that is left."""
        for member in cluster.members:
            cluster.forget(member)
        cluster.use(render(self.s3_values(replicaCount=1, restore={"enabled": True})))
        restore = next(c for c in cluster.spec["initContainers"] if c["name"] == "restore")
        [only] = cluster.members
        self.assertIn("restored latest", cluster.run(cluster.spec, restore, only, **s3.ENVIRONMENT))
        cluster.create(only)
        cluster.wait_ready()
        found = load.read(cluster.address(only))
        self.assertEqual({key: found.get(key) for key in load.written()}, load.written())

    def all_volumes_are_lost(self, cluster, load):
        """The mark forbids an empty cluster. The last snapshot is the way back, so one is taken before."""
        spec = cluster.rendered.kind("CronJob", "kv-cleat-backup")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        for container in (*spec["initContainers"], *spec["containers"]):
            said = cluster.run(spec, container)
        self.assertIn("stored ", said)
        for member in cluster.members:
            cluster.forget(member)
        for member in cluster.members:
            cluster.create(member)
        for member in cluster.members:
            wait_for(f"{member} founds nothing", lambda member=member: "was founded before" in cluster.logs(member))
        for member in cluster.members:
            cluster.forget(member)

    def back_up_and_restore(self, cluster, load):
        """A new release of three members begins with the last snapshot, which only the first one restores."""
        cluster.use(render({"agent": AGENT, "restore": {"enabled": True}, "backup": {"volume": {"existingClaim": "b"}}}))
        restore = next(c for c in cluster.spec["initContainers"] if c["name"] == "restore")
        first, second, late = cluster.members
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(cluster.run, cluster.spec, restore, second)
            self.assertIn("restored latest", cluster.run(cluster.spec, restore, first))
            self.assertIn("nothing is restored", cluster.run(cluster.spec, restore, first))
            cluster.create(first)
            cluster.wait_ready(first)
            self.assertFalse(waiting.done())
            mark = cluster.show_mark()
            self.assertIn(f"{first} has begun the cluster {mark}", waiting.result())
        cluster.create(second)
        cluster.wait_ready(first, second)
        cluster.run(cluster.spec, restore, late)
        cluster.create(late)
        cluster.wait_ready()
        # The first member's volume is lost meanwhile: it joins, and restores nothing.
        cluster.forget(first)
        self.assertIn("nothing is restored", cluster.run(cluster.spec, restore, first))
        cluster.create(first)
        cluster.wait_ready()
        found = load.read(cluster.address(late))
        self.assertEqual({key: found.get(key) for key in load.written()}, load.written())
        print(f"{len(found)} keys are in the restored release")

    def require_users(self, cluster, load):
        """The job that makes root, which may run again; then the helm test's pod signs in, and nobody else does."""
        rendered = cluster.rendered = render({"auth": {"enabled": True}})
        [job] = [job for job in rendered.kind("Job") if "-auth-" in job["metadata"]["name"]]
        spec = job["spec"]["template"]["spec"]
        password = "a password of 32 characters, say"
        for says in ("users are required from now on", "root can sign in"):
            self.assertIn(says, cluster.run(spec, spec["containers"][0], ETCDCTL_PASSWORD=password))
        with self.assertRaisesRegex(AssertionError, "root cannot sign in"):
            cluster.run(spec, spec["containers"][0], ETCDCTL_PASSWORD="another")
        status, _ = request(cluster.address("kv-cleat-0"), 2379, "/v3/kv/range", {"key": "YQ=="}, cluster.trust())
        self.assertNotEqual(status, 200)
        [pod] = [pod for pod in rendered.kind("Pod") if pod["metadata"]["name"] == "kv-cleat-test"]
        said = cluster.run(pod["spec"], pod["spec"]["containers"][0], ETCDCTL_PASSWORD=password)
        self.assertIn("ok: put, get, watch, transaction, lease, delete", said)


def main():
    reason = containers.missing()
    if reason:
        print(f"SKIPPED: the tests of the image: {reason}")
        print("image: 0 passed, 0 failed, 1 skipped")
        return 0
    absent = [name for name in FILES if not (BUILT / name).is_file()]
    if absent:
        raise SystemExit(f"{BUILT} has no {', '.join(absent)}: scripts/check image builds what the image has")
    # What was started is ended at the interpreter's exit.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    loader = unittest.defaultTestLoader
    if sys.argv[1:]:
        loader.testNamePatterns = [f"*{part}*" for part in sys.argv[1:]]
    outcome = unittest.TextTestRunner(verbosity=1).run(loader.loadTestsFromTestCase(Image))
    failed = len({str(test).split(" [")[0].split(" (")[0] for test, _ in outcome.failures + outcome.errors})
    print(f"image: {outcome.testsRun - min(failed, outcome.testsRun)} passed, {failed} failed, {len(outcome.skipped)} skipped")
    return 1 if failed or outcome.testsRun == 0 else 0


if __name__ == "__main__":
    sys.exit(main())

"""Containers with podman, as root, in a storage of their own that is thrown away.

Debian's podman needs two settings in virtual machines without all rights: limits that may be set, and runc with cgroupfs."""

import atexit
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CONFIG = """
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=20000:20000"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
NEEDED = ("podman", "buildah", "runc")


def missing():
    """Why containers cannot be run here, or None."""
    if os.geteuid() != 0:
        return "containers need root"
    absent = [program for program in NEEDED if not shutil.which(program)]
    return f"there is no {' and no '.join(absent)}" if absent else None


class Podman:
    """A storage, and what runs in it until `close`."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="cleat-image-")
        config = Path(self.directory) / "containers.conf"
        config.write_text(CONFIG)
        self.environment = {**os.environ, "CONTAINERS_CONF": str(config), "TMPDIR": self.directory}
        self.networks = []
        # Also when a signal ends the tests.
        atexit.register(self.close)
        # Where the file system cannot have layers on top of each other, every container is a copy of the image.
        for driver in ("overlay", "vfs"):
            self.store = ["--root", f"{self.directory}/root", "--runroot", f"{self.directory}/run", "--storage-driver", driver]
            if self.run("info", check=False).returncode == 0:
                break

    def run(self, *arguments, program="podman", check=True, limit=120):
        """Standard output and error of a command. podman may ignore a signal while it waits for a container, so its end
        is forced."""
        command = ["timeout", "-k", "5", str(limit), program, *self.store, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=limit + 30)
        if check and done.returncode != 0:
            raise AssertionError(f"{program} {' '.join(map(str, arguments))}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def build(self, tag, containerfile, context, **arguments):
        """Builds an image, from nothing that would have to be pulled."""
        options = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        self.run("bud", "--pull-never", "--isolation", "chroot", "-q", "-t", tag, "-f", containerfile, *options, context,
                 program="buildah", limit=300)

    def inspect(self, name, kind="image"):
        return json.loads(self.run(kind, "inspect", name).stdout)[0]

    def network(self, name):
        self.run("network", "create", "--internal", name)
        self.networks.append(name)

    def gateway(self, network):
        return self.inspect(network, "network")["subnets"][0]["gateway"]

    def address(self, container, network):
        return self.inspect(container, "container")["NetworkSettings"]["Networks"][network]["IPAddress"]

    def close(self):
        atexit.unregister(self.close)
        # One may be left whose network another one of them still had.
        for _ in range(3):
            self.run("rm", "-f", "-a", "-t", "1", check=False)
            if not self.run("ps", "-a", "-q", check=False).stdout.strip():
                break
        for network in self.networks:
            self.run("network", "rm", "-f", network, check=False)
        subprocess.run(["umount", "-R", f"{self.directory}/root"], capture_output=True, timeout=30)
        shutil.rmtree(self.directory, ignore_errors=True)

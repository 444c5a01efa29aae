"""Renders the chart with Helm's own engine, against an API server that only exists for that."""

import asyncio
import concurrent.futures
import functools
import json
import re
from pathlib import Path

import helm_sdkpy
import yaml

from kube import NAMESPACE, ApiServer

CHART = Path(__file__).resolve().parent.parent / "cleat"
RELEASE = "kv"
# The minor version of Kubernetes that golden files are of.
USUAL = 33

# What an install makes by chance: the length says what it is.
RANDOM = re.compile(r"^(\s+(?:root-password|token): )[A-Za-z0-9+/]{40,}={0,2}$", re.M)


class Rendered:
    """What an install made: documents, hooks and notes, and the text for a golden file."""

    def __init__(self, result):
        self.notes = result["info"]["notes"]
        hooks = "".join(f"---\n# Source: {hook['path']}\n{hook['manifest']}\n" for hook in result.get("hooks") or [])
        text = result["manifest"].strip() + "\n" + hooks
        self.text = RANDOM.sub(r"\1RANDOM", text).strip() + f"\n---\n# NOTES\n{_commented(self.notes)}"
        self.documents = [document for document in yaml.safe_load_all(text) if document]

    def kind(self, kind, name=None):
        """All documents of a kind, or the one with a name."""
        found = [d for d in self.documents if d["kind"] == kind and name in (None, d["metadata"]["name"])]
        return found if name is None else found[0]


def _commented(text):
    return "".join(f"# {line}".rstrip() + "\n" for line in text.strip().splitlines())


def render(values, release=RELEASE, minor=USUAL):
    """The chart with these values. Raises `helm_sdkpy.InstallError` with Helm's message if it cannot be rendered."""
    outcome = _attempt(json.dumps(values), release, minor)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def install_and_upgrade(values, upgraded):
    """The chart as it is installed, and as an upgrade with other values makes it afterwards."""
    server = ApiServer(USUAL)
    try:
        first = _install(values, RELEASE, server)
        with helm_sdkpy.Configuration(namespace=NAMESPACE, kubeconfig=server.kubeconfig()) as configuration:
            upgrade = helm_sdkpy.Upgrade(configuration)
            second = asyncio.run(upgrade.run(RELEASE, str(CHART), values=upgraded, wait=False, timeout=30))
        return first, Rendered(second)
    finally:
        server.close()


@functools.lru_cache(maxsize=1024)
def _attempt(values, release, minor):
    server = ApiServer(minor)
    try:
        return _install(json.loads(values), release, server)
    except helm_sdkpy.InstallError as refused:
        return refused
    finally:
        server.close()


def _install(values, release, server):
    with helm_sdkpy.Configuration(namespace=NAMESPACE, kubeconfig=server.kubeconfig()) as configuration:
        install = helm_sdkpy.Install(configuration)
        return Rendered(asyncio.run(install.run(release, str(CHART), values=values, wait=False, timeout=30)))


def prepare(wanted):
    """Renders many at a time, for `render` to find: (values, options) of each. Most of the time of an install is waiting."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for values, options in wanted:
            pool.submit(_attempt, json.dumps(values), options.get("release", RELEASE), options.get("minor", USUAL))


def lint():
    """Helm's lint of the chart, as it came."""
    server = ApiServer(USUAL)
    try:
        with helm_sdkpy.Configuration(namespace=NAMESPACE, kubeconfig=server.kubeconfig()) as configuration:
            return asyncio.run(helm_sdkpy.Lint(configuration).run(str(CHART)))
    finally:
        server.close()

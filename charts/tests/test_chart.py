#!/usr/bin/env python3
"""Tests of the chart. `UPDATE=1` rewrites the golden files; arguments are parts of the names of tests."""

import json
import os
import re
import subprocess
import sys
import unittest
from pathlib import Path

import helm_sdkpy
import kubernetes_validate
import yaml

import policy
from render import CHART, install_and_upgrade, lint, prepare, render

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
GOLDEN = HERE / "golden"
FROZEN = HERE / "immutable.yaml"
OLDEST, NEWEST = 27, 37
# Flags of `bootstrap.mode: auto`, which the server does not have yet.
NOT_YET = {"initial-cluster-id-file", "join-token-file"}
# Kinds that Kubernetes has no schema of.
CUSTOM = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "Certificate"}
UPDATE = os.environ.get("UPDATE") == "1"
# The oldest and the newest Kubernetes, the one with a release whose name is as long as Helm lets it be.
OTHER_OPTIONS = [{"minor": OLDEST, "release": "a" + "b" * 52}, {"minor": NEWEST}]

VALUE_SETS = {path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text()) or {}
              for path in sorted((CHART / "ci").glob("*-values.yaml"))}

BAD_VALUES = yaml.safe_load((HERE / "bad_values.yaml").read_text())


def texts(value):
    """All strings in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


class Chart(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        wanted = [(values, options) for values in VALUE_SETS.values() for options in [{}, *OTHER_OPTIONS]]
        prepare(wanted + [(case["values"], {}) for case in BAD_VALUES])

    def check_policy(self, rendered, values):
        offences = [offence for rule in policy.RULES for offence in rule(rendered)]
        offences += policy.references(rendered, set(texts(values)))
        self.assertEqual(offences, [])

    def check_schemas(self, rendered, minor):
        """Against Kubernetes' own schemas, which refuse unknown fields."""
        for document in rendered.documents:
            if document["kind"] not in CUSTOM:
                with self.subTest(kind=document["kind"], minor=minor):
                    kubernetes_validate.validate(document, f"1.{minor}", strict=True)

    def value_set(self, name):
        values = VALUE_SETS[name]
        rendered = render(values)
        golden = GOLDEN / f"{name}.yaml"
        if UPDATE:
            golden.write_text(rendered.text)
        self.assertTrue(golden.is_file(), f"there is no {golden.name}: UPDATE=1 writes it")
        self.assertEqual(golden.read_text(), rendered.text, "UPDATE=1 rewrites the golden files")
        self.check_policy(rendered, values)
        for options in OTHER_OPTIONS:
            other = render(values, **options)
            self.check_policy(other, values)
            self.check_schemas(other, options["minor"])

    def test_lint_finds_nothing(self):
        found = lint()
        # 1 is information, as that an icon is recommended.
        self.assertEqual([m for m in found["Messages"] or [] if m["Severity"] > 1], [])
        self.assertFalse(found["Errors"])

    def test_bad_values_are_refused_by_name(self):
        for case in BAD_VALUES:
            with self.subTest(case["name"]):
                with self.assertRaises(helm_sdkpy.InstallError) as refused:
                    render(case["values"])
                for word in case["says"]:
                    self.assertIn(word, str(refused.exception))

    def test_golden_files_are_those_of_value_sets(self):
        self.assertEqual(sorted(path.stem for path in GOLDEN.iterdir()), sorted(VALUE_SETS))
        self.assertGreaterEqual(len(VALUE_SETS), 12)

    def test_every_value_is_in_the_schema(self):
        schema = json.loads((CHART / "values.schema.json").read_text())
        defaults = yaml.safe_load((CHART / "values.yaml").read_text())

        def compare(path, value, known):
            if not isinstance(value, dict) or "properties" not in known:
                return
            self.assertEqual(sorted(value), sorted(known["properties"]), path) if path not in OPEN else None
            for name, inner in value.items():
                compare(f"{path}.{name}".lstrip("."), inner, known["properties"].get(name, {}))

        OPEN = {"resources", "jobResources", "updateStrategy", "confd.image"}
        OPEN |= {f"{part}.resources" for part in ("agent", "metad")} | {"confd.containerResources"}
        compare("", defaults, schema)

    def test_flags_are_those_of_the_server_and_not_the_charts_twice(self):
        known = set(re.findall(r"^  --([a-z0-9-]+)", (ROOT / "server/src/config/help.txt").read_text(), re.M))
        managed = re.search(r'"cleat.managedFlags" -}}\n(.*)\n', (CHART / "templates/_validate.tpl").read_text()).group(1)
        for name, values in VALUE_SETS.items():
            rendered = render({**values, "config": {}})
            [config] = [d["data"]["cleat.yaml"] for d in rendered.kind("ConfigMap") if "cleat.yaml" in d.get("data", {})]
            flags = set(yaml.safe_load(config))
            self.assertLessEqual(flags, set(managed.split()), name)
            self.assertLessEqual(flags, known | NOT_YET, name)

    def test_what_cannot_be_changed_has_not_changed(self):
        """A StatefulSet's fields that an upgrade cannot change, for every value set."""
        fields = ("serviceName", "selector", "podManagementPolicy", "volumeClaimTemplates")
        now = {}
        for name, values in VALUE_SETS.items():
            spec = render(values).kind("StatefulSet")[0]["spec"]
            now[name] = {field: spec.get(field) for field in fields}
        text = yaml.safe_dump(now)
        if UPDATE and not FROZEN.is_file():
            FROZEN.write_text(text)
        before = yaml.safe_load(FROZEN.read_text())
        for name, was in before.items():
            self.assertEqual(now.get(name), was, f"{name}: an upgrade would be refused by Kubernetes")
        self.assertEqual(sorted(now), sorted(before), f"a new value set: delete {FROZEN.name} and run with UPDATE=1")

    def test_a_changed_number_of_members_restarts_nobody(self):
        three, five = (render({"replicaCount": count}).kind("StatefulSet")[0]["spec"] for count in (3, 5))
        self.assertEqual(three["template"], five["template"])

    def test_a_changed_configuration_restarts_members(self):
        a, b = (render({"config": {"log-level": level}}).kind("StatefulSet")[0]["spec"] for level in ("info", "debug"))
        self.assertNotEqual(a["template"], b["template"])

    def test_secrets_that_are_made_by_chance_stay_at_an_upgrade(self):
        values = {"auth": {"enabled": True}, "bootstrap": {"mode": "auto"}, "agent": {"enabled": True}, "tls": {"source": "none"}}
        first, second = install_and_upgrade(values, {**values, "replicaCount": 5})
        for name in ("kv-cleat-auth", "kv-cleat-join-token"):
            self.assertEqual(first.kind("Secret", name)["data"], second.kind("Secret", name)["data"])

    def test_an_upgrade_restores_nothing(self):
        values = VALUE_SETS["backup-s3-restore"]
        first, second = install_and_upgrade(values, values)
        starts = [[c["name"] for c in r.kind("StatefulSet")[0]["spec"]["template"]["spec"].get("initContainers", [])]
                  for r in (first, second)]
        self.assertEqual(starts, [["restore"], []])

    def test_the_password_is_in_its_secret_alone(self):
        rendered = render({"auth": {"enabled": True, "rootPassword": "hunter2hunter2"}})
        self.assertNotIn("hunter2", rendered.text + rendered.notes)
        self.assertIn("aHVudGVyMmh1bnRlcjI=", rendered.text)

    def test_alerts_and_dashboard_use_metrics_that_there_are(self):
        source = "".join(path.read_text() for path in (ROOT / "server/src").rglob("*.rs"))
        for name in ("alerts.yaml", "dashboard.json"):
            text = (CHART / "files" / name).read_text()
            for metric in sorted(set(re.findall(r"\b(?:etcd|cleat|grpc|process)_[a-z_]+\b", text))):
                if metric in ("grpc_code", "grpc_method", "grpc_type"):
                    continue
                base = re.sub(r"_(bucket|count|sum)$", "", metric)
                self.assertIn(f'"{base}"', source, f"{name}: no member has {metric}")

    def test_alerts_are_documented(self):
        page = (ROOT / "docs/operations/kubernetes.md").read_text()
        for alert in yaml.safe_load((CHART / "files/alerts.yaml").read_text())["alerts"]:
            self.assertIn(f"`{alert['alert']}`", page)

    def test_versions_are_those_of_the_programs(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        workspace = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
        self.assertEqual(chart["appVersion"], workspace)
        images = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
        self.assertEqual([image["image"] for image in images], [f"cleat:{workspace}"])

    def test_the_table_of_values_is_that_of_the_values(self):
        done = subprocess.run([sys.executable, ROOT / "scripts/chart-readme", "--check"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_warnings_say_what_is_at_stake(self):
        for values, words in [
            ({"persistence": {"enabled": False}}, "loses everything"),
            ({"replicaCount": 1}, "each restart is an outage"),
            ({"tls": {"source": "none"}}, "Set tls.source to generated"),
            ({"service": {"type": "LoadBalancer"}}, "auth.enabled is false"),
            ({"podManagementPolicy": "OrderedReady"}, "stays lost"),
        ]:
            self.assertIn(words, render(values).notes)


for _name in VALUE_SETS:
    setattr(Chart, f"test_values_{_name.replace('-', '_')}", lambda self, name=_name: self.value_set(name))


def main():
    loader = unittest.defaultTestLoader
    if sys.argv[1:]:
        loader.testNamePatterns = [f"*{part}*" for part in sys.argv[1:]]
    outcome = unittest.TextTestRunner(verbosity=1).run(loader.loadTestsFromTestCase(Chart))
    failed = len({str(test).split(" [")[0].split(" (")[0] for test, _ in outcome.failures + outcome.errors})
    skipped = len(outcome.skipped)
    print(f"chart: {outcome.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or outcome.testsRun == 0 else 0


if __name__ == "__main__":
    sys.exit(main())

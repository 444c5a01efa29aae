#!/usr/bin/env python3
"""Tests of the chart. `UPDATE=1` rewrites the golden files; arguments are parts of the names of tests."""

import json
import os
import re
import signal
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

    def test_shapes_are_of_values_that_there_are(self):
        defaults = yaml.safe_load((CHART / "values.yaml").read_text())
        for shape in yaml.safe_load((CHART / "files/shapes.yaml").read_text()):
            for path in shape["values"]:
                value = defaults
                for name in path.split("."):
                    # What an image of its own may have is in the schema alone.
                    value = value.get(name, "") if path.startswith("confd.image.") else value[name]
                for text in value if shape.get("each") else [value]:
                    with self.subTest(path):
                        self.assertTrue("pattern" in shape or "refused" in shape)
                        if text or not shape.get("optional"):
                            self.assertRegex(text, shape.get("pattern", ""))
                            self.assertNotRegex(text, shape.get("refused", "$^"))

    def test_flags_are_those_of_the_server_and_not_the_charts_twice(self):
        known = set(re.findall(r"^  --([a-z0-9-]+)", (ROOT / "server/src/config/help.txt").read_text(), re.M))
        managed = re.search(r'"cleat.managedFlags" -}}\n(.*)\n', (CHART / "templates/_validate.tpl").read_text()).group(1)
        for name, values in VALUE_SETS.items():
            rendered = render({**values, "config": {}})
            [config] = [d["data"]["cleat.yaml"] for d in rendered.kind("ConfigMap") if "cleat.yaml" in d.get("data", {})]
            flags = set(yaml.safe_load(config))
            self.assertLessEqual(flags, set(managed.split()), name)
            self.assertLessEqual(flags, known, name)

    def test_what_cannot_be_changed_has_not_changed(self):
        """A StatefulSet's fields that an upgrade cannot change, for every value set."""
        fields = ("serviceName", "selector", "podManagementPolicy", "volumeClaimTemplates")
        now = {}
        for name, values in VALUE_SETS.items():
            spec = render(values).kind("StatefulSet")[0]["spec"]
            now[name] = {field: spec.get(field) for field in fields}
        before = yaml.safe_load(FROZEN.read_text())
        if UPDATE:
            # New value sets are added. What is there was released, and stays as it is.
            before = {**now, **before}
            FROZEN.write_text(yaml.safe_dump(before))
        for name, was in before.items():
            self.assertEqual(now.get(name), was, f"{name}: an upgrade would be refused by Kubernetes")
        self.assertEqual(sorted(now), sorted(before), "a new value set: UPDATE=1 adds it")

    def test_a_changed_number_of_members_restarts_nobody(self):
        three, five = (render({"replicaCount": count}).kind("StatefulSet")[0]["spec"] for count in (3, 5))
        self.assertEqual(three["template"], five["template"])

    def test_a_minority_is_not_left_alone(self):
        five = {"replicaCount": 5}
        install_and_upgrade(five, {"replicaCount": 3})
        with self.assertRaisesRegex(helm_sdkpy.UpgradeError, "replicaCount 1 is no majority of the 5 members"):
            install_and_upgrade(five, {"replicaCount": 1})
        # Members were removed by hand before.
        by_hand = {"bootstrap": {"mode": "new"}, "agent": {"enabled": False}}
        _, one = install_and_upgrade({**five, **by_hand}, {"replicaCount": 1, **by_hand})
        self.assertEqual(one.kind("StatefulSet")[0]["spec"]["replicas"], 1)

    def test_what_cannot_be_changed_is_refused_with_the_way(self):
        """Kubernetes' own message about a StatefulSet names no value, and for another scheme the rollout would stop half way."""
        orphan = "delete statefulset kv-cleat --cascade=orphan"
        single = {"replicaCount": 1}
        refused = [
            ({}, {"persistence": {"size": "16Gi"}}, ["persistence.size is 16Gi", "claims of 8Gi", orphan, "patch pvc data-kv-cleat-0"]),
            ({}, {"persistence": {"storageClass": "fast"}}, ['persistence.storageClass makes claims of class "fast"', orphan]),
            ({}, {"persistence": {"enabled": False}}, ["persistence.enabled", "has [data]", orphan]),
            ({}, {"persistence": {"wal": {"enabled": True}}}, ["persistence.wal.enabled", "[data, wal]", orphan]),
            (single, {**single, "podManagementPolicy": "OrderedReady"}, ["podManagementPolicy is OrderedReady", orphan]),
            ({}, {"tls": {"source": "none"}}, ["tls.source", "speak https", "speaks http ", "new release"]),
            ({"tls": {"peer": {"enabled": False}}}, {"tls": {"peer": {"enabled": True}}}, ["tls.peer.enabled", "speak http ", "speaks https"]),
        ]
        for before, after, says in refused:
            with self.subTest(says[0]):
                with self.assertRaises(helm_sdkpy.UpgradeError) as error:
                    install_and_upgrade(before, after)
                for words in says:
                    self.assertIn(words, str(error.exception))
        # The same in other words, and what Kubernetes lets be changed.
        install_and_upgrade({"persistence": {"size": "1024Mi"}}, {"persistence": {"size": "1Gi"}, "config": {"log-level": "warn"}})

    def test_a_changed_configuration_restarts_members(self):
        a, b = (render({"config": {"log-level": level}}).kind("StatefulSet")[0]["spec"] for level in ("info", "debug"))
        self.assertNotEqual(a["template"], b["template"])

    def test_secrets_that_are_made_by_chance_stay_at_an_upgrade(self):
        values = {"auth": {"enabled": True}, "bootstrap": {"mode": "auto"}, "agent": {"enabled": True}, "tls": {"source": "none"}}
        first, second = install_and_upgrade(values, {**values, "replicaCount": 5})
        for name in ("kv-cleat-auth", "kv-cleat-join-token"):
            self.assertEqual(first.kind("Secret", name)["data"], second.kind("Secret", name)["data"])

    def test_a_job_with_another_template_has_another_name(self):
        """Kubernetes refuses every other change of a Job's template, and with it the upgrade."""
        same = {"auth": {"enabled": True}, "tls": {"client": {"clientCertAuth": True}}}
        changes = [{"image": {"tag": "1"}}, {"image": {"tag": "2"}}, {"jobResources": {"requests": {"cpu": "1"}}},
                   {"jobResources": {"requests": {"cpu": "2"}}}, {"nodeSelector": {"disk": "ssd"}}]
        prepare([({**same, **change}, {}) for change in changes])
        seen = {}
        for change in changes:
            jobs = render({**same, **change}).kind("Job")
            self.assertEqual(len(jobs), 2)
            for job in jobs:
                name, template = job["metadata"]["name"], json.dumps(job["spec"]["template"])
                self.assertEqual(seen.setdefault(name, template), template, f"{name} has two templates")
        self.assertEqual(len(seen), 2 * len(changes))
        first, second = install_and_upgrade({**same, **changes[0]}, {**same, **changes[1]})
        names = [{job["metadata"]["name"] for job in rendered.kind("Job")} for rendered in (first, second)]
        self.assertEqual(names[0] & names[1], set())

    def test_an_image_of_its_own_has_nothing_of_the_charts(self):
        digest = "sha256:" + "0" * 64
        values = {"image": {"digest": digest, "registry": "r.example"}, "example": {"enabled": True},
                  "confd": {"image": {"repository": "shells", "tag": "1", "pullPolicy": "Always"}}}
        spec = render(values).kind("Deployment")[0]["spec"]["template"]["spec"]
        images = {c["name"]: (c["image"], c["imagePullPolicy"]) for c in policy.containers(spec)}
        self.assertEqual(images["confd"], ("r.example/shells:1", "Always"))
        self.assertEqual(images["metad"], (f"r.example/cleat@{digest}", "IfNotPresent"))

    def test_texts_and_numbers_come_through_as_they_are(self):
        text = "  indented first\n{{ getv \"/a\" }}\n\n"
        values = {"confd": {"resources": {"a.toml": text}, "templates": {"a.tmpl": text}},
                  "config": {"experimental-a": 0.5, "experimental-b": 8589934592, "experimental-c": True}}
        rendered = render(values)
        data = rendered.kind("ConfigMap", "kv-cleat-confd")["data"]
        self.assertEqual(data, {"resource.a.toml": text, "template.a.tmpl": text})
        config = yaml.safe_load(rendered.kind("ConfigMap", "kv-cleat")["data"]["cleat.yaml"])
        self.assertEqual([config[f"experimental-{n}"] for n in "abc"], [0.5, 8589934592, True])

    def test_applications_do_not_get_what_is_roots(self):
        """With certificates of clients, or with passwords."""
        root = {"kv-cleat-tool-tls", "kv-cleat-auth"}
        for name in ("self-healing-tls", "example-own"):
            for kind in ("Deployment", "DaemonSet"):
                for document in render(VALUE_SETS[name]).kind(kind):
                    self.assertEqual(root & set(texts(document)), set())

    def test_metad_has_its_password_alone_of_its_secret(self):
        values = {"auth": {"enabled": True}, "metad": {"mode": "daemonset", "auth": {
            "user": "metad", "existingSecret": "passwords", "existingSecretKey": "of-metad"}}}
        spec = render(values).kind("DaemonSet")[0]["spec"]["template"]["spec"]
        [secret] = [volume["secret"] for volume in spec["volumes"] if volume["name"] == "metad-auth"]
        self.assertEqual(secret["items"], [{"key": "of-metad", "path": "of-metad"}])
        self.assertIn("--password_file=/etc/cleat/metad-auth/of-metad", spec["containers"][0]["args"])

    def test_metad_is_not_ended_because_the_store_is_away(self):
        everywhere = render({"metad": {"mode": "daemonset"}})
        node = everywhere.kind("DaemonSet")[0]["spec"]["template"]["spec"]["containers"][0]
        self.assertNotIn("startupProbe", node)
        self.assertEqual(node["readinessProbe"]["httpGet"], {"path": "/_ready", "port": "http"})
        self.assertIn("--ready_path=/_ready", node["args"])
        self.assertTrue(everywhere.kind("Service", "kv-cleat-metad")["spec"]["publishNotReadyAddresses"])
        pod = render({"example": {"enabled": True}}).kind("Deployment")[0]["spec"]["template"]["spec"]
        [sidecar] = [container for container in policy.containers(pod) if container["name"] == "metad"]
        gate = sidecar["startupProbe"]
        self.assertEqual(gate["exec"]["command"], [*"/usr/local/bin/cleat-jobs probe http://127.0.0.1:9611/ready".split()])
        self.assertGreaterEqual(gate["periodSeconds"] * gate["failureThreshold"], 24 * 60 * 60)
        self.assertEqual(node["livenessProbe"]["httpGet"], {"path": "/_health", "port": "http"})
        self.assertIn("--health_path=/_health", node["args"])
        # On the pod's loopback, where no kubelet asks.
        self.assertIn("--listen=127.0.0.1:9680", sidecar["args"])
        self.assertTrue(sidecar["livenessProbe"]["exec"]["command"][-1].endswith("/health"))

    def test_closed_ports_are_open_for_the_charts_own(self):
        [network] = render(VALUE_SETS["network-policy"]).kind("NetworkPolicy")
        own = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "cleat", "app.kubernetes.io/instance": "kv"}}}
        [metrics] = [rule for rule in network["spec"]["ingress"] if {"port": 2381} in rule["ports"]]
        self.assertIn(own, metrics["from"], "helm test asks for readiness there")
        self.assertIn({"ports": [{"port": 443}, {"port": 6443}]}, network["spec"]["egress"], "the agent's API server")

    def test_an_upgrade_restores_nothing(self):
        values = VALUE_SETS["backup-s3-restore"]
        first, second = install_and_upgrade(values, values)
        starts = [[c["name"] for c in r.kind("StatefulSet")[0]["spec"]["template"]["spec"].get("initContainers", [])]
                  for r in (first, second)]
        self.assertEqual(starts, [["restore", "agent"], ["agent"]])

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

    def test_promises_have_tests(self):
        """Every test that the page of promises names is there."""
        sources = [*(ROOT / "tests").rglob("*.rs"), *(ROOT / "agent/src").rglob("*.rs"), *HERE.glob("*.py")]
        code = "".join(path.read_text() for path in sources)
        rows = [line for line in (HERE / "README.md").read_text().splitlines() if line.startswith("| ")][1:]
        self.assertGreaterEqual(len(rows), 13)
        for row in rows:
            named = re.findall("`([a-z_0-9]+)`", row.split("|")[3])
            self.assertTrue(named, row)
            for name in named:
                self.assertRegex(code, rf"(?:fn|def) {name}\b")

    def test_a_rollout_by_hand_is_rendered(self):
        values = {"updateStrategy": {"type": "OnDelete"}}
        rendered = render(values)
        self.assertEqual(rendered.kind("StatefulSet")[0]["spec"]["updateStrategy"], {"type": "OnDelete"})
        for minor in (OLDEST, NEWEST):
            self.check_schemas(render(values, minor=minor), minor)

    def test_one_member_may_be_away(self):
        """Of any number of members, so that a node of a single one can be drained, and no majority goes at once."""
        for count in (1, 3, 5, 7):
            rendered = render({"replicaCount": count})
            [budget] = rendered.kind("PodDisruptionBudget")
            self.assertEqual(budget["spec"]["maxUnavailable"], 1)
            self.assertNotIn("minAvailable", budget["spec"])
        [budget] = render({"pdb": {"maxUnavailable": None, "minAvailable": 2}}).kind("PodDisruptionBudget")
        self.assertEqual((budget["spec"]["minAvailable"], budget["spec"].get("maxUnavailable")), (2, None))

    def test_no_service_gives_the_server_flags(self):
        """Kubernetes gives pods ETCD_PORT and the like where a Service is called etcd."""
        rendered = render(VALUE_SETS["example"], release="etcd")
        self.assertIn("etcd-cleat", [service["metadata"]["name"] for service in rendered.kind("Service")])
        for what, _, _, spec in policy.pod_templates(rendered):
            self.assertIs(spec.get("enableServiceLinks"), False, what)

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

    def test_late_renewals_are_taken_without_their_alert(self):
        late = {"tls": {"generated": {"days": 30, "renewBeforeDays": 14}}}
        early = {"tls": {"source": "certManager", "certManager": {"issuerRef": {"name": "a"}, "renewBefore": "335h61m500ms"}}}
        for values, disabled in ((late, ["CleatCertificateEndsSoon"]), (early, [])):
            rendered = render({**values, "metrics": {"prometheusRule": {"enabled": True, "disabled": disabled}}})
            [rule] = rendered.kind("PrometheusRule")
            names = {alert["alert"] for alert in rule["spec"]["groups"][0]["rules"]}
            self.assertEqual("CleatCertificateEndsSoon" in names, not disabled)
        render(late)

    def test_notes_make_the_users_of_sidecars(self):
        etcdctl = "etcdctl --endpoints https://localhost:2379 --cacert ca.crt"
        auth = {"user": "reader", "existingSecret": "passwords", "existingSecretKey": "of.metad"}
        root = {"enabled": True, "existingSecret": "own", "existingSecretKey": "root.password"}
        values = {"auth": root, "metad": {"mode": "daemonset", "prefix": "/conf", "auth": auth}}
        said = render(values).notes
        self.assertIn("get secret own -o jsonpath='{.data.root\\.password}'", said)
        for line in ("role add metad", "role grant-permission metad read --prefix /conf/",
                     "role grant-permission metad read --prefix /_metad/", "user grant-role reader metad"):
            self.assertIn(f"\n  {etcdctl} {line}\n", said)
        password = "kubectl -n store get secret passwords -o jsonpath='{.data.of\\.metad}' | base64 -d"
        self.assertIn(f"\n  {password} | {etcdctl} user add reader --interactive=false\n", said)
        self.assertNotIn("confd", said)
        # Both are the user of one certificate, which is made once.
        by_certificate = render({"auth": {"enabled": True}, "tls": {"client": {"clientCertAuth": True}}, "example": {"enabled": True}})
        self.assertEqual(by_certificate.notes.count("user add sidecar --no-password"), 1)
        self.assertIn("role grant-permission confd read --prefix /app\n", by_certificate.notes)
        self.assertNotIn("user add", render({"example": {"enabled": True}}).notes)

    def test_warnings_say_what_is_at_stake(self):
        for values, words in [
            ({"persistence": {"enabled": False}}, "loses everything"),
            ({"replicaCount": 1}, "each restart is an outage"),
            ({"tls": {"source": "none"}}, "Set tls.source to generated"),
            ({"service": {"type": "LoadBalancer"}}, "auth.enabled is false"),
            ({"agent": {"enabled": False}}, "members that lose all volumes found an empty one"),
        ]:
            self.assertIn(words, render(values).notes)


for _name in VALUE_SETS:
    setattr(Chart, f"test_values_{_name.replace('-', '_')}", lambda self, name=_name: self.value_set(name))


def main():
    loader = unittest.defaultTestLoader
    if sys.argv[1:]:
        loader.testNamePatterns = [f"*{part}*" for part in sys.argv[1:]]
    # What was started is ended at the interpreter's exit.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcome = unittest.TextTestRunner(verbosity=1).run(loader.loadTestsFromTestCase(Chart))
    failed = len({str(test).split(" [")[0].split(" (")[0] for test, _ in outcome.failures + outcome.errors})
    skipped = len(outcome.skipped)
    print(f"chart: {outcome.testsRun - failed - skipped} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or outcome.testsRun == 0 else 0


if __name__ == "__main__":
    sys.exit(main())

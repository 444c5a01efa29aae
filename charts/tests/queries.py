"""What alerts and dashboard ask Prometheus for, and whether a member says it."""

import json
import re

import yaml

from render import CHART

# Those that Prometheus gives, and what a histogram's series have.
GIVEN = {"job", "namespace", "instance", "pod", "le", "endpoint"}
# Said while there is one, or once there was.
NOT_ALWAYS = {"etcd_debugging_server_alarms", "etcd_network_peer_sent_failures_total", "cleat_audit_lines_lost_total"}
METRIC = re.compile(r"\b((?:etcd|cleat|grpc|process)_[a-z_]+)\{([^}]*)\}")
GROUPED = re.compile(r"\bby ?\(([^)]*)\)")


def expressions():
    """Every query, with the labels that its caption shows."""
    for rule in yaml.safe_load((CHART / "files/alerts.yaml").read_text())["alerts"]:
        shown = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        yield rule["expr"].replace("$SELECTOR", ""), shown

    def panels(value):
        if isinstance(value, dict):
            if "expr" in value:
                yield value["expr"], set(re.findall(r"\{\{(\w+)\}\}", value.get("legendFormat", "")))
            for item in value.values():
                yield from panels(item)
        elif isinstance(value, list):
            for item in value:
                yield from panels(item)

    yield from panels(json.loads((CHART / "files/dashboard.json").read_text()))


def wanted():
    """The labels that each metric must have."""
    found = {}
    for expression, shown in expressions():
        grouped = {label.strip() for labels in GROUPED.findall(expression) for label in labels.split(",")}
        for metric, matchers in METRIC.findall(expression):
            matched = set(re.findall(r"(\w+) ?[=!]", matchers))
            found.setdefault(metric, set()).update((shown | grouped | matched) - GIVEN - {""})
    return found


def missing(pages):
    """Metrics and labels that no member's page has."""
    series = {}
    for line in "\n".join(pages).splitlines():
        if line and not line.startswith("#"):
            name, labels = re.match(r"(\w+)(?:\{(.*)\})? ", line).groups()
            series.setdefault(name, set()).update(re.findall(r'(\w+)="', labels or ""))
    found = []
    for metric, labels in wanted().items():
        if metric not in series and metric not in NOT_ALWAYS:
            found.append(f"no member has {metric}")
        elif labels - series.get(metric, labels):
            found.append(f"{metric} has no {', '.join(sorted(labels - series[metric]))}")
    return found

"""What must hold for whatever the chart renders. Each rule takes a `Rendered` and yields what offends."""

import re

import yaml

WORKLOADS = {"StatefulSet", "Deployment", "DaemonSet", "Job", "CronJob", "Pod"}
# Pods that may hold a token of the Kubernetes API, and the container that has it.
TOKEN_HOLDERS = {"agent", "certificates", "metad"}
# Secrets that the certificate job makes, and the ConfigMap that every namespace has.
MADE_LATER = re.compile(r"-(client-tls|peer-tls|tool-tls|sidecar-tls)$|^kube-root-ca\.crt$")
MAX_NAME = 63
# Behind a StatefulSet's name come "-N" and, in a label, a hash; behind a CronJob's the time.
MAX_NAME_OF = {"StatefulSet": 52, "CronJob": 52}


def pod_templates(rendered):
    """(what it is, metadata, spec) of every pod that there can be."""
    for document in rendered.documents:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind not in WORKLOADS:
            continue
        template = document
        if kind == "CronJob":
            template = document["spec"]["jobTemplate"]["spec"]["template"]
        elif kind != "Pod":
            template = document["spec"]["template"]
        yield f"{kind} {name}", document, template["metadata"], template["spec"]


def containers(spec):
    return [*spec.get("initContainers", []), *spec["containers"]]


def restricted(rendered):
    """Pods fulfil Kubernetes' restricted standard, with a root file system that cannot be written."""
    for what, _, _, spec in pod_templates(rendered):
        pod = spec.get("securityContext", {})
        if not pod.get("runAsNonRoot") or pod.get("runAsUser") in (None, 0):
            yield f"{what}: may run as root"
        if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{what}: no seccomp profile"
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(field):
                yield f"{what}: {field}"
        for volume in spec.get("volumes", []):
            if "hostPath" in volume:
                yield f"{what}: volume {volume['name']} is a path of the node"
        for container in containers(spec):
            own = container.get("securityContext", {})
            where = f"{what}, container {container['name']}"
            if own.get("allowPrivilegeEscalation") is not False:
                yield f"{where}: privileges may grow"
            if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
                yield f"{where}: has capabilities"
            if own.get("readOnlyRootFilesystem") is not True:
                yield f"{where}: the root file system can be written"
            if own.get("privileged"):
                yield f"{where}: privileged"
            if any("hostPort" in port for port in container.get("ports", [])):
                yield f"{where}: a port of the node"


def no_tokens_by_default(rendered):
    """No pod gets a token of the Kubernetes API, but for the containers that need one, in a volume of their own."""
    accounts = {d["metadata"]["name"] for d in rendered.kind("ServiceAccount")}
    for document in rendered.kind("ServiceAccount"):
        if document.get("automountServiceAccountToken") is not False:
            yield f"ServiceAccount {document['metadata']['name']}: its token is mounted by default"
    for what, _, _, spec in pod_templates(rendered):
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{what}: the token is mounted by default"
        if spec.get("enableServiceLinks") is not False:
            yield f"{what}: service links would be read as settings"
        if spec.get("serviceAccountName", "default") not in accounts | {"default"}:
            yield f"{what}: there is no ServiceAccount {spec['serviceAccountName']}"
        tokens = {v["name"] for v in spec.get("volumes", [])
                  if any("serviceAccountToken" in source for source in v.get("projected", {}).get("sources", []))}
        for container in containers(spec):
            mounted = tokens & {m["name"] for m in container.get("volumeMounts", [])}
            if mounted and container["name"] not in TOKEN_HOLDERS:
                yield f"{what}, container {container['name']}: holds a token"


def images_and_resources(rendered):
    """Images have a tag or digest that says which; requests and a limit of memory are set."""
    for what, _, _, spec in pod_templates(rendered):
        for container in containers(spec):
            where, image = f"{what}, container {container['name']}", container["image"]
            if "@sha256:" not in image and (":" not in image.split("/")[-1] or image.endswith(":latest")):
                yield f"{where}: image {image} may be any"
            resources = container.get("resources", {})
            if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
                yield f"{where}: resources are not set"


def _matches(selector, labels):
    return bool(selector) and all(labels.get(key) == value for key, value in selector.items())


def selectors(rendered):
    """Selectors name pods that there are, and are those of the first release: they could not be changed."""
    pods = list(pod_templates(rendered))
    frozen = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component"}
    for what, document, metadata, _ in pods:
        if document["kind"] in ("StatefulSet", "Deployment", "DaemonSet"):
            selector = document["spec"]["selector"]["matchLabels"]
            if set(selector) != frozen:
                yield f"{what}: selector {sorted(selector)}"
            if not _matches(selector, metadata["labels"]):
                yield f"{what}: its selector does not match its own pods"
    for service in rendered.kind("Service"):
        what, spec = f"Service {service['metadata']['name']}", service["spec"]
        matching = [pod for _, _, metadata, pod in pods if _matches(spec["selector"], metadata["labels"])]
        if len(matching) != 1:
            yield f"{what}: selects {len(matching)} kinds of pods"
        names = {port["name"] for pod in matching for c in containers(pod) for port in c.get("ports", [])}
        for port in spec["ports"]:
            if port["targetPort"] not in names:
                yield f"{what}: no container has the port {port['targetPort']}"
        is_metad = service["metadata"]["labels"]["app.kubernetes.io/component"] == "metad"
        if (spec.get("clusterIP") == "None" or is_metad) != bool(spec.get("publishNotReadyAddresses")):
            yield f"{what}: members find each other before they are ready, and metad says itself that it is not; clients find neither"
    members = rendered.kind("StatefulSet")[0]
    for budget in rendered.kind("PodDisruptionBudget"):
        if budget["spec"]["selector"] != members["spec"]["selector"]:
            yield f"PodDisruptionBudget {budget['metadata']['name']}: not of the members"
    for policy in rendered.kind("NetworkPolicy"):
        peer = [rule for rule in policy["spec"]["ingress"] if {"port": 2380} in rule.get("ports", [])]
        if [rule.get("from") for rule in peer] != [[{"podSelector": {"matchLabels": members["spec"]["selector"]["matchLabels"]}}]]:
            yield f"NetworkPolicy {policy['metadata']['name']}: the peer port is open to others"


def no_secrets_in_the_open(rendered):
    """Passwords, tokens and keys are in Secrets alone."""
    secrets = re.compile(r"password|secret-access|private key|(?<![a-z]-)token: ", re.I)
    for document in rendered.kind("ConfigMap"):
        found = secrets.search(yaml.safe_dump(document.get("data", {})))
        if found and not document["metadata"]["name"].endswith("-dashboard"):
            yield f"ConfigMap {document['metadata']['name']}: {found.group()}"
    for what, _, _, spec in pod_templates(rendered):
        for container in containers(spec):
            for variable in container.get("env", []):
                if re.search(r"PASSWORD|SECRET|TOKEN", variable["name"]) and "value" in variable:
                    yield f"{what}: {variable['name']} is not from a Secret"


def names(rendered):
    """Names are not too long, nor the same."""
    seen = set()
    for document in rendered.documents:
        kind, name = document["kind"], document["metadata"]["name"]
        limit = MAX_NAME_OF.get(kind, MAX_NAME)
        if len(name) > limit:
            yield f"{kind} {name}: {len(name)} characters, at most {limit}"
        if (kind, name) in seen:
            yield f"{kind} {name}: there are two"
        seen.add((kind, name))


def volumes(rendered):
    """What is mounted is there, and what is there is mounted."""
    for what, document, _, spec in pod_templates(rendered):
        claims = document["spec"].get("volumeClaimTemplates", []) if document["kind"] == "StatefulSet" else []
        there = [v["name"] for v in spec.get("volumes", [])] + [c["metadata"]["name"] for c in claims]
        mounted = {m["name"] for c in containers(spec) for m in c.get("volumeMounts", [])}
        if len(set(there)) != len(there):
            yield f"{what}: two volumes have one name"
        for name in mounted - set(there):
            yield f"{what}: volume {name} is mounted and not there"
        for name in set(there) - mounted:
            yield f"{what}: volume {name} is there and not mounted"
        for container in containers(spec):
            paths = [m["mountPath"] for m in container.get("volumeMounts", [])]
            if len(set(paths)) != len(paths):
                yield f"{what}, container {container['name']}: two mounts at one path"


def references(rendered, given):
    """Secrets, ConfigMaps and claims that pods name are rendered, made by the certificate job, or named by the values."""
    there = {(d["kind"], d["metadata"]["name"]) for d in rendered.documents}

    def missing(what, kind, name):
        if (kind, name) not in there and not MADE_LATER.search(name) and name not in given:
            yield f"{what}: {kind} {name} is nowhere"

    for what, _, _, spec in pod_templates(rendered):
        for volume in spec.get("volumes", []):
            for source in [volume, *volume.get("projected", {}).get("sources", [])]:
                if "secret" in source:
                    yield from missing(what, "Secret", source["secret"].get("secretName") or source["secret"]["name"])
                if "configMap" in source:
                    yield from missing(what, "ConfigMap", source["configMap"]["name"])
                if "persistentVolumeClaim" in source:
                    yield from missing(what, "PersistentVolumeClaim", source["persistentVolumeClaim"]["claimName"])
        for container in containers(spec):
            for variable in container.get("env", []):
                origin = variable.get("valueFrom", {})
                if "secretKeyRef" in origin:
                    yield from missing(what, "Secret", origin["secretKeyRef"]["name"])
                if "configMapKeyRef" in origin:
                    yield from missing(what, "ConfigMap", origin["configMapKeyRef"]["name"])


# What each Role may do, and nothing else.
RIGHTS = {
    "agent": {("", "pods", "list patch"), ("apps", "statefulsets", "get"), ("events.k8s.io", "events", "create"),
              ("", "configmaps", "get patch")},
    "certificates": {("", "secrets", "create"), ("", "secrets", "get update")},
    "metad": {("", "pods", "get list watch"), ("authentication.k8s.io", "tokenreviews", "create")},
}


def rights(rendered):
    """Roles have the rights that are listed here, and only where a Secret has no name yet are they about all of a kind."""
    for role in [*rendered.kind("Role"), *rendered.kind("ClusterRole")]:
        what, component = role["metadata"]["name"], role["metadata"]["labels"]["app.kubernetes.io/component"]
        has = {(group, resource, " ".join(sorted(rule["verbs"])))
               for rule in role["rules"] for group in rule["apiGroups"] for resource in rule["resources"]}
        if has != RIGHTS.get(component):
            yield f"{role['kind']} {what}: {sorted(has)}"
        for rule in role["rules"]:
            named = {"secrets", "configmaps"} & set(rule["resources"])
            if named and rule["verbs"] != ["create"] and not rule.get("resourceNames"):
                yield f"{role['kind']} {what}: may read all {named}"


RULES = [restricted, no_tokens_by_default, images_and_resources, selectors, no_secrets_in_the_open, names, volumes, rights]

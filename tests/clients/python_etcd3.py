"""What users of PyPI's etcd3 do, against HOST PORT; prints PASS. CLIENT_CA, CLIENT_CERT and CLIENT_KEY are files for TLS,
CLIENT_USER and CLIENT_PASSWORD say who asks."""
import os
import sys
import threading

import etcd3


def connect(**changed):
    options = dict(
        ca_cert=os.environ.get("CLIENT_CA"),
        cert_cert=os.environ.get("CLIENT_CERT"),
        cert_key=os.environ.get("CLIENT_KEY"),
        user=os.environ.get("CLIENT_USER"),
        password=os.environ.get("CLIENT_PASSWORD"),
    )
    options.update(changed)
    return etcd3.client(host=sys.argv[1], port=int(sys.argv[2]), timeout=10, **options)


client = connect()

client.put("/py/a", "1")
client.put("/py/b", "2")
assert client.get("/py/a")[0] == b"1"
assert client.get("/py/none") == (None, None)
assert [value for value, _ in client.get_prefix("/py/")] == [b"1", b"2"]
descending = client.get_prefix("/py/", sort_order="descend", sort_target="key")
assert [meta.key for _, meta in descending] == [b"/py/b", b"/py/a"]

assert client.replace("/py/a", "1", "one")
assert not client.replace("/py/a", "1", "two")
assert client.put_if_not_exists("/py/c", "3")
assert not client.put_if_not_exists("/py/c", "4")
succeeded, responses = client.transaction(
    compare=[client.transactions.value("/py/a") == "one", client.transactions.version("/py/b") > 0],
    success=[client.transactions.put("/py/a", "1"), client.transactions.get("/py/b")],
    failure=[client.transactions.delete("/py/a")],
)
assert succeeded and responses[1][0][0] == b"2", responses

events, cancel = client.watch_prefix("/py/watched/")
client.put("/py/watched/x", "1")
client.delete("/py/watched/x")
first, second = next(events), next(events)
cancel()
assert isinstance(first, etcd3.events.PutEvent) and first.value == b"1", first
assert isinstance(second, etcd3.events.DeleteEvent), second

lease = client.lease(60)
client.put("/py/leased", "1", lease=lease)
assert lease.granted_ttl == 60 and 0 < lease.remaining_ttl <= 60
assert lease.keys == [b"/py/leased"]
assert lease.refresh()[0].TTL == 60
lease.revoke()
assert client.get("/py/leased")[0] is None

# Two holders of a lock never hold it together.
held, worst, turns = 0, 0, 0
def work():
    global held, worst, turns
    own = connect()
    for _ in range(5):
        with own.lock("py", ttl=20):
            held += 1
            worst = max(worst, held)
            turns += 1
            held -= 1
threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert (worst, turns) == (1, 15), (worst, turns)

revision = client.get("/py/a")[1].mod_revision
client.compact(revision)
try:
    next(client.watch("/py/a", start_revision=1)[0])
    raise SystemExit("a watch from a compacted revision was accepted")
except etcd3.exceptions.RevisionCompactedError as error:
    assert error.compacted_revision == revision, error

if os.environ.get("CLIENT_USER"):
    # Without a user and a password the name in the certificate counts, which is nobody that may read.
    for who in [dict(password="wrong"), dict(user=None, password=None)]:
        try:
            connect(**who).get("/py/a")
            raise SystemExit(f"the key was shown to {who}")
        except Exception as error:
            text = getattr(error, "details", lambda: str(error))()
            assert "authentication failed" in text or "permission denied" in text, error

assert len(list(client.members)) == 1
assert client.status().version
assert list(client.list_alarms()) == []
client.delete_prefix("/py/")
assert list(client.get_prefix("/py/")) == []
print("PASS")

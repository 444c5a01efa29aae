"""Writes under faults, over the JSON gateway: what was acknowledged must be found afterwards."""

import base64
import http.client
import json
import ssl
import threading
import time

PREFIX = "/load/"
WRITERS = 4
# Writers meet members that are away, and go on.
TIMEOUT = 3


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def trusting(authority):
    """TLS that trusts one authority. Connections go to addresses, certificates are for names: `localhost` is in all."""
    return ssl.create_default_context(cadata=authority)


class _Connection(http.client.HTTPSConnection):
    def connect(self):
        http.client.HTTPConnection.connect(self)
        self.sock = self._context.wrap_socket(self.sock, server_hostname="localhost")


def request(address, port, path, body=None, context=None, timeout=TIMEOUT):
    """Status and body of an answer: GET, or POST with a JSON body."""
    if context:
        connection = _Connection(address, port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), {"Host": "localhost"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


class Load:
    """Writers that each put keys of their own, one after the other, at whichever member answers. `addresses` gives the
    members' addresses now."""

    def __init__(self, addresses, authority):
        self.addresses, self.context = addresses, trusting(authority)
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.done, self.threads, self.known = {}, [], []

    def start(self):
        self.threads = [threading.Thread(target=self._write, args=(n,), daemon=True) for n in range(WRITERS)]
        self.threads.append(threading.Thread(target=self._look, daemon=True))
        for thread in self.threads:
            thread.start()

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(timeout=60)

    def _look(self):
        """Addresses change when containers start again."""
        while not self.stopping.is_set():
            try:
                self.known = [address for address in self.addresses() if address]
            except (OSError, AssertionError, KeyError, IndexError):
                pass
            self.stopping.wait(1)

    def _write(self, writer):
        number = 0
        while not self.stopping.is_set():
            members = self.known
            if not members:
                time.sleep(0.05)
                continue
            key, value = f"{PREFIX}{writer}/{number}", f"{writer}.{number}"
            body = {"key": encoded(key), "value": encoded(value)}
            try:
                status, _ = request(members[(writer + number) % len(members)], 2379, "/v3/kv/put", body, self.context)
            except OSError:
                status = 0
            # An unknown outcome is no promise, and the key is never used again.
            if status == 200:
                with self.lock:
                    self.done[key] = value
            else:
                time.sleep(0.05)
            number += 1

    def acknowledged(self):
        with self.lock:
            return len(self.done)

    def written(self):
        with self.lock:
            return dict(self.done)

    def wait_for_writes(self, count, seconds=90):
        """Until so many more writes were acknowledged."""
        goal, end = self.acknowledged() + count, time.monotonic() + seconds
        while self.acknowledged() < goal:
            if time.monotonic() > end:
                raise AssertionError(f"no {count} writes within {seconds} s")
            time.sleep(0.05)

    def read(self, address):
        """All keys at one member, which it confirms with the leader."""
        body = {"key": encoded(PREFIX), "range_end": encoded("/load0")}
        status, answer = request(address, 2379, "/v3/kv/range", body, self.context, timeout=60)
        if status != 200:
            raise AssertionError(f"{address}: {status} {answer[:200]}")
        decode = lambda text: base64.b64decode(text).decode()
        return {decode(kv["key"]): decode(kv["value"]) for kv in json.loads(answer).get("kvs", [])}

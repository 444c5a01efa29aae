"""A service for objects, as far as snapshots need S3: one bucket, over https, for who signs with the right key."""

import hashlib
import hmac
import re
import ssl
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

BUCKET = "backups"
KEY_ID, SECRET, REGION = "the-id-of-a-key", "the key itself, which is a secret", "eu-test-1"
# What the release gives its jobs, as a Secret has it.
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}


def signature(method, target, headers):
    """The one that AWS's fourth version has for a request, with the time and the headers that it names."""
    day, names = headers["x-amz-date"][:8], re.search("SignedHeaders=([^,]+)", headers["authorization"]).group(1)
    path, _, query = target.partition("?")
    lines = "".join(f"{name}:{headers[name]}\n" for name in names.split(";"))
    asked = "\n".join([method, path, query, lines, names, headers["x-amz-content-sha256"]])
    scope = f"{day}/{REGION}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, hashlib.sha256(asked.encode()).hexdigest()])
    key = f"AWS4{SECRET}".encode()
    for part in (day, REGION, "s3", "aws4_request", text):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return f"AWS4-HMAC-SHA256 Credential={KEY_ID}/{scope}, SignedHeaders={names}, Signature={key.hex()}"


class Service:
    """Serves at a socket that is bound, with a certificate and its key in one file, until `close`."""

    def __init__(self, bound, certificate):
        self.objects, self.lock = {}, threading.Lock()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_PUT(self):
                service.answer(self)

            do_GET = do_HEAD = do_DELETE = do_POST = do_PUT

            def log_message(self, *_):
                pass

        self.url = "https://%s:%d" % bound.getsockname()
        self.server = ThreadingHTTPServer(bound.getsockname(), Handler, bind_and_activate=False)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.server.socket.close()
        # Each connection shakes hands in its own thread.
        self.server.socket = context.wrap_socket(bound, server_side=True, do_handshake_on_connect=False)
        self.server.server_activate()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        length = int(request.headers.get("Content-Length", 0))
        body = request.rfile.read(length)
        headers = {name.lower(): value for name, value in request.headers.items()}
        status, said, more = self.outcome(request.command, request.path, headers, body)
        request.send_response(status)
        for name, value in {"Content-Length": len(said), **more}.items():
            request.send_header(name, str(value))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(said)

    def outcome(self, method, target, headers, body):
        """Status, body and headers of an answer."""
        if not hmac.compare_digest(headers.get("authorization", ""), signature(method, target, headers)):
            return 403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>", {}
        if hashlib.sha256(body).hexdigest() != headers["x-amz-content-sha256"]:
            return 400, b"<Error><Code>XAmzContentSHA256Mismatch</Code></Error>", {}
        place = urllib.parse.urlsplit(target)
        bucket, _, name = urllib.parse.unquote(place.path).lstrip("/").partition("/")
        if bucket != BUCKET:
            return 404, b"<Error><Code>NoSuchBucket</Code></Error>", {}
        with self.lock:
            if method == "PUT":
                self.objects[name] = body
                return 200, b"", {"ETag": '"1"'}
            if method == "DELETE":
                self.objects.pop(name, None)
                return 204, b"", {}
            if not name:
                prefix = urllib.parse.parse_qs(place.query)["prefix"][0]
                keys = "".join(f"<Contents><Key>{escape(key)}</Key></Contents>" for key in sorted(self.objects) if key.startswith(prefix))
                return 200, f"<ListBucketResult>{keys}</ListBucketResult>".encode(), {}
            if name not in self.objects:
                return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
            data = self.objects[name]
        if method == "HEAD":
            return 200, b"", {"Content-Length": len(data)}
        first, last = map(int, headers["range"].removeprefix("bytes=").split("-"))
        return 206, data[first:last + 1], {}

"""An ordinary Python server on the standard library: one process, one port.

It knows nothing of cores or ScaledApp; `python3 server.py` runs it as it is.
"""
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

VERSION = "1.0.0"


class Hello(BaseHTTPRequestHandler):
    # Keep-alive: every answer below has a Content-Length.
    protocol_version = "HTTP/1.1"
    # Head and body are two writes; with Nagle's algorithm the second waits
    # for the client's delayed acknowledgement (40 ms).
    disable_nagle_algorithm = True

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/slow":
            time.sleep(int(parse_qs(url.query).get("ms", ["0"])[0]) / 1000)
        self.answer(200 if url.path in ("/", "/healthz", "/slow") else 404)

    def do_POST(self):
        # http.server does not read chunks; RFC 9110 section 15.5.12.
        if "Transfer-Encoding" in self.headers:
            self.send_error(411)
            return
        # A body is echoed, with its length in bytes.
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.answer(200, length=len(body), body=body.decode(errors="replace"))

    def answer(self, status, **more):
        payload = json.dumps({
            "pid": os.getpid(),
            "instance": os.environ.get("NODE_APP_INSTANCE"),
            "path": urlsplit(self.path).path,
            "version": VERSION,
            **more,
        }, ensure_ascii=False).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        """Logs nothing: a line for each request would hide everything else."""


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(os.environ.get("PORT", "3000"))), Hello).serve_forever()

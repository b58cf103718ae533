"""A server that does what a test tells it to: slowly, wrongly, or not at all."""

from __future__ import annotations

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx


class Server(ThreadingHTTPServer):
    """Serves `body` with `status`, after what is to come `first`, and counts the questions."""

    daemon_threads = True

    def __init__(self, body, context):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.status, self.headers = body, 200, {}
        self.first, self.questions = [], []
        self.drip, self.dripping_headers, self.held = 0.0, False, False
        self.arrived, self.released = threading.Event(), threading.Event()
        self.stopped = threading.Event()
        scheme = "http"
        if context:
            self.socket, scheme = context.wrap_socket(self.socket, server_side=True), "https"
        self.url = f"{scheme}://127.0.0.1:{self.server_port}/versions.json"

    @property
    def asked(self):
        return len(self.questions)

    def answer(self):
        return self.first.pop(0) if self.first else (self.status, self.body)

    def handle_error(self, request, client_address):
        """A client that goes is no news."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.questions.append((self.command, self.path, body))
        self.server.arrived.set()
        if self.server.held:
            self.server.released.wait(60)
        if self.server.dripping_headers:
            self.dripped(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000)
            return
        status, body = self.server.answer()
        self.send_response(status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.server.drip:
            self.dripped(body)
        else:
            self.wfile.write(body)

    def do_PATCH(self):
        self.do_GET()

    def dripped(self, text):
        for one in text:
            self.wfile.write(bytes([one]))
            if self.server.stopped.wait(self.server.drip):
                return

    def log_message(self, *_):
        pass


def only_the_whole_is_limited(monkeypatch):
    """No single step of a question may end it, as one could when everything has stood still."""
    client = httpx.AsyncClient
    monkeypatch.setattr(httpx, "AsyncClient", lambda **how: client(**{**how, "timeout": 60.0}))


@contextlib.contextmanager
def serving(body=b"", context=None):
    """Serve on a free port until the context ends."""
    server = Server(body, context)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        thread.join()
        server.server_close()

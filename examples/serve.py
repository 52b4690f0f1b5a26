"""An inference server of the standard library: `python examples/serve.py FILE [REQUESTS]`.

It shows what a server of your own needs; `lowbit serve FILE` is one that is ready, see docs/serving.md.

One model serves all request threads at once: it is immutable, a call leases its own memory and holds no lock, and the
interpreter's lock is released while it runs. The program starts the server on the loopback, sends requests from eight
threads, prints what came back, and stops.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np

import lowbit

SHAPE = (1, 3, 32, 32)


class Handler(BaseHTTPRequestHandler):
    """POST raw float32 of one image; the answer is raw float32 logits."""

    model: lowbit.Model
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer one request."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            logits = self.model(np.frombuffer(body, np.float32).reshape(SHAPE))
            status, answer = 200, logits.tobytes()
        except ValueError as error:  # lowbit's InputError is one
            status, answer = 400, str(error).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


def ask(port: int, body: bytes) -> tuple[int, bytes]:
    """One request: (status, body of the answer)."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/", body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def main(path: str, requests: str = "200") -> None:
    """Serve, send `requests` of them, compare each answer with the model's own."""
    Handler.model = lowbit.load(path, threads=1)  # the request threads are the parallelism
    images = np.random.default_rng(0).standard_normal((int(requests), *SHAPE), dtype=np.float32)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    start = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda image: ask(server.server_port, image.tobytes()), images))
    seconds = time.perf_counter() - start
    refused, _ = ask(server.server_port, b"\0" * 4)
    server.shutdown()
    server.server_close()
    right = sum(body == Handler.model(image).tobytes() for (_, body), image in zip(answers, images, strict=True))
    print(f"{right} of {len(images)} answers right, {len(images) / seconds:,.0f} requests/s; a bad request: {refused}")


if __name__ == "__main__":
    main(*sys.argv[1:])

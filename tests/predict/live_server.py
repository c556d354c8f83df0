"""A camera on loopback: serves an MPEG transport stream over HTTP, and can drop its connections."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def live_server(stream: Path, *, seconds: float, cut_at: float, refuse: int = 0) -> Iterator[str]:
    """The address. The first connection is dropped at the share `cut_at` of the file, then `refuse`
    requests are turned away, then the file is sent again and again, in real time."""
    data = stream.read_bytes()
    served: list[int] = []

    class Camera(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            number = len(served)
            served.append(1)
            if 0 < number <= refuse:
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            self.end_headers()
            end = int(len(data) * cut_at) if number == 0 else len(data)
            began = time.monotonic()
            with contextlib.suppress(OSError):  # the test has seen enough
                for at in range(0, end, 188 * 8):
                    time.sleep(max(began + seconds * at / len(data) - time.monotonic(), 0))
                    self.wfile.write(data[at : min(at + 188 * 8, end)])

        def log_message(self, format: str, *values: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Camera)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://user:secret@127.0.0.1:{server.server_port}/live.ts"
    finally:
        server.shutdown()
        server.server_close()

"""A reverse proxy in front of an HTTP server, which refuses requests as real proxies do."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Proxy:
    """Listens on a free loopback port while its context lasts.

    Attributes:
        body_limit: limit in bytes for the body of a request; larger ones get 413, as with nginx' client_max_body_size.
        authorization: the header that a request needs; other requests get 401.
    """

    def __init__(self, target: str, body_limit: int | None = None, authorization: str | None = None) -> None:
        self.body_limit, self.authorization = body_limit, authorization
        outer, host = self, urlsplit(target)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def forward(self) -> None:
                body = self._body()
                if outer.authorization and self.headers.get("Authorization") != outer.authorization:
                    self._answer(401, [("WWW-Authenticate", "Basic")], b"<h1>401 Authorization Required</h1>")
                    return
                if outer.body_limit is not None and len(body) > outer.body_limit:
                    self._answer(413, [], b"<h1>413 Request Entity Too Large</h1>")
                    return
                connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=60)
                hop = ("host", "connection", "transfer-encoding", "content-length")
                headers = {key: value for key, value in self.headers.items() if key.lower() not in hop}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                kept = [(key, value) for key, value in answer.getheaders() if key.lower() not in hop]
                self._answer(answer.status, kept, content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

            def _body(self) -> bytes:
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response(status)
                for key, value in headers:
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

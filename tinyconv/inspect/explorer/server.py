"""The explorer's server: this machine's own, one process, and nothing a client sends can break it.

It listens on the loopback interface only. The address has a random token as the first part of its path, so that other
programs and pages cannot guess it; Host and Origin must be ours, so that a page of another site cannot reach it through
a name that it controls (DNS rebinding). No file is opened by a name that a client sends: the page's files are read when
the server starts, and served by exact name. Requests are bounded in size, number and time.
"""

import contextlib
import json
import secrets
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any

from tinyconv.inspect.explorer.requests import Refused, Request

LARGEST_BODY = 8_000_000  # bytes of a request
MOST_CONNECTIONS = 48  # at once
PATIENCE = 20.0  # seconds for a client to send what it began

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self' http://localhost:* http://127.0.0.1:*"
)

Answer = Callable[[Request], Any]  # to a question: something for JSON, or bytes


def page_files() -> dict[str, tuple[str, bytes]]:
    """The page's files by the name a browser asks for, with their types."""
    found = {}
    for file in resources.files("tinyconv.inspect.explorer").joinpath("page").iterdir():
        kind = TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            found["" if file.name == "index.html" else file.name] = f"{kind}; charset=utf-8", file.read_bytes()
    return found


class Server(ThreadingHTTPServer):
    """Serves the page, and answers its questions.

    Args:
        answers: by name, what answers ``POST api/NAME`` with the body as a :class:`Request`.
        port: 0: any that is free.
    """

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, answers: Mapping[str, Answer], port: int = 0) -> None:
        self.answers = dict(answers)
        self.files = page_files()
        self.token = secrets.token_urlsafe(18)
        self._open: set[socket.socket] = set()
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(("127.0.0.1", port), Handler)
        self.port = self.server_address[1]
        self.hosts = {f"127.0.0.1:{self.port}", f"localhost:{self.port}"}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.token}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)  # too many at once
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.discard(request)
            self._places.release()

    def server_close(self) -> None:
        """Stop listening, and end the connections that browsers keep open."""
        super().server_close()
        for request in self._open.copy():
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error of ours; anything else is a bug, and is told."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | TimeoutError | socket.timeout):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "tinyconv"
    sys_version = ""
    timeout = PATIENCE
    server: Server

    def do_GET(self) -> None:
        name = self._name()
        if name is None:
            return
        if name not in self.server.files:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")
            return
        self._send(HTTPStatus.OK, *self.server.files[name])

    def do_POST(self) -> None:
        name = self._name()
        body = None if name is None else self._body()
        if name is None or body is None:
            return
        answer = self.server.answers.get(name.removeprefix("api/")) if name.startswith("api/") else None
        if answer is None:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such question.")
            return
        try:
            found = answer(Request.read(body))
        except Refused as refusal:
            self._refuse(HTTPStatus.BAD_REQUEST, str(refusal))
        except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, f"{error}")
        else:
            if isinstance(found, bytes):
                self._send(HTTPStatus.OK, "application/octet-stream", found)
            else:
                self._send(HTTPStatus.OK, "application/json", as_json(found))

    def _name(self) -> str | None:
        """What is asked for, below the token; None: refused, and the client has been told."""
        if self.headers.get_all("Host", []) not in [[host] for host in self.server.hosts]:
            self._refuse(HTTPStatus.FORBIDDEN, "The explorer answers on this machine only.")
            return None
        origin = self.headers.get("Origin")
        if origin is not None and origin.removeprefix("http://") not in self.server.hosts:
            self._refuse(HTTPStatus.FORBIDDEN, "The explorer answers its own page only.")
            return None
        _, _, rest = self.path.partition("/")
        token, slash, name = rest.partition("/")
        if not slash or not secrets.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode()):
            self._refuse(HTTPStatus.NOT_FOUND, "Open the address that the program printed.")
            return None
        return name

    def _body(self) -> bytes | None:
        """The request's body, or None."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not (length.isascii() and length.isdigit() and len(length) < 12):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "Expected a body with its length.")
            return None
        if int(length) > LARGEST_BODY:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Expected at most {LARGEST_BODY:,} bytes.")
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self._refuse(HTTPStatus.BAD_REQUEST, "The body is shorter than its length says.")
            return None
        return body

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        self.close_connection = True
        self._send(status, "text/plain; charset=utf-8", text.encode("utf-8", "replace"))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses: a request line or headers that are none."""
        self.close_connection = True
        known = code in HTTPStatus._value2member_map_
        status = HTTPStatus(code) if known and code < 500 else HTTPStatus.METHOD_NOT_ALLOWED
        self._send(status, "text/plain; charset=utf-8", b"The request is not understood.")

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        if getattr(self, "request_version", "") == "HTTP/0.9":
            self.request_version = "HTTP/1.0"  # else the status would be left out
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if getattr(self, "command", None) != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal belongs to the user."""


def as_json(value: Any) -> bytes:
    """JSON that a browser reads: what is no finite number becomes its name."""
    return json.dumps(_finite(value), allow_nan=False, separators=(",", ":")).encode()


def framed(header: Mapping[str, Any], arrays: Sequence[bytes]) -> bytes:
    """A JSON header, its length before it, and behind it arrays of float32."""
    text = as_json(header)
    text += b" " * (-(4 + len(text)) % 4)
    return struct.pack("<I", len(text)) + text + b"".join(arrays)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # "nan", "inf", "-inf"
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value

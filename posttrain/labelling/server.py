"""Voting on a local web page: served to this machine alone, to whoever knows the address with its random token.

The page asks nobody else, nothing of a completion is ever markup (the script writes text), and what the browser is
sent names no step. A vote names the pair that it is for, so that a key pressed twice is one vote.
"""

import base64
import hashlib
import json
import secrets
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from posttrain.labelling.ballot import CHOICES, Ballot

HERE = Path(__file__).parent
MOST = 10_000  # bytes of a request; ours have about a hundred
JSON = "application/json"


class Hall(ThreadingHTTPServer):
    """The server of one ballot. `url` is the address to open; `serve_forever` returns when the voter quits."""

    daemon_threads = True

    def __init__(self, ballot: Ballot, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Booth)
        self.ballot, self.lock = ballot, threading.Lock()
        self.token = secrets.token_urlsafe(24)
        self.host = f"127.0.0.1:{self.server_port}"
        self.url = f"http://{self.host}/{self.token}/"
        self.page, self.policy = _page()
        self.failure: OSError | None = None  # why votes cannot be saved any more

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no error."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def _page() -> tuple[bytes, str]:
    """The page with its style and script inside, and the policy that lets nothing else run or load."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("ballot.css", "ballot.js"))
    page = (HERE / "ballot.html").read_text(encoding="utf-8").replace("/*style*/", style).replace("/*script*/", script)
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.encode(), policy


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class _Booth(BaseHTTPRequestHandler):
    """One request: the page, the state of the ballot, or something that the voter does."""

    server: Hall
    timeout = 30

    def do_GET(self) -> None:
        if not self._is_ours():
            return self._answer(404, "text/plain", b"not found\n")
        if self.path.endswith("/"):
            return self._answer(200, "text/html; charset=utf-8", self.server.page)
        with self.server.lock:
            return self._json(_state(self.server.ballot, "", done=False))

    def do_POST(self) -> None:
        origin = self.headers.get("Origin")
        ours = origin == f"http://{self.server.host}" and self.headers.get("Content-Type") == JSON
        act = self._body() if ours and self._is_ours() else None
        if act is None:
            return self._answer(404, "text/plain", b"not found\n")
        try:
            with self.server.lock:
                said = _act(self.server.ballot, act)
                self._json(_state(self.server.ballot, said, done=act.get("do") == "quit"))
        except ConnectionError:
            raise
        except OSError as error:  # a full disk: the command ends and says so
            self.server.failure = error
            self._answer(500, "text/plain", b"the vote could not be saved\n")
        if act.get("do") == "quit" or self.server.failure:
            threading.Thread(target=self.server.shutdown).start()
        return None

    def _is_ours(self) -> bool:
        """The right token, and this host by its number: a foreign name that leads here is refused."""
        known = f"/{self.server.token}/".encode()
        path = self.path.encode("utf-8", "surrogateescape")
        right = secrets.compare_digest(path, known) or secrets.compare_digest(path, known + b"ballot")
        return right and self.headers.get("Host") == self.server.host

    def _body(self) -> dict[str, Any] | None:
        try:
            length = int(self.headers.get("Content-Length", ""))
            found = json.loads(self.rfile.read(length)) if 0 < length <= MOST else None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None

    def _json(self, state: dict[str, Any]) -> None:
        self._answer(200, JSON, json.dumps(state).encode())

    def _answer(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": self.server.policy,
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Connection": "close",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def version_string(self) -> str:
        return "posttrain"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing: the terminal is for people."""


def _act(ballot: Ballot, act: dict[str, Any]) -> str:
    """Do what was asked, if it is about the pair that is shown; gives what is said of it."""
    shown, do = ballot.shown, act.get("do")
    if do == "undo":
        return "Back at the pair before." if ballot.undo() else "There is nothing to undo."
    if shown is None or act.get("pair") != shown.id:
        return "" if do == "quit" else "That pair was dealt with already."
    for choice in CHOICES:
        if do == choice:
            ballot.vote(choice)
            return {"a": "A is better: noted.", "b": "B is better: noted.", "tie": "A tie: noted."}[choice]
    if do == "skip":
        ballot.skip()
        return "Skipped."
    return ""


def _state(ballot: Ballot, said: str, *, done: bool) -> dict[str, Any]:
    """All that the page knows: no step's name is in it."""
    shown = ballot.shown
    return {
        "said": said,
        "over": done,
        "voted": ballot.voted,
        "skipped": ballot.skipped,
        "total": ballot.total,
        "number": len(ballot.done) + 1,
        "pair": None if shown is None else shown._asdict(),
    }

"""A loopback double of the hub: one repository that the real client can resolve and download.

It holds a model, or a data set where its name begins with `datasets/`.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def handler(repo: str, folder: Path, asked: list[str]) -> type[BaseHTTPRequestHandler]:
    files = {path.name: path for path in folder.iterdir() if path.is_file()}

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            asked.append(path)
            name = path.removeprefix(f"/{repo}/resolve/{COMMIT}/").removeprefix(f"/{repo}/resolve/main/")
            if path.startswith(f"/api/{'' if repo.startswith('datasets/') else 'models/'}{repo}"):
                siblings = [{"rfilename": file} for file in files]
                if "/tree/" in path:
                    tree = [{"type": "file", "path": f, "size": p.stat().st_size, "oid": "0"} for f, p in files.items()]
                    return self.send(200, json.dumps(tree).encode(), body, json_type=True)
                info = {"id": repo, "sha": COMMIT, "siblings": siblings, "private": False}
                return self.send(200, json.dumps(info).encode(), body, json_type=True)
            if name in files:
                return self.send(200, files[name].read_bytes(), body)
            missing = "EntryNotFound" if path.startswith(f"/{repo}/") else "RepoNotFound"
            return self.send(404, b"", body, missing=missing)

        def send(self, code: int, data: bytes, body: bool, json_type: bool = False, missing: str | None = None) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            if json_type:
                self.send_header("Content-Type", "application/json")
            else:
                self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
            if missing:
                self.send_header("X-Error-Code", missing)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    return Hub


@contextmanager
def hub(repo: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve `folder` as `repo`; gives the endpoint and the list of paths asked for."""
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(repo, folder, asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()

"""A chat endpoint on loopback that misbehaves as its script says; run as a program it is a server for others.

    python tests/misbehaving_server.py [SECONDS]     # prints its port; every answer takes SECONDS

A script gets each `Call` and gives a `Reply`. The honest answer depends on the request alone, so that a run with
faults must end with the answers of a run without.
"""

import asyncio
import hashlib
import json
import os
import socket
import ssl
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a journal for a test needs no disk; disks are slow


class Call(NamedTuple):
    """A request as it arrived."""

    number: int  # of all calls, from 0
    nth: int  # of calls with this body, from 0
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def prompt(self) -> str:
        """The last message."""
        return str(self.body["messages"][-1]["content"])


class Reply(NamedTuple):
    """What goes back: after `delay` seconds, `sent` bytes of it (all when None), `rate` a second, and then the end."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = {}
    delay: float = 0.0
    sent: int | None = None
    rate: float | None = None  # bytes a second
    end: str = ""  # "": keep open; "stall": say no more; "half-close": end our side; "reset": RST


Script = Callable[[Call], Reply]


def text_for(body: Mapping[str, Any]) -> str:
    """The honest answer to a request."""
    return f"answer {hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:12]}"


def chat(text: str | None, finish_reason: str = "stop", **choice: Any) -> dict[str, Any]:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    return {
        "object": "chat.completion",
        "model": "double-2",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, **choice}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }


def good(call: Call) -> Reply:
    """The honest reply."""
    return Reply(body=json.dumps(chat(text_for(call.body))).encode())


def status(code: int, body: str = "", **headers: str) -> Script:
    """Only this status."""
    return lambda call: Reply(code, body.encode(), {name.replace("_", "-"): value for name, value in headers.items()})


def cut(call: Call) -> Reply:
    """JSON that ends in the middle, with a length to match."""
    body = good(call).body
    return Reply(body=body[: len(body) // 2])


FAULTS: dict[str, Script] = {
    "429": status(429),
    "429, wait 1 s": status(429, Retry_After="1"),
    "500": status(500, "oops"),
    "503": status(503, '{"error": {"message": "overloaded"}}'),
    "stall": lambda call: good(call)._replace(sent=0, end="stall"),
    "stalled body": lambda call: good(call)._replace(sent=80, end="stall"),
    "1 byte/s": lambda call: good(call)._replace(rate=1),
    "half-close": lambda call: good(call)._replace(sent=120, end="half-close"),
    "reset": lambda call: good(call)._replace(sent=120, end="reset"),
    "closed at once": lambda call: good(call)._replace(sent=0, end="half-close"),
    "reset at once": lambda call: good(call)._replace(sent=0, end="reset"),
    "truncated JSON": cut,
    "HTML": lambda call: Reply(body=b"<html><body>Welcome</body></html>", headers={"Content-Type": "text/html"}),
    "NaN": lambda call: Reply(body=json.dumps({**chat("x"), "score": float("nan")}).encode()),
    "no choices": lambda call: Reply(body=json.dumps({**chat("x"), "choices": []}).encode()),
    "half a character": lambda call: Reply(body=json.dumps(chat("\ud800")).encode()),
    "a list": lambda call: Reply(body=b"[1, 2]"),
    "not UTF-8": lambda call: Reply(body=b'{"choices": "\xff"}'),
    "nothing": lambda call: Reply(),
    "1 MB": lambda call: Reply(body=json.dumps(chat("x" * 1_000_000)).encode()),
    "deep": lambda call: Reply(body=b"[" * 100_000),
    "compressed": lambda call: good(call)._replace(headers={"Content-Encoding": "gzip"}),
    "not HTTP": lambda call: Reply(status=-1, body=b"hello\r\n\r\n", end="half-close"),
}


class Server:
    """A running endpoint. `calls` are those that arrived whole, in order."""

    def __init__(self, script: Script, context: ssl.SSLContext | None = None) -> None:
        self.script, self.context, self.calls = script, context, list[Call]()
        self.seen: Counter[str] = Counter()
        self.accepted = self.open = 0  # connections so far, and now
        self.running = self.most = 0  # calls at once, and the most there were
        self.port = 0

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http{'s' if self.context else ''}://127.0.0.1:{self.port}/v1"

    @property
    def prompts(self) -> list[str]:
        """The last message of each call."""
        return [call.prompt for call in self.calls]

    async def serve(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled."""
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, ssl=self.context)
        self.port = server.sockets[0].getsockname()[1]
        ready()
        await asyncio.Event().wait()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.accepted += 1
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while await self._exchange(reader, writer):
                pass
        self.open -= 1
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if first.startswith("GET /quiet "):  # what was asked, once every other connection is closed
            while self.open > 1:
                await asyncio.sleep(0.002)
            return await self._send(writer, Reply(body=json.dumps(self.prompts).encode()))
        if not first.startswith("POST ") or "/v1/chat/completions " not in first:  # a proxy is given a whole address
            return await self._send(writer, status(404, f"no {first}")(Call(0, 0, {}, headers)))
        body = json.loads(content)
        self.seen[content.decode()] += 1
        call = Call(len(self.calls), self.seen[content.decode()] - 1, body, headers)
        self.calls.append(call)
        self.running += 1
        self.most = max(self.most, self.running)
        reply = self.script(call)
        await asyncio.sleep(reply.delay)
        self.running -= 1
        return await self._send(writer, reply)

    async def _send(self, writer: asyncio.StreamWriter, reply: Reply) -> bool:
        """True while the connection is of further use."""
        headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body)), **reply.headers}
        head = f"HTTP/1.1 {reply.status} x\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        data = (b"" if reply.status < 0 else (head + "\r\n").encode()) + reply.body
        data = data[: reply.sent]
        if reply.rate:
            for byte in data:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(1 / reply.rate)
        writer.write(data if not reply.rate else b"")
        await writer.drain()
        if reply.end == "stall":
            await asyncio.sleep(3600)
        if reply.end == "half-close":
            writer.write_eof()
        if reply.end == "reset":
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        return not reply.end


@contextmanager
def serving(script: Script = good, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    """A server in a thread of this process; with TLS where there is a context."""
    server, started = Server(script, context), threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    stop = asyncio.Event()

    async def live() -> None:
        loops.append(asyncio.get_running_loop())
        serving = asyncio.create_task(server.serve(started.set))
        await stop.wait()
        serving.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(live()), daemon=True)
    thread.start()
    started.wait()
    try:
        yield server
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0
    double = Server(lambda call: good(call)._replace(delay=seconds))
    asyncio.run(double.serve(lambda: print(double.port, flush=True)))

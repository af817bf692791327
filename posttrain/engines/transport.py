"""How bytes reach an endpoint: kept connections, replies read whole but never beyond a limit.

Direct connections speak HTTP through h11 over asyncio's streams. httpx2's own transport does the same through a pool
that it searches at every call, locks and wrappers; `python bench/remote.py` shows what that costs at a thousand calls
of 50 ms. Proxies are left to httpx2.
"""

import asyncio
import ssl
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import h11
import httpx2

from posttrain.engines.endpoint import is_loopback
from posttrain.errors import PosttrainError

ERROR_LIMIT = 2**16  # bytes of a reply that is no answer
CHUNK = 2**16


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for this address; none for this machine itself."""
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.hostname or ""):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and urlsplit(proxy).scheme not in ("http", "https"):
        raise PosttrainError(
            f"{url}: the environment names a proxy of another kind (not shown); http:// and https:// are allowed. "
            f"Change {parts.scheme}_proxy or all_proxy, or name the host in no_proxy."
        )
    return proxy


def transport_for(url: str, count: int, limit: int) -> httpx2.AsyncBaseTransport:
    """A transport to this address for `count` calls at once, with replies of at most `limit` bytes."""
    context = httpx2.create_ssl_context() if url.startswith("https:") else None
    proxy = proxy_for(url)
    return Direct(url, context, limit) if proxy is None else Pooled(proxy, context, count, limit)


class Body:
    """The bytes of one reply, bounded: of an answer all of them are needed, of an error the beginning will do."""

    def __init__(self, status: int, headers: httpx2.Headers, limit: int) -> None:
        if headers.get("content-encoding", "identity") != "identity":
            raise httpx2.RemoteProtocolError("the reply is compressed, though that was not asked for")
        self.ok, self.limit, self.content = status == 200, limit if status == 200 else ERROR_LIMIT, bytearray()

    def add(self, data: bytes) -> bool:
        """True while more is wanted."""
        self.content += data
        if self.ok and len(self.content) > self.limit:
            raise httpx2.RemoteProtocolError(f"the reply is longer than {self.limit:,} bytes")
        return len(self.content) <= self.limit


class Connection(NamedTuple):
    """An open connection and where its conversation stands."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    state: h11.Connection


class Direct(httpx2.AsyncBaseTransport):
    """Connections to one host, kept while both sides want to."""

    def __init__(self, url: str, context: ssl.SSLContext | None, limit: int) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
        self.context, self.limit = context, limit
        self.idle: list[Connection] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises httpx2's transport errors, whatever goes wrong."""
        connection = await self._connection()
        state = connection.state
        try:
            response = await self._exchange(connection, request)
            if state.our_state is h11.DONE and state.their_state is h11.DONE:
                state.start_next_cycle()
                self.idle.append(connection)
            return response
        except h11.RemoteProtocolError as error:
            raise httpx2.RemoteProtocolError(str(error)) from error
        except OSError as error:
            raise httpx2.ReadError(f"the connection was lost ({error.strerror or type(error).__name__})") from error
        finally:
            if not self.idle or self.idle[-1] is not connection:
                connection.writer.close()

    async def _connection(self) -> Connection:
        while self.idle:
            kept = self.idle.pop()
            if not kept.reader.at_eof():
                return kept
            kept.writer.close()
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.context)
        except OSError as error:  # refused, unknown host, bad certificate
            raise httpx2.ConnectError(f"no connection ({error.strerror or error})") from error
        return Connection(reader, writer, h11.Connection(h11.CLIENT))

    async def _exchange(self, connection: Connection, request: httpx2.Request) -> httpx2.Response:
        reader, writer, state = connection
        head = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
        parts = (state.send(part) for part in (head, h11.Data(data=request.content), h11.EndOfMessage()))
        writer.write(b"".join(part or b"" for part in parts))
        await writer.drain()
        status, headers, body = 0, httpx2.Headers(), None
        while True:
            event = state.next_event()
            if event is h11.NEED_DATA:
                state.receive_data(await reader.read(CHUNK))
            elif isinstance(event, h11.Response):
                status, headers = event.status_code, httpx2.Headers(list(event.headers))
                body = Body(status, headers, self.limit)
            elif body and (isinstance(event, h11.EndOfMessage) or not body.add(_data(event))):
                return httpx2.Response(status, headers=headers, content=bytes(body.content))

    async def aclose(self) -> None:
        """Close what is kept."""
        for connection in self.idle:
            connection.writer.close()


def _data(event: object) -> bytes:
    return bytes(event.data) if isinstance(event, h11.Data) else b""


class Pooled(httpx2.AsyncBaseTransport):
    """httpx2's own pool of connections, with bounded replies; it knows how to talk to a proxy."""

    def __init__(self, proxy: str | None, context: ssl.SSLContext | None, count: int, limit: int) -> None:
        limits = httpx2.Limits(max_connections=count)
        self.inner = httpx2.AsyncHTTPTransport(verify=context or False, trust_env=False, proxy=proxy, limits=limits)
        self.limit = limit

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises httpx2's transport errors."""
        response = await self.inner.handle_async_request(request)
        try:
            body = Body(response.status_code, response.headers, self.limit)
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            async for chunk in response.stream:
                if not body.add(chunk):
                    break
        finally:
            await response.aclose()
        return httpx2.Response(response.status_code, headers=response.headers, content=bytes(body.content))

    async def aclose(self) -> None:
        """Close every connection."""
        await self.inner.aclose()

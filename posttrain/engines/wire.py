"""One call through the `openai` client, bounded in time and bytes: an answer or a trouble, never an exception.

The client's own retries, redirects and environment are switched off: what is sent is what the recipe says. Each
concurrent call has a connection pool of its own, because one pool searches all its connections at every request.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import openai

from posttrain.engines.endpoint import OPENAI, Answer, Endpoint, is_loopback
from posttrain.engines.reply import Trouble, excerpt, read_answer, read_refusal
from posttrain.errors import PosttrainError

ERROR_LIMIT = 2**16


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


class Pools(httpx2.AsyncBaseTransport):
    """As many one-connection pools as calls may run at once; replies are read whole, but at most `limit` bytes."""

    def __init__(self, url: str, count: int, limit: int) -> None:
        context: ssl.SSLContext | bool = False if url.startswith("http:") else httpx2.create_ssl_context()
        proxy, one = proxy_for(url), httpx2.Limits(max_connections=1)
        self.all = [
            httpx2.AsyncHTTPTransport(verify=context, trust_env=False, proxy=proxy, limits=one) for _ in range(count)
        ]
        self.free, self.limit = list(self.all), limit

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises `httpx2.RemoteProtocolError` for a reply that is too long or compressed unasked."""
        pool = self.free.pop()
        try:
            response = await pool.handle_async_request(request)
            try:
                content = await self._read(response)
            finally:
                await response.aclose()
        finally:
            self.free.append(pool)
        return httpx2.Response(response.status_code, headers=response.headers, content=content)

    async def _read(self, response: httpx2.Response) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise httpx2.RemoteProtocolError("the reply is compressed, though that was not asked for")
        content, limit = bytearray(), self.limit if response.status_code == 200 else ERROR_LIMIT
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        async for chunk in response.stream:
            content += chunk
            if len(content) > limit and response.status_code == 200:
                raise httpx2.RemoteProtocolError(f"the reply is longer than {limit:,} bytes")
            if len(content) > limit:
                break  # the beginning of an error is enough
        return bytes(content[:limit])

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self.all:
            await pool.aclose()


class Wire:
    """An open client of one endpoint."""

    def __init__(self, client: openai.AsyncOpenAI, endpoint: Endpoint, key: str | None) -> None:
        self.client, self.endpoint, self.key = client, endpoint, key

    async def post(self, body: Mapping[str, Any]) -> Answer | Trouble:
        """Send one request and read its reply; everything that can go wrong on the way is a `Trouble`."""
        url, deadline = self.endpoint.base_url, self.endpoint.deadline
        try:
            async with asyncio.timeout(deadline):
                reply = await self._send(body)
        except TimeoutError:
            return Trouble(f"{url}: no whole reply within {deadline:g} s", again=True)
        except openai.APIStatusError as error:
            response = error.response
            return read_refusal(response.status_code, response.headers, response.content, self.key, url)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            unsent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout)
            said = excerpt(f"{cause}" or f"the connection was lost ({type(cause).__name__})", self.key)
            return Trouble(f"{url}: {said}", again=True, charged=not unsent)
        read = read_answer(reply.content, self.key)
        return read._replace(reason=f"{url}: {read.reason}") if isinstance(read, Trouble) else read

    async def _send(self, body: Mapping[str, Any]) -> httpx2.Response:
        return await self.client.post("/chat/completions", cast_to=httpx2.Response, body=dict(body))


@asynccontextmanager
async def open_wire(endpoint: Endpoint, key: str | None, limit: int) -> AsyncIterator[Wire]:
    """A client whose every setting is given here, so that none comes from the environment; replies <= `limit` bytes."""
    transport = Pools(endpoint.base_url, endpoint.concurrency, limit)
    async with httpx2.AsyncClient(transport=transport, trust_env=False, timeout=None, follow_redirects=False) as http:
        client = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=endpoint.base_url,
            max_retries=0,
            timeout=None,
            default_headers={"Accept-Encoding": "identity", "Authorization": f"Bearer {key or 'none'}"},
            http_client=http,
        )
        if endpoint.base_url != OPENAI:  # what the environment says of an OpenAI account is nobody else's business
            client.organization = client.project = client.admin_api_key = None
        yield Wire(client, endpoint, key)

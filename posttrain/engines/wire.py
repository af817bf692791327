"""One call through the `openai` client, bounded in time and bytes: an answer or a trouble, never an exception.

The client's own retries, redirects and environment are switched off: what is sent is what the recipe says.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import openai

from posttrain.engines.endpoint import OPENAI, Answer, Endpoint
from posttrain.engines.reply import Trouble, excerpt, read_answer, read_refusal
from posttrain.engines.transport import transport_for


class Wire:
    """An open client of one endpoint."""

    def __init__(self, client: openai.AsyncOpenAI, endpoint: Endpoint, key: str | None) -> None:
        self.client, self.endpoint, self.key = client, endpoint, key

    async def post(self, content: bytes) -> Answer | Trouble:
        """Send one request's JSON and read its reply; everything that can go wrong on the way is a `Trouble`."""
        url, deadline = self.endpoint.base_url, self.endpoint.deadline
        try:
            async with asyncio.timeout(deadline):
                reply = await self._send(content)
        except TimeoutError:
            return Trouble(f"{url}: no whole reply within {deadline:g} s", again=True)
        except openai.APIStatusError as error:
            response = error.response
            return read_refusal(response.status_code, response.headers, response.content, self.key, url)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            unsent = isinstance(cause, httpx2.ConnectError | httpx2.ProxyError)
            said = excerpt(f"{cause}" or f"the connection was lost ({type(cause).__name__})", self.key)
            return Trouble(f"{url}: {said}", again=True, charged=not unsent)
        read = read_answer(reply.content, self.key)
        return read._replace(reason=f"{url}: {read.reason}") if isinstance(read, Trouble) else read

    async def _send(self, content: bytes) -> httpx2.Response:
        return await self.client.post("/chat/completions", cast_to=httpx2.Response, content=content)


@asynccontextmanager
async def open_wire(endpoint: Endpoint, key: str | None, limit: int) -> AsyncIterator[Wire]:
    """A client whose every setting is given here, so that none comes from the environment; replies <= `limit` bytes."""
    transport = transport_for(endpoint.base_url, endpoint.concurrency, limit)
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

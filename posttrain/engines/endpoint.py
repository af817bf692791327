"""What is asked of a remote model and what comes back, as values; no network here.

The key of a request in the journal is the sha256 of everything that is sent: no setting can be forgotten.
"""

import ipaddress
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator

from posttrain.chain.identity import HowNotWhat, digest_of_json
from posttrain.chain.stage import Config
from posttrain.errors import PosttrainError

OPENAI = "https://api.openai.com/v1"
OURS = frozenset({"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stream"})
TAKEN = OURS | {"logprobs", "top_logprobs", "response_format", "n"}  # what `extra` may not set
HOST = re.compile(r"[a-z0-9_.-]+|[0-9a-f:.]+")
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class Price(Config):
    """USD per million tokens."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)


class EndpointSettings(Config):
    """How an OpenAI-compatible endpoint is asked. The key itself is never here: only its variable's name."""

    base_url: str = Field(OPENAI, description="as in http://127.0.0.1:8000/v1; OpenAI's own when left out")
    api_key_env: Annotated[str | None, HowNotWhat] = Field(
        None, description="the environment variable with the key; for OpenAI itself OPENAI_API_KEY, else no key"
    )
    served_as: str | None = Field(
        None, description="the endpoint's name in the journal where its port changes, such as its model file's sha256"
    )
    max_tokens: int = Field(512, ge=1)
    temperature: float | None = Field(0.0, ge=0, description="null leaves it to the endpoint")
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**31, description="sent with the sample's number added")
    top_logprobs: int = Field(0, ge=0, le=20, description="alternatives a token; 0 asks for no logprobs")
    extra: dict[str, JsonValue] = Field({}, description="any further field of the request, as it is")
    price: Annotated[Price | None, HowNotWhat] = Field(
        None, description="USD per million tokens, where engines/prices.yaml has none"
    )
    deadline: Annotated[float, HowNotWhat] = Field(
        120.0, gt=0, le=3600, description="seconds for one call, from first to last byte"
    )
    retries: Annotated[int, HowNotWhat] = Field(5, ge=0, le=20)
    concurrency: Annotated[int, HowNotWhat] = Field(8, ge=1, le=256)

    @field_validator("base_url", mode="before")
    @classmethod
    def _url(cls, value: object) -> object:
        return OPENAI if value is None else normal_url(value) if isinstance(value, str) else value

    @field_validator("api_key_env")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        if value is not None and not VARIABLE.fullmatch(value):  # it may be the key itself: never shown
            raise PosttrainError(
                "endpoint.api_key_env: found something that is no variable's name (not shown); capital letters, "
                "digits and _ are allowed. Put the key into an environment variable and its name here."
            )
        return value

    @field_validator("extra")
    @classmethod
    def _not_ours(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(TAKEN & value.keys()):
            raise ValueError(f"{', '.join(taken)}: only fields that have no setting of their own. Use that setting")
        return value


class Endpoint(EndpointSettings):
    """A model behind an OpenAI-compatible endpoint."""

    model: str = Field(min_length=1, description="as the endpoint names it")


class Request(NamedTuple):
    """One completion to be made. `nth` tells samples of the same prompt apart."""

    messages: Sequence[Mapping[str, str]]
    max_tokens: int | None = None  # the endpoint's own when None
    response_format: Mapping[str, Any] | None = None
    nth: int = 0


class Call(NamedTuple):
    """A request as it is sent: the JSON, and the most tokens that may come back."""

    content: bytes
    max_tokens: int


class Usage(NamedTuple):
    """Tokens as the endpoint counts them; None where it does not say."""

    prompt_tokens: int | None
    completion_tokens: int | None


class TokenLogprob(NamedTuple):
    """A sampled token, its natural-log probability, and the likeliest tokens at its place with theirs."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


class Answer(NamedTuple):
    """A completion. `finish_reason` is given on as it came: "length" means that it was cut."""

    text: str
    finish_reason: str
    model: str  # as the endpoint names it
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] | None


class Failure(NamedTuple):
    """No answer after all tries. A value, so that one bad reply costs no other answer; never a score."""

    reason: str
    status: int | None = None  # of the last reply, where there was one


def normal_url(url: str) -> str:
    """One spelling of a base URL. A user name, a query or a fragment is refused: secrets travel there."""
    try:
        parts = urlsplit(url.strip())
        port, host = parts.port, (parts.hostname or "").lower()
    except ValueError:
        parts, port, host = urlsplit(""), None, ""
    plain = url.isascii() and url.isprintable() and HOST.fullmatch(host)
    if parts.scheme not in ("http", "https") or not plain or "@" in parts.netloc or parts.query or parts.fragment:
        raise PosttrainError(
            "endpoint.base_url: found an address that cannot be used (not shown); http:// or https:// with a host, "
            "a port and a path is allowed. Put a key into an environment variable and its name into api_key_env."
        )
    name = f"[{host}]" if ":" in host else host
    default = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{name}{f':{port}' if port not in (None, default) else ''}{parts.path.rstrip('/')}"


def is_loopback(url: str) -> bool:
    """The endpoint runs on this machine."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or (_address(host) is not None and ipaddress.ip_address(host).is_loopback)


def is_local(url: str) -> bool:
    """The endpoint runs on this machine or in this network, where nobody sends a bill."""
    host = urlsplit(url).hostname or ""
    address = _address(host)
    if address is not None:
        return address.is_private or address.is_loopback
    return "." not in host or host.endswith((".local", ".internal", ".localhost"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def api_key(endpoint: Endpoint) -> str | None:
    """The key from the environment; None where the endpoint needs none. OpenAI's key goes to OpenAI only."""
    name = endpoint.api_key_env or ("OPENAI_API_KEY" if endpoint.base_url == OPENAI else None)
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise PosttrainError(
            f"{endpoint.base_url}: the environment variable {name} is not set; the endpoint's key is needed there. "
            f"Set it (export {name}=...), or set base_url to an endpoint that needs none."
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise PosttrainError(
            f"{endpoint.base_url}: the key in {name} holds a space or a character that no header can carry (not "
            "shown); printable ASCII is allowed. Copy it again."
        )
    return key


def body_of(endpoint: Endpoint, request: Request) -> dict[str, Any]:
    """The JSON body of the call. OpenAI's newer models refuse the older name of `max_tokens`."""
    most = "max_completion_tokens" if endpoint.base_url == OPENAI else "max_tokens"
    body: dict[str, Any] = {
        "model": endpoint.model,
        "messages": [dict(message) for message in request.messages],
        most: reply_tokens(endpoint, request),
        "temperature": endpoint.temperature,
        "top_p": endpoint.top_p,
        "seed": None if endpoint.seed is None else endpoint.seed + request.nth,
        "response_format": None if request.response_format is None else dict(request.response_format),
    }
    if endpoint.top_logprobs:
        body |= {"logprobs": True, "top_logprobs": endpoint.top_logprobs}
    return {name: value for name, value in body.items() if value is not None} | endpoint.extra


def reply_tokens(endpoint: Endpoint, request: Request) -> int:
    """The most tokens of a reply."""
    return request.max_tokens or endpoint.max_tokens


def call_of(endpoint: Endpoint, request: Request) -> Call:
    """The request as it is sent. Nothing is sorted: the order of a schema's fields is the order of the reply's."""
    content = json.dumps(body_of(endpoint, request), ensure_ascii=False, separators=(",", ":")).encode()
    return Call(content, reply_tokens(endpoint, request))


def key_of(endpoint: Endpoint, request: Request) -> str:
    """sha256 of the canonical request: where it goes, all that is sent, and which sample it is."""
    try:
        return digest_of_json(
            {"url": endpoint.served_as or endpoint.base_url, "body": body_of(endpoint, request), "nth": request.nth}
        )
    except TypeError as error:
        raise PosttrainError(
            f"a request to {endpoint.model}: {error}; text, numbers, lists and objects are allowed. Correct the prompt."
        ) from None

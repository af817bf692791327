"""A reply as it came over the wire, read strictly: an answer, or a trouble that says whether to ask again.

Nothing in a reply is trusted: not its type, its length, its numbers, nor that it does not repeat the key.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from posttrain.engines.endpoint import Answer, TokenLogprob, Usage

AGAIN = frozenset({408, 409, 429})  # and 5xx
STOPS = frozenset({401, 402, 403, 404})  # every further request would meet the same
MAY_BE_CHARGED = frozenset({502, 504})  # a gateway lost an answer that may have been made
LONGEST_WAIT = 120.0  # seconds of Retry-After that are obeyed
SECRET = 16  # a key this long is no word of an answer; "EMPTY", which local servers are given, is one
NO_CHANCE = -9999.0  # how OpenAI writes the logprob of what cannot come; some servers write null
DO = {
    400: "Correct the request: the model, its settings or the length of the prompt",
    401: "Set the right key in the variable that api_key_env names",
    402: "Pay, or use another endpoint",
    403: "Use a key that may use this model",
    404: "Check base_url (it mostly ends in /v1) and model",
    413: "Shorten the prompt",
    422: "Correct the request's settings",
    429: "Lower concurrency, or wait and run again",
}


class Trouble(NamedTuple):
    """Why a call gave no answer, and what that means for the next one."""

    reason: str
    again: bool  # another try may help
    stops: bool = False  # no request of this run can succeed
    charged: bool = True  # the endpoint may have made, and billed, an answer
    wait: float | None = None  # seconds the endpoint asks for
    status: int | None = None


def scrub(text: str, key: str | None) -> str:
    """The text without the key."""
    return text.replace(key, "[key]") if key else text


def byte_limit(tokens: int, top_logprobs: int) -> int:
    """The most bytes that a reply may have: generous for its tokens, their logprobs and an envelope."""
    alternatives = 1 + top_logprobs if top_logprobs else 0
    return 2**18 + tokens * (64 + 256 * alternatives)


def read_answer(content: bytes, key: str | None) -> Answer | Trouble:
    """The first choice of a chat completion."""
    try:
        return _answer(json.loads(content.decode("utf-8"), parse_constant=_no_number), key)
    except (ValueError, TypeError, RecursionError) as error:
        return Trouble(f"the reply is no chat completion: {excerpt(str(error), key)}", again=True)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _answer(reply: Any, key: str | None) -> Answer:
    choices = _object(reply, "the reply").get("choices")
    if not isinstance(choices, list) or not choices:
        raise ValueError("it holds no choices")
    choice = _object(choices[0], "the choice")
    message = _object(choice.get("message"), "the message")
    text, reason = message.get("content"), choice.get("finish_reason")
    if text is None and isinstance(message.get("refusal"), str):
        text, reason = message["refusal"], "refusal"
    if text is not None and not isinstance(text, str):
        raise ValueError(f"content is a {type(text).__name__}")
    text = text or ""
    text.encode("utf-8")  # half a character, as in "\ud800", could never be written: an error
    if key and len(key) >= SECRET:
        text = scrub(text, key)
    model = _label(reply.get("model"), key)
    return Answer(text, _label(reason, key), model, _usage(reply.get("usage")), _logprobs(choice))


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} is a {type(value).__name__}")
    return value


def _label(value: Any, key: str | None) -> str:
    return excerpt(value, key) if isinstance(value, str) else ""


def _usage(value: Any) -> Usage:
    counts = [value.get(name) if isinstance(value, dict) else None for name in Usage._fields]
    return Usage(*(count if type(count) is int and 0 <= count < 2**31 else None for count in counts))


def _logprobs(choice: Mapping[str, Any]) -> tuple[TokenLogprob, ...] | None:
    """None where the endpoint gives none, or in a shape of its own."""
    found = choice.get("logprobs")
    content = found.get("content") if isinstance(found, dict) else None
    if not isinstance(content, list):
        return None
    return tuple(TokenLogprob(*_pair(entry), tuple(map(_pair, entry.get("top_logprobs") or ()))) for entry in content)


def _pair(entry: Any) -> tuple[str, float]:
    token, value = _object(entry, "a logprob").get("token"), entry.get("logprob")
    value = NO_CHANCE if value is None else value
    if not isinstance(token, str) or type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError("a logprob is no token with a number")
    return token.encode("utf-8", errors="replace").decode(), float(value)


def dump_answer(answer: Answer) -> str:
    """An answer as the journal keeps it."""
    return json.dumps(answer, ensure_ascii=False, allow_nan=False)


def load_answer(text: str) -> Answer:
    """The inverse of `dump_answer`."""
    said, reason, model, usage, logprobs = json.loads(text)
    tokens = None if logprobs is None else tuple(TokenLogprob(t, p, tuple(map(tuple, top))) for t, p, top in logprobs)
    return Answer(said, reason, model, Usage(*usage), tokens)


def read_refusal(status: int, headers: Mapping[str, str], content: bytes, key: str | None, url: str) -> Trouble:
    """What a status that is not 200 means. `headers` has lower-case names or does not mind."""
    body = content.decode("utf-8", errors="replace")
    said = excerpt(_message(body), key)
    broke = status == 429 and "insufficient_quota" in body  # OpenAI's 429 that no waiting cures
    again = (status in AGAIN or status >= 500) and not broke
    do = "Add credit to the account" if broke else DO.get(status, "")
    if 300 <= status < 400:
        do = "Set base_url to where it redirects"
    return Trouble(
        f"{url}: HTTP {status}" + (f" ({said})" if said else "") + (f". {do}" if do else ""),
        again=again,
        stops=status in STOPS or broke or 300 <= status < 400,
        charged=status in MAY_BE_CHARGED,
        wait=retry_after(headers.get("retry-after"), datetime.now(UTC)) if again else None,
        status=status,
    )


def _message(body: str) -> str:
    """The words of an error body: OpenAI's, vLLM's and FastAPI's shapes, else the body itself."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return body
    for name in ("error", "message", "detail"):
        found = found.get(name, found) if isinstance(found, dict) else found
    return found if isinstance(found, str) else body


def excerpt(text: str, key: str | None, most: int = 200) -> str:
    """Text that may be shown: without the key, without control characters, short."""
    plain = "".join(char if char.isprintable() else " " for char in scrub(text, key))
    plain = re.sub(r" +", " ", plain).strip()
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds to wait, from seconds or an HTTP date; at most LONGEST_WAIT; None for what is neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds()
    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_WAIT)

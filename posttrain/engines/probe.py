"""What can an endpoint do? Some take a json_schema without a word and answer as they like; some refuse logprobs.

A test call asks for a greeting, with logprobs, under a schema that allows one object only, with a code that no greeting
holds. Where the call is refused, what is asked for is left out in turn. Through the journal, so that a known endpoint
is not asked again.
"""

import json
from typing import Any, NamedTuple

from posttrain.engines.budget import Budget
from posttrain.engines.endpoint import Answer, Endpoint, Failure, Request
from posttrain.engines.journal import Journal
from posttrain.engines.openai_engine import complete
from posttrain.errors import PosttrainError

EXPECTED = {"code": "cobalt-7319"}
SCHEMA = {
    "type": "object",
    "properties": {"code": {"type": "string", "enum": [EXPECTED["code"]]}},
    "required": ["code"],
    "additionalProperties": False,
}
GREETING = ({"role": "user", "content": "Say hello in one short sentence."},)
REFUSALS = frozenset({400, 415, 422, 500, 501})  # how servers say that they know no json_schema, or no logprobs


class Probe(NamedTuple):
    """The endpoint with what it takes, whether it enforces a json_schema, and the sentence to tell the user."""

    endpoint: Endpoint
    schema: bool
    said: str


def json_schema(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A `response_format` that asks for this schema, strictly."""
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def probe(endpoint: Endpoint, journal: Journal, scope: str = "", budget: Budget | None = None) -> Probe:
    """One call, or up to four where things are refused.

    Raises PosttrainError where the endpoint does not answer at all: that is no finding about what it can do.
    """
    name, refused = f"{endpoint.model} at {endpoint.base_url}", ""
    for schema, alternatives in _ways(endpoint):
        tried = endpoint.model_copy(update={"top_logprobs": alternatives})
        request = Request(GREETING, 64, json_schema("probe", SCHEMA) if schema else None)
        (reply,) = complete(tried, [request], journal, scope, budget)
        if isinstance(reply, Failure):
            if reply.status not in REFUSALS:
                raise PosttrainError(f"{reply.reason}; an answer to a test call is needed. Check the endpoint.")
            refused = reply.reason
            continue
        obeyed = schema and _obeyed(reply)
        said = [_about_schema(schema, obeyed, refused)]
        if alternatives != endpoint.top_logprobs:
            said.append("it refuses logprobs, so that a grade is the number that it writes")
        return Probe(tried, obeyed, f"{name} {'; '.join(said)}")
    raise PosttrainError(f"{refused}; an answer to a test call is needed. Check the endpoint.")


def _ways(endpoint: Endpoint) -> list[tuple[bool, int]]:
    """With and without a schema, with and without logprobs: the most that is asked for first."""
    return [(schema, count) for schema in (True, False) for count in dict.fromkeys((endpoint.top_logprobs, 0))]


def _obeyed(reply: Answer) -> bool:
    try:
        return bool(json.loads(reply.text) == EXPECTED)
    except (ValueError, RecursionError):
        return False


def _about_schema(asked: bool, obeyed: bool, refused: str) -> str:
    if not asked:
        return f"refuses json_schema ({refused}); replies are parsed instead"
    return "enforces json_schema" if obeyed else "ignores json_schema without saying so; replies are parsed instead"

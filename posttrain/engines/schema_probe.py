"""Does an endpoint obey `response_format`? Some take a json_schema without a word and answer as they like.

The probe asks for a greeting under a schema that allows one object only, with a code that no greeting holds. One
call, and through the journal: a known endpoint is not asked again.
"""

import json
from typing import Any, NamedTuple

from posttrain.engines.endpoint import Endpoint, Failure, Request
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
REFUSALS = frozenset({400, 415, 422, 500, 501})  # how servers say that they know no json_schema


class Probe(NamedTuple):
    """Whether the schema is enforced, and the sentence to tell the user."""

    honoured: bool
    said: str


def json_schema(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A `response_format` that asks for this schema, strictly."""
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}


def honours_json_schema(endpoint: Endpoint, journal: Journal, scope: str = "") -> Probe:
    """One call. Raises PosttrainError where the endpoint does not answer at all: that is no finding about schemas."""
    messages = [{"role": "user", "content": "Say hello in one short sentence."}]
    (reply,) = complete(endpoint, [Request(messages, 64, json_schema("probe", SCHEMA))], journal, scope)
    name = f"{endpoint.model} at {endpoint.base_url}"
    if isinstance(reply, Failure):
        if reply.status not in REFUSALS:
            raise PosttrainError(f"{reply.reason}; an answer to a test call is needed. Check the endpoint.")
        return Probe(False, f"{name} refuses json_schema ({reply.reason}); replies are parsed instead")
    try:
        obeyed = json.loads(reply.text) == EXPECTED
    except (ValueError, RecursionError):
        obeyed = False
    if obeyed:
        return Probe(True, f"{name} enforces json_schema")
    return Probe(False, f"{name} ignores json_schema without saying so; replies are parsed instead")

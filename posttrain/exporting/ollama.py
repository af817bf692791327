"""A chat template in Ollama's words: Go's text/template instead of Jinja.

Ollama knows well-known Jinja templates by sight and takes no others, so one is written where it can be proved: where
a conversation is the messages one after the other, each between two fixed texts that its role decides.
"""

from collections.abc import Callable
from typing import NamedTuple

from jinja2 import TemplateError

Messages = list[dict[str, str]]
Render = Callable[[Messages, bool], str]  # messages, with the prompt for an answer
ROLES = ("system", "assistant", "user")
MARK = "\ue000"
ODD = (' a "quoted"\ttext ', "\n\nend.\n", "{{ x }}\\n<b>", "é", "")
CONVERSATIONS = (
    ("user",),
    ("system", "user"),
    ("user", "assistant", "user"),
    ("system", "user", "assistant", "user", "assistant", "user"),
)


class Wrapped(NamedTuple):
    """What stands before and after a message's content."""

    before: str
    after: str


def go_template(render: Render, bos: str) -> str | None:
    """The template for a Modelfile, or None where the Jinja template does more than wrap each message.

    `bos` is left out at the beginning where the runtime adds it itself; "" where it does not.
    """
    try:
        wraps = {role: _wrap(render, role, bos) for role in ROLES}
        prompt = render([{"role": "user", "content": MARK}], True).rpartition(MARK)[2].removeprefix(wraps["user"].after)
        for turns in CONVERSATIONS:
            messages = [{"role": role, "content": ODD[at % len(ODD)]} for at, role in enumerate(turns)]
            parts = [wraps[m["role"]].before + m["content"] + wraps[m["role"]].after for m in messages]
            if render(messages, True) != bos + "".join(parts) + prompt:
                return None
    except (TemplateError, ValueError):  # it refuses a role or an order: more than wrapping
        return None
    texts = [prompt, *(text for wrap in wraps.values() for text in wrap)]
    if any(sign in text for text in texts for sign in ("{{", "}}", '"""')):
        return None
    system, assistant, user = (f"{wraps[role].before}{{{{ .Content }}}}{wraps[role].after}" for role in ROLES)
    return (
        f'{{{{- range .Messages }}}}{{{{ if eq .Role "system" }}}}{system}{{{{ else if eq .Role "assistant" }}}}'
        f"{assistant}{{{{ else }}}}{user}{{{{ end }}}}{{{{ end }}}}{prompt}"
    )


def _wrap(render: Render, role: str, bos: str) -> Wrapped:
    """The two texts round a message of this role; ValueError where its content does not appear once."""
    text = render([{"role": role, "content": MARK}], False)
    before, after = text.removeprefix(bos).split(MARK)
    return Wrapped(before, after)

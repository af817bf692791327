"""Chat rendering at the token level: content is encoded with special tokens disabled and spliced in.

The template is rendered with a stand-in for each content, cut at the stand-ins, and only the template's own
pieces may become control ids. So no content, whatever it says, can speak as the template (DESIGN: the boundary).
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from posttrain.errors import PosttrainError
from posttrain.lm.token_row import TokenRow

Message = Mapping[str, str]
STAND_IN = re.compile("\ue000([0-9]+)\ue001")
ROLE = re.compile("[A-Za-z_]+")
MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")

# `{% generation %}` marks what is supervised: the answer and the stop token after it.
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}"
    "<|assistant|>{% generation %}{{ message.content }}<|end|>{% endgeneration %}"
    "{%- else -%}<|user|>{{ message.content }}<|end|>{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)


class Rendered(NamedTuple):
    """Token ids of a conversation and which of them are supervised; equal lengths."""

    ids: list[int]
    supervised: list[bool]


class ChatFormat:
    """A tokenizer's chat template, compiled and checked once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, where: str) -> None:
        template = tokenizer.chat_template
        if not isinstance(template, str):
            raise PosttrainError(f"{where}: no chat template; one is needed. Start from a 'base' step, which adds one.")
        if not MARKERS.search(template):
            template = _known_training_template(tokenizer, where)
        if tokenizer.eos_token_id is None:
            raise PosttrainError(
                f"{where}: the tokenizer has no stop token (eos_token); one is needed, or answers never end. "
                "Set eos_token in its tokenizer_config.json."
            )
        self.tokenizer = tokenizer
        self.template = template
        self.where = where
        self.control_ids = frozenset(tokenizer.added_tokens_decoder)
        self._names = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
        self._literal = tokenizer.backend_tokenizer
        self._content = content_encoder(self._literal)
        self.stop_ids = self._stops()

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> Rendered:
        """Ids and supervision of `messages`; the same ids in training and when asking.

        The template sees roles, which are plain words, and stand-ins; other fields of a message are left out.
        """
        for message in messages:
            if not ROLE.fullmatch(message["role"]):
                raise PosttrainError(
                    f"{self.where}: a message has the role {message['role']!r}; a plain word is needed, such as user, "
                    "assistant or system. Correct or delete its row."
                )
        stand_ins = [{"role": message["role"], "content": f"\ue000{i}\ue001"} for i, message in enumerate(messages)]
        texts, spans = render_jinja_template(
            conversations=[stand_ins],
            chat_template=self.template,
            return_assistant_tokens_mask=True,
            add_generation_prompt=add_generation_prompt,
            **self._names,
        )
        ids: list[int] = []
        supervised: list[bool] = []
        for piece, content, inside in _pieces(texts[0], spans[0]):
            part = self._literal_ids(piece) if content is None else self.content_ids(messages[content]["content"])
            ids += part
            supervised += [inside] * len(part)
        return Rendered(ids, supervised)

    def row(self, row_id: str, messages: Sequence[Message]) -> TokenRow:
        """A training row. A row with no assistant text is an error: nothing in it could be learnt."""
        answers = [message for message in messages if message["role"] == "assistant"]
        if not answers or not all(message["content"].strip() for message in answers):
            raise PosttrainError(f"row {row_id}: no assistant text; an answer is needed. Correct or delete the row.")
        rendered = self.render(messages)
        learnt = {token for token, kept in zip(rendered.ids, rendered.supervised, strict=True) if kept}
        if self.stop_ids.isdisjoint(learnt):
            raise PosttrainError(f"row {row_id}: no stop token is supervised; its answer would never end. Drop it.")
        return TokenRow(row_id, rendered.ids, rendered.supervised)

    def content_ids(self, text: str) -> list[int]:
        """Ids of untrusted text: none of them is a control id."""
        ids: list[int] = self._content.encode(text, add_special_tokens=False).ids
        if not self.control_ids.isdisjoint(ids):
            raise PosttrainError(
                f"{self.where}: the text {text[:80]!r} becomes control ids; only the template may write those. "
                "This tokenizer cannot keep content and control apart."
            )
        return ids

    def _literal_ids(self, text: str) -> list[int]:
        ids: list[int] = self._literal.encode(text, add_special_tokens=False).ids
        return ids

    def _stops(self) -> frozenset[int]:
        """The eos token, and the control token that the template writes after an answer."""
        probe = self.render([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        inside = [token for token, learnt in zip(probe.ids, probe.supervised, strict=True) if learnt]
        written = [token for token in inside if token in self.control_ids]
        if not written:
            raise PosttrainError(
                f"{self.where}: the chat template supervises no stop token after an answer; one is needed inside "
                "{% generation %}, or answers never end. Move the closing token before {% endgeneration %}."
            )
        return frozenset({written[-1], int(self.tokenizer.eos_token_id)})


def _pieces(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[str, int | None, bool]]:
    """Cut rendered text into (literal, None, supervised) and ("", index of the message, supervised)."""
    cuts = sorted({0, len(text), *(edge for span in spans for edge in span)})
    pieces: list[tuple[str, int | None, bool]] = []
    for start, stop in pairwise(cuts):
        inside = any(low <= start and stop <= high for low, high in spans)
        at = start
        for match in STAND_IN.finditer(text, start, stop):
            if match.start() > at:
                pieces.append((text[at : match.start()], None, inside))
            pieces.append(("", int(match[1]), inside))
            at = match.end()
        if at < stop:
            pieces.append((text[at:stop], None, inside))
    return pieces


def content_encoder(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without its added tokens, special or not: it cannot see a control string."""
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    spec["added_tokens"] = []
    spec["post_processor"] = None
    return Tokenizer.from_str(json.dumps(spec))


def _known_training_template(tokenizer: PreTrainedTokenizerFast, where: str) -> str:
    """TRL's marked version of a well-known template; an error for any other that has no markers."""
    from trl.chat_template_utils import get_training_chat_template

    try:
        known = get_training_chat_template(tokenizer)
    except ValueError:
        known = None
    if known is None or not MARKERS.search(known):
        raise PosttrainError(
            f"{where}: the chat template has no {{% generation %}} markers, so what to train on is unknown; they are "
            "needed round the answer and its stop token. Add them to chat_template.jinja."
        )
    return str(known)


def check_rendering(chat: ChatFormat, messages: Sequence[Message]) -> None:
    """Training ids must start with the ids that the model is asked with."""
    whole = chat.render(messages)
    asked = chat.render(messages[:-1], add_generation_prompt=True)
    if whole.ids[: len(asked.ids)] != asked.ids:
        raise PosttrainError(
            f"{chat.where}: the training prompt and the prompt at inference have different tokens; they must be equal. "
            "The template writes something else after add_generation_prompt than before an answer."
        )

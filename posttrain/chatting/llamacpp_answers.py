"""An exported GGUF file that answers in llama.cpp: template, tokenizer and stops are those in the file.

llama.cpp's own chat endpoint reads control strings in a message as control. So the template is rendered with a
stand-in for each content, and cut at the stand-ins; each part is tokenized for itself, contents as plain text; and
the answer is asked for with token ids: what `posttrain.lm.chat` does, with the file's own parts.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from posttrain.chatting.answers import Answer, Ended, Say
from posttrain.chatting.decoding import Decoding
from posttrain.chatting.session import Message
from posttrain.engines.llamacpp_engine import Running
from posttrain.errors import PosttrainError

MARK = "\ue000{}\ue001"


class LlamaCppSpeaker:
    """A running llama.cpp server, asked through the `openai` client."""

    CONTEXT: ClassVar[int] = 4096  # at most; less where the model was trained on less

    def __init__(self, path: Path, running: Running) -> None:
        import httpx2
        import openai

        self.where = str(path)
        http = httpx2.Client(trust_env=False, timeout=None)  # a proxy has no business on this machine
        self.client = openai.OpenAI(
            base_url=f"{running.base_url}/v1", api_key="none", max_retries=0, timeout=None, http_client=http
        )
        self.own = self.client.with_options(base_url=running.base_url)  # llama.cpp's own paths
        self.model = path.stem
        self.context = int(self._get("/props")["default_generation_settings"]["n_ctx"])
        self.control_ids = control_ids(path)

    def render(self, messages: Sequence[Message]) -> list[int]:
        """By the template in the file; bos is added where the file says so."""
        stand_ins = [{**message, "content": MARK.format(at)} for at, message in enumerate(messages)]
        rest: str = self._post("/apply-template", {"messages": stand_ins})["prompt"]
        ids: list[int] = []
        while rest:
            cut = {at: rest.find(MARK.format(at)) for at in range(len(messages)) if MARK.format(at) in rest}
            at = min(cut, key=cut.__getitem__, default=None)
            literal, _, rest = (rest, "", "") if at is None else rest.partition(MARK.format(at))
            if literal or not ids:  # bos stands before whatever comes first
                ids += self._tokens(literal, control=True, first=not ids)
            if at is not None:
                ids += self._content_ids(messages[at]["content"])
        return ids

    def answer(self, ids: Sequence[int], settings: Decoding, say: Say) -> Answer:
        """The same seed gives the same answer: there is one slot."""
        import openai

        if settings.beams > 1:
            raise PosttrainError(
                f"{self.where}: {settings.beams} beams; llama.cpp has no beam search, so 1 is allowed. "
                "Talk to the step's own model, or leave --beams out (/set beams=1)."
            )
        pieces: list[str] = []
        tokens, ended, started = 0, "interrupted", time.perf_counter()
        try:
            with self.client.completions.create(**self._request(ids, settings)) as stream:
                for chunk in stream:
                    tokens = chunk.usage.completion_tokens if chunk.usage else tokens + 1
                    for choice in chunk.choices:
                        ended = choice.finish_reason or ended
                        if choice.text:
                            pieces.append(choice.text)
                            say(choice.text)
        except KeyboardInterrupt:
            ended = "interrupted"
        except openai.APIError as error:
            raise PosttrainError(f"{self.where}: llama.cpp gave no answer ({error}). Ask again.") from None
        kinds: dict[str, Ended] = {"stop": "stop", "length": "length"}
        return Answer("".join(pieces), kinds.get(ended, "interrupted"), tokens, time.perf_counter() - started)

    def _request(self, ids: Sequence[int], settings: Decoding) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": list(ids),
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": min(settings.max_new_tokens, self.context - len(ids)),
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "seed": settings.seed,
            "extra_body": {"min_p": settings.min_p, "top_k": 0},
        }

    def _content_ids(self, text: str) -> list[int]:
        ids = self._tokens(text, control=False, first=False)
        if not self.control_ids.isdisjoint(ids):  # added tokens that are not special: llama.cpp always reads those
            raise PosttrainError(
                f"{self.where}: the text {text[:80]!r} becomes control ids; only the template may write those. "
                "This file cannot keep content and control apart; say it in other words."
            )
        return ids

    def _tokens(self, text: str, control: bool, first: bool) -> list[int]:
        body = {"content": text, "parse_special": control, "add_special": first}
        ids: list[int] = self._post("/tokenize", body)["tokens"]
        return ids

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        import openai

        try:
            found: dict[str, Any] = self.own.post(path, body=body, cast_to=dict[str, Any])
        except openai.APIError as error:
            raise PosttrainError(
                f"{self.where}: llama.cpp refused {path} ({error}); a chat template in the file is needed. "
                "Export it again."
            ) from None
        return found

    def _get(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = self.own.get(path, cast_to=dict[str, Any])
        return found


def control_ids(path: Path) -> frozenset[int]:
    """Ids of a GGUF file that only its template may write."""
    import gguf

    field = gguf.GGUFReader(path).fields["tokenizer.ggml.token_type"]
    kinds = (gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED)
    return frozenset(token for token, kind in enumerate(field.contents()) if kind in kinds)

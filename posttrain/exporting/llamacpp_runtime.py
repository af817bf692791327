"""A GGUF file in llama.cpp: its own server (package xllamacpp) inside this process, with one slot.

One slot and no shared prefix between rows: a row's answer does not depend on the rows before it. What the process
uses is what llama.cpp uses, so that memory can be read off it; nothing heavier than the standard library is imported.
"""

import json
import math
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import xllamacpp

from posttrain.engines.llamacpp_engine import server_parameters
from posttrain.errors import PosttrainError
from posttrain.exporting.runtime import Decoded, Runtime, Scored

SURE = 1e9  # added to a token's logit, it makes a runtime choose that token; log-probabilities are taken before it
PLAIN = {"samplers": ["temperature"], "return_tokens": True}  # no top-k, top-p, min-p, no penalties


class LlamaCpp(Runtime):
    """An open GGUF file. `context` is tokens a row; `cache` "f32" attends as transformers does in fp32."""

    def __init__(self, path: Path, *, threads: int, context: int, cache: Literal["f16", "f32"] = "f16") -> None:
        try:
            self._server = xllamacpp.Server(server_parameters(xllamacpp, str(path), context, 1, threads, cache))
        except RuntimeError as error:
            raise PosttrainError(
                f"{path}: llama.cpp cannot open it ({error}); a whole GGUF file that fits the memory is needed. "
                "Check the path, or export it again."
            ) from None
        self._path = path
        self._line = HTTPConnection(self._server.listening_address.removeprefix("http://"))
        meta = self._ask("GET", "/v1/models")["data"][0]["meta"]
        self._rows, self.context = int(meta["n_vocab"]), min(context, int(meta["n_ctx_train"]))
        self._letter = self.encode("a")[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._line.close()
        del self._server  # its destructor stops it

    def encode(self, text: str) -> list[int]:
        """Ids of a text, nothing added, control strings as tokens."""
        return self._cut(text, add_special=False)

    def render(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of a conversation as a chat completion gets them."""
        prompt = self._ask("POST", "/apply-template", messages=messages)["prompt"]
        return self._cut(prompt, add_special=True)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return str(self._ask("POST", "/detokenize", tokens=list(ids))["content"])

    def score(self, prompt: Sequence[int], answer: Sequence[int], top: int) -> list[Scored]:
        """One request a token: it is made to choose the answer's token and says how likely that was."""
        scored = []
        for at, token in enumerate(answer):
            before = [*prompt, *answer[:at]]
            found = self._odds(before, token, top, at) or self._odds(before, self._letter, top, at)
            logprobs = {entry["id"]: entry["logprob"] for entry in found["top_logprobs"]}
            logprob = found["logprob"] if found["id"] == token else logprobs.get(token)
            if logprob is None:  # half a character, and an unlikely one: only the list of all ids has it
                every = self._odds(before, self._letter, self._rows, at)["top_logprobs"]
                logprob = next((entry["logprob"] for entry in every if entry["id"] == token), None)
            if logprob is None or not math.isfinite(logprob):
                raise PosttrainError(
                    f"{self._path}: token {token} after {len(before)} others has the log-probability {logprob}; a "
                    "finite number is needed. The file's weights or its vocabulary are broken: export it again."
                )
            scored.append(Scored(logprob, tuple(logprobs.items())))
        return scored

    def complete_one(self, prompt: Sequence[int], max_new_tokens: int, temperature: float, seed: int) -> Decoded:
        """Times as llama.cpp itself takes them."""
        said = self._ask(
            "POST",
            "/completion",
            prompt=list(prompt),
            n_predict=max_new_tokens,
            temperature=temperature,
            seed=seed,
            cache_prompt=False,
            **PLAIN,
        )
        times, stopped = said["timings"], said["stop_type"] == "eos"
        ids = said["tokens"][:-1] if stopped and len(said["tokens"]) == said["tokens_predicted"] else said["tokens"]
        return Decoded(ids, stopped, times["prompt_ms"] / 1000, times["predicted_ms"] / 1000)

    def _cut(self, text: str, add_special: bool) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": True}
        ids: list[int] = self._ask("POST", "/tokenize", **body)["tokens"]
        return ids

    def _odds(self, before: Sequence[int], token: int, top: int, at: int) -> dict[str, Any]:
        """What llama.cpp says of `token` after `before`; empty where it is half a character, which it cannot show."""
        said = self._ask(
            "POST",
            "/completion",
            prompt=list(before),
            n_predict=1,
            n_probs=min(top, self._rows),
            temperature=0,
            logit_bias=[[token, SURE]],
            cache_prompt=at > 0,  # an answer's own beginning, never the row before it
            **PLAIN,
        )
        shown: list[dict[str, Any]] = said.get("completion_probabilities", [])
        return shown[0] if shown else {}

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        self._line.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
        reply = self._line.getresponse()
        said = reply.read()
        if reply.status != 200:
            raise PosttrainError(
                f"{self._path}: llama.cpp answers {path} with {reply.status} {said[:300].decode(errors='replace')}; "
                "200 is needed. Shorten the row, or export the file again."
            )
        return json.loads(said)

"""A model directory in transformers: the fp32 model that exports are compared with, and files that transformers loads.

`merged` reads it as every export does: in fp32, an adapter merged into its base. Otherwise the directory says itself
in which precision it is, or how it is quantised.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import torch
from transformers import AutoModelForCausalLM

from posttrain.engines.decoding import decode
from posttrain.errors import PosttrainError
from posttrain.exporting.runtime import Decoded, Runtime, Scored
from posttrain.lm.models import load_model, load_tokenizer
from posttrain.lm.quiet import quiet_libraries


class TransformersRuntime(Runtime):
    """An open model directory on the CPU. Threads are torch's, for the whole process."""

    def __init__(self, path: Path, *, threads: int, merged: bool) -> None:
        quiet_libraries()
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # a line a layer and token
        torch.set_num_threads(threads)
        self._model = (load_model(path) if merged else _load_as_saved(path)).eval()
        self._tokenizer = load_tokenizer(path)
        stops = self._model.generation_config.eos_token_id
        stops = self._tokenizer.eos_token_id if stops is None else stops
        self._stops = frozenset(stops if isinstance(stops, list) else [] if stops is None else [stops])
        self.context = int(self._model.config.get_text_config().max_position_embeddings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._model

    def encode(self, text: str) -> list[int]:
        """Ids of a text, nothing added, control strings as tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids

    def render(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of a conversation by the directory's chat template; none at all without one."""
        if self._tokenizer.chat_template is None:
            return []
        prompt = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return self.encode(prompt)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, control tokens too."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    @torch.inference_mode()
    def score(self, prompt: Sequence[int], answer: Sequence[int], top: int) -> list[Scored]:
        """One forward pass; log-probabilities in fp64 of the model's own logits."""
        ids = torch.tensor([[*prompt, *answer]])
        logits = self._model(input_ids=ids, logits_to_keep=len(answer) + 1, use_cache=False).logits[0, :-1]
        logprobs = logits.double().log_softmax(-1)
        values, likeliest = logprobs.topk(min(top, logprobs.shape[-1]))
        own = logprobs.gather(1, torch.tensor(answer)[:, None])[:, 0]
        tops = zip(likeliest.tolist(), values.tolist(), strict=True)
        return [
            Scored(logprob, tuple(zip(*pair, strict=True))) for logprob, pair in zip(own.tolist(), tops, strict=True)
        ]

    def complete_block(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, seeds: Sequence[int]
    ) -> list[Decoded]:
        """All prompts at once, with the first seed: much faster. Without times."""
        room = self.room(max(prompts, key=len), max_new_tokens)
        generator = torch.Generator().manual_seed(seeds[0])
        made = decode(self._model, prompts, self._stops, room, temperature, generator)
        return [Decoded(*self._without_stop(ids), 0.0, 0.0) for ids in made]

    def complete_one(self, prompt: Sequence[int], max_new_tokens: int, temperature: float, seed: int) -> Decoded:
        """By the chain's own decoding, token by token."""
        starts: list[float] = []  # of each step

        def never() -> bool:
            starts.append(perf_counter())
            return False

        generator = torch.Generator().manual_seed(seed)
        [ids] = decode(self._model, [prompt], self._stops, max_new_tokens, temperature, generator, never)
        end = perf_counter()
        first = starts[1] if len(starts) > 1 else end
        return Decoded(*self._without_stop(ids), first - starts[0], end - first)

    def _without_stop(self, ids: list[int]) -> tuple[list[int], bool]:
        return (ids[:-1], True) if ids[-1] in self._stops else (ids, False)


def _load_as_saved(path: Path) -> Any:
    try:
        return AutoModelForCausalLM.from_pretrained(path, dtype="auto", use_safetensors=True)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise PosttrainError(
            f"{path}: transformers cannot load it ({reason}); a directory with config.json and safetensors weights is "
            "needed. Export it again."
        ) from None

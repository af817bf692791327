"""What a runtime must do so that an exported file can be measured in it: texts and ids, chats, scores, completions.

Each is a context manager and reads everything from the file: tokenizer, chat template, stop tokens, precision.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from posttrain.errors import PosttrainError


class Scored(NamedTuple):
    """One answer token, given all before it. Natural logarithms over the whole vocabulary, without a temperature."""

    logprob: float  # of the token itself
    top: tuple[tuple[int, float], ...]  # the likeliest (id, log-probability), best first


class Decoded(NamedTuple):
    """One completion. Prefill lasts until the first new token is known, decoding until the last one is."""

    ids: list[int]  # without the stop token
    stopped: bool  # a stop token came
    prefill_seconds: float
    decode_seconds: float

    @property
    def steps(self) -> int:
        """Tokens that `decode_seconds` went into: all but the first, a stop token included."""
        return max(len(self.ids) + self.stopped - 1, 0)


class Runtime(Protocol):
    """An open file. `encode` and `render` raise no error for any text; ids are the file's own.

    Runtimes inherit from it: how many prompts are completed is said once, here.
    """

    context: int  # tokens a row may have, prompt and answer together

    def encode(self, text: str) -> list[int]:
        """Ids of a text, nothing added; control strings become tokens where the file's tokenizer does so."""
        ...

    def render(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of a conversation by the file's chat template, up to where the answer begins."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids by the file's own tokenizer, control tokens left out where its runtime shows none."""
        ...

    def score(self, prompt: Sequence[int], answer: Sequence[int], top: int) -> list[Scored]:
        """One `Scored` a token of `answer`, with the `top` likeliest (fewer where the vocabulary is smaller)."""
        ...

    def complete_one(self, prompt: Sequence[int], max_new_tokens: int, temperature: float, seed: int) -> Decoded:
        """Plain sampling (temperature 0 is greedy); `max_new_tokens` fit the context."""
        ...

    def complete(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, seeds: Sequence[int]
    ) -> list[Decoded]:
        """One prompt after the other. Row i depends on `prompts[i]` and `seeds[i]` alone."""
        return [
            self.complete_one(prompt, self.room(prompt, max_new_tokens), temperature, seed)
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]

    def complete_block(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, seeds: Sequence[int]
    ) -> list[Decoded]:
        """As `complete` where texts alone are wanted: a runtime may take all rows at once, and give no times."""
        return self.complete(prompts, max_new_tokens, temperature, seeds)

    def room(self, prompt: Sequence[int], max_new_tokens: int) -> int:
        """How many tokens may follow a prompt; one that leaves none is an error."""
        if len(prompt) >= self.context:
            raise PosttrainError(
                f"a prompt of {len(prompt)} tokens; fewer than {self.context}, the file's context, are allowed. "
                "Shorten it."
            )
        return min(max_new_tokens, self.context - len(prompt))

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

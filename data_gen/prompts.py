"""Evaluation prompts with reference stories: three required words each, no word set twice.

They come from the same generator as training rows but from their own seed, and `data_gen.holdout` removes
what training data shares with them.

    python -m data_gen.prompts --seed 99 --rows 200 > eval/prompts/tinystories.jsonl
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

from data_gen.instructions import ask, phrase
from data_gen.story import stable_random


def all_prompts(seed: int) -> Iterator[dict[str, Any]]:
    """Prompts without end, each with its own set of words."""
    seen: set[frozenset[str]] = set()
    for index in count():
        rng = stable_random("prompt", seed, index)
        request, story = ask(rng, seed, index, all_words=True)
        if frozenset(request.words) in seen:
            continue
        seen.add(frozenset(request.words))
        yield {
            "id": f"p{len(seen) - 1:03d}",
            "prompt": phrase(rng, request),
            "words": list(request.words),
            "features": list(request.features),
            "first_sentence": request.first_sentence,
            "hero": request.hero,
            "reference": story.text,
        }


def prompt_rows(seed: int, rows: int) -> list[dict[str, Any]]:
    """The first `rows` prompts of `seed`."""
    return list(islice(all_prompts(seed), rows))


def print_prompts(prompts: Callable[[int, int], Sequence[Mapping[str, Any]]], about: str | None, seed: int) -> None:
    """The command line of a set of prompts: print `prompts(seed, rows)` as JSONL; `seed` unless another is given."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--rows", type=int, default=200)
    arguments = parser.parse_args()
    for row in prompts(arguments.seed, arguments.rows):
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    print_prompts(prompt_rows, __doc__, seed=99)

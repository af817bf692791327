"""Keep texts of the evaluation out of training data: drop rows that hold much of a prompt or of its reference.

Runs of 13 words are compared, as for GPT-3 (Brown et al. 2020, appendix C). There one shared run condemns a document.
Rows made from templates share whole sentences with prompts made from the same ones, so here a row goes when it holds a
share of a text's runs, as PaLM (Chowdhery et al. 2022, section 8) and Llama 3 (2024, section 5.1.4) count. Of 3,000
rows of `instructions`, 77 % share a run with `eval/prompts/tinystories.jsonl` and none holds 40 % of a text. Rules that
forgive what is common among rows would forgive a prompt that leaked often. Words end at spaces and punctuation, so
text in a script that sets none is compared by the sentence.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from data_gen.generator import Row
from data_gen.holdout import request_text, story_text

NGRAM = 13  # words
SHARE = 0.5  # of the runs of a prompt, or of a reference
SHORTEST = 5  # words: below that, a text says too little to be recognised by
EXAMPLES = 3  # shown of each prompt set


class Example(NamedTuple):
    """A dropped row, the prompt it holds, and the longest run of words that they share."""

    row: str
    prompt: str
    run: str


class Overlap(NamedTuple):
    """What a prompt set has in common with the rows; `not_compared` counts its texts of fewer than 5 words."""

    prompts: int
    not_compared: int
    overlapping: int  # rows that share at least one run
    dropped: int
    examples: list[Example]


class _Text(NamedTuple):
    prompt: str
    words: list[str]
    runs: int


class _Index(NamedTuple):
    """The texts of a prompt set, and in which of them each run stands, by the length of the run."""

    texts: list[_Text]
    places: dict[int, dict[tuple[str, ...], list[int]]]
    not_compared: int


def contaminated(
    rows: Sequence[Row], prompt_sets: Mapping[str, Sequence[Row]], ngram: int = NGRAM, share: float = SHARE
) -> tuple[list[Row], dict[str, Overlap]]:
    """The rows that hold less than `share` of the runs of any prompt or reference, and what each set has in common.

    Case and punctuation do not count; a text of 5 to `ngram` - 1 words is one run. `share` 0: any shared run is enough.
    """
    indices = {name: _index(prompts, ngram) for name, prompts in prompt_sets.items()}
    overlapping: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    examples: dict[str, list[Example]] = {name: [] for name in prompt_sets}
    kept = []
    for row in rows:
        messages = [_words(message["content"]) for message in row["messages"]]
        clean = True
        for name, index in indices.items():
            shared = _shared(index, messages)
            held = [number for number in sorted(shared) if shared[number] >= share * index.texts[number].runs]
            overlapping[name] += bool(shared)
            dropped[name] += bool(held)
            if held and len(examples[name]) < EXAMPLES:
                examples[name].append(_example(row, messages, index.texts[held[0]]))
            clean = clean and not held
        if clean:
            kept.append(row)
    return kept, {
        name: Overlap(len(prompt_sets[name]), index.not_compared, overlapping[name], dropped[name], examples[name])
        for name, index in indices.items()
    }


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _runs(words: Sequence[str], length: int) -> Iterable[tuple[str, ...]]:
    """All runs of `length` words, in order."""
    return zip(*(words[start:] for start in range(length)), strict=False)


def _index(prompts: Sequence[Row], ngram: int) -> _Index:
    index = _Index([], {}, 0)
    short = 0
    for place, prompt in enumerate(prompts):
        for text in (request_text(prompt), story_text(prompt)):
            words = _words(text or "")
            short += bool(text) and len(words) < SHORTEST
            if len(words) < SHORTEST:
                continue
            length = min(ngram, len(words))
            runs = set(_runs(words, length))
            for run in runs:
                index.places.setdefault(length, {}).setdefault(run, []).append(len(index.texts))
            index.texts.append(_Text(str(prompt.get("id", place)), words, len(runs)))
    return index._replace(not_compared=short)


def _shared(index: _Index, messages: Sequence[Sequence[str]]) -> Counter[int]:
    """How many runs of each text, by its number, stand in the messages."""
    found = {
        run
        for length, places in index.places.items()
        for words in messages
        for run in places.keys() & _runs(words, length)
    }
    return Counter(number for run in found for number in index.places[len(run)][run])


def _example(row: Row, messages: Sequence[Sequence[str]], text: _Text) -> Example:
    matches = [(SequenceMatcher(None, text.words, words, False).find_longest_match(), words) for words in messages]
    longest, words = max(matches, key=lambda match: match[0].size)
    return Example(str(row["id"]), text.prompt, " ".join(words[longest.b : longest.b + longest.size]))

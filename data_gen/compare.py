"""How the story world differs from other stories: length, vocabulary, variety, dialogue, near-duplicates.

Both sides are measured alike, on the same number of stories; the variety figures also on the same number of words,
because they fall with length.

    python -m data_gen.compare stories.jsonl      # rows with "text"; prints a Markdown table
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from data_gen.dedup import deduplicate
from data_gen.handwritten import handwritten
from data_gen.story import stable_random, tell

WORDS = re.compile(r"[a-z]+(?:'[a-z]+)?")
SENTENCE_ENDS = re.compile(r"[.!?]+[\"']*(?=\s|$)")
SAMPLE = 4000  # stories
EQUAL = 8000  # words on which variety is measured; the hand-written stories have about that many
ALIKE = 0.7  # Jaccard similarity above which two stories are near-duplicates


def words_of(text: str) -> list[str]:
    """The lower-case words of a text."""
    return WORDS.findall(text.lower())


def distinct(words: Sequence[str], size: int) -> float:
    """Different runs of `size` words as a share of all runs (Li et al. 2016)."""
    runs = list(zip(*(words[start:] for start in range(size)), strict=False))
    return len(set(runs)) / max(1, len(runs))


def figures(stories: Sequence[str]) -> dict[str, str]:
    """What is compared, by name, as shown in the table."""
    tokens = [words_of(story) for story in stories]
    total = sum(map(len, tokens))
    stream = [word for words in tokens for word in words]
    equal = stream[:EQUAL]
    sentences = sum(len(SENTENCE_ENDS.findall(story)) for story in stories)
    kept, _ = deduplicate([{"messages": [{"content": story}]} for story in stories], ALIKE)
    lengths = sorted(map(len, tokens))
    return {
        "stories": f"{len(stories):,}",
        "words a story (median)": f"{total / len(stories):.0f} ({lengths[len(lengths) // 2]})",
        "words a sentence": f"{total / max(1, sentences):.1f}",
        "vocabulary, all": f"{len(set(stream)):,}",
        f"vocabulary in {EQUAL:,} words": f"{len(set(equal)):,}",
        **{f"distinct-{size} in {EQUAL:,} words": f"{distinct(equal, size):.3f}" for size in (1, 2, 3)},
        "share with dialogue": f"{sum(chr(34) in story for story in stories) / len(stories):.0%}",
        f"near-duplicates (Jaccard > {ALIKE})": f"{1 - len(kept) / len(stories):.1%}",
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("stories", type=Path, help="JSONL with the field `text`")
    arguments = parser.parse_args()
    lines = arguments.stories.read_text(encoding="utf-8").splitlines()
    others = [json.loads(line)["text"] for line in lines]
    stable_random("compare").shuffle(others)
    columns = {
        "story world": [tell(0, index).text for index in range(min(SAMPLE, len(others)))],
        "hand-written": [told.story.text for told in handwritten()],
        arguments.stories.name: others[:SAMPLE],
    }
    found = {name: figures(stories) for name, stories in columns.items()}
    print("| | " + " | ".join(found) + " |\n|---|" + "---|" * len(found))
    for row in found["story world"]:
        print(f"| {row} | " + " | ".join(column[row] for column in found.values()) + " |")


if __name__ == "__main__":
    main()

"""Count what the rule judge has read: the story world, the hand-written stories, and eval/reference/prose.txt.

Everything counted was written for this project. Run it again when the story world or the prose has changed:

    python -m bench.reference        # writes eval/reference/classes.txt and places.txt, in seconds
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from data_gen.handwritten import handwritten
from data_gen.story import tell
from eval.prose import Story, parse
from eval.reference import FOLDER, START, STOP, grams
from eval.tags import tags

SEED, TOLD = 2024, 1500  # stories of the world: its sentences come again and again, so more add little
OWN = 4  # how often a hand-written story or a line of prose counts against one told story
OPENING, MIDDLE, CLOSING = range(3)
PLACES = {"openings": OPENING, "middles": MIDDLE, "closings": CLOSING}
RAREST = 2 * OWN  # a pair of words seen less often says nothing of places


class Passage(NamedTuple):
    """A text, how often it counts, and the place it stands in: None for a whole story."""

    text: str
    weight: int
    place: int | None


def prose() -> Iterator[Passage]:
    """The lines of prose.txt with their places."""
    place = MIDDLE
    for line in (FOLDER / "prose.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            place = PLACES[line.strip("[]")]
        elif line and not line.startswith("#"):
            yield Passage(line, OWN, place)


def passages() -> Iterator[Passage]:
    """All that is counted."""
    yield from prose()
    yield from (Passage(entry.story.text, OWN, None) for entry in handwritten())
    yield from (Passage(tell(SEED, index).text, 1, None) for index in range(TOLD))


def places(story: Story, place: int | None) -> list[int]:
    """The place of each sentence: the first opens, the last two close; a line of prose is all of its place."""
    count = len(story.sentences)
    if place == OPENING:
        return [OPENING] + [MIDDLE] * (count - 1)
    if place is not None:
        return [place] * count
    return [OPENING if i == 0 else CLOSING if i >= count - 2 else MIDDLE for i in range(count)]


def main() -> None:
    """Write both files of counts."""
    trigrams: Counter[tuple[str, ...]] = Counter()
    found: Counter[tuple[str, int]] = Counter()
    sizes: Counter[int] = Counter()
    for passage in passages():
        story = parse(passage.text)
        for tokens, place in zip(story.tokens, places(story, passage.place), strict=True):
            padded = [START, START, *tags(tokens, story), STOP]
            for trigram in zip(padded, padded[1:], padded[2:], strict=False):
                trigrams[trigram] += passage.weight
            sizes[place] += passage.weight
            for gram in grams(tokens, story):
                found[gram, place] += passage.weight
    head = "# Made by bench/reference.py from texts of this project.\n"
    lines = [f"{' '.join(trigram)} {count}\n" for trigram, count in sorted(trigrams.items())]
    (FOLDER / "classes.txt").write_text(head + "".join(lines), encoding="utf-8")
    rows = {gram: [found[gram, place] for place in range(3)] for gram, _ in found}
    kept = {gram: counts for gram, counts in sorted(rows.items()) if sum(counts) >= RAREST}
    lines = [f"{gram}\t{counts[0]}\t{counts[1]}\t{counts[2]}\n" for gram, counts in kept.items()]
    first = f"{STOP}\t{sizes[OPENING]}\t{sizes[MIDDLE]}\t{sizes[CLOSING]}\n"
    (FOLDER / "places.txt").write_text(head + first + "".join(lines), encoding="utf-8")
    print(f"{len(trigrams)} trigrams of classes, {len(kept)} words and pairs, from {sum(sizes.values())} sentences")


if __name__ == "__main__":
    main()

"""Laws of the hand-written stories: finished child-level English, labelled with what they show, none like another."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from data_gen.handwritten import LONGEST, SHORTEST, HandwrittenStory, handwritten, read_stories
from data_gen.storyworld import FEATURES
from eval.consistency import consistency
from eval.cues import shows
from eval.damages import shuffled_sentences
from eval.grammar import grammar
from eval.prose import parse
from eval.verdict import scores
from eval.words import accepted, missing

STORIES = handwritten()
EACH = pytest.mark.parametrize("told", STORIES, ids=[told.title for told in STORIES])
FEWEST, EACH_FEATURE = 60, 6  # stories
RUN = 12  # words that no two stories share in a row
GRAMMAR, CONSISTENCY = 9.0, 7.5
SEEN = 0.8  # share of the features, dialogue aside, that the judge's cues see


def runs(text: str) -> set[tuple[str, ...]]:
    """The runs of words of a text, in lower case."""
    words = re.findall(r"[a-z']+", text.lower())
    return set(zip(*(words[start:] for start in range(RUN)), strict=False))


def faults(told: HandwrittenStory) -> list[str]:
    """What is wrong with a story, by rules that a reader would agree with."""
    story, text = told.story, told.story.text
    found = [f"no {word}" for word in missing(text, story.words)]
    found += [f"no {name}" for name in story.characters if not re.search(rf"(?i)\b{re.escape(name)}\b", text)]
    found += ["length"] if not SHORTEST <= len(text.split()) <= LONGEST else []
    found += ["dialogue"] if ('"' in text) != ("dialogue" in story.features) else []
    found += ["quotes"] if any(paragraph.count('"') % 2 for paragraph in text.split("\n\n")) else []
    found += ["end"] if not re.search(r"[.!?][\"']?$", text) else []
    found += ["letters"] if not (text + told.title + story.summary).isascii() else []
    found += ["blanks"] if re.search(r"  |(?<!\n)\n(?!\n)|\n{3}|\t", text) else []
    one_sentence = re.fullmatch(r"[A-Z][^.!?]*\.", re.sub(r"(?<=Mr)s?\.", "", story.summary))
    found += [] if one_sentence else ["summary"]
    return found


def doubles(stories: tuple[HandwrittenStory, ...]) -> list[str]:
    """Titles, word triples and long runs of words that two stories share."""
    titles = Counter(told.title.lower() for told in stories)
    triples = Counter(told.story.words for told in stories)
    found = [str(item) for counts in (titles, triples) for item, count in counts.items() if count > 1]
    spans = [(told.title, runs(told.story.text)) for told in stories]
    return found + [f"{one} = {other}" for (one, a), (other, b) in combinations(spans, 2) if a & b]


@EACH
def test_a_story_has_no_fault(told: HandwrittenStory) -> None:
    assert faults(told) == []


@EACH
def test_the_judge_finds_a_story_correct(told: HandwrittenStory) -> None:
    correct = grammar(parse(told.story.text), frozenset().union(*map(accepted, told.story.words)))
    assert correct.score is not None and correct.score >= GRAMMAR, correct.reason


def consistencies(texts: Sequence[str]) -> list[float]:
    return scores(consistency(parse(text)) for text in texts)


def test_the_judge_finds_the_stories_consistent_and_their_shuffled_sentences_not() -> None:
    texts = [told.story.text for told in STORIES]
    intact, shuffled = consistencies(texts), consistencies([shuffled_sentences(text, Random(1)) for text in texts])
    assert sum(before > after for before, after in zip(intact, shuffled, strict=True)) >= 0.95 * len(STORIES)
    assert sum(intact) / len(intact) >= CONSISTENCY > sum(shuffled) / len(shuffled)


def test_there_are_enough_stories_and_enough_of_each_feature() -> None:
    counts = Counter(name for told in STORIES for name in told.story.features)
    assert len(STORIES) >= FEWEST
    assert {name: counts[name] for name in FEATURES if counts[name] < EACH_FEATURE} == {}


def test_no_two_stories_share_a_title_or_their_words_or_a_passage() -> None:
    assert doubles(STORIES) == []
    assert len(doubles((STORIES[0], STORIES[0]))) == 3


def test_the_judge_refuses_a_spoiled_story() -> None:
    one, other = (told.story.text for told in STORIES[:2])
    backwards = grammar(parse(" ".join(reversed(one.split()))))
    mixed = consistency(parse(other[: len(other) // 2] + one[: len(one) // 2]))
    assert backwards.score is not None and backwards.score < GRAMMAR
    assert mixed.score is not None and mixed.score < CONSISTENCY


def share_seen(labelled: bool) -> float:
    """The share of (story, feature), dialogue aside, that the cues see where the labels say so or do not."""
    pairs = [(told.story, name) for told in STORIES for name in FEATURES if name != "dialogue"]
    chosen = [shows(parse(story.text), name) for story, name in pairs if (name in story.features) is labelled]
    return sum(chosen) / len(chosen)


def test_the_cues_of_the_judge_see_most_features_and_few_that_are_not_there() -> None:
    assert share_seen(True) >= SEEN
    assert share_seen(False) <= 1 - SEEN


def test_the_stories_are_read_once() -> None:
    assert handwritten() is STORIES


def entry(**changes: Any) -> dict[str, Any]:
    """A sound entry with some keys changed; None takes a key away."""
    sound: dict[str, Any] = {
        "title": "The Drum",
        "words": ["drum", "beat", "loud"],
        "features": ["conflict"],
        "characters": ["Tia"],
        "summary": "Tia beats a drum.",
        "text": "Tia beat a loud drum. " * 24,
    }
    return {key: value for key, value in (sound | changes).items() if value is not None}


def write(folder: Path, *entries: Any) -> Path:
    (folder / "drums.yaml").write_text(yaml.safe_dump(list(entries)), encoding="utf-8")
    return folder


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    (told,) = read_stories(write(tmp_path, entry(features=["conflict", "dialogue"])))
    assert told.title == "The Drum"
    assert told.story.features == ("dialogue", "conflict")
    assert told.story.text.endswith("drum.")


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"summary": None}, "'The Drum': no summary"),
        ({"title": None}, "without a title.*no title"),
        ({"moral": "none"}, "'The Drum': unknown moral"),
        ({"features": ["romance"]}, "'The Drum': unknown feature romance"),
        ({"features": "conflict"}, "'The Drum': features is 'conflict'"),
        ({"words": ["drum", "beat"]}, "'The Drum': 2 words"),
        ({"words": ["drum", "beat", True]}, "'The Drum': words is"),
        ({"title": 7}, "7: title, summary or text is no text"),
        ({"text": "Tia beat a loud drum."}, "'The Drum': 5 words of text"),
        ({"text": "Tia beat a loud drum. " * 41}, "'The Drum': 205 words of text"),
    ],
)
def test_an_entry_that_is_not_right_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=rf"^drums\.yaml, .*{problem}"):
        read_stories(write(tmp_path, entry(), entry(**changes)))


def test_a_file_that_is_no_list_of_stories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^drums\.yaml: an entry is 'drum'"):
        read_stories(write(tmp_path, "drum"))
    (tmp_path / "drums.yaml").write_text("title: drum", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^drums\.yaml: dict"):
        read_stories(tmp_path)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"words": ["drum", "beat", "quiet"]}, "no quiet"),
        ({"characters": ["Tia", "Ben"]}, "no Ben"),
        ({"features": ["dialogue"]}, "dialogue"),
        ({"text": 'Tia beat a loud drum. "Oh, ' + "Tia beat a loud drum. " * 24}, "quotes"),
        ({"text": "Tia beat a loud drum. " * 24 + "Then"}, "end"),
        ({"text": "Tia beat a loud drum. " * 24 + "Caf\u00e9."}, "letters"),
        ({"text": "Tia beat a loud drum.\n" * 24}, "blanks"),
        ({"summary": "Tia beats. She stops."}, "summary"),
    ],
)
def test_a_faulty_story_is_caught(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    (good,) = read_stories(write(tmp_path, entry()))
    (bad,) = read_stories(write(tmp_path, entry(**changes)))
    assert faults(good) == []
    assert fault in faults(bad)

"""What the prompt asked for is checked exactly, and what it did not ask for does not count."""

import pytest

from data_gen.story import tell
from eval.cues import FEATURES, shows
from eval.prose import parse
from eval.story_rules import judge_story
from eval.words import missing

STORY = 'Once there was a girl named Mia. She ran with a key. "Come home now," said Mom. She was happy.'


def _instruct(text: str = STORY, **asked: object) -> tuple[float | None, str]:
    return judge_story(asked, text, stopped=True)["instruct"]


def test_each_missing_word_costs_its_share_and_is_named() -> None:
    assert _instruct(words=["key", "run"]) == (10.0, "uses 2 of 2 words")
    assert _instruct(words=["key", "run", "calm"]) == (7.0, "uses 2 of 3 words: missing 'calm'")
    assert _instruct(words=["calm", "moon"])[0] == 1.0


def test_the_first_sentence_must_be_the_asked_one() -> None:
    assert _instruct(first_sentence="Once there was a girl named Mia.")[0] == 10.0
    score, reason = _instruct(first_sentence="One day a dog ran away from a big house.")
    assert score is not None and score < 3 and "first sentence differs" in reason


def test_the_hero_must_be_named() -> None:
    assert _instruct(hero="Mia") == (10.0, "names Mia")
    assert _instruct(hero="Tom") == (1.0, "never names Tom")


def test_what_was_not_asked_does_not_count() -> None:
    assert _instruct(words=["key"], features=[], first_sentence=None, hero=None)[0] == 10.0
    assert _instruct(words=["key"], features=["dialogue"])[0] == 10.0
    assert (_instruct(words=["key"], features=["bad ending"])[0] or 10) < 10


def test_nothing_asked_and_unknown_features_are_unscored() -> None:
    assert _instruct()[0] is None
    score, reason = _instruct(features=["rhyme"])
    assert score is None and "'rhyme'" in reason and "dialogue" in reason


START = "Once there was a boy named Tim. He had a boat. He took it to the lake. He sailed it there. "
WITH = {
    "dialogue": START + '"Come home now," said his mom. They went home.',
    "moral value": START + "They went home. Tim learned that it is good to share.",
    "plot twist": START + "It turned out that the boat was alive. They went home.",
    "bad ending": START + "But the boat sank. Tim never saw it again and cried.",
    "foreshadowing": START.replace("He had a boat", "He did not know that his boat had a hole") + "It was fun.",
    "conflict": START + "A girl grabbed the boat, and they had a fight. They went home.",
}


@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_is_seen_where_it_is_and_not_where_it_is_not(feature: str) -> None:
    assert shows(parse(WITH[feature]), feature)
    plain = START + "He played until the evening. They went home and were happy."
    assert not shows(parse(plain), feature)


def test_a_sad_word_before_a_glad_close_is_no_bad_ending() -> None:
    assert not shows(parse(START + "Tim cried. Then Mom found the boat. Tim was happy."), "bad ending")
    assert shows(parse(START + "Mom looked for the boat. It was gone. Tim was not happy."), "bad ending")


def test_one_shouted_word_is_no_dialogue() -> None:
    assert not shows(parse('The dog said "Woof" and ran.'), "dialogue")
    assert shows(parse("“Come here,” said the dog."), "dialogue")
    assert shows(parse("He said, 'Come here, please.' And so it was."), "dialogue")


def test_the_cues_see_the_features_of_told_stories_and_seldom_others() -> None:
    stories = [tell(77, index) for index in range(600)]
    parsed = [(story, parse(story.text)) for story in stories]
    assert all(not missing(story.text, story.words) for story in stories)
    for feature in FEATURES:
        there = [shows(text, feature) for story, text in parsed if feature in story.features]
        absent = [shows(text, feature) for story, text in parsed if feature not in story.features]
        assert len(there) >= 50 and sum(there) >= 0.93 * len(there), feature
        assert sum(absent) <= 0.25 * len(absent), feature

"""Evaluation prompts whose references are the hand-written stories: the built-in set that judges are tested with.

A recipe whose own prompts have no references borrows these stories, of which no model was told any.

    python -m data_gen.canary_prompts > eval/prompts/canaries.jsonl
"""

import json
from typing import Any

from data_gen.handwritten import handwritten
from data_gen.instructions import FIRST_SENTENCE, HERO, Request, first_sentence, phrase
from data_gen.story import Story, stable_random

MOST_FEATURES = 2
SHORTEST_OPENING = 4  # words


def request_for(title: str, story: Story) -> tuple[Request, str]:
    """What could have been asked to be told this story, and how a user may say it; a function of both alone."""
    rng = stable_random("canary", title)
    hero = story.characters[0]
    opening = first_sentence(story.text)
    can_open = '"' not in opening and len(opening.split()) >= SHORTEST_OPENING
    request = Request(
        words=story.words,
        features=tuple(sorted(rng.sample(story.features, min(MOST_FEATURES, len(story.features))))),
        first_sentence=opening if can_open and rng.random() < FIRST_SENTENCE else None,
        hero=hero if hero.isalpha() and hero.istitle() and rng.random() < HERO else None,
    )
    return request, phrase(rng, request)


def prompt_rows() -> list[dict[str, Any]]:
    """One prompt a hand-written story, in their order."""
    made = []
    for number, (title, story) in enumerate(handwritten()):
        request, prompt = request_for(title, story)
        asked = {key: list(value) if isinstance(value, tuple) else value for key, value in request._asdict().items()}
        made.append({"id": f"c{number:03d}", "prompt": prompt, **asked, "reference": story.text})
    return made


def main() -> None:
    """Print the prompts as JSONL."""
    for row in prompt_rows():
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()

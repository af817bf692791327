"""A teacher's answers to instructions: sampled in fixed blocks, and kept only where nothing is wrong with them.

A faulty answer is dropped whole and counted by its first fault. None is repaired: what a student learns is what its
teacher wrote.
"""

import re
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from posttrain.chain.identity import digest_of_json
from posttrain.chain.paths import find_path
from posttrain.chain.stage import Config, Input, StageContext
from posttrain.errors import PosttrainError
from posttrain.rows import read_rows

if TYPE_CHECKING:
    from posttrain.engines.transformers_engine import Completion, Prompt
    from posttrain.lm.chat import ChatFormat

CUT, EMPTY, CONTROL, WORD = "cut", "empty", "with a control string", "without a required word"  # in this order
FAULTS = (CUT, EMPTY, CONTROL, WORD)
TEMPLATE_SET = re.compile(r'"chat_template"\s*:\s*["\[{]')  # null is none


class SamplingSettings(Config):
    """How a teacher is sampled. Its context bounds `max_new_tokens`."""

    temperature: float = Field(0.7, ge=0, description="0 is greedy")
    max_new_tokens: int = Field(512, ge=1, description="longest answer; a cut one is dropped")
    block_size: int = Field(100, ge=1, description="answers sampled together; another size gives other bytes")


class Teacher(NamedTuple):
    """Who writes, and how it is asked. `identity` is what its weights are, never how a recipe calls them."""

    path: Path
    identity: str
    reference: str
    chat: "ChatFormat"


class Sampled(NamedTuple):
    """Completions by prompt id, and their tokens."""

    completions: "dict[str, Completion]"
    tokens: int
    tokens_per_second: float | None  # written in this call; None: a killed run had written all


class Told(NamedTuple):
    """What came back for a row: the completion, the sha256 of what was asked, and what an endpoint took for it.

    `tokens` are those of prompt and answer as the endpoint counts them, `usd` is None where no price is known. `fault`
    is why there is no completion.
    """

    completion: "Completion | None"
    prompt_sha256: str
    tokens: int = 0
    usd: float | None = 0.0
    fault: str | None = None


class Replies(NamedTuple):
    """Replies of one teacher by row id; `tokens` counts all that it wrote, kept or not."""

    identity: str
    replies: dict[str, Told]
    tokens: int
    tokens_per_second: float | None  # as in `Sampled`
    controls: frozenset[str]  # what no answer of it may hold


def check_template(reference: str, where: str) -> None:
    """Refuse a local directory without a chat template before any step runs. A name without "/" may be a step's."""
    path = find_path(reference)
    if "/" not in reference or not path.is_dir() or (path / "chat_template.jinja").is_file():
        return
    config = path / "tokenizer_config.json"
    if not config.is_file() or not TEMPLATE_SET.search(config.read_text(encoding="utf-8")):
        raise PosttrainError(
            f"{where}: {reference} has no chat template; one is needed to ask it. "
            "Name a model that chats, or the step that taught it to."
        )


def open_teacher(source: Input) -> Teacher:
    """The teacher without its weights: a tokenizer or template that cannot be used is an error here, before any work.

    A hub model is fetched.
    """
    from posttrain.hub.fetch import local_directory
    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.models import load_tokenizer

    path = local_directory(source)
    return Teacher(path, source.identity, source.reference, ChatFormat(load_tokenizer(path), source.reference))


def local_answers(
    teacher: Teacher,
    asked: Mapping[str, Sequence[Mapping[str, str]]],
    settings: SamplingSettings,
    seed: int,
    ctx: StageContext,
    folder: str,
) -> Replies:
    """Answers of a model that is here to `asked`, messages by row id; finished blocks of a killed run are kept."""
    from posttrain.engines.transformers_engine import Prompt
    from posttrain.lm.device import device
    from posttrain.lm.models import load_model

    prompts = [Prompt(key, teacher.chat.render(said, add_generation_prompt=True).ids) for key, said in asked.items()]
    model = load_model(teacher.path).to(device())
    made = sample_answers(model, teacher.chat, prompts, settings, seed, ctx, folder)
    replies = {key: Told(made.completions[key], digest_of_json(said)) for key, said in asked.items()}
    return Replies(teacher.identity, replies, made.tokens, made.tokens_per_second, control_strings(teacher.chat))


def sample_answers(
    model: Any,
    chat: "ChatFormat",
    prompts: "Sequence[Prompt]",
    settings: SamplingSettings,
    seed: int,
    ctx: StageContext,
    folder: str = "answers",
) -> Sampled:
    """A completion a prompt; what a killed run has finished, kept in `folder`, is not sampled again."""
    from posttrain.engines.transformers_engine import Sampling, sample

    how = Sampling(settings.max_new_tokens, settings.temperature, seed, settings.block_size)
    blocks = ctx.work / folder
    known: int = sum(row["tokens"] for path in sorted(blocks.glob("*.jsonl")) for row in read_rows(path))
    started = time.perf_counter()

    def rate(tokens: int) -> float:
        return max(tokens - known, 0) / (time.perf_counter() - started)

    with ctx.progress(len(prompts), "answers") as tick:

        def report(done: int, tokens: int) -> None:
            tick(done, f"{rate(tokens):,.0f} tokens/s")

        found = sample(model, chat.tokenizer, chat.stop_ids, prompts, how, blocks, report)
    tokens = sum(answer.tokens for answer in found.values())
    return Sampled(found, tokens, round(rate(tokens), 1) if tokens > known else None)


def fault(answer: "Completion", words: Sequence[str], controls: Collection[str]) -> str | None:
    """The first of FAULTS that an answer has: none of `controls` in any disguise, and all `words` in some form."""
    from data_gen.strip import strip_control
    from eval.words import missing

    if not answer.stopped:
        return CUT
    if not answer.text.strip():
        return EMPTY
    if strip_control(answer.text, controls)[1]:
        return CONTROL
    return WORD if missing(answer.text, words) else None


def control_strings(chat: "ChatFormat") -> frozenset[str]:
    """What no answer may hold: our chat tokens and the teacher's added tokens, special or not.

    Some tokenizers add runs of white space; those are text.
    """
    from posttrain.lm.tokenizer import CHAT_TOKENS

    added = {token.content for token in chat.tokenizer.added_tokens_decoder.values()}
    return frozenset(text for text in (*CHAT_TOKENS, *added) if text.strip())

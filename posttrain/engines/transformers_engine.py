"""Sampling with transformers in fixed blocks: the same rows give the same bytes, and a block is the unit of resume.

Rows are sorted by length and cut into blocks; a block is left-padded and has one seed, derived from its row ids.
A finished block is a file, so a killed run asks only for the blocks that are missing. On a CPU each core works on a
block of its own: the matrices of a small model are too small to share.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows, write_rows

SMALL = 50_000_000  # parameters; a larger model keeps all cores busy by itself, and its cache fills the memory


class Prompt(NamedTuple):
    """One completion to be made: a unique id and the rendered prompt's token ids.

    The last `begun` of the ids are the beginning of the answer, to be written on; they are part of its text.
    """

    id: str
    ids: list[int]
    begun: int = 0


class Sampling(NamedTuple):
    """How to sample; `temperature` 0 is greedy. A model's context bounds `max_new_tokens`."""

    max_new_tokens: int
    temperature: float
    seed: int
    block_size: int


class Completion(NamedTuple):
    """Text without its stop token, whether one ended it, and its tokens (the stop counted).

    A control token that the model writes in the middle of an answer is a leak, and stands in the text to be seen.
    """

    text: str
    stopped: bool
    tokens: int


def blocks_of(prompts: Sequence[Prompt], size: int) -> list[list[Prompt]]:
    """Prompts sorted by length (then id), in blocks of `size`."""
    ordered = sorted(prompts, key=lambda prompt: (len(prompt.ids), prompt.id))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def block_seed(seed: int, block: Sequence[Prompt]) -> int:
    """A 63-bit seed from the recipe's seed and the ids of the rows in the block."""
    key = "\n".join([str(seed), *(prompt.id for prompt in block)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


def sample(
    model: Any,
    tokenizer: Any,
    stop_ids: frozenset[int],
    prompts: Sequence[Prompt],
    settings: Sampling,
    journal: Path,
    tick: Callable[[int, int], None],
) -> dict[str, Completion]:
    """Completions by prompt id. `tick(rows, tokens)` is called after each block; finished blocks are read back."""
    journal.mkdir(parents=True, exist_ok=True)
    model.eval()
    found: dict[str, Completion] = {}
    blocks = {
        journal / f"block-{at:05d}.jsonl": block for at, block in enumerate(blocks_of(prompts, settings.block_size))
    }
    missing = {path: block for path, block in blocks.items() if not path.is_file()}
    for block in missing.values():
        _check_width(model, block)
    with _workers(model, len(blocks)) as (pool, stop):

        def make(path: Path, block: Sequence[Prompt]) -> None:
            write_rows(path, _sample_block(model, tokenizer, stop_ids, block, settings, stop))

        making = {path: pool.submit(make, path, block) for path, block in missing.items()}
        for path in blocks:
            if path in making:
                making[path].result()
            for row in read_rows(path):
                found[row["id"]] = Completion(row["text"], row["stopped"], row["tokens"])
            tick(len(found), sum(completion.tokens for completion in found.values()))
    return found


@contextmanager
def _workers(model: Any, blocks: int) -> Iterator[tuple[ThreadPoolExecutor, Event]]:
    """A thread for each core of a CPU, or one with all of them; and what stops them, so that nobody waits for a block.

    How many threads a block gets follows from the model and from all of the blocks, never from those that are left:
    a continued run must round as the first one did.
    """
    import torch

    threads, stop = torch.get_num_threads(), Event()
    alone = blocks == 1 or str(model.device) != "cpu" or model.num_parameters() > SMALL
    pool = ThreadPoolExecutor(1 if alone else threads, "block", torch.set_num_threads, (threads if alone else 1,))
    try:
        yield pool, stop
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # threads that start from here on have their share again


def _check_width(model: Any, block: Sequence[Prompt]) -> None:
    longest = max(block, key=lambda prompt: len(prompt.ids))
    width, context = len(longest.ids), model.config.get_text_config().max_position_embeddings
    if width >= context:
        raise PosttrainError(
            f"prompt {longest.id}: {width} tokens; fewer than {context}, the model's context, are allowed. Shorten it."
        )


def _sample_block(
    model: Any, tokenizer: Any, stop_ids: frozenset[int], block: Sequence[Prompt], settings: Sampling, stop: Event
) -> list[Row]:
    import torch

    from posttrain.engines.decoding import decode

    room = model.config.get_text_config().max_position_embeddings - max(len(prompt.ids) for prompt in block)
    made = decode(
        model,
        [prompt.ids for prompt in block],
        stop_ids,
        min(settings.max_new_tokens, room),
        settings.temperature,
        torch.Generator().manual_seed(block_seed(settings.seed, block)),
        stop.is_set,
    )
    rows = []
    for prompt, tokens in zip(block, made, strict=True):
        stopped = tokens[-1] in stop_ids
        kept = tokens[:-1] if stopped else tokens
        text = tokenizer.decode(
            prompt.ids[len(prompt.ids) - prompt.begun :] + kept,
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        rows.append({"id": prompt.id, "text": text, "stopped": stopped, "tokens": len(tokens)})
    return rows

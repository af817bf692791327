"""Our decoding loop beside transformers' `generate`: a block of prompts, the same model, answers of unequal length.

Greedy tokens must be the same. At a temperature the draws differ, so speed is tokens a second of CPU time, counting
tokens up to each row's end.

    python bench/sampling.py [--model models/storyteller-8m] [--rows 100] [--max-new-tokens 432] [--threads 1]
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPTS = Path(__file__).parents[1] / "eval" / "prompts" / "tinystories.jsonl"
Tokens = list[list[int]]


def until_the_end(rows: Tokens, stops: frozenset[int]) -> Tokens:
    """Each row up to its first stop id, that one included."""
    ends = [next((at for at, token in enumerate(row) if token in stops), len(row)) for row in rows]
    return [row[: end + 1] for row, end in zip(rows, ends, strict=True)]


def stock(model: Any, prompts: Tokens, stops: frozenset[int], most: int, temperature: float) -> Tokens:
    """What `generate` makes of left-padded prompts."""
    import torch

    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
    how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    torch.manual_seed(0)
    with torch.inference_mode():
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=most,
            eos_token_id=sorted(stops),
            pad_token_id=0,
            **({"do_sample": False} | how),
        )
    return until_the_end(made[:, width:].tolist(), stops)


def timed(make: Callable[[], Tokens]) -> tuple[Tokens, float]:
    """What was made, and tokens a second of CPU time."""
    start = time.process_time()
    made = make()
    return made, sum(map(len, made)) / (time.process_time() - start)


def main() -> None:
    """Two temperatures, each side once after a short warm-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/storyteller-8m"))
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--max-new-tokens", type=int, default=432)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    import torch

    from posttrain.engines.decoding import decode
    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.models import load_model, load_tokenizer
    from posttrain.rows import read_rows

    torch.set_num_threads(options.threads)
    model, tokenizer = load_model(options.model).eval(), load_tokenizer(options.model)
    chat = ChatFormat(tokenizer, str(options.model))
    asked = [[{"role": "user", "content": row["prompt"]}] for row in read_rows(PROMPTS)[: options.rows]]
    prompts = [chat.render(messages, add_generation_prompt=True).ids for messages in asked]
    decode(model, prompts[:8], chat.stop_ids, 4, 0.0, torch.Generator())
    for temperature in (0.0, 0.7):
        draws = torch.Generator().manual_seed(0)
        how = (chat.stop_ids, options.max_new_tokens, temperature)
        theirs, slow = timed(lambda how=how: stock(model, prompts, *how))  # type: ignore[misc]
        ours, fast = timed(lambda how=how, draws=draws: decode(model, prompts, *how, draws))  # type: ignore[misc]
        print(f"temperature {temperature:g}: generate {slow:,.0f} tokens/s, ours {fast:,.0f}: {fast / slow:.2f} times")
        if not temperature and ours != theirs:
            sys.exit("greedy tokens differ")


if __name__ == "__main__":
    main()

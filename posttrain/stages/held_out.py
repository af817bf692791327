"""Held-out answers under a model: what the prompts' references cost, under their own prompts and under others'.

The figures are made here, beside the samples, where a model is at hand; what they mean is `eval/held_out.py`'s.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from posttrain.rows import Row

if TYPE_CHECKING:
    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.token_row import TokenRow

MOST = 200  # references measured: intervals are narrow by then, and each costs two passes of the model
CHUNK = 40  # references between two reports of progress


def reference_losses(
    model: Any, chat: "ChatFormat", prompts: Sequence[Row], report: Callable[[int], None]
) -> list[Row]:
    """{id, tokens, key, nats, nats_other} of each prompt with a reference that fits the model's context.

    `nats` are summed over the answer and its stop token; `nats_other` are the same tokens' under the next prompt. `key`
    names the tokens themselves, so that only equal ones are ever compared.
    """
    context = model.config.get_text_config().max_position_embeddings
    chosen = measured(prompts)
    others = [*chosen[1:], *chosen[:1]]
    made: list[Row] = []
    for start in range(0, len(chosen), CHUNK):
        part = slice(start, start + CHUNK)
        own = [_row(chat, row["prompt"], row) for row in chosen[part]]
        other = [_row(chat, beside["prompt"], row) for row, beside in zip(chosen[part], others[part], strict=True)]
        fits = [at for at, pair in enumerate(zip(own, other, strict=True)) if _longest(pair) <= context]
        sums = _sums(model, [own[at] for at in fits]), _sums(model, [other[at] for at in fits])
        for at, nats, under_other in zip(fits, *sums, strict=True):
            same = chosen[part][at]["prompt"] == others[part][at]["prompt"]
            made.append(
                {
                    "id": own[at].id,
                    "tokens": sum(own[at].supervised[1:]),
                    "key": _key(own[at]),
                    "nats": nats,
                    "nats_other": None if same else under_other,
                }
            )
        report(min(start + CHUNK, len(chosen)))
    return made


def measured(prompts: Sequence[Row]) -> list[Row]:
    """The first prompts that have a reference answer."""
    return [row for row in prompts if str(row.get("reference") or "").strip()][:MOST]


def _row(chat: "ChatFormat", prompt: str, row: Row) -> "TokenRow":
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["reference"]}]
    return chat.row(row["id"], messages)


def _longest(pair: "tuple[TokenRow, TokenRow]") -> int:
    return max(len(row.input_ids) for row in pair)


def _sums(model: Any, rows: "Sequence[TokenRow]") -> list[float]:
    from posttrain.lm.nll import row_nll

    means = row_nll(model, rows)
    return [mean * sum(row.supervised[1:]) for mean, row in zip(means, rows, strict=True)]


def _key(row: "TokenRow") -> str:
    return hashlib.sha256(json.dumps([row.input_ids, row.supervised]).encode()).hexdigest()[:16]

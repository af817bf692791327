"""Held-out answers under a model: what the prompts' references cost, under their own prompts and under others'.

The figures are made here, beside the samples, where a model is at hand; what they mean is `eval/held_out.py`'s.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from posttrain.chain.stage import Progress
from posttrain.lm.nll import row_nll
from posttrain.rows import Row

if TYPE_CHECKING:
    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.token_row import TokenRow

MOST = 200  # references measured: intervals are narrow by then, and each costs two passes of the model


def reference_losses(model: Any, chat: "ChatFormat", prompts: Sequence[Row], progress: Progress) -> list[Row]:
    """{id, tokens, key, nats, nats_other} of the first prompts with a reference that fits the model's context.

    `nats` are summed over the answer and its stop token; `nats_other` are the same tokens' under the next prompt, None
    where that is the same request. `key` names the tokens themselves, so that only equal ones are ever compared.
    """
    context = model.config.get_text_config().max_position_embeddings
    chosen = [row for row in prompts if str(row.get("reference") or "").strip()][:MOST]
    beside = [row["prompt"] for row in [*chosen[1:], *chosen[:1]]]
    pairs = [
        (row["prompt"] != other, _row(chat, row["prompt"], row), _row(chat, other, row))
        for row, other in zip(chosen, beside, strict=True)
    ]
    fits = [(differ, own, other) for differ, own, other in pairs if max(_length(own), _length(other)) <= context]
    if not fits:
        return []
    with progress(2 * len(fits), "held-out answers") as tick:
        losses = row_nll(model, [own for _, own, _ in fits] + [other for _, _, other in fits], report=tick)
    made = []
    for at, (differ, own, _) in enumerate(fits):
        tokens = sum(own.supervised[1:])
        nats, under_other = losses[at] * tokens, losses[at + len(fits)] * tokens
        other = under_other if differ else None
        made.append({"id": own.id, "tokens": tokens, "key": _key(own), "nats": nats, "nats_other": other})
    return made


def _row(chat: "ChatFormat", prompt: str, row: Row) -> "TokenRow":
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["reference"]}]
    return chat.row(row["id"], messages)


def _length(row: "TokenRow") -> int:
    return len(row.input_ids)


def _key(row: "TokenRow") -> str:
    return hashlib.sha256(json.dumps([row.input_ids, row.supervised]).encode()).hexdigest()[:16]

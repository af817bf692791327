"""Held-out negative log-likelihood of answers: nats a supervised token, row by row."""

from collections.abc import Callable, Sequence
from typing import Any

from posttrain.lm.token_row import TokenRow


def row_nll(
    model: Any, rows: Sequence[TokenRow], batch_size: int = 16, report: Callable[[int], None] | None = None
) -> list[float]:
    """Mean nats a supervised token of each row, in the model's own precision and the order of `rows`.

    `report` is told how many rows are done.
    """
    import torch

    order = sorted(range(len(rows)), key=lambda at: len(rows[at].input_ids))
    result = [0.0] * len(rows)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            chosen = [rows[at] for at in order[start : start + batch_size]]
            width = max(len(row.input_ids) for row in chosen)
            ids = torch.zeros(len(chosen), width, dtype=torch.long)
            wanted = torch.zeros(len(chosen), width, dtype=torch.bool)
            for i, row in enumerate(chosen):
                ids[i, : len(row.input_ids)] = torch.tensor(row.input_ids)
                wanted[i, : len(row.supervised)] = torch.tensor(row.supervised)
            ids, wanted = ids.to(model.device), wanted.to(model.device)
            # Right padding needs no mask: a causal model never looks at what follows.
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
            kept = wanted[:, 1:]
            means = (losses * kept).sum(1) / kept.sum(1)
            for at, mean in zip(order[start : start + batch_size], means.tolist(), strict=True):
                result[at] = mean
            if report is not None:
                report(start + len(chosen))
    return result

"""What `distill` measures on held-out answers and says in its record."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from posttrain.chain.stage import Metrics, StageContext
from posttrain.errors import PosttrainError
from posttrain.stages.training import training_metrics

if TYPE_CHECKING:
    from posttrain.lm.sft import TrainResult
    from posttrain.lm.token_row import TokenRow
    from posttrain.stages.distill import DistillConfig
    from posttrain.stages.distilling import Examples, Pair


class Measured(NamedTuple):
    """Nats a supervised token of each held-out row: what its answer costs, and how far the teacher is.

    The distance is there where both models share a vocabulary.
    """

    nll: list[float]
    divergence: list[float] | None


class Held(NamedTuple):
    """Three measurements of the same held-out rows."""

    teacher: list[float]
    before: Measured
    after: Measured


def teacher_losses(ctx: StageContext, pair: "Pair", held: "Examples") -> list[float]:
    """What the held-out answers cost the teacher, in its own tokens."""
    from posttrain.lm.nll import row_nll

    with ctx.progress(len(held.teacher), "held-out rows of the teacher") as tick:
        losses = row_nll(pair.teacher, held.teacher, report=tick)
    if not math.isfinite(sum(losses)):
        raise PosttrainError(
            f"teacher: held-out answers cost {ctx.inputs['teacher'].reference} {_mean(losses)} nats; a finite number "
            "is needed. Check its weights."
        )
    return losses


def measure(ctx: StageContext, pair: "Pair", held: "Examples") -> Measured:
    """The student as it is now."""
    from posttrain.lm.distillation.held_out import row_divergence
    from posttrain.lm.nll import row_nll

    with ctx.progress(len(held.student), "held-out rows") as tick:
        losses = row_nll(pair.student, held.student, report=tick)
    if pair.real_ids is None:
        return Measured(losses, None)
    pair.teacher.to(pair.student.device)
    with ctx.progress(len(held.student), "held-out rows beside the teacher") as tick:
        found = row_divergence(pair.student, pair.teacher, held.student, pair.real_ids, report=tick)
    return Measured(losses, found)


def report(
    config: "DistillConfig",
    ctx: StageContext,
    pair: "Pair",
    rows: "Examples",
    held: "Examples",
    result: "TrainResult",
    found: Held,
) -> Metrics:
    """The figures of every method; nats are means over held-out rows, a supervised token each."""
    from eval.statistics import cluster_bootstrap
    from posttrain.lm.models import parameters

    before, after = found.before, found.after
    names = [str(at) for at in range(len(before.nll))]
    change = cluster_bootstrap([b - a for a, b in zip(before.nll, after.nll, strict=True)], names)
    nats = {"before": _mean(before.nll), "after": _mean(after.nll), "teacher": _mean(found.teacher)}
    teacher = ctx.inputs["teacher"].reference
    return {
        "summary": _summary(f"{config.method} from {teacher}", rows, result.supervised_tokens, nats),
        "method": config.method,
        "teacher": teacher,
        "parameters": parameters(pair.student),
        "teacher_parameters": parameters(pair.teacher),
        "rows": len(rows.student),
        "rows_dropped_too_long": rows.too_long,
        "rows_dropped_unanswered": rows.unanswered,
        "rows_cut": 0,
        **training_metrics(result),
        **({"sampled_tokens": result.sampled_tokens} if config.method == "on_policy" else {}),
        "held_out_nll": {**nats, "rows": len(before.nll), "change": change._asdict()},
        "held_out_bits_per_byte": {
            "before": _bits_per_byte(before.nll, held.student, held),
            "after": _bits_per_byte(after.nll, held.student, held),
            "teacher": _bits_per_byte(found.teacher, held.teacher, held),
        },
        "held_out_divergence": None
        if before.divergence is None or after.divergence is None
        else {"before": _mean(before.divergence), "after": _mean(after.divergence)},
    }


def _summary(what: str, rows: "Examples", supervised: int, nats: Mapping[str, float]) -> str:
    return (
        f"{what} on {len(rows.student):,} rows, {supervised / 1e6:.2f}M supervised tokens, "
        f"{rows.too_long + rows.unanswered} rows dropped, held-out {nats['before']:.2f} → {nats['after']:.2f} nats "
        f"(teacher {nats['teacher']:.2f})"
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _bits_per_byte(nats: list[float], rows: "list[TokenRow]", held: "Examples") -> float:
    """Of whole answers, their stop tokens included: comparable where the tokens are not."""
    total = sum(mean * sum(row.supervised[1:]) for mean, row in zip(nats, rows, strict=True))
    return total / math.log(2) / sum(held.answer_bytes)

"""What goes wrong silently when a model is trained on preferences, seen in its log while it trains.

- collapse: the loss only asks that chosen answers gain on rejected ones. Both may lose, and then the model unlearns
  the very answers it should give (Pal et al. 2024, DPO-Positive, arXiv 2402.13228).
- no movement: rewards that stay at 0 though steps were taken. The policy is its own reference, or nothing trains.
- a wrong reference: rewards that are not 0 before the first step.
A loss that is no number is looked for by every trainer here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from posttrain.errors import PosttrainError
from posttrain.lm.preference.settings import PreferenceSettings

WINDOW = 10  # steps that a judgement looks back on: one batch says little
ENOUGH = 5  # steps at the full learning rate, or more at a lower one, after which answers must have moved
FLAT = 1e-4  # nats an answer: rounding moves a log-prob by less, training by more
OFF_AT_START = 0.05  # nats a token: rounding moves a log-prob by far less, another model by more

Entry = Mapping[str, Any]


class GuardReport(NamedTuple):
    """Means over the last `WINDOW` steps, and the worst such mean. None where no step had the figure."""

    chosen_drop: float | None  # nats a token below the start
    worst_chosen_drop: float | None
    rewards_margin: float | None
    longer_margin: float | None  # reward of the longer answer less that of the shorter one: length as what is learnt


def check_steps(history: Sequence[Entry], settings: PreferenceSettings) -> None:
    """Look at the log after its last step; an error, with what to change, stops the run."""
    steps = [entry for entry in history if "loss" in entry]
    _check_start(steps)
    _check_movement(steps, settings)
    _check_collapse(steps, settings)


def guard_report(history: Sequence[Entry]) -> GuardReport:
    """What the guards saw in a whole run."""
    steps = [entry for entry in history if "loss" in entry]
    drops = [drop for end in range(1, len(steps) + 1) if (drop := _recent(steps[:end], "chosen_drop")) is not None]
    return GuardReport(
        _recent(steps, "chosen_drop"),
        max(drops, default=None),
        _recent(steps, "rewards_margin"),
        _recent(steps, "longer_margin"),
    )


def _recent(steps: Sequence[Entry], name: str) -> float | None:
    found = [entry[name] for entry in steps[-WINDOW:] if entry[name] is not None]
    return sum(found) / len(found) if found else None


def _gains(entry: Entry, of: str) -> list[float]:
    """What the answers of each side have gained since the start, in nats a row or a token."""
    return [entry[f"{side}_gain"] / entry[f"{side}_{of}"] for side in ("chosen", "rejected") if entry[f"{side}_{of}"]]


def _check_start(steps: Sequence[Entry]) -> None:
    if len(steps) > 1:
        return
    off = max(abs(gain) for gain in _gains(steps[0], "tokens"))
    if off > OFF_AT_START:
        raise PosttrainError(
            f"step 1: before any update the policy's log-probs are {off:.3f} nats a token away from its reference's; "
            f"0 (at most {OFF_AT_START}) is allowed. Hand over a plain model, or one with a fresh adapter: merge an "
            "adapter that is trained already, and add a new one."
        )


def _check_movement(steps: Sequence[Entry], settings: PreferenceSettings) -> None:
    if sum(entry["learning_rate"] for entry in steps) < ENOUGH * settings.training.learning_rate:  # still warming up
        return
    most = max(abs(gain) for entry in steps for gain in _gains(entry, "rows"))
    if most < FLAT:
        raise PosttrainError(
            f"step {steps[-1]['step']}: no answer's log-prob has moved by more than {most:.1e} nats from the "
            f"reference's, so rewards and margins stay at 0; at least {FLAT:g} is needed. Check that the adapter is "
            f"trainable, or raise learning_rate (now {settings.training.learning_rate:g})."
        )


def _check_collapse(steps: Sequence[Entry], settings: PreferenceSettings) -> None:
    most, drop = settings.max_chosen_drop, _recent(steps, "chosen_drop")
    if most is not None and drop is not None and drop > most:
        looked_at = min(len(steps), WINDOW)
        raise PosttrainError(
            f"step {steps[-1]['step']}: the chosen answers have lost {drop:.2f} nats a token since the start (mean of "
            f"{looked_at} steps); at most {most:g} is allowed (max_chosen_drop). Lower learning_rate, raise beta (now "
            f"{settings.beta:g}), or add sft to loss_type, which holds them up."
        )

"""Gates: what a step must prove and what happens when it does not, by the recipe's `gate:` and the step's own.

    gate: {axis: instruct, minimum: 7, on_fail: stop}                    # for every step
    steps:
      sft: {kind: sft, …, gate: {test: non_inferior, margin: 0.3, on_fail: keep_previous}}

A step that makes rows must reach `minimum`. A step that makes a model from another step's model is compared with that
step: better (superior), or not worse by more than `margin` (non_inferior), as its kind says unless the recipe does. The
first model has nothing to prove. What cannot be is refused here, before anything runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from posttrain.chain.stage import Config, Stage, StepConfig, Test
from posttrain.errors import PosttrainError

OnFail = Literal["stop", "warn", "keep_previous"]
OnInconclusive = Literal["go_on", "keep_previous"]
RULING = ("axis", "minimum", "test", "margin", "hold", "max_length_change")
OF_TWO = ("hold", "max_length_change", "on_inconclusive")  # keys that need an earlier step's model
MARGIN = 0.3  # points: less could rarely be shown, paired differences of 200 prompts are known to ±0.17 and more


class Gate(Config):
    """The recipe's `gate:`, and a step's own, whose keys go before."""

    axis: str = Field("instruct", description="the primary axis: the gate looks at it alone")
    minimum: float = Field(7.0, description="rows pass when their interval lies above this")
    test: Test | None = Field(None, description="superior: better than the step before; by default what the kind asks")
    margin: float | None = Field(None, gt=0, description=f"points that non_inferior may lose; {MARGIN} by default")
    hold: tuple[str, ...] = Field((), description="other axes, of which none may be clearly worse than before")
    max_length_change: float | None = Field(
        None, gt=0, description="share by which the mean length of the answers may differ from before, 0.15 say"
    )
    on_fail: OnFail = Field("stop", description="stop: exit 3; keep_previous: the earlier model is handed on")
    on_inconclusive: OnInconclusive = Field(
        "go_on",
        description="keep_previous: a model that is not told apart from the earlier one is not handed on either",
    )


@dataclass(frozen=True)
class StepGate:
    """A step's gate as it is applied; `test` is None without a step before, `minimum` where no rows are made."""

    axis: str
    minimum: float | None
    test: Test | None
    margin: float | None
    on_fail: OnFail
    hold: tuple[str, ...] = ()
    max_length_change: float | None = None
    on_inconclusive: OnInconclusive = "go_on"

    def ruling(self) -> dict[str, Any]:
        """What decides the verdict, and so is part of the judge's identity; what a FAIL does is not."""
        return {name: getattr(self, name) for name in RULING}

    def keeps_previous(self, verdict: object) -> bool:
        """Whether after this verdict the earlier model is handed on."""
        if verdict == "INCONCLUSIVE":
            return self.on_inconclusive == "keep_previous"
        return verdict == "FAIL" and self.on_fail == "keep_previous"


def check_default(gate: Gate, where: str) -> None:
    """Refuse a default margin that no test reads."""
    if gate.margin is not None and gate.test != "non_inferior":
        raise PosttrainError(f"{where}.margin: {_without_test(gate.margin)}")


def _without_test(margin: float) -> str:
    return (
        f"found {margin:g} without test: non_inferior; only that test has a margin. "
        "Add 'test: non_inferior', or delete the margin."
    )


def step_gate(
    default: Gate, own: Gate | None, config: StepConfig, steps: Mapping[str, StepConfig], stage: Stage, where: str
) -> StepGate:
    """The gate of one step: its own keys, else the recipe's, else those of its kind. `where` names its `gate:`."""
    given = own.model_fields_set if own is not None else frozenset[str]()
    chosen = default if own is None else default.model_copy(update={key: getattr(own, key) for key in given})
    if stage.makes == "pairs":
        _refuse(given, chosen, "pairs come from verdicts and are judged no further", where)
        return StepGate(chosen.axis, None, None, None, "stop")
    if stage.makes == "rows":
        _refuse(given & {"test", "margin", *OF_TWO}, chosen, "a step that makes rows is held to a minimum", where)
        return StepGate(chosen.axis, chosen.minimum, None, None, _without_keeping(own, chosen, stage, where))
    if stage.makes == "files":
        _refuse(given & {"on_inconclusive"}, chosen, "it makes files, so no earlier model could be handed on", where)
        on_fail = _without_keeping(own, chosen, stage, where)
        chosen = chosen.model_copy(update={"on_fail": on_fail, "on_inconclusive": "go_on"})
    _refuse(given & {"minimum"}, chosen, "only a step that makes rows has a minimum", where)
    if not _starts_from_step(config, stage, steps):
        _refuse(
            given & {"test", "margin", *OF_TWO},
            chosen,
            "its model is no step's, so there is nothing to compare with",
            where,
        )
        return StepGate(chosen.axis, None, None, None, _without_keeping(own, chosen, stage, where))
    test = chosen.test or stage.test
    if test != "non_inferior" and own is not None and own.margin is not None:
        raise PosttrainError(f"{where}.margin: {_without_test(own.margin)}")
    margin = (chosen.margin or MARGIN) if test == "non_inferior" else None
    of_two = {key: getattr(chosen, key) for key in OF_TWO}
    return StepGate(chosen.axis, None, test, margin, chosen.on_fail, **of_two)


def _refuse(keys: frozenset[str] | set[str], gate: Gate, why: str, where: str) -> None:
    for key in sorted(keys):
        raise PosttrainError(f"{where}.{key}: found {getattr(gate, key)!r}; {why}. Delete '{key}'.")


def _starts_from_step(config: StepConfig, stage: Stage, steps: Mapping[str, StepConfig]) -> bool:
    return "model" in stage.inputs and config.model_dump().get("model") in steps


def _without_keeping(own: Gate | None, chosen: Gate, stage: Stage, where: str) -> OnFail:
    """Without an earlier model `keep_previous` means stop as a recipe's default, and as a step's own is an error."""
    if own is not None and own.on_fail == "keep_previous":
        why = f"it makes {stage.makes}" if stage.makes in ("rows", "files") else "its model is no step's"
        raise PosttrainError(
            f"{where}.on_fail: found 'keep_previous'; stop or warn is allowed: {why}, so there is no earlier model "
            "to hand on. Use one of them."
        )
    return "stop" if chosen.on_fail == "keep_previous" else chosen.on_fail

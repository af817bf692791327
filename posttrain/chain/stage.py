"""Stage: one kind of step as a value. `config` is what (identity); `ctx` is where and how (never identity)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from posttrain.chain.paths import InputPath as InputPath

Makes = Literal["model", "rows", "pairs", "files", "samples", "verdicts"]
Test = Literal["superior", "non_inferior"]
Metrics = dict[str, Any]  # JSON types; "summary" is the one line people read


class Config(BaseModel):
    """What every step config is: frozen, strict about unknown keys, finite, and with its defaults checked too."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )


class StepConfig(Config):
    """Fields every step has."""

    kind: str
    seed: int = Field(0, ge=0, lt=2**32)


class Tick(Protocol):
    """Report `done` units in all, a short note such as the loss, and a total that was not known before."""

    def __call__(self, done: int, note: str = "", total: int | None = None) -> None: ...


class Progress(Protocol):
    """Opens a bar of `total` units; the value is called as the work goes on."""

    def __call__(self, total: int, unit: str) -> AbstractContextManager[Tick]: ...


@dataclass(frozen=True)
class Input:
    """A finished artifact or an outside file or directory, as a stage sees it."""

    path: Path
    identity: str
    reference: str  # how people name it: a step name, a path, a hub id
    metrics: Metrics = field(default_factory=dict)


@dataclass(frozen=True)
class StageContext:
    """Where a stage runs: nothing here can change what it makes."""

    inputs: Mapping[str, Input]
    run: str  # the recipe's name: what a budget is counted over
    journal: Path  # of all remote calls
    out: Path  # files of the artifact
    work: Path  # checkpoints and journals: kept when the run is killed, deleted when the step is done
    progress: Progress
    say: Callable[[str], None]


@dataclass(frozen=True)
class Planned:
    """A node that is still to run: its settings, its inputs as far as they are made, and those that are not yet."""

    config: Any
    made: Mapping[str, Path]
    awaited: Mapping[str, Any]  # config field -> the settings of the node that will make it
    journal: Path


@dataclass(frozen=True)
class RemoteCalls:
    """What a node would ask of endpoints, at most. `usd` is None where no price is known."""

    calls: int
    answered: int  # of them in the journal already, for nothing
    tokens: int
    usd: float | None
    rows: int | None = None  # that are to be made, where the node makes rows


@dataclass(frozen=True)
class Stage:
    """One row of the table of stages. Bump `version` when the same config gives another result."""

    kind: str
    version: int
    config: type[StepConfig]
    makes: Makes
    inputs: Mapping[str, frozenset[Makes]]  # config field -> what it may name
    run: Callable[[Any, StageContext], Metrics]
    sources: tuple[str, ...] = ()  # packages and modules whose change is worth a drift line
    outside: frozenset[str] = frozenset()  # input fields that may also name a path or a hub model
    data_sets: frozenset[str] = frozenset()  # those of them whose hub ids are data sets
    check: Callable[[Any, str], None] | None = None  # (config, where): what can be refused before any compute
    among: Callable[[Any, Sequence[str], str], None] | None = None  # (config, outside models of the chain, recipe)
    ready: Callable[[Any], None] | None = None  # (config): what this machine lacks for it, said before anything runs
    also: Callable[[Any], Any] | None = None  # config -> what else decides the result, such as the words of a prompt
    remote: Callable[["Planned"], "RemoteCalls | None"] | None = None  # what its calls would be, for the plan
    test: Test = "superior"  # what a model of this kind must prove against the step before, unless the recipe says

"""Recipes: YAML in, typed steps out. Every error says where, what was found and what is allowed."""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args

from pydantic import BaseModel, Field, ValidationError, create_model

from posttrain.chain import strict_yaml
from posttrain.chain.gates import Gate, StepGate, check_default, step_gate
from posttrain.chain.paths import PROJECT, find_path
from posttrain.chain.stage import Config, InputPath, Stage, StepConfig
from posttrain.errors import PosttrainError
from posttrain.rows import Row, read_rows

M = TypeVar("M", bound=BaseModel)
KEYS = ("name", "seed", "judge", "gate", "steps")
RULED = ("axis", "minimum", "test", "margin")  # what a judge's stage is told by the gate, not by `judge:`
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


class JudgeSettings(Config):
    """How every step is sampled and judged; what it must prove is its gate's.

    The settings that the judge's stage has of its own are added to these (`judge_settings`).
    """

    rubric: InputPath = Path("eval/rubrics/story.md")
    prompts: InputPath
    canaries: InputPath = Field(
        Path("eval/prompts/canaries.jsonl"),
        description="prompts that test the judge where `prompts` has few references",
    )
    limit: int | None = Field(None, ge=2, description="use only the first prompts of the file")
    samples: int = Field(2, ge=1, description="completions a prompt")
    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.7, gt=0)


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe. `steps` keeps the order of the file."""

    name: str
    where: str
    steps: Mapping[str, StepConfig]
    judge: JudgeSettings | None
    gates: Mapping[str, StepGate]  # of every step, where there is a judge


def judge_settings(table: Mapping[str, Stage]) -> type[JudgeSettings]:
    """What a recipe's `judge:` may say: how steps are sampled, and whatever else the judge's stage can be told."""
    stage = table["judge"]
    known = {*StepConfig.model_fields, *stage.inputs, *RULED, *JudgeSettings.model_fields}
    own: dict[str, Any] = {
        name: (field.annotation, field) for name, field in stage.config.model_fields.items() if name not in known
    }
    return create_model("JudgeSettings", __base__=JudgeSettings, **own)


def recipe_path(name: str) -> Path:
    """`tinystories` means recipes/tinystories.yaml; a path works too."""
    path = find_path(name if name.endswith((".yaml", ".yml")) else f"recipes/{name}.yaml")
    if os.path.isfile(path):
        return path
    folders = dict.fromkeys((Path("recipes"), PROJECT / "recipes"))
    known = sorted({found.stem for folder in folders for found in folder.glob("*.yaml")})
    raise PosttrainError(f"recipe '{name}': no file {path}; {_there_is(known)}{nearest(name, known)}")


def nearest(word: str, allowed: Sequence[str]) -> str:
    """The end of an error on a name: `. Did you mean 'x'?`"""
    match = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    return f". Did you mean '{match[0]}'?" if match else ". Name one of these."


def _there_is(names: Sequence[str]) -> str:
    return f"there is {', '.join(names) or 'none'}"


def check_steps(steps: Mapping[str, object], names: Sequence[str], where: str) -> None:
    """Refuse a name that is no step."""
    for name in names:
        if name not in steps:
            known = list(steps)
            raise PosttrainError(f"{where}: no step '{name}'; {_there_is(known)}{nearest(name, known)}")


def load_recipe(name: str, table: Mapping[str, Stage], overrides: Sequence[str] = ()) -> Recipe:
    """Read, override (`sft.learning_rate=1e-4`) and check a recipe against the table of stages."""
    path = recipe_path(name)
    raw = strict_yaml.read(path)
    if not isinstance(raw, dict):
        raise PosttrainError(
            f"{path}: found a {type(raw).__name__}; a mapping with 'name' and 'steps' is allowed. "
            "See recipes/ for examples."
        )
    for text in overrides:
        _override(raw, text)
    return parse_recipe(raw, str(path), table)


def _override(raw: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    parts = key.split(".")
    if not sign or not all(parts):
        raise PosttrainError(f"--set {text}: found no KEY=VALUE; write for example --set sft.learning_rate=1e-4.")
    steps = raw.get("steps")
    target: Any = raw
    if parts[0] not in KEYS:
        target = steps if isinstance(steps, dict) else {}
        check_steps({**target, **dict.fromkeys(("judge", "gate", "seed"))}, parts[:1], f"--set {key}")
    for part in parts[:-1]:
        if target.get(part) is None:
            target[part] = {}
        if not isinstance(target[part], dict):
            raise PosttrainError(
                f"--set {key}: '{part}' is {target[part]!r}; only a mapping has parts. Shorten the key."
            )
        target[part] = dict(target[part])  # an alias in the file must not change with this step
        target = target[part]
    target[parts[-1]] = strict_yaml.parse(value, f"--set {key}")


def parse_recipe(raw: dict[str, Any], where: str, table: Mapping[str, Stage]) -> Recipe:
    """Check a recipe's raw mapping; `where` names it in errors."""
    for key in raw:
        if key not in KEYS:
            raise PosttrainError(f"{where}: unknown key '{key}'; allowed: {', '.join(KEYS)}{nearest(str(key), KEYS)}")
    name = _named(raw.get("name") or Path(where).stem, f"{where}: name")
    steps = raw.get("steps")
    if not isinstance(steps, dict) or not steps:
        raise PosttrainError(f"{where}: 'steps' is missing or empty; a mapping of steps is needed. Add one.")
    judge = None
    if raw.get("judge") is not None:
        judge = _checked(judge_settings(table), raw["judge"], f"{where}: judge")
        checked_prompts(judge.prompts)
        checked_prompts(judge.canaries)
    default = _gate(raw, f"{where}: gate", judge)
    shared = {} if raw.get("seed") is None else {"seed": raw["seed"]}
    evaluated = _evaluated(steps, judge)
    parsed = {step: _step(step, value, where, table, shared, judge, evaluated) for step, value in steps.items()}
    gates = {}
    for step, config in parsed.items():
        place = f"{where}: steps.{step}.gate"
        own = _gate(steps[step], place, judge) if steps[step].get("gate") is not None else None
        gates[step] = step_gate(default, own, config, parsed, table[config.kind], place)
    check_default(default, f"{where}: gate")
    return Recipe(name, where, parsed, judge, gates)


def _evaluated(steps: Mapping[str, Any], judge: JudgeSettings | None) -> list[str]:
    """Every file of prompts by which something of this recipe is judged or measured."""
    named = [str(judge.prompts)] if judge is not None else []
    named += [str(raw["measured_on"]) for raw in steps.values() if isinstance(raw, dict) and raw.get("measured_on")]
    return list(dict.fromkeys(named))


def _gate(raw: Mapping[str, Any], where: str, judge: JudgeSettings | None) -> Gate:
    gate = _checked(Gate, raw.get("gate") or {}, where)
    if judge is None and gate.model_fields_set:
        raise PosttrainError(f"{where}: found a gate; without 'judge' nothing is judged. Add 'judge:', or delete it.")
    return gate


def _named(name: object, where: str) -> str:
    """Names become file names below the run's folder, so nothing else is let through."""
    if not NAME.fullmatch(str(name)):
        raise PosttrainError(
            f"{where}: found {str(name)[:80]!r}; at most 64 letters, digits, _ and - are allowed. Rename it."
        )
    return str(name)


def checked_prompts(path: Path) -> list[Row]:
    """Rows of which each has its own id and a prompt with text: seen now, not after an hour of training."""
    seen: set[str] = set()
    rows = read_rows(path)
    for number, row in enumerate(rows, start=1):
        key, prompt = row.get("id"), row.get("prompt")
        if not isinstance(key, str) or not isinstance(prompt, str) or not prompt.strip() or key in seen:
            raise PosttrainError(
                f"{path}, row {number}: found id {key!r} with prompt {str(prompt)[:40]!r}; "
                "an 'id' of its own and a non-empty 'prompt' are needed. Correct or delete the row."
            )
        seen.add(key)
    return rows


def _step(
    name: str,
    raw: Any,
    where: str,
    table: Mapping[str, Stage],
    shared: Mapping[str, Any],
    judge: JudgeSettings | None,
    evaluated: Sequence[str],
) -> StepConfig:
    """`evaluated` are the prompt sets that the recipe names, which data steps keep out of their rows."""
    _named(name, f"{where}: steps")
    if name in KEYS:
        raise PosttrainError(f"{where}: steps.{name}: a recipe has a key of this name. Rename the step.")
    kinds = [stage.kind for stage in _steps_of(table)]
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if kind not in kinds:
        raise PosttrainError(
            f"{where}: steps.{name}: kind is {kind!r}; allowed: {', '.join(kinds)}{nearest(str(kind), kinds)}"
        )
    config = table[str(kind)].config
    values = {**shared, **{key: value for key, value in raw.items() if key != "gate"}}
    if judge is not None and "hold_out" in config.model_fields:
        values.setdefault("hold_out", str(judge.prompts))  # what is judged on is never trained on
    if judge is not None and "measured_on" in config.model_fields:
        values.setdefault("measured_on", str(judge.prompts))
    if "decontaminate" in config.model_fields:
        values.setdefault("decontaminate", evaluated)
    if judge is not None and "judge" in config.model_fields:
        values.setdefault("judge", judge)  # a step takes what its own `judge` has fields for
    return _checked(config, values, f"{where}: steps.{name}", beside=("gate",))


def _checked(model: type[M], raw: Any, where: str, beside: Sequence[str] = ()) -> M:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise PosttrainError(f"{where}{_explain(error, model, beside)}") from None


def _explain(error: ValidationError, model: type[BaseModel], beside: Sequence[str]) -> str:
    """The first problem in words: where, what was found, what is allowed, what to do."""
    problem = error.errors()[0]
    problem["loc"] = tuple(part for part in problem["loc"] if not str(part).startswith("("))  # forms of a value
    place = "".join(f".{part}" for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        allowed = sorted([*_fields_at(model, problem["loc"][:-1]), *(beside if len(problem["loc"]) == 1 else ())])
        return f"{place}: unknown key '{key}'; allowed: {', '.join(allowed)}{nearest(key, allowed)}"
    if problem["type"] == "missing":
        key = str(problem["loc"][-1])
        return f"{place}: found nothing; '{key}' is needed. Add '{key}: …'."
    found = problem["input"]
    plain = found is None or isinstance(found, str | int | float | Path)
    shown = repr(str(found) if isinstance(found, Path) else found)[:200] if plain else f"a {type(found).__name__}"
    message = problem["msg"].removeprefix("Value error, ")
    advice = "" if ". " in message else f". Correct {str(problem['loc'][-1]) if problem['loc'] else 'it'}"
    return f"{place}: found {shown}; {message[0].lower()}{message[1:]}{advice}."


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        nested = _models_in(field.annotation) if field else []
        model = nested[0] if nested else model
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a value may be, or be made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _steps_of(table: Mapping[str, Stage]) -> list[Stage]:
    """What a recipe may name; samples and verdicts come by themselves."""
    return [stage for stage in table.values() if stage.makes not in ("samples", "verdicts")]


def json_schema(table: Mapping[str, Stage]) -> dict[str, Any]:
    """JSON Schema of a recipe, for editors to complete from."""
    kinds = tuple(
        create_model(stage.config.__name__, __base__=stage.config, gate=(Gate | None, None))
        for stage in _steps_of(table)
    )
    step: Any = Annotated[Union[kinds], Field(discriminator="kind")] if len(kinds) > 1 else kinds[0]  # noqa: UP007
    judge: Any = judge_settings(table)
    model = create_model(
        "Recipe",
        __base__=Config,
        name=(str, ...),
        seed=(int, 0),
        judge=(judge | None, None),
        gate=(Gate, Gate()),
        steps=(dict[str, step], ...),
    )
    return model.model_json_schema()

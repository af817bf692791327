"""Recipes: YAML in, typed steps out. Every error says where, what was found and what is allowed."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError, create_model

from posttrain.chain import strict_yaml
from posttrain.chain.provenance import PROJECT
from posttrain.chain.stage import Config, InputPath, Stage, StepConfig
from posttrain.errors import PosttrainError

M = TypeVar("M", bound=BaseModel)


class JudgeSettings(Config):
    """How every step is closed. `axis` is the primary one: the gate looks at it alone."""

    judge: Literal["rule"] = "rule"
    rubric: InputPath = Path("eval/rubrics/story.md")
    prompts: InputPath
    limit: int | None = Field(None, ge=2, description="use only the first prompts of the file")
    samples: int = Field(2, ge=1, description="completions a prompt")
    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.7, gt=0)
    axis: str = "instruct"
    minimum: float = Field(7.0, description="rows pass when their interval lies above this")


class Gate(Config):
    """What a FAIL does: stop the chain (exit 3) or go on with a warning."""

    on_fail: Literal["stop", "warn"] = "stop"


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe. `steps` keeps the order of the file."""

    name: str
    where: str
    steps: Mapping[str, StepConfig]
    judge: JudgeSettings | None
    gate: Gate


def find_path(path: str | Path) -> Path:
    """A path as given from here, else below the project's own folder; as given when neither exists."""
    given = Path(path).expanduser()
    if given.exists() or given.is_absolute() or not (PROJECT / given).exists():
        return given
    return PROJECT / given


def recipe_path(name: str) -> Path:
    """`tinystories` means recipes/tinystories.yaml; a path works too."""
    if name.endswith((".yaml", ".yml")):
        path = find_path(name)
    else:
        path = find_path(f"recipes/{name}.yaml")
    if path.is_file():
        return path
    known = sorted(p.stem for folder in {Path("recipes"), PROJECT / "recipes"} for p in folder.glob("*.yaml"))
    raise PosttrainError(
        f"recipe '{name}': no file {path}; there is {', '.join(dict.fromkeys(known)) or 'none'}{nearest(name, known)}."
    )


def nearest(word: str, allowed: Sequence[str]) -> str:
    """`. Did you mean 'x'?` or nothing."""
    match = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    return f". Did you mean '{match[0]}'?" if match else ""


def load_recipe(name: str, table: Mapping[str, Stage], overrides: Sequence[str] = ()) -> Recipe:
    """Read, override (`sft.learning_rate=1e-4`) and check a recipe against the table of stages."""
    path = recipe_path(name)
    raw = strict_yaml.read(path)
    where = str(path)
    if not isinstance(raw, dict):
        raise PosttrainError(f"{where}: a {type(raw).__name__}; a mapping with 'name' and 'steps' is needed.")
    for text in overrides:
        _override(raw, text)
    return parse_recipe(raw, where, table)


def _override(raw: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    parts = key.split(".")
    if not sign or not all(parts):
        raise PosttrainError(f"--set {text}: KEY=VALUE is needed, for example --set sft.learning_rate=1e-4.")
    steps = raw.get("steps")
    target = raw if parts[0] in ("seed", "judge", "gate", "name") else steps
    if not isinstance(target, dict) or (target is steps and parts[0] not in target):
        names = [*(steps if isinstance(steps, dict) else ()), "judge", "gate", "seed"]
        raise PosttrainError(
            f"--set {key}: no step '{parts[0]}'; there is {', '.join(names)}{nearest(parts[0], names)}."
        )
    for part in parts[:-1]:
        if target.get(part) is None:
            target[part] = {}
        if not isinstance(target[part], dict):
            raise PosttrainError(f"--set {key}: '{part}' is a {type(target[part]).__name__}, it has no parts.")
        target[part] = dict(target[part])  # an alias in the file must not change with this step
        target = target[part]
    target[parts[-1]] = strict_yaml.parse(value, f"--set {key}") if value.strip() else None


def parse_recipe(raw: dict[str, Any], where: str, table: Mapping[str, Stage]) -> Recipe:
    """Check a recipe's raw mapping; `where` names it in errors."""
    allowed = ("name", "seed", "judge", "gate", "steps")
    for key in raw:
        if key not in allowed:
            raise PosttrainError(
                f"{where}: unknown key '{key}'; allowed: {', '.join(allowed)}{nearest(str(key), allowed)}."
            )
    steps = raw.get("steps")
    if not isinstance(steps, dict) or not steps:
        raise PosttrainError(f"{where}: 'steps' is missing or empty; a mapping of steps is needed.")
    seed = raw.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise PosttrainError(f"{where}: seed: found {seed!r}; a whole number is allowed.")
    judge = None
    if raw.get("judge") is not None:
        judge = _checked(JudgeSettings, raw["judge"], f"{where}: judge")
    parsed = {name: _step(name, value, where, table, seed, judge) for name, value in steps.items()}
    name = raw.get("name") or Path(where).stem
    gate = _checked(Gate, raw.get("gate") or {}, f"{where}: gate")
    return Recipe(str(name), where, parsed, judge, gate)


def _step(
    name: object, raw: Any, where: str, table: Mapping[str, Stage], seed: int, judge: JudgeSettings | None
) -> StepConfig:
    if not isinstance(name, str) or not name.isidentifier():
        raise PosttrainError(f"{where}: steps: '{name}'; a name of letters, digits and _ is allowed.")
    kinds = [kind for kind, stage in table.items() if stage.makes in ("model", "rows")]
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise PosttrainError(
            f"{where}: steps.{name}: kind is {kind!r}; allowed: {', '.join(kinds)}{nearest(str(kind), kinds)}."
        )
    config = table[kind].config
    shared: dict[str, Any] = {"seed": seed}
    if judge is not None and "hold_out" in config.model_fields:
        shared["hold_out"] = str(judge.prompts)  # what is judged on is never trained on
    return _checked(config, {**shared, **raw}, f"{where}: steps.{name}")


def _checked(model: type[M], raw: Any, where: str) -> M:
    try:
        value = model.model_validate(_found_paths(model, raw))
    except ValidationError as error:
        raise PosttrainError(_explain(error, model, where)) from None
    for name, field in model.model_fields.items():
        found = getattr(value, name)
        if isinstance(found, Path) and field.annotation is not None and not found.exists():
            raise PosttrainError(f"{where}.{name}: no such file or directory: {found}. Check the path.")
    return value


def _found_paths(model: type[BaseModel], raw: Any) -> Any:
    if not isinstance(raw, dict):
        return raw
    paths = {n for n, f in model.model_fields.items() if "Path" in str(f.annotation)}
    defaults = {n: model.model_fields[n].default for n in paths - raw.keys()}
    found = {n: str(find_path(v)) for n, v in {**defaults, **raw}.items() if n in paths and isinstance(v, str | Path)}
    return {**raw, **found}


def _explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """The first problem in words: where, what was found, what is allowed."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        allowed = sorted(_fields_at(model, problem["loc"][:-1]))
        return f"{where}.{place}: unknown key '{key}'; allowed: {', '.join(allowed)}{nearest(key, allowed)}."
    if problem["type"] == "missing":
        return f"{where}: '{place}' is missing. Add '{place}: …'."
    found = problem["input"]
    shown = repr(found) if isinstance(found, str | int | float | bool | None) else type(found).__name__
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}.{place}: found {shown}; {message[0].lower()}{message[1:]}."


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        nested = [item for item in options if isinstance(item, type) and issubclass(item, BaseModel)]
        if nested:
            model = nested[0]
    return list(model.model_fields)


def json_schema(table: Mapping[str, Stage]) -> dict[str, Any]:
    """JSON Schema of a recipe, for editors to complete from."""
    kinds = tuple(stage.config for stage in table.values() if stage.makes in ("model", "rows"))
    union: Any = kinds[0]
    for kind in kinds[1:]:
        union = union | kind
    model = create_model(
        "Recipe",
        __base__=Config,
        name=(str, ...),
        seed=(int, 0),
        judge=(JudgeSettings | None, None),
        gate=(Gate, Gate()),
        steps=(dict[str, union], ...),
    )
    return model.model_json_schema()

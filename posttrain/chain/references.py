"""What a step names in its input fields: steps, paths and hub ids, alone or in a list of choices.

A model behind an endpoint is none of these: nothing of it is here, so it counts by the settings that name it.
"""

from typing import Any

from posttrain.chain.stage import Stage, StepConfig

ENDPOINT = "openai:"  # before the name of a model behind an endpoint


def references(config: StepConfig, stage: Stage) -> dict[str, str]:
    """What goes in, by input name; of a list of choices each `model`, as in `teacher.0`."""
    return {name: text for name, text in _named(config, stage).items() if not text.startswith(ENDPOINT)}


def endpoints(config: StepConfig, stage: Stage) -> list[str]:
    """The models behind endpoints that a step names as inputs."""
    return [text for text in _named(config, stage).values() if text.startswith(ENDPOINT)]


def field_of(name: str) -> str:
    """The config field of an input's name."""
    return name.partition(".")[0]


def unnamed(config: StepConfig, stage: Stage) -> StepConfig:
    """The config without those names: an input counts by its identity."""
    return config.model_copy(update={field: _blank(getattr(config, field)) for field in stage.inputs})


def _blank(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(item.model_copy(update={"model": _blank(item.model)}) for item in value)
    return value if isinstance(value, str) and value.startswith(ENDPOINT) else None


def _named(config: StepConfig, stage: Stage) -> dict[str, str]:
    found: dict[str, str] = {}
    for field in stage.inputs:
        value = getattr(config, field)
        if isinstance(value, tuple):
            found |= {f"{field}.{number}": item.model for number, item in enumerate(value)}
        elif value is not None:
            found[field] = str(value)
    return found

"""How an answer is decoded: the settings of the command line, and of `/set` in a conversation."""

from collections.abc import Mapping

from pydantic import Field, ValidationError

from posttrain.chain.stage import Config
from posttrain.errors import PosttrainError

SAMPLING = ("temperature", "top_p", "min_p")  # without effect in a search


class Decoding(Config):
    """One answer's settings. Top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024) cut what is sampled from."""

    temperature: float = Field(0.7, ge=0)  # 0 is greedy
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, le=1)
    beams: int = Field(1, ge=1, le=64)  # above 1 is beam search, which draws nothing
    max_new_tokens: int = Field(300, ge=1)
    seed: int = Field(0, ge=0, lt=2**31)

    def for_answer(self, number: int) -> "Decoding":
        """The settings of the answer with this number: each has a seed of its own, the same in every conversation."""
        return self.model_copy(update={"seed": (self.seed + number) % 2**31})

    @property
    def draws(self) -> bool:
        """Whether chance has a part in it."""
        return self.beams == 1 and self.temperature > 0

    def __str__(self) -> str:
        return "  ".join(f"{name}={value}" for name, value in self.model_dump().items())


def changed(settings: Decoding, given: Mapping[str, object], where: str) -> Decoding:
    """The settings with other values, checked; numbers may come as text. `where` names it in errors."""
    try:
        return Decoding.model_validate({**settings.model_dump(), **given})
    except ValidationError as error:
        problem = error.errors()[0]
    name = str(problem["loc"][0])
    if problem["type"] == "extra_forbidden":
        raise PosttrainError(f"{where}: no setting '{name}'; there are {', '.join(Decoding.model_fields)}.")
    allowed = f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
    raise PosttrainError(f"{where}: {name} is {problem['input']!r}; {allowed}. Choose another value.")


def chosen(given: Mapping[str, object], greedy: bool) -> Decoding:
    """From the command line's options, None where one is not given: settings that would have no effect are refused."""
    kept = {name: value for name, value in given.items() if value is not None}
    search = "--greedy" if greedy else "--beams" if kept.get("beams", 1) != 1 else None
    idle = [f"--{name.replace('_', '-')}" for name in SAMPLING if name in kept]
    if search and idle:
        raise PosttrainError(f"{search} with {', '.join(idle)}: a search draws nothing. Leave one of the two out.")
    if greedy:
        kept["temperature"] = 0.0
    return changed(Decoding(), kept, "decoding settings")

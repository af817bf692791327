"""What of a run can be talked to: the models of its steps, and the files that were exported from them."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from posttrain.chain.kept import handed_on
from posttrain.chain.recipe import check_steps
from posttrain.chain.store import Artifact
from posttrain.chatting.exported import DEFAULT, GGUF, exported_file
from posttrain.errors import PosttrainError

EXPORT = "export"  # the kind of step whose artifact holds files by format


class Steps(NamedTuple):
    """Artifacts by step, oldest first; `where` names the recipe in errors."""

    models: dict[str, Artifact]
    exports: dict[str, Artifact]
    kept: dict[str, str]  # steps whose model is not handed on, and whose is in its place
    where: str

    def first(self, step: str | None, file_format: str | None) -> str:
        """What to begin with, a name for `path`: the last export where only a format is given, else the last model."""
        if step is None and file_format is None:
            last = next(reversed(self.models), "of any name")
            return self.kept.get(last, last)
        step = step or next(reversed(self.exports), None) or self._no_export("a format")
        return step if file_format is None else f"{step}/{file_format}"

    def path(self, name: str) -> Path:
        """A model's directory or an exported file. `name` is STEP, or STEP/FORMAT for a file exported from or by it."""
        step, _, file_format = name.partition("/")
        check_steps({**self.models, **self.exports}, [step], f"{self.where}: steps that have made a model")
        if step in self.exports:
            return exported_file(self.exports[step].path, file_format or DEFAULT)
        if not file_format:
            return self.models[step].path
        export = self._export_of(step)
        if export is None:
            self._no_export(f"step '{step}' in {file_format}")
        return exported_file(export.path, file_format)

    def served(self, name: str) -> str:
        """The name of what llama.cpp serves: a model's exported GGUF file where there is one, else `name` itself."""
        export = self._export_of(name) if name in self.models else None
        formats = sorted(path.name for path in export.path.glob(f"{GGUF}*")) if export else []
        return f"{name}/{DEFAULT if DEFAULT in formats else formats[0]}" if formats else name

    def _export_of(self, step: str) -> Artifact | None:
        """The last export of a step's model."""
        made = self.models[step].identity
        found = (export for export in self.exports.values() if export.record["inputs"]["model"]["identity"] == made)
        return next(reversed(list(found)), None)

    def _no_export(self, wanted: str) -> NoReturn:
        raise PosttrainError(
            f"{self.where}: {wanted} is asked for, but the latest run has no export of it; a step of kind export "
            "writes such files. Leave --format out, or add an export step to the recipe and run it."
        )


def steps_of(run: Sequence[tuple[dict[str, Any], Artifact]], kinds: Collection[str], where: str) -> Steps:
    """The steps of a run (`posttrain.chain.runner.read_run`); `kinds` are those that make a model."""
    return Steps(
        models={row["name"]: artifact for row, artifact in run if row["kind"] in kinds},
        exports={row["name"]: artifact for row, artifact in run if row["kind"] == EXPORT},
        kept=handed_on([row for row, _ in run]),
        where=where,
    )

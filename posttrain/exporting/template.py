"""The chat template of an exported directory without transformers: in Jinja's immutable sandbox, as there."""

import json
from pathlib import Path
from typing import Any

from posttrain.lm.markers import without_markers

NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")


class FileTemplate:
    """`chat_template.jinja` of a directory and its special tokens; `text` is empty where there is none."""

    def __init__(self, folder: Path) -> None:
        path, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
        self.text = path.read_text(encoding="utf-8") if path.is_file() else ""
        config: dict[str, Any] = json.loads(settings.read_text(encoding="utf-8"))
        found = {name: config.get(name) for name in NAMES}
        self._names = {key: each["content"] if isinstance(each, dict) else each for key, each in found.items() if each}

    def render(self, messages: list[dict[str, str]]) -> str:
        """The conversation as text, up to where the answer begins; empty without a template."""
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        sandbox.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
        template = sandbox.from_string(without_markers(self.text))
        return template.render(messages=messages, add_generation_prompt=True, **self._names)

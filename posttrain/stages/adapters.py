"""What sft and dpo share where they train an adapter: its settings, and how it is saved with the name of its base."""

from pathlib import Path
from typing import Any

from pydantic import Field

from posttrain.chain.stage import Config, StageContext


class LoraSettings(Config):
    """peft's LoraConfig, by its own names."""

    r: int = Field(16, ge=1)
    lora_alpha: float = Field(32, gt=0)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"
    use_rslora: bool = False
    use_dora: bool = False


def save_adapter(model: Any, tokenizer: Any, ctx: StageContext, source: Path) -> None:
    """Write the adapter and its tokenizer; an adapter trained on an adapter takes the merged model along as `base`."""
    from posttrain.lm.models import ADAPTER, load_model, save_model
    from posttrain.lm.saving import disk_full_as_oserror

    base = ctx.inputs["model"].metrics.get("reference") or shown(source)
    if (source / ADAPTER).is_file():
        save_model(load_model(source), tokenizer, ctx.out / "base")
        base = shown(Path(str(ctx.out).removesuffix(".partial")) / "base")
    adapter = model.peft_config["default"]
    adapter.base_model_name_or_path = base
    adapter.target_modules = sorted(adapter.target_modules)  # peft keeps a set, which has no order of its own
    with disk_full_as_oserror(ctx.out):
        model.save_pretrained(ctx.out, save_embedding_layers=False)
        tokenizer.save_pretrained(ctx.out)
    (ctx.out / "README.md").unlink(missing_ok=True)  # peft's empty card says nothing


def shown(path: Path) -> str:
    """Relative to here where it lies below, so that the same run elsewhere writes the same bytes."""
    absolute = path.resolve()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)

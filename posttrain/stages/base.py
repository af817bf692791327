"""base: the model a chain starts from. Trained from scratch, or any directory or hub model made ready to chat."""

import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from posttrain.chain.stage import Config, InputPath, Metrics, Stage, StageContext, StepConfig
from posttrain.errors import PosttrainError
from posttrain.lm.growth import Growth
from posttrain.lm.pretraining import Architecture, Pretraining
from posttrain.rows import read_rows

TOLD_AT_ONCE = 1_000  # documents between two steps of the progress bar
COPIED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")


class TokenizerConfig(Config):
    """Byte-level BPE trained on a sample of the corpus."""

    vocab_size: int = Field(2048, ge=260, le=65_535)
    documents: int = Field(5_000, ge=1, description="documents that the tokenizer is trained on")


class CorpusConfig(Config):
    """What a new model reads: documents told from the story world, or the `text` of a JSONL file."""

    source: InputPath | None = None
    documents: int = Field(60_000, ge=1, description="documents told from the story world")
    mixture: dict[str, float] = Field({"story": 1.0}, description="weights of story, tagged, sentence")
    hold_out: float = Field(0.01, gt=0, lt=0.5, description="share of documents never trained on")

    @field_validator("mixture")
    @classmethod
    def _known_forms(cls, mixture: dict[str, float]) -> dict[str, float]:
        from data_gen.corpus import FORMS

        if not mixture or not set(mixture) <= set(FORMS) or min(mixture.values()) < 0 or not sum(mixture.values()):
            raise ValueError(f"weights of {', '.join(FORMS)} are allowed, none negative and not all zero")
        return mixture


class BaseConfig(StepConfig):
    """Name `model`, or give `architecture` to train one from scratch."""

    kind: Literal["base"]
    model: str | None = Field(None, description="a local directory or a hub id org/name@revision")
    architecture: Architecture | None = None
    grow: Growth | None = Field(None, description="make `model` larger, with the same logits, before it is trained on")
    dtype: Literal["float32", "bfloat16"] | None = Field(None, description="what weights are saved in; as they came")
    tokenizer: TokenizerConfig = TokenizerConfig()
    corpus: CorpusConfig = CorpusConfig()
    training: Pretraining = Pretraining()

    @model_validator(mode="after")
    def _one_source(self) -> "BaseConfig":
        if (self.model is None) == (self.architecture is None):
            raise ValueError("exactly one of 'model' and 'architecture' is needed")
        if self.model is None and (self.grow is not None or self.dtype is not None):
            raise ValueError("'grow' and 'dtype' change a model that there is; they need 'model'")
        if self.architecture and self.training.sequence_length > self.architecture.max_position_embeddings:
            raise ValueError(
                f"training.sequence_length {self.training.sequence_length} must be at most "
                f"architecture.max_position_embeddings {self.architecture.max_position_embeddings}"
            )
        return self


def run(config: BaseConfig, ctx: StageContext) -> Metrics:
    """Make the model directory: weights, tokenizer, chat template."""
    import torch

    torch.manual_seed(config.seed)
    if config.architecture is not None:
        return _from_scratch(config, config.architecture, ctx)
    return _from_model(config, ctx)


def _from_model(config: BaseConfig, ctx: StageContext) -> Metrics:
    """Copy a model that can chat as it is; give one that cannot the chat tokens it lacks; make it larger if asked."""
    from posttrain.hub.fetch import local_directory
    from posttrain.lm.chat import ChatFormat
    from posttrain.lm.growth import grown
    from posttrain.lm.models import add_chat_tokens, load_model, load_tokenizer, parameters, save_model

    source = local_directory(ctx.inputs["model"])
    tokenizer = load_tokenizer(source)
    model = load_model(source)
    new_ids: list[int] = []
    if config.grow is not None:
        model = grown(model, config.grow, config.seed)
    if tokenizer.chat_template is None:
        new_ids = add_chat_tokens(model, tokenizer)
    if new_ids or _altered(config):
        save_model(_bf16(model) if config.dtype == "bfloat16" else model, tokenizer, ctx.out)
    else:
        for pattern in COPIED:
            for file in sorted(source.glob(pattern)):
                shutil.copyfile(file, ctx.out / file.name)
    chat = ChatFormat(tokenizer, str(source))  # refuse a template that cannot be trained before anything else runs
    stopped = _stop_as_the_chat_does(model, chat.stop_ids, ctx.out)
    size = parameters(model)
    added = f", {len(new_ids)} chat tokens added" if new_ids else ""
    added += ", grown" if config.grow is not None else ""
    return {
        "summary": f"{ctx.inputs['model'].reference}: {size / 1e6:.2f}M parameters{added}",
        "parameters": size,
        "vocabulary": len(tokenizer),
        "new_token_ids": new_ids,
        # What an adapter names as its base: a local directory left as it was, else this artifact, which has the files.
        "reference": None if stopped or _changed(config, new_ids, source, ctx) else ctx.inputs["model"].reference,
    }


def _stop_as_the_chat_does(model: Any, stops: frozenset[int], out: Path) -> bool:
    """Let generation end where the template ends an answer; many a base with a template (Qwen2.5's) knows another end.

    Every file made later takes its stop tokens from here. Whether anything had to be written.
    """
    known = model.generation_config.eos_token_id
    listed = set(known) if isinstance(known, list) else {known} - {None}
    if stops <= listed:
        return False
    model.generation_config.eos_token_id = sorted(stops | listed)
    model.generation_config.save_pretrained(out)
    return True


def _altered(config: BaseConfig) -> bool:
    return config.grow is not None or config.dtype is not None


def _changed(config: BaseConfig, new_ids: list[int], source: Path, ctx: StageContext) -> bool:
    return bool(new_ids) or _altered(config) or source != ctx.inputs["model"].path


def _from_scratch(config: BaseConfig, shape: Architecture, ctx: StageContext) -> Metrics:
    from posttrain.lm.chat import TEMPLATE
    from posttrain.lm.device import device
    from posttrain.lm.models import load_tokenizer, parameters, save_model
    from posttrain.lm.pretraining import new_model, nll, pack, pretrain
    from posttrain.lm.tokenizer import CHAT_TOKENS, END, PAD, fertility, save_tokenizer, train_tokenizer

    training, held = _documents(config, ctx)
    ctx.say(f"training the tokenizer on {min(config.tokenizer.documents, len(training)):,} documents")
    bpe = train_tokenizer(training[: config.tokenizer.documents], config.tokenizer.vocab_size)
    end, pad = CHAT_TOKENS.index(END), CHAT_TOKENS.index(PAD)
    with ctx.progress(len(training), "documents encoded") as tick:
        corpus, held_corpus = pack(bpe, training, end, tick), pack(bpe, held, end)
    length = config.training.sequence_length
    if min(len(corpus.ids), len(held_corpus.ids)) < 2 * length:
        raise PosttrainError(
            f"corpus: {len(corpus.ids):,} training and {len(held_corpus.ids):,} held-out tokens; at least "
            f"{2 * length:,} of each are needed. Give more documents or a shorter training.sequence_length."
        )
    model = new_model(shape, bpe.get_vocab_size(), end, pad, config.seed).to(device())
    with ctx.progress(config.training.steps, "step") as tick:
        curve = pretrain(model, corpus, config.training, config.seed, ctx.work, tick)
    held_nll = nll(model, held_corpus.ids, length)
    save_tokenizer(bpe, TEMPLATE, shape.max_position_embeddings, ctx.out)
    save_model(_bf16(model), load_tokenizer(ctx.out), ctx.out)
    tokens = config.training.steps * config.training.batch_size * length
    cut = fertility(bpe, held[:500])
    size = parameters(model)
    return {
        "summary": f"{size / 1e6:.2f}M parameters from scratch on {tokens / 1e6:.1f}M tokens, "
        f"held-out {held_nll:.3f} nats",
        "parameters": size,
        "vocabulary": bpe.get_vocab_size(),
        "documents": len(corpus.starts),
        "documents_held_out": len(held_corpus.starts),
        "corpus_tokens": len(corpus.ids),
        "tokens_seen": tokens,
        "held_out_nll": held_nll,
        "tokens_per_word": cut.tokens_per_word,
        "bytes_per_token": cut.bytes_per_token,
        "loss_curve": [list(point) for point in curve],
        "new_token_ids": list(range(len(CHAT_TOKENS))),
        "reference": None,
    }


def _documents(config: BaseConfig, ctx: StageContext) -> tuple[list[str], list[str]]:
    """Training and held-out documents; which is which depends on the document's text alone."""
    from data_gen.corpus import documents, held_out

    corpus = config.corpus
    if corpus.source is not None:
        texts = [_text(row, number, corpus.source) for number, row in enumerate(read_rows(corpus.source), start=1)]
    else:
        with ctx.progress(corpus.documents, "documents told") as tick:
            texts = []
            for text in documents(config.seed, corpus.documents, corpus.mixture):
                texts.append(text)
                if len(texts) % TOLD_AT_ONCE == 0:
                    tick(len(texts))
    held = [held_out(text, corpus.hold_out) for text in texts]
    split = ([t for t, out in zip(texts, held, strict=True) if out is wanted] for wanted in (False, True))
    training, held_back = split
    if not training or not held_back:
        raise PosttrainError(
            f"corpus: {len(training)} documents to train on and {len(held_back)} held out; at least "
            "one of each is needed. Give more documents or another corpus.hold_out."
        )
    return training, held_back


def _text(row: dict[str, Any], number: int, path: Path) -> str:
    text = row.get("text")
    if not isinstance(text, str) or not text.strip():
        raise PosttrainError(
            f"{path}, row {number}: no 'text'; a non-empty string is needed. Correct or delete the row."
        )
    return text


def _bf16(model: Any) -> Any:
    """Half the bytes on the disk: the weights of a bundled model travel in bf16."""
    import torch

    return model.to("cpu", dtype=torch.bfloat16)


BASE = Stage(
    kind="base",
    version=1,
    config=BaseConfig,
    makes="model",
    inputs={"model": frozenset({"model"})},
    run=run,
    sources=("posttrain/stages/base.py", "posttrain/lm", "data_gen"),
    outside=frozenset({"model"}),
)

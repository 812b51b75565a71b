"""An Osum from its settings, from a checkpoint, or from a merged folder; what it is known by.

    settings ──build──> Built (Osum, Whisper's and the LLM's digests)     RUN, RUN/step-... ──open_model──> Opened
    merged folder: osum.json, encoder/ (transformers), llm/ (transformers, LoRA added), adaptor.safetensors

Frozen parts are kept in bfloat16 where the run computes in it; what is trained is float32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from model_training import config
from model_training.model.device import autocast_dtype, pick_device
from model_training.osum.learner import load_trained
from model_training.osum.model import Osum
from model_training.osum.parts import whisper
from model_training.osum.parts.adaptor import Adaptor
from model_training.osum.parts.llm import add_lora, load_llm, merge_lora
from model_training.osum.settings import OsumSettings, restore
from model_training.osum.tasks import Labels, Prompts
from model_training.text.tokens import Scheme
from model_training.training import checkpoint as checkpoints
from operators.errors import UserError

MERGED = "osum.json"
_VERSION = 1


@dataclass(frozen=True)
class Built:
    """A Built is a model with the digests of the parts that it was built from."""

    model: Osum
    digests: dict[str, str]


def build(settings: OsumSettings, dtype: torch.dtype | None, *, random: Path | None = None) -> Built:
    """Return a model as its settings say, adaptor and LoRA fresh.

    Args:
        dtype: bfloat16 where the run computes in it; None is float32.
        random: folder of the language model where model.llm.source is "random".

    Raises:
        UserError: a part that cannot be had or used.
    """
    parts = settings.trained()
    frozen = dtype or torch.float32
    heard = load_encoder(settings.model.encoder.source)
    whole = "llm" in parts and not settings.model.llm.lora_rank
    source = str(random) if random is not None else settings.model.llm.source
    llm = load_llm(source, torch.float32 if whole else frozen)
    if settings.model.checkpointing:
        llm.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    encoder = heard.encoder.to(torch.float32 if "encoder" in parts else frozen)
    adaptor = Adaptor(settings.model.adaptor, int(encoder.config.d_model), llm.width)  # type: ignore[union-attr, arg-type]
    adaptor.fit_to(llm.model.get_input_embeddings().weight)
    language = llm.model
    language.requires_grad_(whole)
    if settings.model.llm.lora_rank and "llm" in parts:
        language = add_lora(language, settings.model.llm)
    adaptor.requires_grad_("adaptor" in parts)
    encoder.requires_grad_("encoder" in parts)
    encoder.embed_positions.requires_grad_(False)  # type: ignore[union-attr, operator]  # fixed sines
    model = Osum(encoder, adaptor, language, llm.chat, settings)
    return Built(model, {"encoder": heard.digest, "llm": llm.digest})


def load_encoder(source: str) -> whisper.Whisper:
    """Return a Whisper by its source, which may be a run of stage 1. Raises UserError."""
    if Path(source).is_dir() and (checkpoints.steps(source) or (Path(source) / "trainer.json").exists()):
        from model_training.osum.stage1 import open_whisper

        return open_whisper(source)
    return whisper.load(source)


@dataclass(frozen=True)
class Opened:
    """An Opened is a model ready to answer, with what it was taught."""

    model: Osum  # in eval mode
    settings: OsumSettings
    labels: Labels
    prompts: Prompts
    autocast: torch.dtype | None
    path: Path
    step: int

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def open_model(path: str, device: str = "auto", precision: str = "auto", *, ema: bool = False) -> Opened:
    """Return the model of a run, a checkpoint or a merged folder; with `ema`, with its averaged weights.

    Raises:
        UserError: there is none, it is of stage 1, or its parts are no longer those that it was trained with; or no
            averaged weights were kept.
    """
    place = pick_device(device)
    autocast = autocast_dtype(precision, place)
    if (Path(path) / MERGED).exists():
        if ema:
            raise UserError(f"{path} is merged and holds one set of weights: give --ema to merge")
        return _open_merged(Path(path), place, autocast)
    found = checkpoints.open_checkpoint(path)
    if "osum" not in found.record:
        raise UserError(f"{found.path} is no model of OSUM: python -m model_training eval is for it")
    settings = restore(found.record["settings"])
    if settings.stage == 1:
        raise UserError(f"{found.path} is a Whisper of stage 1: give it to stage 2 as model.encoder.source")
    if ema and not found.has_ema():
        raise UserError(f"{found.path} has no averaged weights: train with optimizer.ema=0.98")
    random = found.path.parent / "random-llm" if settings.model.llm.source == "random" else None
    built = build(settings, autocast, random=random)
    check_digests(built.digests, found.record["osum"]["digests"], settings, found.path)
    load_trained(built.model, settings, found.weights(ema=ema), found.path)
    labels = Labels(found.record["learnt"], Scheme.from_dict(found.record["osum"]["scheme"]))
    prompts = Prompts(json.loads((found.path / "prompts.json").read_text()), "the model's questions")
    return Opened(built.model.to(place).eval(), settings, labels, prompts, autocast, found.path, found.step)


def check_digests(now: dict[str, str], then: dict[str, str], settings: OsumSettings, path: Path) -> None:
    """Raise UserError where a part is another one than the checkpoint was trained on."""
    for part, source in (("llm", settings.model.llm.source), ("encoder", settings.model.encoder.source)):
        if then[part] != now[part]:
            raise UserError(
                f"{path} was trained with another model.{part}.source={source} "
                f"(SHA-256 {then[part][:12]}, now {now[part][:12]}): put that one back"
            )


def merge(path: str, out: Path, *, ema: bool = False) -> None:
    """Write a folder that needs neither peft nor the parts' sources: LoRA is added to the language model's weights.

    Raises:
        UserError: no such model, or a folder that is there already.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: give --out another folder")
    opened = open_model(path, "cpu", "fp32", ema=ema)
    model = opened.model
    llm: Any = merge_lora(model.llm)
    llm.save_pretrained(out / "llm")
    model.chat.tokenizer.save_pretrained(out / "llm")
    model.encoder.config.save_pretrained(out / "encoder")  # type: ignore[union-attr, operator]
    save_file(model.encoder.state_dict(), out / "encoder" / "model.safetensors")
    save_file(model.adaptor.state_dict(), out / "adaptor.safetensors")
    record = {
        "version": _VERSION,
        "step": opened.step,
        "settings": config.to_dict(opened.settings),
        "learnt": dict(opened.labels.known),
        "scheme": opened.labels.scheme.to_dict(),
        "prompts": opened.prompts.table,
    }
    (out / MERGED).write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")


def _open_merged(path: Path, place: torch.device, autocast: torch.dtype | None) -> Opened:
    from transformers import WhisperConfig

    try:
        record = json.loads((path / MERGED).read_text(encoding="utf-8"))
        settings = restore(record["settings"])
        labels = Labels(record["learnt"], Scheme.from_dict(record["scheme"]))
        dtype = autocast or torch.float32
        llm = load_llm(str(path / "llm"), dtype)
        encoder = whisper.encoder_only(WhisperConfig.from_pretrained(path / "encoder"))
        encoder.load_state_dict(load_file(path / "encoder" / "model.safetensors"))
        adaptor = Adaptor(settings.model.adaptor, encoder.config.d_model, llm.width)  # type: ignore[union-attr, arg-type]
        adaptor.load_state_dict(load_file(path / "adaptor.safetensors"))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0]}): merge it again") from None
    model = Osum(encoder.to(dtype), adaptor, llm.model, llm.chat, settings).to(place).eval()
    prompts = Prompts(record["prompts"], "the model's questions")
    return Opened(model, settings, labels, prompts, autocast, path, int(record["step"]))

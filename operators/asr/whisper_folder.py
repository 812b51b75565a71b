"""A Whisper model on disk, before it is loaded: where it is, and whether it can be what the settings ask for.

model ──find_whisper──> folder ──check_compute, check_mels──> loaded by operators/asr/whisperx.py
                           └─has_alignment_heads──> clips may share windows
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from operators.errors import UserError
from operators.speech.quiet import quiet
from operators.storage.hub import silent


def find_whisper(
    model: str, download_root: str | None = None, local_files_only: bool = False, what: str = "asr"
) -> Path:
    """Return the folder of a CTranslate2 Whisper: given, in the hub's local cache, or fetched.

    what: the part of the settings that names it, for errors. Raises UserError when there is none.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "model.bin").is_file():
            raise UserError(
                f"{what}.model={model} is no CTranslate2 folder (it has no model.bin): convert with "
                "ct2-transformers-converter "
                "--copy_files tokenizer.json preprocessor_config.json"
            )
        if not (folder / "tokenizer.json").is_file():  # faster-whisper would ask the hub for one that may not fit
            raise UserError(f"{what}.model={model} has no tokenizer.json: copy it from the model that was converted")
        return folder
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise UserError(f"{what}.model={model}: no such folder")
    with quiet():
        from faster_whisper.utils import available_models, download_model

        if "/" not in model and model not in available_models():
            raise UserError(
                f"{what}.model={model}: no such folder, and no such model; the hub has {', '.join(available_models())}"
            )
        for local in (True,) if local_files_only else (True, False):  # the cache first: no network when it is there
            if not local and (why := silent("hf")) is not None:
                reason = why
                break
            try:
                found = Path(download_model(model, local_files_only=local, cache_dir=download_root))
            except Exception as error:  # every failure of the hub's client has its own type, from four libraries
                reason = f"{type(error).__name__}"
            else:
                if (found / "model.bin").is_file():
                    return found
                reason = "no model.bin in it"
    raise UserError(
        f"{what}.model={model} is not in the local cache and the hub gives no copy ({reason}): "
        f"give a local CTranslate2 folder ({what}.model=/path/to/folder), or run once where the hub can be reached"
    )


def check_compute(device: str, compute_type: str, what: str = "asr") -> str:
    """Return the compute type to ask for, whisperX's own where "default".

    what: the part of the settings that gives both, for errors. Raises UserError when the device cannot do it.
    """
    import ctranslate2

    if device not in ("cpu", "cuda"):
        raise UserError(f"{what}.device={device}: choose cpu, cuda or cuda:N")
    if device == "cuda" and not ctranslate2.get_cuda_device_count():
        raise UserError(f"{what}.device=cuda, but no CUDA device is to be seen: set {what}.device=cpu")
    if compute_type == "default":
        return "float16" if device == "cuda" else "float32"
    supported = sorted(ctranslate2.get_supported_compute_types(device))
    if compute_type not in supported:
        raise UserError(f"{what}.compute_type={compute_type}: this {device} can do {', '.join(supported)}")
    return compute_type


def check_mels(whisper: Any, model: str, what: str = "asr") -> None:
    """Refuse a model whose preprocessor gives another number of mel bands than it takes. Raises UserError."""
    declared = whisper.feat_kwargs.get("feature_size", 80)
    if declared != whisper.model.n_mels:
        raise UserError(
            f"{what}.model={model} takes {whisper.model.n_mels} mel bands but its preprocessor_config.json gives "
            f"{declared} "
            "(80 when missing): copy the file from the model that was converted"
        )


def has_alignment_heads(folder: Path) -> bool:
    """Return whether the model says which of its cross-attention heads follow the audio: without, words have
    no times.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("alignment_heads"))


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

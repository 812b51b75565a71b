"""FunASR models over clips: Paraformer, SenseVoice and their kin, in batches bounded by seconds.

    clips ──plan_batches: by length, bounded seconds and padding──> AutoModel.generate, one call per batch
                                                                     └─> text without tags, language where the model
                                                                     names it

What FunASR does by itself, and we do otherwise: batches of one on CPU; noise added to the samples before the filterbank
(dither 1.0 unless a model says otherwise, so the same clip gives different text); random keys; one empty result for a
whole batch in which Paraformer found no token; random weights, with a printed line at most, where a weight file is
missing.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from operators.clip import SAMPLE_RATE, Hypothesis
from operators.errors import UserError
from operators.speech.quiet import quiet
from operators.storage.hub import silent

_TAG = re.compile(r"<\|([^|<>]*)\|>")
_TAGGED_LANGUAGES = ("zh", "en", "yue", "ja", "ko")
_CONFIGS = ("config.yaml", "configuration.json")


def plan_batches(
    lengths: Sequence[int], max_samples: int, max_padding: float = 0.08, max_clips: int = 64
) -> list[list[int]]:
    """Return the indices of the clips of each batch, longest first; every clip is in exactly one.

    lengths: samples of each clip. A batch is padded to its longest clip; it takes the next shorter clip while the
    padded batch stays within `max_samples`, and padded over true samples within 1 + `max_padding`. A clip over the
    bound goes alone. Ties keep the given order, so batches are a function of the lengths.
    """
    batches: list[list[int]] = []
    longest = true = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        clips = len(batches[-1]) + 1 if batches else 0
        padded = longest * clips
        fits = padded <= max_samples and clips <= max_clips and padded <= (1 + max_padding) * (true + lengths[index])
        if batches and fits:
            batches[-1].append(index)
            true += lengths[index]
        else:
            batches.append([index])
            longest = true = lengths[index]
    return batches


def plain_text(transcript: str) -> tuple[str, str | None]:
    """Return the words of a transcript and the language it was tagged with, None when it was not or nothing was spoken.

    SenseVoice writes `<|zh|><|NEUTRAL|><|Speech|><|woitn|>你好`; tags go, wherever they stand. The rest is the model's
    own: Paraformer's Han characters come without spaces between them, English words with.
    """
    language = next((tag for tag in _TAG.findall(transcript) if tag in (*_TAGGED_LANGUAGES, "nospeech")), None)
    text = " ".join(_TAG.sub(" ", transcript).split())
    return text, language if language in _TAGGED_LANGUAGES else None


def tags(transcript: str) -> tuple[str, ...] | None:
    """Return what a transcript is tagged with besides its language, each tag once; None where it has no tags at all."""
    found = _TAG.findall(transcript)
    return tuple(dict.fromkeys(tag for tag in found if tag not in _TAGGED_LANGUAGES)) if found else None


class FunAsr:
    """A FunAsr is a FunASR model behind `AutoModel`.

    model: a folder (config.yaml or configuration.json, weights, tokens, am.mvn), or a name on the hub: "ms" ModelScope
    or "hf" Hugging Face. batch_seconds: padded audio per batch. max_padding: padded over true seconds less 1, at most,
    per batch. language: for models that take one (SenseVoice): "auto" to let the model tell, "given" for that of each
    clip, or a code. threads: of torch, for the whole process. generate_options and model_options go to FunASR as they
    are; trust_remote_code among them runs the model's own code. what: the part of the settings that names the engine,
    for errors.

    Raises UserError when the model cannot be found or loaded, or the device is not there.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "cpu",
        batch_seconds: float = 300.0,
        max_padding: float = 0.08,
        max_clips: int = 64,
        threads: int = 1,
        hub: str = "ms",
        language: str = "auto",
        local_files_only: bool = False,
        generate_options: Mapping[str, Any] | None = None,
        model_options: Mapping[str, Any] | None = None,
        name: str | None = None,
        what: str = "copilot",
    ) -> None:
        if batch_seconds <= 0 or max_padding < 0 or max_clips < 1:
            raise UserError(f"{what}: batch_seconds must be over 0, max_padding 0 or more, max_clips 1 or more")
        self.name = name or f"funasr/{Path(model).name}"
        self._batches = functools.partial(
            plan_batches, max_samples=int(batch_seconds * SAMPLE_RATE), max_padding=max_padding, max_clips=max_clips
        )
        self._language = language
        self._generate_options = {"use_itn": False, **(generate_options or {})}  # spoken form: what Rover compares
        self._model = load_funasr(model, device, threads, hub, local_files_only, model_options or {}, what)

    def transcribe(
        self,
        clips: Sequence[np.ndarray],
        languages: Sequence[str | None],
        progress: Callable[[int, float], None] | None = None,
    ) -> list[Hypothesis]:
        """Return one hypothesis per clip, in order. clips: int16 [samples] at 16 kHz.

        `language` of a hypothesis is the model's own tag where it writes one, else the clip's as given. Scores are not
        to be had from FunASR: `avg_logprob` is None. progress: called after each batch with the clips and seconds done.
        """
        if len(clips) != len(languages):
            raise ValueError(f"{len(clips)} clips, {len(languages)} languages")
        asked = [(known or "auto") if self._language == "given" else self._language for known in languages]
        heard = [""] * len(clips)
        clips_done = samples_done = 0
        with quiet():
            for language in dict.fromkeys(asked):  # one call has one language; in order of appearance
                chosen = [index for index, wanted in enumerate(asked) if wanted == language]
                for batch in self._batches([len(clips[index]) for index in chosen]):
                    indices = [chosen[position] for position in batch]
                    for index, text in zip(indices, self._generate([clips[i] for i in indices], language), strict=True):
                        heard[index] = text
                    clips_done += len(indices)
                    samples_done += sum(len(clips[index]) for index in indices)
                    if progress is not None:
                        progress(clips_done, samples_done / SAMPLE_RATE)
        answers = []
        for transcript, known in zip(heard, languages, strict=True):
            text, tagged = plain_text(transcript)
            more = tags(transcript)
            answers.append(Hypothesis(engine=self.name, text=text, language=tagged or known, tags=more))
        return answers

    def close(self) -> None:
        """Free the model; the object is of no use afterwards."""
        del self._model

    def _generate(self, clips: list[np.ndarray], language: str) -> list[str]:
        audio = [np.multiply(clip, 2.0**-15, dtype=np.float32) for clip in clips]  # exact, and one copy
        # per call, because FunASR resets the batch size to 1 on CPU when it builds a model
        results = self._model.generate(input=audio, batch_size=len(audio), language=language, **self._generate_options)
        if len(results) == 1 < len(audio) and not results[0]["text"]:
            return [""] * len(audio)  # Paraformer's answer when no clip of the batch holds a token
        return [result["text"] for result in results]


def load_funasr(
    model: str,
    device: str,
    threads: int,
    hub: str,
    local_files_only: bool,
    options: Mapping[str, Any],
    what: str = "copilot",
) -> Any:
    """Return FunASR's AutoModel of a folder or a hub name, on one thread pool and without noise added to its input.

    what: the setting that names it, for errors. Raises UserError when it cannot be found or loaded.
    """
    with quiet():
        folder = find_funasr(model, hub, local_files_only, what)
        import torch
        from funasr import AutoModel

        if device.startswith("cuda") and not torch.cuda.is_available():  # FunASR would go on, on the CPU
            raise UserError(f"{what}.device={device}, but torch sees no CUDA device: set {what}.device=cpu")
        all_options: dict[str, Any] = {
            "disable_update": True,
            "disable_pbar": True,
            "log_level": "ERROR",
            "check_latest": False,
            "frontend_conf": {"dither": 0.0},
            "ignore_init_mismatch": False,
            **options,
        }
        try:
            # hub "ms" whichever hub the folder came from: only that path merges frontend_conf instead of replacing it
            loaded = AutoModel(model=str(folder), hub="ms", device=device, ncpu=threads, **all_options)
        except Exception as error:  # a wrong file surfaces as anything, from AssertionError to UnpicklingError
            line = (str(error).strip() or "no reason given").splitlines()[0]
            raise UserError(f"{what} model {model}: FunASR cannot load it ({type(error).__name__}: {line})") from error
    weights = loaded.kwargs.get("init_param")
    if not weights or not Path(weights).is_file():
        raise UserError(
            f"{what} model {model}: no weights ({Path(weights).name if weights else 'model.pt'}) in its folder"
        )
    return loaded


def find_funasr(model: str, hub: str = "ms", local_files_only: bool = False, what: str = "copilot") -> Path:
    """Return the folder of a FunASR model: given, in the hub's local cache, or fetched. Raises UserError when there is
    none.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not any((folder / config).is_file() for config in _CONFIGS):
            raise UserError(f"{what} model {model} is no FunASR folder: it has neither {' nor '.join(_CONFIGS)}")
        return folder
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise UserError(f"{what} model {model}: no such folder")
    if hub not in ("ms", "hf"):
        raise UserError(f"{what}.options.hub={hub}: choose ms (ModelScope) or hf (Hugging Face)")
    from funasr.download import name_maps_from_hub

    names: dict[str, str] = getattr(name_maps_from_hub, f"name_maps_{hub}")
    known = names.get(model, model)
    if "/" not in known:
        raise UserError(
            f"{what} model {model}: no such folder, and no such name; FunASR knows {', '.join(sorted(names))}"
        )
    for local in (True,) if local_files_only else (True, False):  # the cache first: no network when it is there
        if not local and (why := silent(hub)) is not None:
            reason = why
            break
        try:
            found = Path(_snapshot(known, hub, local))
        except Exception as error:  # each hub's client has its own errors, and those of its HTTP library
            reason = type(error).__name__
        else:
            if any((found / config).is_file() for config in _CONFIGS):
                return found
            reason = "no config.yaml in it"
    setting = "copilot.models" if what == "copilot" else what
    raise UserError(
        f"{what} model {model} ({known}) is not in the local cache and the hub gives no copy ({reason}): "
        f"give a local folder in {setting}, or run once where the hub can be reached"
    )


def _snapshot(repository: str, hub: str, local_files_only: bool) -> str:
    module = "huggingface_hub" if hub == "hf" else "modelscope.hub.snapshot_download"
    return str(importlib.import_module(module).snapshot_download(repository, local_files_only=local_files_only))

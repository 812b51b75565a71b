"""whisperX over our clips, consecutive ones of a recording in one window.

    clips ──windows.pack──> windows ──WindowPass, as many as fit into memory──> text and language of each clip

whisperX has no call for a list of clips and identifies the language from the first 30 s of a file only. Its
spectrogram, its options and its search are used as they are in whisperX 3.8, `avg_logprob` included; what calls them is
ours, so that a window is encoded once whatever is asked of it. Neither its VAD nor any alignment model of its is
loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from operators.asr.whisper_folder import check_compute, check_mels, find_whisper, first_line, has_alignment_heads
from operators.asr.whisper_model import LANGUAGES, model_class
from operators.asr.window_pass import WINDOWS_AT_ONCE, Heard, WindowPass
from operators.asr.windows import alone, pack
from operators.clip import SAMPLE_RATE, Hypothesis
from operators.errors import UserError
from operators.speech.quiet import quiet

__all__ = ["LANGUAGES", "WINDOW_SAMPLES", "WhisperX"]

WINDOW_SAMPLES = 30 * SAMPLE_RATE
"""What Whisper's encoder always computes, whatever the clip's length."""


class WhisperX:
    """A WhisperX is a Whisper model behind whisperX's batched pipeline.

    model: a hub name ("large-v3", "Systran/faster-whisper-small.en") or a folder written by ct2-transformers-converter.
    device: "cpu", "cuda" or "cuda:N". compute_type: CTranslate2's ("int8", "float16", ...); "default" is float32 on CPU
    and float16 on a GPU. threads: of CTranslate2 and torch. language: one language for every clip that comes without
    its own. languages: when not empty, identification chooses among these only; probabilities are still over all.
    max_new_tokens: a bound on the length of a transcript, where a loop would otherwise run to 224 tokens.
    share_windows: consecutive clips of one recording share a window of 30 s, `window_gap_seconds` of silence apart; a
    model without alignment heads hears each clip alone. suppress_numerals: spell numbers out. asr_options: any more of
    whisperX's decoding options. local_files_only: never ask the hub. what: the part of the settings that names the
    engine, for errors.

    Decoding is beam search without sampling, so the same list of clips gives the same answer.
    Raises UserError when model, device, compute type, language or an option is wrong.
    """

    def __init__(
        self,
        model: str = "large-v3",
        *,
        device: str = "cpu",
        compute_type: str = "default",
        batch_size: int = 16,
        threads: int = 1,
        language: str | None = None,
        languages: Sequence[str] = (),
        beam_size: int = 5,
        max_new_tokens: int | None = None,
        share_windows: bool = True,
        window_gap_seconds: float = 0.8,
        sure_language_prob: float = 0.8,
        suppress_numerals: bool = False,
        initial_prompt: str | None = None,
        asr_options: Mapping[str, Any] | None = None,
        download_root: str | None = None,
        local_files_only: bool = False,
        name: str | None = None,
        what: str = "asr",
    ) -> None:
        own = what if what == "asr" else f"{what}.options"
        if batch_size < 1:
            raise UserError(f"{own}.batch_size={batch_size}: give a whole number of clips, 1 or more")
        self.name = name or f"whisperx/{Path(model).name}"
        self._batch_size = batch_size
        folder = find_whisper(model, download_root, local_files_only, what)
        self._share_windows = share_windows and has_alignment_heads(folder)
        self._gap = round(window_gap_seconds * SAMPLE_RATE)
        self._sure = sure_language_prob
        with quiet():
            import torch
            import whisperx.asr
            import whisperx.log_utils

            whisperx.log_utils.setup_logging("error")
            torch.set_num_threads(threads)
            kind, _, index = device.partition(":")
            compute_type = check_compute(kind, compute_type, own)
            recogniser = model_class()
            try:
                self._model = recogniser(
                    str(folder),
                    device=kind,
                    device_index=int(index or 0),
                    compute_type=compute_type,
                    cpu_threads=threads,
                )
            except (RuntimeError, ValueError) as error:  # a truncated file, not a Whisper, no such GPU
                raise UserError(f"{what}.model={model}: CTranslate2 cannot load it: {first_line(error)}") from error
            check_mels(self._model, model, what)
            options = {
                "beam_size": beam_size,
                "initial_prompt": initial_prompt,
                "suppress_numerals": suppress_numerals,
                **(asr_options or {}),
            }
            try:
                self._pipeline = whisperx.asr.load_model(
                    str(folder),
                    kind,
                    compute_type=compute_type,
                    model=self._model,
                    vad_model=_NO_VAD,
                    asr_options=options,
                )
            except TypeError as error:
                raise UserError(f"{what}.options: {first_line(error)}") from error
            self._model.prepare(
                self._pipeline.options, tuple(languages), max_new_tokens, self._pipeline.suppress_numerals
            )
            self._language = language
            if language:
                self._model.require(self._model.prompt_language(language), language)

    def transcribe(
        self,
        clips: Sequence[np.ndarray],
        languages: Sequence[str | None],
        recordings: Sequence[str] | None = None,
        progress: Callable[[int, float], None] | None = None,
    ) -> list[Hypothesis]:
        """Return one hypothesis per clip, in order. clips: int16 [samples] at 16 kHz, at most 30 s each.

        A clip whose language is given is decoded in it, and `language_prob` is what the model gives that language; a
        language the model cannot be prompted with is identified instead. English-only models give no probability.
        recordings: what each clip was cut from; where given, consecutive clips of one, their languages alike, may share
        a window. progress: called with the clips and the seconds of audio finished so far.
        Raises ValueError for a clip longer than the encoder's window: its end would go unheard.
        """
        if len(clips) != len(languages):
            raise ValueError(f"{len(clips)} clips, {len(languages)} languages")
        if any(len(clip) > WINDOW_SAMPLES for clip in clips):
            raise ValueError("a clip is longer than Whisper's window of 30 s")
        lengths = [len(clip) for clip in clips]
        sharing = self._share_windows and recordings is not None
        if sharing and recordings is not None:
            windows = pack(lengths, list(zip(recordings, languages, strict=True)), self._gap, WINDOW_SAMPLES)
        else:
            windows = alone(lengths)
        answers: dict[int, Hypothesis] = {}
        samples_done = 0
        for start in range(0, len(windows), WINDOWS_AT_ONCE):
            one_pass = WindowPass(
                model=self._model,
                mel=self._mel,
                windows=windows[start : start + WINDOWS_AT_ONCE],
                clips=clips,
                hints=[language or self._language for language in languages],
                recordings=recordings if sharing else None,
                sure=self._sure,
                batch_size=self._batch_size,
            )
            heard = one_pass.hear()
            while True:
                with quiet():
                    item = next(heard, None)
                if item is None:
                    break
                answers[item.clip] = self._answer(item, start + item.window if sharing else None)
                samples_done += lengths[item.clip]
                if progress is not None:
                    progress(len(answers), samples_done / SAMPLE_RATE)
        return [answers[index] for index in range(len(clips))]

    def _mel(self, audio: np.ndarray) -> Any:
        return self._pipeline.preprocess({"inputs": audio})["inputs"]

    def _answer(self, heard: Heard, window: int | None) -> Hypothesis:
        spoken = heard.spoken
        identified, identified_prob = spoken.identified or (None, None)
        return Hypothesis(
            engine=self.name,
            text=heard.text,
            language=spoken.language,
            language_prob=_rounded(spoken.probability),
            avg_logprob=round(heard.avg_logprob, 4),
            window=window,
            retaken=None if window is None else heard.retaken,
            identified_language=identified,
            identified_prob=_rounded(identified_prob),
        )

    def close(self) -> None:
        """Free the model's memory now; the object is of no use afterwards."""
        self._model.model.unload_model()


def _rounded(probability: float | None) -> float | None:
    return None if probability is None else round(probability, 4)


_NO_VAD = object()
"""Stands where whisperX expects a VAD; our clips are cut already and only `transcribe` of a whole file would call
it.
"""

"""whisperX over our clips: windows of many recordings in one batch, the language of each identified on the way.

    clips ──windows.pack──> windows, longest first ──> FasterWhisperPipeline (whisperX's: mel, 30 s, batches)
          └─> encode once ─┬─> detect_language ──> language and its probability, per window
                           ├─> beam search, one prompt per window ──> text, avg_logprob
                           └─> align, where clips share the window ──> words with times ──windows.share_out──> clips
    clips in doubt, and all of a window of unsure language ──> heard again, each alone

whisperX has no call for a list of clips and identifies the language from the first 30 s of a file only. Its pipeline
object does accept a generator of clips, so only methods of its *model* are replaced: `generate_segment_batched` here
identifies languages from the encoder output that decoding uses anyway, and prompts each window in its own language
(CTranslate2 takes a prompt per window), so a batch need not be of one language. Everything else, `avg_logprob`
included, is as in whisperX 3.8. Neither its VAD nor any alignment model of its is loaded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from operators.asr.hallucination import HallucinationRules
from operators.asr.whisper_folder import check_compute, check_mels, find_whisper, first_line, has_alignment_heads
from operators.asr.whisper_model import LANGUAGES, Asked, Heard, model_class
from operators.asr.windows import Window, alone, fill, pack, share_out
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
    whisperX's decoding options. local_files_only: never ask the hub.

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
        suppress_numerals: bool = False,
        initial_prompt: str | None = None,
        asr_options: Mapping[str, Any] | None = None,
        download_root: str | None = None,
        local_files_only: bool = False,
        name: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"asr.batch_size={batch_size}: give a whole number of clips, 1 or more")
        self.name = name or f"whisperx/{Path(model).name}"
        self._batch_size = batch_size
        folder = find_whisper(model, download_root, local_files_only)
        self._share_windows = share_windows and has_alignment_heads(folder)
        self._gap = round(window_gap_seconds * SAMPLE_RATE)
        self._doubts = HallucinationRules()
        with quiet():
            import torch
            import whisperx.asr
            import whisperx.log_utils

            whisperx.log_utils.setup_logging("error")
            torch.set_num_threads(threads)
            kind, _, index = device.partition(":")
            compute_type = check_compute(kind, compute_type)
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
                raise UserError(f"asr.model={model}: CTranslate2 cannot load it: {first_line(error)}") from error
            check_mels(self._model, model)
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
                raise UserError(f"asr.options: {first_line(error)}") from error
            self._model.prepare(
                default=language,
                candidates=tuple(languages),
                max_new_tokens=max_new_tokens,
                suppress_numerals=self._pipeline.suppress_numerals,
            )

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
        number = {clip: place for place, window in enumerate(windows) for clip in window.clips} if sharing else {}
        again: list[int] = []
        samples_done = 0

        def finish(clip: int, text: str, heard: Heard, avg_logprob: float, retaken: bool) -> None:
            nonlocal samples_done
            answers[clip] = Hypothesis(
                engine=self.name,
                text=text,
                language=heard.language,
                language_prob=None if heard.language_prob is None else round(heard.language_prob, 4),
                avg_logprob=round(avg_logprob, 4),
                window=number.get(clip),
                retaken=retaken if sharing else None,
            )
            samples_done += lengths[clip]
            if progress is not None:
                progress(len(answers), samples_done / SAMPLE_RATE)

        for window, heard in self._hear(windows, clips, languages):
            if not window.shared:
                finish(window.clips[0], heard.text.strip(), heard, heard.avg_logprob, retaken=False)
            elif heard.words is None:
                again += window.clips
            else:
                shares, doubtful = share_out(window, heard.words, clips, heard.language, self._doubts)
                for position, (clip, share) in enumerate(zip(window.clips, shares, strict=True)):
                    if position in doubtful | heard.foreign:
                        again.append(clip)
                    else:
                        finish(clip, share.text, heard, share.avg_logprob, retaken=False)
        single = alone(lengths)
        for window, heard in self._hear([single[clip] for clip in sorted(again)], clips, languages):
            finish(window.clips[0], heard.text.strip(), heard, heard.avg_logprob, retaken=True)
        return [answers[index] for index in range(len(clips))]

    def _hear(
        self, windows: Sequence[Window], clips: Sequence[np.ndarray], languages: Sequence[str | None]
    ) -> Iterator[tuple[Window, Heard]]:
        """Each window with what was heard in it, in batches of windows alike in length."""
        if not windows:
            return
        # Windows of like length finish decoding at like steps; the longest first: memory runs out early or never.
        order = sorted(windows, key=lambda window: (-window.samples, window.clips))
        self._model.asked = deque(Asked(window, languages[window.clips[0]]) for window in order)
        inputs = ({"inputs": fill(window, clips)} for window in order)
        with quiet():
            answers = iter(self._pipeline(inputs, batch_size=self._batch_size, num_workers=0))
        for window in order:
            with quiet():
                item = next(answers)
            # the pipeline takes apart batches of two and more, but hands on a batch of one as it is
            heard = item["heard"]
            yield window, heard[0] if isinstance(heard, list) else heard

    def close(self) -> None:
        """Free the model's memory now; the object is of no use afterwards."""
        self._model.model.unload_model()


_NO_VAD = object()
"""Stands where whisperX expects a VAD; our clips are cut already and only `transcribe` of a whole file would call
it.
"""

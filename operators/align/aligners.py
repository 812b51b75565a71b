"""Aligners: when each word of a label is spoken. English needs nothing more than is installed anyway.

    label ──words_of──> words ─┬─pronounce──> phones ──pocketsphinx──> Word ...            English, from the wheel
                               ├─wav2vec2, by whisperX──> CTC's path ──spread──> Word ...  where there is such a model
                               └─FunASR, fa-zh──> Word ...                                 Mandarin
    (CTC over a model of one's own: model_training.decoding.align)

Each has the protocol of annotator.Aligner, and hears clips one by one: a clip's times depend on no other clip.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from operators.align.ctc import best_path, token_frames
from operators.annotate.annotator import Heard
from operators.annotate.words import spread, words_of
from operators.clip import SAMPLE_RATE, Word
from operators.errors import UserError
from operators.language import canonical
from operators.speech.quiet import quiet
from operators.text.phones_en import pronounce

_LETTERS = re.compile(r"[^a-z']")


class PocketsphinxAligner:
    """A PocketsphinxAligner is the GMM-HMM aligner of the pocketsphinx wheel (BSD), with its English model and
    dictionary.

    A word that the dictionary lacks is given the phones that `pronounce` finds. Clips that are not English are not
    aligned.
    """

    name = "pocketsphinx/en-us"

    def __init__(self) -> None:
        from pocketsphinx import Config, Decoder, get_model_path

        model = Path(get_model_path()) / "en-us"
        # Means over the clip itself: running ones would carry from one clip to the next.
        self._decoder = Decoder(
            Config(
                hmm=str(model / "en-us"),
                dict=str(model / "cmudict-en-us.dict"),
                lm=None,
                cmn="batch",
                loglevel="FATAL",
            )
        )

    def align(self, clips: Sequence[Heard]) -> list[tuple[Word, ...] | None]:
        """Return the words of each English clip with their times, None of others and where no path fits."""
        return [self._align(clip) if canonical(clip.language) == "en" else None for clip in clips]

    def close(self) -> None:
        del self._decoder

    def _align(self, clip: Heard) -> tuple[Word, ...] | None:
        words = words_of(clip.text)
        entries = [self._entry(word) for word in words]
        if not words or not all(entries) or not len(clip.pcm):
            return None
        started = False
        try:
            self._decoder.reinit_feat()  # else the tail of the clip before it reaches into this one
            self._decoder.set_align_text(" ".join(entries))
            self._decoder.start_utt()
            started = True
            self._decoder.process_raw(clip.pcm.tobytes(), full_utt=True)
            self._decoder.end_utt()
            found = list(self._decoder.seg() or ())
        except RuntimeError:  # no path through the clip
            if started:
                with suppress(RuntimeError):
                    self._decoder.end_utt()  # an utterance left open would be in the way of the next clip
            return None
        placed = [part for part in found if not part.word.startswith(("<", "["))]
        if len(placed) != len(words):
            return None
        hop, end = SAMPLE_RATE // 100, len(clip.pcm)
        return tuple(
            Word(text=word, start=min(part.start_frame * hop, end), end=min((part.end_frame + 1) * hop, end))
            for word, part in zip(words, placed, strict=True)
        )

    def _entry(self, word: str) -> str:
        """Return the word as the decoder's dictionary has it, "" for one that cannot be spelt in English letters."""
        plain = unicodedata.normalize("NFKD", word.lower().replace("’", "'"))
        entry = _LETTERS.sub("", plain)
        if not entry.strip("'"):
            return ""
        if self._decoder.lookup_word(entry) is None:
            self._decoder.add_word(entry, " ".join(pronounce(entry)), True)
        return entry


class WhisperxAligner:
    """A WhisperxAligner is an alignment model of whisperX: wav2vec2 with letters, one for each language.

    whisperX finds and loads the model; the path through it is ours, the same as for every CTC model. whisperX's own
    needs sentence models from the network, and moves words to what it takes for sentences.

    Args:
        model: a hub name or a local folder of transformers' Wav2Vec2ForCTC; empty: whisperX's choice for the language.
        language: the one that the model is for; clips of another are not aligned.

    Raises:
        UserError: there is no such model.
    """

    def __init__(self, model: str = "", *, language: str = "en", device: str = "cpu", threads: int = 1) -> None:
        self._language = canonical(language) or language
        self.name = f"whisperx-align/{Path(model).name or self._language}"
        with quiet():
            import torch
            from whisperx.alignment import load_align_model

            torch.set_num_threads(threads)
            try:
                self._model, metadata = load_align_model(self._language, device, model_name=model or None)
            except Exception as error:  # hub, folder and weights each have errors of their own
                line = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise UserError(f"aligner whisperx: no alignment model for {self._language} ({line})") from None
        self._torch, self._device = torch, device
        self._letters: dict[str, int] = metadata["dictionary"]
        self._blank = next((self._letters[name] for name in ("[pad]", "<pad>") if name in self._letters), 0)

    def align(self, clips: Sequence[Heard]) -> list[tuple[Word, ...] | None]:
        """Return the words of each clip in the model's language; those with letters that it lacks are left out."""
        return [self._align(clip) if canonical(clip.language) == self._language else None for clip in clips]

    def close(self) -> None:
        del self._model

    def _align(self, clip: Heard) -> tuple[Word, ...] | None:
        spelt = [(word, [self._letters.get(letter) for letter in word.lower()]) for word in words_of(clip.text)]
        known = [(word, [id for id in ids if id is not None]) for word, ids in spelt if None not in ids]
        between = [self._letters["|"]] if "|" in self._letters else []
        ids = [token for place, (_, own) in enumerate(known) for token in ([*between, *own] if place else own)]
        if not ids or len(clip.pcm) < _LEAST_SAMPLES:
            return None
        path_S = best_path(log_probs_SV := self._log_probs(clip.pcm), ids, self._blank)
        if path_S is None:
            return None
        frames, step, first, cores = token_frames(path_S), len(clip.pcm) / len(log_probs_SV), 0, []
        for _, own in known:
            start, last = frames[first][0], frames[first + len(own) - 1][1]
            cores.append((round((start + 0.5) * step), round((last - 0.5) * step)))
            first += len(own) + len(between)
        return tuple(
            Word(text=word, start=start, end=end)
            for (word, _), (start, end) in zip(known, spread(cores, clip.pcm), strict=True)
        )

    def _log_probs(self, pcm: np.ndarray) -> np.ndarray:
        torch = self._torch
        with quiet(), torch.inference_mode():
            found = self._model(torch.from_numpy(pcm.astype(np.float32) / 32768)[None].to(self._device))
            logits_SV = (found.logits if hasattr(found, "logits") else found[0])[0]
            log_probs_SV: np.ndarray = logits_SV.float().log_softmax(-1).cpu().numpy()
        return log_probs_SV


_LEAST_SAMPLES = 400
"""What wav2vec2's convolutions need for a frame."""


class FunAsrAligner:
    """A FunAsrAligner is FunASR's monotonic aligner for Mandarin, fa-zh: a folder, or a name on its hub.

    Raises:
        UserError: there is no such model.
    """

    def __init__(self, model: str = "fa-zh", *, device: str = "cpu", threads: int = 1, hub: str = "ms") -> None:
        from operators.asr.funasr import load_funasr

        self.name = f"funasr/{Path(model).name}"
        self._model = load_funasr(model, device, threads, hub, False, {}, "annotate.words.aligners")

    def align(self, clips: Sequence[Heard]) -> list[tuple[Word, ...] | None]:
        """Return the words of each Mandarin clip, None of others, and where its tokens are not the label's."""
        return [self._align(clip) if canonical(clip.language) == "zh" else None for clip in clips]

    def close(self) -> None:
        del self._model

    def _align(self, clip: Heard) -> tuple[Word, ...] | None:
        words = words_of(clip.text)
        if not words:
            return None
        audio = np.multiply(clip.pcm, 2.0**-15, dtype=np.float32)
        with quiet():
            (found,) = self._model.generate(input=(audio, " ".join(words)), data_type=("sound", "text"))
        times = found.get("timestamp") or []
        if len(times) != len(words):
            return None
        return tuple(
            Word(text=word, start=_samples(start / 1000), end=_samples(end / 1000))
            for word, (start, end) in zip(words, times, strict=True)
        )


def _samples(seconds: float) -> int:
    return round(float(seconds) * SAMPLE_RATE)

"""Aligners: when each word of a label is spoken. English needs nothing more than is installed anyway.

    label ──words_of──> words ─┬─pronounce──> phones ──pocketsphinx──> Word ...            English, from the wheel
                               ├─Whisper's cross-attention──> cores ──spread──> Word ...   any of its languages
                               ├─whisperX, wav2vec2──> Word ...                            where there is such a model
                               └─FunASR, fa-zh──> Word ...                                 Mandarin
    (CTC over a model of one's own: model_training.decoding.align)

Each has the protocol of annotator.Aligner, and hears clips one by one: a clip's times depend on no other clip.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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
        if not words or not all(entries):
            return None
        try:
            self._decoder.reinit_feat()  # else the tail of the clip before it reaches into this one
            self._decoder.set_align_text(" ".join(entries))
            self._decoder.start_utt()
            self._decoder.process_raw(clip.pcm.tobytes(), full_utt=True)
            self._decoder.end_utt()
            found = list(self._decoder.seg() or ())
        except RuntimeError:  # no path through the clip
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


class WhisperAligner:
    """A WhisperAligner places words by the cross-attention of a Whisper model in CTranslate2's form.

    A clip costs a pass of the encoder, 30 s whatever its length. Its times are coarse: a second opinion, not the first.

    Args:
        model: a folder written by ct2-transformers-converter, or a hub name, as for `asr.model`.
        device, compute_type: CTranslate2's.
        threads: of CTranslate2.

    Raises:
        UserError: no such model, or one without alignment heads.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "cpu",
        compute_type: str = "default",
        threads: int = 1,
        name: str | None = None,
    ) -> None:
        from operators.asr.whisper_folder import find_whisper, first_line, has_alignment_heads

        folder = find_whisper(model, None, False)
        if not has_alignment_heads(folder):
            raise UserError(f"aligner whisper: {model} has no alignment heads in its config.json: convert it again")
        self.name = name or f"whisper/{Path(model).name}"
        with quiet():
            from faster_whisper import WhisperModel

            try:
                self._model = WhisperModel(
                    str(folder), device=device, compute_type=compute_type, cpu_threads=threads, local_files_only=True
                )
            except (RuntimeError, ValueError) as error:
                raise UserError(f"aligner whisper: {model} cannot be loaded: {first_line(error)}") from error

    def align(self, clips: Sequence[Heard]) -> list[tuple[Word, ...] | None]:
        """Return the words of each clip in a language that the model has; None of clips over 30 s, and of others."""
        return [self._align(clip) for clip in clips]

    def close(self) -> None:
        self._model.model.unload_model()

    def _align(self, clip: Heard) -> tuple[Word, ...] | None:
        from faster_whisper.tokenizer import Tokenizer

        language, words = canonical(clip.language), words_of(clip.text)
        if not words or len(clip.pcm) > 30 * SAMPLE_RATE or language not in self._model.supported_languages:
            return None
        tokenizer = Tokenizer(
            self._model.hf_tokenizer, self._model.model.is_multilingual, task="transcribe", language=language
        )
        unspaced = [len(word) == 1 and ord(word) > 0x2E7F for word in words]
        pieces = [tokenizer.encode(("" if alone else " ") + word) for word, alone in zip(words, unspaced, strict=True)]
        features = self._model.feature_extractor(clip.pcm.astype(np.float32) / 32768)
        encoded = self._model.encode(features[:, : self._model.feature_extractor.nb_max_frames])
        ids = [token for piece in pieces for token in piece]
        if len(ids) > self._model.max_length // 2:
            return None
        (found,) = self._model.model.align(
            encoded, tokenizer.sot_sequence, [ids], [-(-len(clip.pcm) // (SAMPLE_RATE // 100))]
        )
        return _placed_by_tokens(words, [len(piece) for piece in pieces], found.alignments, clip.pcm)


def _placed_by_tokens(
    words: Sequence[str], lengths: Sequence[int], path: Sequence[tuple[int, int]], pcm: np.ndarray
) -> tuple[Word, ...] | None:
    """Return words from a path of (token, step of 20 ms): each holds its own steps, and `spread` finds its edges."""
    if not path:
        return None
    step, end = SAMPLE_RATE // 50, len(pcm)
    begins: dict[int, int] = {}
    for token, at in path:
        begins.setdefault(token, at)
    cores, first = [], 0
    for length in lengths:
        start = begins.get(first, path[-1][1])
        stop = begins.get(first + length, path[-1][1] + 1)
        # Attention stays with a word through the pause behind it: only its first tenth of a second is surely its own.
        cores.append((min(start * step, end), min(max(start, min(stop, start + 5)) * step, end)))
        first += length
    return tuple(
        Word(text=word, start=start, end=end) for word, (start, end) in zip(words, spread(cores, pcm), strict=True)
    )

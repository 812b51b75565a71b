"""whisperX's model in parts: what `WhisperX` runs.

mel ──encode──> steps of a window ─┬─chances─> languages of the window, or of each stretch of it
                                   ├─decode──> tokens and text, a prompt per row
                                   └─timed───> words with times
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from operators.asr.window_language import Chances
from operators.asr.windows import FRAME, Word
from operators.clip import SAMPLE_RATE, Span
from operators.errors import UserError
from operators.language import PROMPTED_AS, canonical

_LANGUAGES = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy "
    "id is it ja jw "
    "ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl "
    "sn so sq sr su "
    "sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh"
)
LANGUAGES = frozenset(_LANGUAGES.split())
"""What Whisper can identify."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A Decoded is what beam search made of a row of the encoder's output."""

    tokens: list[int]
    """of text."""
    text: str
    avg_logprob: float
    complete: bool
    """False where it ran into its limit: the end is missing."""


def model_class() -> type:
    """Return whisperX's model with more methods; a function because the base class takes seconds to import."""
    from dataclasses import replace

    import ctranslate2
    from faster_whisper.tokenizer import Tokenizer
    from whisperx.asr import WhisperModel, find_numeral_symbol_tokens

    class WhisperInParts(WhisperModel):
        """A WhisperInParts encodes once, and decodes every row of a batch in its own language.

        Steps are the encoder's output, float32 [..., steps of 20 ms, width], wherever the model runs.
        """

        def prepare(
            self, options: Any, candidates: tuple[str, ...], max_new_tokens: int | None, suppress_numerals: bool
        ) -> None:
            """Take over whisperX's decoding options. Raises UserError for a language that the model has not."""
            multilingual = self.model.is_multilingual
            known = [
                code for code in self.supported_languages if self.hf_tokenizer.token_to_id(f"<|{code}|>") is not None
            ]
            self._tokenizers = {
                code: Tokenizer(self.hf_tokenizer, multilingual, task="transcribe", language=code) for code in known
            }
            self._max_new_tokens = max_new_tokens
            if suppress_numerals:
                numerals = find_numeral_symbol_tokens(self._tokenizers["en"])
                options = replace(options, suppress_tokens=sorted({*numerals, *options.suppress_tokens}))
            self._options = options
            self._previous: list[int] = []
            if options.initial_prompt is not None:
                self._previous = self._tokenizers["en"].encode(" " + options.initial_prompt.strip())
            self.candidates = tuple(canonical(code) or code for code in candidates)
            for code in self.candidates:
                self.require(code if code in known else None, code)

        def require(self, found: str | None, asked: str) -> None:
            """Raise UserError where no language was found for what the settings ask for."""
            if found is None:
                raise UserError(
                    f"asr.language: this model has no language {asked!r}; it has {', '.join(self._tokenizers)}"
                )

        def prompt_language(self, code: str, known: Container[str] | None = None) -> str | None:
            """Return what the model is prompted with for a language as people write it; None: it has nothing near.

            A vocabulary may hold the token of a language that the model was never trained on: `known` are those in
            its ranking.
            """
            language = canonical(code) or ""
            chosen = self._tokenizers if known is None else known
            return next((c for c in (language, PROMPTED_AS.get(language)) if c is not None and c in chosen), None)

        @property
        def multilingual(self) -> bool:
            return bool(self.model.is_multilingual)

        def steps(self, mels_BMT: Any) -> np.ndarray:
            """Return float32 [windows, steps, width] for log-mel spectrograms [windows, mels, frames of 10 ms].

            On a CPU one window at a time: a batch is no quicker there, and its attention takes a gigabyte.
            """
            size = 1 if self.model.device == "cpu" else len(mels_BMT)
            parts = [
                self.encode(mels_BMT[row : row + size])
                .to_device(ctranslate2.Device.cpu)
                .to(ctranslate2.DataType.float32)
                for row in range(0, len(mels_BMT), size)
            ]
            return np.concatenate([np.array(part) for part in parts])

        def chances(self, steps_BSD: np.ndarray) -> list[Chances]:
            """Return the probability of each language, of each row: one step of the decoder.

            The decoder attends to any stretch of a window, so no second pass of the encoder tells a clip's language.
            Asked about the whole window, Whisper base called one English clip among five enough (0.72).
            """
            return [
                {token[2:-2]: value for token, value in ranking if token[2:-2] in self._tokenizers}
                for ranking in self.model.detect_language(_view(steps_BSD))
            ]

        def decode(self, steps_BSD: np.ndarray, languages: Sequence[str], clips: int = 1) -> list[Decoded]:
            """Return what is said in each row, in its language; rows hold `clips` clips at most. whisperX's own
            search, except for a prompt per row and a limit of our own.
            """
            options = self._options
            prompts = [
                self.get_prompt(
                    self._tokenizers[language],
                    self._previous,
                    without_timestamps=options.without_timestamps,
                    prefix=options.prefix,
                    hotwords=options.hotwords,
                )
                for language in languages
            ]
            limit = self.max_length
            if self._max_new_tokens is not None:
                # CTranslate2 stops after min(limit / 2, limit - prompt) tokens
                most = self._max_new_tokens * clips
                limit = min(limit, max(2 * most, most + len(prompts[0])))
            results = self.model.generate(
                _view(steps_BSD),
                prompts,
                beam_size=options.beam_size,
                patience=options.patience,
                length_penalty=options.length_penalty,
                max_length=limit,
                suppress_blank=options.suppress_blank,
                suppress_tokens=options.suppress_tokens,
                no_repeat_ngram_size=options.no_repeat_ngram_size,
                repetition_penalty=options.repetition_penalty,
                return_scores=True,
            )
            end = self._tokenizers["en"].eot
            sequences = [result.sequences_ids[0] for result in results]
            tokens = [[token for token in sequence if token < end] for sequence in sequences]
            return [
                Decoded(
                    tokens=own,
                    text=text.strip(),
                    avg_logprob=result.scores[0] * len(sequence) ** options.length_penalty / (len(sequence) + 1),
                    complete=len(sequence) < min(limit // 2, limit - len(prompt)),
                )
                for own, text, sequence, result, prompt in zip(
                    tokens, self.hf_tokenizer.decode_batch(tokens), sequences, results, prompts, strict=True
                )
            ]

        def timed(
            self, steps_BSD: np.ndarray, tokens: Sequence[list[int]], language: str, samples: Sequence[int]
        ) -> list[tuple[Word, ...]]:
            """Return the words of each row's tokens, all of one language, with times. samples: of each row's audio."""
            heard = [row for row, own in enumerate(tokens) if own]
            found: list[tuple[Word, ...]] = [()] * len(tokens)
            if heard:
                tokenizer = self._tokenizers[language]
                aligned = self.model.align(
                    _view(steps_BSD[heard]),
                    tokenizer.sot_sequence,
                    [tokens[row] for row in heard],
                    [samples[row] // _MEL_HOP for row in heard],
                )
                for row, alignment in zip(heard, aligned, strict=True):
                    found[row] = _timed_words(tokenizer, tokens[row], alignment)
            return found

    return WhisperInParts


_MEL_HOP = SAMPLE_RATE // 100
"""samples of one frame of the spectrogram, in which `align` counts what is not padding."""


_ALIGNMENT = 64
"""bytes, as CTranslate2 aligns its own memory."""


def _view(steps_BSD: np.ndarray) -> Any:
    """The steps as CTranslate2 takes them; it moves them to its device and type.

    It uses the array where it lies, and products of matrices that lie otherwise differ in their last bits: a run must
    not depend on what memory a worker was given.
    """
    import ctranslate2

    room = np.empty(steps_BSD.size + _ALIGNMENT // 4, np.float32)
    first = -room.ctypes.data % _ALIGNMENT // 4
    aligned = room[first : first + steps_BSD.size].reshape(steps_BSD.shape)
    aligned[...] = steps_BSD
    return ctranslate2.StorageView.from_array(aligned)


def _timed_words(tokenizer: Any, tokens: list[int], alignment: Any) -> tuple[Word, ...]:
    """Words out of CTranslate2's path of (token, step of 20 ms): a word lasts until the next one begins.

    The path may begin before the first step, at -1.
    """
    texts, parts = tokenizer.split_to_word_tokens([*tokens, tokenizer.eot])
    begins: dict[int, int] = {}
    for token, step in alignment.alignments:
        begins.setdefault(token, max(step, 0))
    last = alignment.alignments[-1][1] + 1 if alignment.alignments else 0
    words, first = [], 0
    for text, part in zip(texts[:-1], parts[:-1], strict=True):
        stop = first + len(part)
        span = Span(begins.get(first, last) * FRAME, max(begins.get(stop, last), begins.get(first, last)) * FRAME)
        probabilities = np.maximum(alignment.text_token_probs[first:stop], 1e-10)
        words.append(Word(text, span, tuple(np.log(probabilities).tolist())))
        first = stop
    return tuple(words)

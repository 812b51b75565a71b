"""whisperX's model, with the language identified per window and words with times: what `WhisperX` runs.

mel of a batch ──encode──> languages, a prompt each ──beam search──> tokens ──align, where clips share──> Heard
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from operators.asr.windows import FRAME, Window, Word
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

MAX_RIVAL = 0.25
"""A shared window is heard in a second language too where that has more than this share of the first's probability."""

SURE_LANGUAGE = 0.8
"""A clip of a shared window that by itself is in another language with this probability is heard alone."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a window before it is heard."""

    window: Window
    hint: str | None


@dataclass(frozen=True, slots=True)
class Heard:
    """A Heard is what the model made of a window."""

    text: str
    language: str
    language_prob: float | None
    avg_logprob: float
    words: tuple[Word, ...] | None = None
    """with times, of a shared window; None where its clips have to be heard alone."""
    foreign: frozenset[int] = frozenset()
    """positions of clips in another language than their window's."""


class _Spoken(NamedTuple):
    """The language to report, the one to prompt with, and what the model gives the latter.

    Of a shared window also the second language, where the model is unsure, and which clips are in another one.
    """

    language: str
    prompt: str
    probability: float | None
    rival: tuple[str, float] | None = None
    foreign: frozenset[int] = frozenset()


def model_class() -> type:
    """Return whisperX's model with one method replaced; a function because the base class takes seconds to import."""
    from dataclasses import replace

    import ctranslate2
    from faster_whisper.tokenizer import Tokenizer
    from whisperx.asr import WhisperModel, find_numeral_symbol_tokens

    class PerClipLanguage(WhisperModel):
        """Decodes every clip of a batch in its own language.

        `asked` holds what is known of the windows to come, in the order the pipeline will ask for them. The pipeline
        only carries audio, and reads ahead of nothing with `num_workers=0`, so a queue beside it stays in step.
        """

        asked: deque[Asked]

        def prepare(
            self, default: str | None, candidates: tuple[str, ...], max_new_tokens: int | None, suppress_numerals: bool
        ) -> None:
            multilingual = self.model.is_multilingual
            known = [
                code for code in self.supported_languages if self.hf_tokenizer.token_to_id(f"<|{code}|>") is not None
            ]
            self._tokenizers = {
                code: Tokenizer(self.hf_tokenizer, multilingual, task="transcribe", language=code) for code in known
            }
            self._max_new_tokens = max_new_tokens
            self._numerals = find_numeral_symbol_tokens(self._tokenizers["en"]) if suppress_numerals else []
            self._default = default
            self._candidates = tuple(canonical(code) or code for code in candidates)
            missing = [code for code in self._candidates if code not in known]
            if default and self._prompt_language(default, self._tokenizers) is None:
                missing.append(default)
            if missing:
                raise UserError(f"asr.language: this model has no language {missing[0]!r}; it has {', '.join(known)}")

        def _prompt_language(self, code: str, known: Container[str]) -> str | None:
            language = canonical(code) or ""
            return next((c for c in (language, PROMPTED_AS.get(language)) if c is not None and c in known), None)

        def _identify(self, encoded: Any, asked: list[Asked]) -> list[_Spoken]:
            if not self.model.is_multilingual:
                return [_Spoken("en", "en", None)] * len(asked)
            told = [each.hint or self._default for each in asked]
            whole = [row for row, each in enumerate(asked) if told[row] or not each.window.shared]
            rankings = self.model.detect_language(_rows(encoded, whole)) if whole else []
            answers: dict[int, _Spoken] = {}
            for row, ranking in zip(whole, rankings, strict=True):
                probability = self._probabilities(ranking)
                given = told[row]
                # A vocabulary may hold the token of a language that the model was never trained on: it is not in the
                # ranking.
                prompt = self._prompt_language(given, probability) if given else None
                if given and prompt:
                    answers[row] = _Spoken(canonical(given) or prompt, prompt, probability[prompt])
                else:
                    best, *_ = self._likeliest(probability)
                    answers[row] = _Spoken(best, best, probability[best])
            for row, each in enumerate(asked):
                if row not in answers:
                    answers[row] = self._identify_shared(encoded, row, each.window)
            return [answers[row] for row in range(len(asked))]

        def _identify_shared(self, encoded: Any, row: int, window: Window) -> _Spoken:
            """The language of a window by its clips, each by its own stretch of the encoder's output.

            The decoder attends to any stretch, and one step of it tells the language: no second pass of the encoder.
            Asked about the whole window, Whisper base called one English clip among five enough (0.72).
            """
            steps_1SD = np.asarray(_on_cpu(encoded))[row : row + 1]
            each_clip = []
            for span in window.spans:
                stretch = np.ascontiguousarray(steps_1SD[:, span.start // FRAME : -(-span.end // FRAME)])
                ranking = self.model.detect_language(ctranslate2.StorageView.from_array(stretch))[0]
                each_clip.append(self._probabilities(ranking))
            mean = {
                code: sum(clip[code] * span.samples for clip, span in zip(each_clip, window.spans, strict=True))
                / sum(span.samples for span in window.spans)
                for code in each_clip[0]
            }
            best, *rivals = self._likeliest(mean)
            foreign = frozenset(
                place
                for place, clip in enumerate(each_clip)
                if clip[own := self._likeliest(clip)[0]] >= SURE_LANGUAGE and own != best
            )
            second = next((code for code in rivals if mean[code] > MAX_RIVAL * mean[best]), None)
            rival = None if second is None or foreign else (second, mean[second])
            return _Spoken(best, best, mean[best], rival, foreign)

        def _probabilities(self, ranking: list[tuple[str, float]]) -> dict[str, float]:
            return {token[2:-2]: value for token, value in ranking if token[2:-2] in self._tokenizers}

        def _likeliest(self, probability: dict[str, float]) -> list[str]:
            """The languages that may be chosen, the likeliest first."""
            return sorted(self._candidates or probability, key=lambda code: (-probability[code], code))

        def encode(self, features: Any) -> Any:
            """The encoder's output, float [windows, steps, width].

            On a CPU one window at a time: a batch is no quicker there, and its attention takes a gigabyte.
            """
            if self.model.device != "cpu" or len(features) == 1:
                return super().encode(features)
            parts = [super(PerClipLanguage, self).encode(features[row : row + 1]) for row in range(len(features))]
            if parts[0].dtype != ctranslate2.DataType.float32:
                return super().encode(features)
            return ctranslate2.StorageView.from_array(np.concatenate([np.asarray(part) for part in parts]))

        def generate_segment_batched(
            self, features: Any, tokenizer: Any, options: Any, encoder_output: Any = None
        ) -> dict[str, list[Any]]:
            """whisperX's own, except: languages from the encoder output, a prompt per window, `max_new_tokens`,
            numerals, and words with times where clips share a window.
            """
            encoded = self.encode(features)
            asked = [self.asked.popleft() for _ in range(features.shape[0])]
            spoken = self._identify(encoded, asked)
            # A window of unsure language is heard in both, and the likelier text is taken: one more row of the batch.
            rows = list(range(len(asked)))
            for row, said in enumerate(spoken[:]):
                if said.rival is not None:
                    rows.append(row)
                    spoken.append(_Spoken(said.rival[0], *said.rival))
            asked = [asked[row] for row in rows]
            encoded = _rows(encoded, rows)
            if self._numerals:
                options = replace(options, suppress_tokens=sorted({*self._numerals, *options.suppress_tokens}))
            previous: list[int] = []
            if options.initial_prompt is not None:
                previous = self._tokenizers["en"].encode(" " + options.initial_prompt.strip())
            prompts = [
                self.get_prompt(
                    self._tokenizers[prompt],
                    previous,
                    without_timestamps=options.without_timestamps,
                    prefix=options.prefix,
                    hotwords=options.hotwords,
                )
                for _, prompt, *_ in spoken
            ]
            limit = self.max_length
            if self._max_new_tokens is not None:
                # CTranslate2 stops after min(limit / 2, limit - prompt) tokens
                most = self._max_new_tokens * max(len(each.window.clips) for each in asked)
                limit = min(limit, max(2 * most, most + len(prompts[0])))
            results = self.model.generate(
                encoded,
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
            sequences = [result.sequences_ids[0] for result in results]
            end = self._tokenizers["en"].eot
            tokens = [[token for token in sequence if token < end] for sequence in sequences]
            scores = [
                result.scores[0] * len(sequence) ** options.length_penalty / (len(sequence) + 1)
                for result, sequence in zip(results, sequences, strict=True)
            ]
            likelier = list(range(features.shape[0]))
            for place in range(features.shape[0], len(rows)):
                if scores[place] > scores[rows[place]]:
                    likelier[rows[place]] = place
            whole = [
                row
                for row in likelier
                if asked[row].window.shared
                and len(sequences[row]) < min(limit // 2, limit - len(prompts[row]))  # else its end is missing
            ]
            words = self._words(encoded, whole, tokens, [said.prompt for said in spoken], asked)
            texts = self.hf_tokenizer.decode_batch(tokens)
            return {
                "heard": [
                    Heard(
                        text=texts[row],
                        language=spoken[row].language,
                        language_prob=spoken[row].probability,
                        avg_logprob=scores[row],
                        words=words.get(row),
                        foreign=spoken[row].foreign,
                    )
                    for row in likelier
                ]
            }

        def _words(
            self, encoded: Any, rows: list[int], tokens: list[list[int]], languages: list[str], asked: list[Asked]
        ) -> dict[int, tuple[Word, ...]]:
            """The words of the windows `rows` of a batch, by row. One call of `align` takes one language."""
            found: dict[int, tuple[Word, ...]] = {row: () for row in rows if not tokens[row]}
            for language in sorted({languages[row] for row in rows}):
                chosen = [row for row in rows if languages[row] == language and tokens[row]]
                if not chosen:
                    continue
                tokenizer = self._tokenizers[language]
                aligned = self.model.align(
                    _rows(encoded, chosen),
                    tokenizer.sot_sequence,
                    [tokens[row] for row in chosen],
                    [asked[row].window.samples // _MEL_HOP for row in chosen],
                )
                for row, alignment in zip(chosen, aligned, strict=True):
                    found[row] = _timed_words(tokenizer, tokens[row], alignment)
            return found

    return PerClipLanguage


_MEL_HOP = SAMPLE_RATE // 100
"""samples of one frame of the spectrogram, in which `align` counts what is not padding."""


def _rows(encoded: Any, rows: list[int]) -> Any:
    """Some rows of a StorageView [windows, ...]."""
    if rows == list(range(encoded.shape[0])):
        return encoded
    import ctranslate2

    return ctranslate2.StorageView.from_array(np.asarray(_on_cpu(encoded))[rows])


def _on_cpu(encoded: Any) -> Any:
    """A StorageView as float32 where numpy can read it."""
    import ctranslate2

    return encoded.to_device(ctranslate2.Device.cpu).to(ctranslate2.DataType.float32)


def _timed_words(tokenizer: Any, tokens: list[int], alignment: Any) -> tuple[Word, ...]:
    """Words out of CTranslate2's path of (token, step of 20 ms): a word lasts until the next one begins."""
    texts, parts = tokenizer.split_to_word_tokens([*tokens, tokenizer.eot])
    begins: dict[int, int] = {}
    for token, step in alignment.alignments:
        begins.setdefault(token, step)
    last = alignment.alignments[-1][1] + 1 if alignment.alignments else 0
    words, first = [], 0
    for text, part in zip(texts[:-1], parts[:-1], strict=True):
        stop = first + len(part)
        span = Span(begins.get(first, last) * FRAME, max(begins.get(stop, last), begins.get(first, last)) * FRAME)
        probabilities = np.maximum(alignment.text_token_probs[first:stop], 1e-10)
        words.append(Word(text, span, tuple(np.log(probabilities).tolist())))
        first = stop
    return tuple(words)

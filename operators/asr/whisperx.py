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
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from operators.asr.hallucination import HallucinationRules
from operators.asr.whisper_folder import check_compute, check_mels, find_whisper, first_line, has_alignment_heads
from operators.asr.windows import FRAME, Window, Word, alone, fill, pack, share_out
from operators.clip import SAMPLE_RATE, Hypothesis, Span
from operators.errors import UserError
from operators.speech.quiet import quiet

WINDOW_SAMPLES = 30 * SAMPLE_RATE
"""What Whisper's encoder always computes, whatever the clip's length."""

_LANGUAGES = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy "
    "id is it ja jw "
    "ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl "
    "sn so sq sr su "
    "sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue zh"
)
LANGUAGES = frozenset(_LANGUAGES.split())
"""What Whisper can identify."""

NEAREST_LANGUAGE = {"cmn": "zh", "zh-yue": "yue", "zh-hk": "yue", "zh-mo": "yue"}
"""Other names of languages that Whisper has."""

PROMPTED_AS = {"yue": "zh", "wuu": "zh", "nan": "zh", "hak": "zh", "sichuan": "zh", "minnan": "zh"}
"""Languages prompted as another where the model has no token of their own (yue came with large-v3)."""


MIN_LANGUAGE_PROB = 0.5
"""A shared window whose language is less sure than this is taken apart (faster-whisper's own threshold)."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What is known of a window before it is heard."""

    window: Window
    hint: str | None


@dataclass(frozen=True, slots=True)
class _Heard:
    """What the model made of a window."""

    text: str
    language: str
    language_prob: float | None
    avg_logprob: float
    words: tuple[Word, ...] | None = None
    """with times, of a shared window; None where its clips have to be heard alone."""


class _Spoken(NamedTuple):
    """The language to report, the one to prompt with, what the model gives the latter, and whether nobody said so."""

    language: str
    prompt: str
    probability: float | None
    identified: bool


class WhisperX:
    """A Whisper model behind whisperX's batched pipeline.

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
            recogniser = _model_class()
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
        """One hypothesis per clip, in order. clips: int16 [samples] at 16 kHz, at most 30 s each.

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

        def finish(clip: int, text: str, heard: _Heard, avg_logprob: float, retaken: bool) -> None:
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
                    if position in doubtful:
                        again.append(clip)
                    else:
                        finish(clip, share.text, heard, share.avg_logprob, retaken=False)
        single = alone(lengths)
        for window, heard in self._hear([single[clip] for clip in sorted(again)], clips, languages):
            finish(window.clips[0], heard.text.strip(), heard, heard.avg_logprob, retaken=True)
        return [answers[index] for index in range(len(clips))]

    def _hear(
        self, windows: Sequence[Window], clips: Sequence[np.ndarray], languages: Sequence[str | None]
    ) -> Iterator[tuple[Window, _Heard]]:
        """Each window with what was heard in it, in batches of windows alike in length."""
        if not windows:
            return
        # Windows of like length finish decoding at like steps; the longest first: memory runs out early or never.
        order = sorted(windows, key=lambda window: (-window.samples, window.clips))
        self._model.asked = deque(_Asked(window, languages[window.clips[0]]) for window in order)
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


def _model_class() -> type:
    """whisperX's model with one method replaced; a function because the base class takes seconds to import."""
    from dataclasses import replace

    import ctranslate2
    from faster_whisper.tokenizer import Tokenizer
    from whisperx.asr import WhisperModel, find_numeral_symbol_tokens

    class PerClipLanguage(WhisperModel):
        """Decodes every clip of a batch in its own language.

        `asked` holds what is known of the windows to come, in the order the pipeline will ask for them. The pipeline
        only carries audio, and reads ahead of nothing with `num_workers=0`, so a queue beside it stays in step.
        """

        asked: deque[_Asked]

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
            self._candidates = tuple(canonical_language(code) for code in candidates)
            missing = [code for code in self._candidates if code not in known]
            if default and self._prompt_language(default, self._tokenizers) is None:
                missing.append(default)
            if missing:
                raise UserError(f"asr.language: this model has no language {missing[0]!r}; it has {', '.join(known)}")

        def _prompt_language(self, code: str, known: Container[str]) -> str | None:
            code = canonical_language(code)
            return next((c for c in (code, PROMPTED_AS.get(code)) if c in known), None)

        def _identify(self, encoded: Any, hints: list[str | None]) -> list[_Spoken]:
            if not self.model.is_multilingual:
                return [_Spoken("en", "en", None, False)] * len(hints)
            answers: list[_Spoken] = []
            for hint, ranking in zip(hints, self.model.detect_language(encoded), strict=True):
                probability = {token[2:-2]: value for token, value in ranking if token[2:-2] in self._tokenizers}
                given = hint or self._default
                # A vocabulary may hold the token of a language that the model was never trained on: it is not in the
                # ranking.
                prompt = self._prompt_language(given, probability) if given else None
                if given and prompt:
                    answers.append(_Spoken(canonical_language(given), prompt, probability[prompt], False))
                else:
                    allowed = self._candidates or tuple(probability)
                    best = max(allowed, key=lambda code: probability[code])
                    answers.append(_Spoken(best, best, probability[best], True))
            return answers

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
            spoken = self._identify(encoded, [each.hint for each in asked])
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
            sure = [
                row
                for row, (each, said) in enumerate(zip(asked, spoken, strict=True))
                if each.window.shared
                and not (said.identified and said.probability is not None and said.probability < MIN_LANGUAGE_PROB)
                and len(sequences[row]) < min(limit // 2, limit - len(prompts[row]))  # else its end is missing
            ]
            words = self._words(encoded, sure, tokens, [said.prompt for said in spoken], asked)
            return {
                "heard": [
                    _Heard(
                        text=text,
                        language=said.language,
                        language_prob=said.probability,
                        avg_logprob=result.scores[0] * len(sequence) ** options.length_penalty / (len(sequence) + 1),
                        words=words.get(row),
                    )
                    for row, (text, said, result, sequence) in enumerate(
                        zip(self.hf_tokenizer.decode_batch(tokens), spoken, results, sequences, strict=True)
                    )
                ]
            }

        def _words(
            self, encoded: Any, rows: list[int], tokens: list[list[int]], languages: list[str], asked: list[_Asked]
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

    array = np.asarray(encoded.to_device(ctranslate2.Device.cpu).to(ctranslate2.DataType.float32))
    return ctranslate2.StorageView.from_array(array[rows])


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


def canonical_language(code: str) -> str:
    """A language code as Whisper writes it: lower case, no region (zh-CN: zh), but zh-HK is yue."""
    code = code.strip().lower().replace("_", "-")
    return NEAREST_LANGUAGE.get(code) or NEAREST_LANGUAGE.get(code.partition("-")[0]) or code.partition("-")[0]

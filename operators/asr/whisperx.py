"""whisperX over our clips: clips of many recordings in one batch, the language of each clip identified on the way.

    clips ──longest first──> FasterWhisperPipeline (whisperX's, unmodified: mel, 30 s windows, batches)
                               └─> encode once ─┬─> detect_language ──> language and its probability, per clip
                                                └─> beam search, one prompt per clip ──> text, avg_logprob

whisperX has no call for a list of clips and identifies the language from the first 30 s of a file only. Its pipeline
object does accept a generator of clips, so only one method of its *model* is replaced: `generate_segment_batched` here
identifies languages from the encoder output that decoding uses anyway, and prompts each clip in its own language
(CTranslate2 takes a prompt per clip), so a batch need not be of one language. Everything else, `avg_logprob` included,
is as in whisperX 3.8. Neither its VAD nor any alignment model is loaded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from operators.clip import SAMPLE_RATE, Hypothesis
from operators.errors import UserError
from operators.language import PROMPTED_AS, canonical
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


class WhisperX:
    """A Whisper model behind whisperX's batched pipeline.

    model: a hub name ("large-v3", "Systran/faster-whisper-small.en") or a folder written by ct2-transformers-converter.
    device: "cpu", "cuda" or "cuda:N". compute_type: CTranslate2's ("int8", "float16", ...); "default" is float32 on CPU
    and float16 on a GPU. threads: of CTranslate2 and torch. language: one language for every clip that comes without
    its own. languages: when not empty, identification chooses among these only; probabilities are still over all.
    max_new_tokens: a bound on the length of a transcript, where a loop would otherwise run to 224 tokens.
    suppress_numerals: spell numbers out. asr_options: any more of whisperX's decoding options. local_files_only: never
    ask the hub.

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
        with quiet():
            import torch
            import whisperx.asr
            import whisperx.log_utils

            whisperx.log_utils.setup_logging("error")
            torch.set_num_threads(threads)
            kind, _, index = device.partition(":")
            compute_type = _check_compute(kind, compute_type)
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
                raise UserError(f"asr.model={model}: CTranslate2 cannot load it: {_first_line(error)}") from error
            _check_mels(self._model, model)
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
                raise UserError(f"asr.options: {_first_line(error)}") from error
            self._model.prepare(
                default=language,
                candidates=tuple(languages),
                max_new_tokens=max_new_tokens,
                suppress_numerals=self._pipeline.suppress_numerals,
            )

    def transcribe(self, clips: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[Hypothesis]:
        """One hypothesis per clip, in order. clips: int16 [samples] at 16 kHz, at most 30 s each.

        A clip whose language is given is decoded in it, and `language_prob` is what the model gives that language; a
        language the model cannot be prompted with is identified instead. English-only models give no probability.
        Raises ValueError for a clip longer than the encoder's window: its end would go unheard.
        """
        if len(clips) != len(languages):
            raise ValueError(f"{len(clips)} clips, {len(languages)} languages")
        if any(len(clip) > WINDOW_SAMPLES for clip in clips):
            raise ValueError("a clip is longer than Whisper's window of 30 s")
        # Clips of like length finish decoding at like steps; the longest first, so that memory runs out early or never.
        order = sorted(range(len(clips)), key=lambda index: (-len(clips[index]), index))
        self._model.hints = deque(languages[index] for index in order)

        def inputs() -> Iterator[dict[str, np.ndarray]]:
            for index in order:
                yield {"inputs": clips[index].astype(np.float32) / 32768}

        with quiet():
            heard = list(self._pipeline(inputs(), batch_size=self._batch_size, num_workers=0))
        answers: list[Hypothesis | None] = [None] * len(clips)
        for index, item in zip(order, heard, strict=True):
            # the pipeline takes apart batches of two and more, but hands on a batch of one as it is
            text, language, probability, logprob = (
                value[0] if isinstance(value, list) else value
                for value in (item["text"], item["language"], item["language_prob"], item["avg_logprob"])
            )
            answers[index] = Hypothesis(
                engine=self.name,
                text=text.strip(),
                language=language,
                language_prob=None if probability is None else round(probability, 4),
                avg_logprob=round(logprob, 4),
            )
        return [answer for answer in answers if answer is not None]

    def close(self) -> None:
        """Free the model's memory now; the object is of no use afterwards."""
        self._model.model.unload_model()


_NO_VAD = object()
"""Stands where whisperX expects a VAD; our clips are cut already and only `transcribe` of a whole file would call
it.
"""


def find_whisper(model: str, download_root: str | None = None, local_files_only: bool = False) -> Path:
    """The folder of a CTranslate2 Whisper: given, in the hub's local cache, or fetched. Raises UserError when there is
    none.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "model.bin").is_file():
            raise UserError(
                f"asr.model={model} is no CTranslate2 folder (it has no model.bin): convert with "
                "ct2-transformers-converter "
                "--copy_files tokenizer.json preprocessor_config.json"
            )
        if not (folder / "tokenizer.json").is_file():  # faster-whisper would ask the hub for one that may not fit
            raise UserError(f"asr.model={model} has no tokenizer.json: copy it from the model that was converted")
        return folder
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise UserError(f"asr.model={model}: no such folder")
    with quiet():
        from faster_whisper.utils import available_models, download_model

        if "/" not in model and model not in available_models():
            raise UserError(
                f"asr.model={model}: no such folder, and no such model; the hub has {', '.join(available_models())}"
            )
        for local in (True,) if local_files_only else (True, False):  # the cache first: no network when it is there
            try:
                found = Path(download_model(model, local_files_only=local, cache_dir=download_root))
            except Exception as error:  # every failure of the hub's client has its own type, from four libraries
                reason = f"{type(error).__name__}"
            else:
                if (found / "model.bin").is_file():
                    return found
                reason = "no model.bin in it"
    raise UserError(
        f"asr.model={model} is not in the local cache and the hub gives no copy ({reason}): "
        "give a local CTranslate2 folder (asr.model=/path/to/folder), or run once where the hub can be reached"
    )


def _check_compute(device: str, compute_type: str) -> str:
    """The compute type to ask for, whisperX's own where "default". Raises UserError when the device cannot do it."""
    import ctranslate2

    if device not in ("cpu", "cuda"):
        raise UserError(f"asr.device={device}: choose cpu, cuda or cuda:N")
    if device == "cuda" and not ctranslate2.get_cuda_device_count():
        raise UserError("asr.device=cuda, but no CUDA device is to be seen: set asr.device=cpu")
    if compute_type == "default":
        return "float16" if device == "cuda" else "float32"
    supported = sorted(ctranslate2.get_supported_compute_types(device))
    if compute_type not in supported:
        raise UserError(f"asr.compute_type={compute_type}: this {device} can do {', '.join(supported)}")
    return compute_type


def _check_mels(whisper: Any, model: str) -> None:
    declared = whisper.feat_kwargs.get("feature_size", 80)
    if declared != whisper.model.n_mels:
        raise UserError(
            f"asr.model={model} takes {whisper.model.n_mels} mel bands but its preprocessor_config.json gives "
            f"{declared} "
            "(80 when missing): copy the file from the model that was converted"
        )


def _model_class() -> type:
    """whisperX's model with one method replaced; a function because the base class takes seconds to import."""
    from dataclasses import replace

    from faster_whisper.tokenizer import Tokenizer
    from whisperx.asr import WhisperModel, find_numeral_symbol_tokens

    class PerClipLanguage(WhisperModel):
        """Decodes every clip of a batch in its own language.

        `hints` holds what is known of the clips to come, in the order the pipeline will ask for them. The pipeline only
        carries audio, and reads ahead of nothing with `num_workers=0`, so a queue beside it stays in step.
        """

        hints: deque[str | None]

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

        def _identify(self, encoded: Any, hints: list[str | None]) -> list[tuple[str, str, float | None]]:
            """(language to report, language to prompt with, probability of the latter) of each clip."""
            if not self.model.is_multilingual:
                return [("en", "en", None)] * len(hints)
            answers: list[tuple[str, str, float | None]] = []
            for hint, ranking in zip(hints, self.model.detect_language(encoded), strict=True):
                probability = {token[2:-2]: value for token, value in ranking if token[2:-2] in self._tokenizers}
                given = hint or self._default
                # A vocabulary may hold the token of a language that the model was never trained on: it is not in the
                # ranking.
                prompt = self._prompt_language(given, probability) if given else None
                if given and prompt:
                    answers.append((canonical(given) or prompt, prompt, probability[prompt]))
                else:
                    allowed = self._candidates or tuple(probability)
                    best = max(allowed, key=lambda code: probability[code])
                    answers.append((best, best, probability[best]))
            return answers

        def generate_segment_batched(
            self, features: Any, tokenizer: Any, options: Any, encoder_output: Any = None
        ) -> dict[str, list[Any]]:
            """whisperX's own, except: languages from the encoder output, a prompt per clip, `max_new_tokens`,
            numerals.
            """
            encoded = self.encode(features)
            spoken = self._identify(encoded, [self.hints.popleft() for _ in range(features.shape[0])])
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
                for _, prompt, _ in spoken
            ]
            limit = self.max_length
            if self._max_new_tokens is not None:
                # CTranslate2 stops after min(limit / 2, limit - prompt) tokens
                limit = min(limit, max(2 * self._max_new_tokens, self._max_new_tokens + len(prompts[0])))
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
            return {
                "text": self.hf_tokenizer.decode_batch([[t for t in tokens if t < end] for tokens in sequences]),
                "avg_logprob": [
                    result.scores[0] * len(tokens) ** options.length_penalty / (len(tokens) + 1)
                    for result, tokens in zip(results, sequences, strict=True)
                ],
                "language": [language for language, _, _ in spoken],
                "language_prob": [probability for _, _, probability in spoken],
            }

    return PerClipLanguage


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

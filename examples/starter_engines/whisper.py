"""A small Whisper: vocabulary, training with an auxiliary CTC head, and export to a CTranslate2 folder for whisperX.

    texts ──byte-level BPE──> tokenizer.json          (Han characters stay single, English words grow whole)
    Corpus ──log-mel clips──> encoder ─┬─> phone CTC   0.4 of the loss, dropped at export
                                       └─> decoder     0.6: <|sot|> <|zh|en|> <|transcribe|> <|notimestamps|> text
                                       <|eot|>
    checkpoint ──HF folder──ct2 converter, int8──> model.bin, config.json, tokenizer.json, ...

Three phases, which is what makes this train in half an hour: single sentences at their own length (positions sliced),
runs of sentences up to 29 s, and at the end the full 30-s window that inference always pads to. The transcript of clips
without speech is a space, so the model learns to write nothing.
"""

from __future__ import annotations

import json
import math
import random
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.starter_engines.features import Corpus, Example, batches
from examples.starter_engines.phone_ctc import ctc_loss, inventory
from examples.starter_engines.sharing.guide import PROMPT, off_diagonal, off_path, token_places
from examples.starter_engines.sharing.windows import WINDOW_FRAMES, SharedWindow, window_batches
from operators.storage.atomic import replace

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import WhisperForConditionalGeneration

LANGUAGES = ("zh", "en")
MAX_TOKENS = 224
DECODER_LAYERS, DECODER_HEADS = 2, 4
CTC_WEIGHT = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    steps: int
    max_seconds: float
    frames_per_batch: int
    full_window: bool = False
    min_snr_db: float = -99.0
    """leave noisier recordings out: clean speech first"""
    forget: float = 0.3
    """share of the decoder's input tokens made random: who cannot trust the words before has to listen"""
    restart: float = 0.0
    """the learning rate falls from this to nothing within the phase; 0: it follows the curve of the whole run"""
    shared: bool = False
    """windows of several clips, half of the cross-attention heads shown where each token is said"""


SHARED_PHASES = (
    Phase(steps=1150, max_seconds=29, frames_per_batch=9_000, forget=0.2, restart=3e-3, shared=True),
    Phase(steps=100, max_seconds=29, frames_per_batch=12_000, full_window=True, forget=0.1, restart=5e-4, shared=True),
)
PHASES = (
    Phase(steps=250, max_seconds=0, frames_per_batch=6_000, min_snr_db=20),
    Phase(steps=900, max_seconds=0, frames_per_batch=6_000, min_snr_db=10),
    Phase(steps=700, max_seconds=0, frames_per_batch=6_000, forget=0.2),
    Phase(steps=2800, max_seconds=29, frames_per_batch=8_000, forget=0.2),
    Phase(steps=150, max_seconds=29, frames_per_batch=12_000, full_window=True, forget=0.1),
    Phase(steps=150, max_seconds=29, frames_per_batch=12_000, full_window=True, forget=0.1, restart=6e-4),
    *SHARED_PHASES * 4,
)


# --- vocabulary -------------------------------------------------------------------------------------------------------


def written(text: str) -> str:
    """The transcript as the tokenizer sees it: every Latin word has its space in front, as Whisper's do."""
    text = re.sub(r"(?<=[a-z']) (?=[一-鿿])", "", text)
    return " " + text if text[:1].isascii() and text else text


def train_tokenizer(texts: list[str], size: int = 3000) -> Tokenizer:
    """Byte-level BPE with Whisper's special tokens in Whisper's order. `size` bounds the text tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers.models.whisper.tokenization_whisper import LANGUAGES as ALL_LANGUAGES

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=3,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # faster-whisper suppresses the first token of " -" and of " '": each must be a token of its own, or spaces are
    # suppressed
    tokenizer.train_from_iterator([written(t) for t in texts] + [" - ' -- '' " * 3] * 3, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    vocabulary, merges = state["vocab"], [tuple(merge) for merge in state["merges"]]
    for mark in "-'":
        if "Ġ" + mark not in vocabulary:
            vocabulary["Ġ" + mark] = len(vocabulary)
            merges.append(("Ġ", mark))
    vocabulary[""] = len(vocabulary)  # as in OpenAI's vocabulary; CTranslate2 takes its presence to mean "multilingual"
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = split, decoders.ByteLevel()
    tasks = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    special = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in ALL_LANGUAGES), *tasks]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


# --- model ------------------------------------------------------------------------------------------------------------


def build(
    tokenizer: Tokenizer, *, width: int = 128, heads: int = DECODER_HEADS, layers: int = 4
) -> WhisperForConditionalGeneration:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    end = tokenizer.token_to_id("<|endoftext|>")
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=tokenizer.get_vocab_size(),
            d_model=width,
            encoder_layers=layers,
            decoder_layers=DECODER_LAYERS,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=4 * width,
            decoder_ffn_dim=4 * width,
            dropout=0.0,
            attn_implementation="eager",  # on a CPU the fused kernel's backward pass is several times slower
            decoder_start_token_id=tokenizer.token_to_id("<|startoftranscript|>"),
            pad_token_id=end,
            bos_token_id=end,
            eos_token_id=end,
            suppress_tokens=[],
            begin_suppress_tokens=[],
        )
    )


def encode(model: WhisperForConditionalGeneration, mel: torch.Tensor) -> torch.Tensor:
    """The encoder on clips of any length up to 30 s: mel [batch, 80, frames] -> [batch, frames / 2, width].

    transformers accepts the full window only; the positions of a shorter clip are a prefix of the window's.
    """
    from torch.nn.functional import dropout, gelu

    encoder = model.model.encoder
    x = gelu(encoder.conv2(gelu(encoder.conv1(mel)))).permute(0, 2, 1)
    x = dropout(x + encoder.embed_positions.weight[: x.shape[1]], encoder.dropout, encoder.training)
    for layer in encoder.layers:
        x = layer(x, None, layer_head_mask=None)[0]
    return encoder.layer_norm(x)


def collate(
    corpus: Corpus, batch: Sequence[Example | SharedWindow], tokenizer: Tokenizer, full_window: bool
) -> dict[str, Any]:
    """Return the tensors of a batch: mel [batch, 80, frames] as whisperX computes it, decoder inputs and targets, where
    each token is said, and plain texts.
    """
    import torch

    frames = WINDOW_FRAMES if full_window else min(WINDOW_FRAMES, 2 * math.ceil(max(e.frames for e in batch) / 2))
    mel = np.zeros((len(batch), 80, frames), np.float32)
    special = tokenizer.token_to_id
    end, start = special("<|endoftext|>"), special("<|startoftranscript|>")
    inputs, targets, places, texts = [], [], [], []
    for index, example in enumerate(batch):
        x = example.cut(corpus.features)[:frames]
        x = np.maximum(x, x.max() - 8)
        floor = float(max(-10.0, x.max() - 8))
        mel[index] = floor
        mel[index, :, : len(x)] = x.T
        # CTranslate2 divides a hypothesis's score by its length, so one without any token can never win: silence is a
        # space
        transcript = written(example.text) or " "
        encoding = tokenizer.encode(transcript, add_special_tokens=False)
        text = encoding.ids[: MAX_TOKENS - 4]
        language = special(f"<|{example.language}|>")
        tokens = [start, language, special("<|transcribe|>"), special("<|notimestamps|>"), *text, end]
        # the task tokens are given at inference, and silence has no language: neither is learnt
        target = [language if example.text else -100, -100, -100, *text, end]
        inputs.append(tokens[:-1])
        targets.append(target)
        said = token_places(encoding, transcript, example.sentences)[: len(text)]
        places.append([math.nan] * (PROMPT - 1) + said + [math.nan])
        texts.append((example.text, example.language))
    width = max(map(len, inputs))
    return {
        "mel": torch.from_numpy((mel + 4) / 4),
        "inputs": torch.tensor([row + [end] * (width - len(row)) for row in inputs]),
        "targets": torch.tensor([row + [-100] * (width - len(row)) for row in targets]),
        "places": torch.tensor([row + [math.nan] * (width - len(row)) for row in places]),
        "texts": texts,
        "frames": torch.tensor([min(frames, e.frames) // 2 for e in batch]),
    }


def losses(
    model: WhisperForConditionalGeneration, head: torch.nn.Module, phone_ids: dict[str, int], batch: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Cross-entropy of the decoder per token (smoothing 0.1), CTC of the encoder per phone; share of tokens right."""
    import torch
    from torch.nn.functional import cross_entropy

    with torch.autocast("cpu", torch.bfloat16):
        memory = encode(model, batch["mel"])
        decoded = model.model.decoder(
            input_ids=batch["inputs"], encoder_hidden_states=memory, use_cache=False, output_attentions=True
        )
        logits = model.proj_out(decoded.last_hidden_state)
        frames_logits = head(memory)
    logits = logits.float()
    ce = cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=-100, label_smoothing=0.1)
    ctc = ctc_loss(frames_logits, batch["frames"], batch["texts"], phone_ids)
    counted = batch["targets"] != -100
    right = ((logits.argmax(-1) == batch["targets"]) & counted).sum() / counted.sum()
    loss = (1 - CTC_WEIGHT) * ce + CTC_WEIGHT * ctc
    return {
        "loss": loss,
        "ce": ce,
        "ctc": ctc,
        "diagonal": off_diagonal(decoded.cross_attentions, batch),
        "path": off_path(decoded.cross_attentions, batch["places"]),
        "right": right,
    }


# --- training ---------------------------------------------------------------------------------------------------------


def learning_rate(step: int, total: int, peak: float, warmup: int = 100) -> float:
    """Linear warm-up, then half a cosine down to 2 % of the peak."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))))


def train(
    corpus: Corpus, dev: Corpus, folder: Path, *, seed: int, phases: tuple[Phase, ...] = PHASES, peak: float = 5e-3
) -> Path:
    """Train, or go on from `folder/checkpoint.pt`; returns the checkpoint. Logs a line every 25 steps."""
    import torch

    from examples.starter_engines.muon import optimisers

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "tokenizer.json"
    if not vocabulary.exists():
        train_tokenizer(corpus.texts()).save(str(vocabulary))
    tokenizer = load_tokenizer(vocabulary)
    torch.manual_seed(seed)
    model = build(tokenizer)
    phone_ids = {phone: index for index, phone in enumerate(inventory(corpus.texts_with_language()))}
    head = torch.nn.Linear(model.config.d_model, len(phone_ids) + 1)
    end = tokenizer.token_to_id("<|endoftext|>")  # also the number of text tokens
    both = optimisers(model, model.proj_out, head, peak)
    parameters = [p for optimiser in both for group in optimiser.param_groups for p in group["params"]]
    checkpoint, step, total = folder / "checkpoint.pt", 0, sum(phase.steps for phase in phases)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
        for optimiser, kept in zip(both, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        step = state["step"]
    print(
        f"whisper: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, "
        f"{tokenizer.get_vocab_size()} tokens, "
        f"{total} steps from {step}",
        flush=True,
    )
    began = time.monotonic()
    bounds = np.cumsum([phase.steps for phase in phases])
    curve = sum(phase.steps for phase in phases if not phase.restart)
    while step < total:
        number = int(np.searchsorted(bounds, step, side="right"))
        phase = phases[number]
        r = random.Random(f"{seed}/{number}/{step}")
        stream: Iterator[Sequence[Example | SharedWindow]] = (
            window_batches(corpus, r, phase.frames_per_batch)
            if phase.shared
            else batches(corpus, r, phase.max_seconds, phase.frames_per_batch, phase.min_snr_db)
        )
        model.train()
        while step < bounds[number]:
            g = np.random.default_rng((seed, step))
            examples = next(stream)
            if phase.full_window:
                examples = examples[: max(1, phase.frames_per_batch // WINDOW_FRAMES)]
            batch = collate(corpus, examples, tokenizer, phase.full_window)
            forgotten = torch.from_numpy(g.random(batch["inputs"].shape) < phase.forget)
            forgotten[:, :PROMPT] = False
            batch["inputs"][forgotten] = torch.from_numpy(g.integers(end, size=int(forgotten.sum())))
            out = losses(model, head, phone_ids, batch)
            left = float(bounds[number] - step) / phase.steps
            # Weights that come from a shipped model have an optimiser that knows nothing of them.
            warm = (phase.steps * (1 - left) + 1) / 30 if phase.shared and not phase.full_window else 1.0
            for optimiser in both:
                for group in optimiser.param_groups:
                    group["lr"] = phase.restart * min(left, warm) or learning_rate(step, curve, peak)
                optimiser.zero_grad()
            guide = out["path"] if phase.shared else out["diagonal"] if phase.max_seconds == 0 else 0
            (out["loss"] + guide).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimiser in both:
                optimiser.step()
            step += 1
            if step % 25 == 0:
                print(
                    f"step {step} phase {number} ce {out['ce']:.3f} "
                    f"ctc {out['ctc']:.3f} diagonal {out['diagonal']:.3f} path {out['path']:.3f} "
                    f"right {out['right']:.3f} "
                    f"{time.monotonic() - began:.0f} s",
                    flush=True,
                )
            if step % 100 == 0 or step == total:
                state = {
                    "model": model.state_dict(),
                    "head": head.state_dict(),
                    "optimisers": [optimiser.state_dict() for optimiser in both],
                    "step": step,
                }
                replace(checkpoint, partial(torch.save, state))
                print(f"step {step} dev {_dev(model, head, phone_ids, dev, tokenizer)}", flush=True)
    return checkpoint


def _dev(
    model: WhisperForConditionalGeneration,
    head: torch.nn.Module,
    phone_ids: dict[str, int],
    dev: Corpus,
    tokenizer: Tokenizer,
) -> str:
    import torch

    model.eval()
    r = random.Random(0)
    sums: dict[str, list[float]] = {}
    stream = batches(dev, r, 10, 6_000)
    with torch.no_grad():
        for _ in range(4):
            batch = collate(dev, next(stream), tokenizer, False)
            out = losses(model, head, phone_ids, batch)
            for name, value in out.items():
                sums.setdefault(name, []).append(float(value))
    model.train()
    return " ".join(f"{name} {np.mean(values):.3f}" for name, values in sums.items())


# --- export -----------------------------------------------------------------------------------------------------------


def load_tokenizer(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def export(checkpoint: Path, folder: Path) -> Path:
    """Write the CTranslate2 folder (int8) of a checkpoint, for `whisperx.load_model(folder, device, ...)`."""
    import torch
    from ctranslate2.converters import TransformersConverter
    from transformers import GenerationConfig, PreTrainedTokenizerFast

    tokenizer = load_tokenizer(checkpoint.parent / "tokenizer.json")
    model = build(tokenizer).eval()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"])
    special = tokenizer.token_to_id
    model.generation_config = GenerationConfig(
        suppress_tokens=[],
        begin_suppress_tokens=[],  # the end of text may come first: that is how silence is written
        # all: words go astray less often than by those that were shown where tokens are said
        alignment_heads=[[layer, head] for layer in range(DECODER_LAYERS) for head in range(DECODER_HEADS)],
        lang_to_id={f"<|{code}|>": special(f"<|{code}|>") for code in LANGUAGES},
        decoder_start_token_id=special("<|startoftranscript|>"),
        eos_token_id=special("<|endoftext|>"),
        pad_token_id=special("<|endoftext|>"),
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    with tempfile.TemporaryDirectory() as source:
        model.save_pretrained(source)
        wrapped.save_pretrained(source)
        TransformersConverter(source).convert(str(folder), quantization="int8", force=True)
    text = json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text, "utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80, "sampling_rate": 16000}) + "\n")
    return folder

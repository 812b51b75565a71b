"""A small Paraformer: tokens, training on FunASR's own losses, and export to a folder for `funasr.AutoModel`.

texts ──> tokens.json        Han characters, frequent English words whole, other words letter by letter (c@@ a@@ t)
Corpus ──frames stacked 7 by 6──CMVN──> SANM encoder ──CIF──> two-pass decoder      (FunASR's classes, FunASR's forward)
loss = FunASR's (cross-entropy + length) + 0.5 phone CTC on the encoder's output, dropped at export
checkpoint ──> config.yaml, model.pt (half precision), tokens.json, am.mvn
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from examples.starter_engines.features import BINS, Corpus, Example, batches
from examples.starter_engines.phone_ctc import ctc_loss, inventory
from examples.starter_engines.whisper import Phase, learning_rate
from operators.storage.atomic import replace

if TYPE_CHECKING:
    import torch
    from funasr.models.paraformer.model import Paraformer

CTC_WEIGHT = 0.5
STACK, STRIDE = 7, 6
PHASES = (
    Phase(steps=250, max_seconds=0, frames_per_batch=6_000, min_snr_db=20),
    Phase(steps=900, max_seconds=0, frames_per_batch=6_000, min_snr_db=10),
    Phase(steps=600, max_seconds=0, frames_per_batch=6_000),
    Phase(steps=3200, max_seconds=29, frames_per_batch=9_000),
)
FRONTEND = {
    "fs": 16000,
    "window": "hamming",
    "n_mels": BINS,
    "frame_length": 25,
    "frame_shift": 10,
    "lfr_m": STACK,
    "lfr_n": STRIDE,
    "dither": 0.0,  # FunASR's default adds noise, and the same clip gives different text
}


# --- tokens -----------------------------------------------------------------------------------------------------------


def make_tokens(texts: list[str], min_count: int = 5) -> list[str]:
    """Token list: blank, sentence marks, every Han character seen, words seen `min_count` times, letters."""
    han = sorted({character for text in texts for character in text if "\u4e00" <= character <= "\u9fff"})
    counts = Counter(word for text in texts for word in re.findall(r"[a-z']+", text))
    words = sorted(word for word, count in counts.items() if count >= min_count and len(word) > 1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["<blank>", "<s>", "</s>", *han, *words, *letters, *(letter + "@@" for letter in letters), "<unk>"]


def encode_text(text: str, ids: dict[str, int]) -> list[int]:
    out: list[int] = []
    for piece in re.findall(r"[一-鿿]|[a-z']+", text):
        if piece in ids:
            out.append(ids[piece])
        elif piece.isascii():
            spelt = piece.replace("'", "")
            out += [ids[letter + "@@"] for letter in spelt[:-1]] + [ids[letter] for letter in spelt[-1:]]
        else:
            out.append(ids["<unk>"])
    return out


# --- model ------------------------------------------------------------------------------------------------------------


def network(width: int = 128, encoder_layers: int = 5) -> dict[str, Any]:
    """FunASR's settings of the model, as they stand in config.yaml."""
    block = {"attention_heads": 4, "linear_units": 4 * width, "dropout_rate": 0.05, "positional_dropout_rate": 0.0}
    return {
        "model_conf": {
            "ctc_weight": 0.0,
            "lsm_weight": 0.1,
            "length_normalized_loss": True,
            "predictor_weight": 1.0,
            "predictor_bias": 1,
            # no glancing: shown the neighbours, a decoder of so regular a grammar guesses instead of listening
            "sampling_ratio": 0.0,
        },
        "encoder": "SANMEncoder",
        "encoder_conf": {
            **block,
            "output_size": width,
            "num_blocks": encoder_layers,
            "attention_dropout_rate": 0.0,
            "input_layer": "pe",
            "pos_enc_class": "SinusoidalPositionEncoder",
            "normalize_before": True,
            "kernel_size": 11,
            "sanm_shfit": 0,
            "selfattention_layer_type": "sanm",
        },
        "decoder": "ParaformerSANMDecoder",
        "decoder_conf": {
            **block,
            "num_blocks": 2,
            "self_attention_dropout_rate": 0.0,
            "src_attention_dropout_rate": 0.0,
            "att_layer_num": 2,
            "kernel_size": 11,
            "sanm_shfit": 0,
        },
        "predictor": "CifPredictorV2",
        "predictor_conf": {"idim": width, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45},
    }


def build(tokens: list[str]) -> Paraformer:
    from funasr.models.paraformer.model import Paraformer

    settings = network()
    conf = settings.pop("model_conf")
    return Paraformer(**conf, **settings, input_size=BINS * STACK, vocab_size=len(tokens))


def global_cmvn(corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Shift and scale of each filterbank bin, from every hundredth frame: float32 [80] each."""
    sample = np.asarray(corpus.features[::100], np.float32)
    return -sample.mean(0), 1 / np.maximum(sample.std(0), 1e-3)


def collate(
    corpus: Corpus,
    batch: list[Example],
    ids: dict[str, int],
    cmvn: tuple[np.ndarray, np.ndarray],
) -> dict[str, torch.Tensor]:
    """Arguments of FunASR's forward: speech [batch, frames / 6, 560], text [batch, tokens], and both lengths."""
    import torch
    from funasr.frontends.wav_frontend import apply_lfr
    from torch.nn.utils.rnn import pad_sequence

    speech, texts = [], []
    for example in batch:
        x = (example.cut(corpus.features) + cmvn[0]) * cmvn[1]
        speech.append(apply_lfr(torch.from_numpy(x), STACK, STRIDE))
        texts.append(torch.tensor(encode_text(example.text, ids), dtype=torch.long))
    return {
        "speech": pad_sequence(speech, batch_first=True),
        "speech_lengths": torch.tensor([len(x) for x in speech]),
        "text": pad_sequence(texts, batch_first=True, padding_value=-1),
        "text_lengths": torch.tensor([len(x) for x in texts]),
    }


# --- training ---------------------------------------------------------------------------------------------------------


def train(
    corpus: Corpus, dev: Corpus, folder: Path, *, seed: int, phases: tuple[Phase, ...] = PHASES, peak: float = 5e-3
) -> Path:
    """Train, or go on from `folder/checkpoint.pt`; returns the checkpoint. Logs a line every 25 steps."""
    import torch

    from examples.starter_engines.muon import optimisers

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tokens.json").exists():
        (folder / "tokens.json").write_text(json.dumps(make_tokens(corpus.texts()), ensure_ascii=False), "utf-8")
        np.save(folder / "cmvn.npy", np.stack(global_cmvn(corpus)))
    tokens = json.loads((folder / "tokens.json").read_text("utf-8"))
    ids = {token: index for index, token in enumerate(tokens)}
    shift, scale = np.load(folder / "cmvn.npy")
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("medium")  # bfloat16 products where the CPU has them; CIF itself needs single
    model = build(tokens)
    phone_ids = {phone: index for index, phone in enumerate(inventory(corpus.texts_with_language()))}
    head = torch.nn.Linear(network()["encoder_conf"]["output_size"], len(phone_ids) + 1)
    heard: list[torch.Tensor] = []  # the encoder's output of the last forward, which FunASR's forward keeps to itself
    model.encoder.register_forward_hook(lambda module, inputs, output: heard.append(output[0]))
    both = optimisers(model, model.decoder.output_layer, head, peak)
    parameters = [*model.parameters(), *head.parameters()]
    checkpoint, step, total = folder / "checkpoint.pt", 0, sum(phase.steps for phase in phases)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        head.load_state_dict(state["head"])
        for optimiser, kept in zip(both, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        step = state["step"]
    print(
        f"paraformer: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(tokens)} tokens, "
        f"{total} steps from {step}",
        flush=True,
    )
    began, bounds = time.monotonic(), np.cumsum([phase.steps for phase in phases])
    while step < total:
        number = int(np.searchsorted(bounds, step, side="right"))
        phase = phases[number]
        r = random.Random(f"{seed}/{number}/{step}")
        stream = batches(corpus, r, phase.max_seconds, phase.frames_per_batch, phase.min_snr_db)
        while step < bounds[number]:
            model.train()
            # FunASR's CIF fails when the last clip of a batch fires no token, so the silent ones come first
            examples = sorted(next(stream), key=lambda example: bool(example.text))
            if not examples[-1].text:
                continue
            batch = collate(corpus, examples, ids, (shift, scale))
            loss, stats, _ = model(**batch)
            texts = [(example.text, example.language) for example in examples]
            ctc = ctc_loss(head(heard.pop()), batch["speech_lengths"], texts, phone_ids)
            loss = loss + CTC_WEIGHT * ctc
            for optimiser in both:
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(step, total, peak)
                optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 5.0)
            for optimiser in both:
                optimiser.step()
            step += 1
            if step % 25 == 0:
                print(f"step {step} {_line(stats)} ctc {float(ctc):.3f} {time.monotonic() - began:.0f} s", flush=True)
            if step % 100 == 0 or step == total:
                state = {
                    "model": model.state_dict(),
                    "head": head.state_dict(),
                    "optimisers": [optimiser.state_dict() for optimiser in both],
                    "step": step,
                }
                replace(checkpoint, partial(torch.save, state))
                print(f"step {step} dev {_dev(model, dev, ids, (shift, scale))}", flush=True)
                heard.clear()
    return checkpoint


def _line(stats: dict[str, Any]) -> str:
    return " ".join(
        f"{name[5:] if name != 'acc' else 'right'} {float(stats[name]):.3f}" for name in ("loss_att", "loss_pre", "acc")
    )


def _dev(model: Paraformer, dev: Corpus, ids: dict[str, int], cmvn: tuple[np.ndarray, np.ndarray]) -> str:
    import torch

    model.eval()
    stream = (sorted(batch, key=lambda e: bool(e.text)) for batch in batches(dev, random.Random(0), 10, 6_000))
    out = []
    with torch.no_grad():
        for _ in range(4):
            _, stats, _ = model(**collate(dev, next(stream), ids, cmvn))
            out.append({name: float(stats[name]) for name in ("loss_att", "loss_pre", "acc")})
    return _line({name: float(np.mean([row[name] for row in out])) for name in out[0]})


# --- export -----------------------------------------------------------------------------------------------------------


def export(checkpoint: Path, folder: Path) -> Path:
    """Write the FunASR folder of a checkpoint. Weights are stored in half precision; FunASR computes in single."""
    import torch
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    tokens = json.loads((checkpoint.parent / "tokens.json").read_text("utf-8"))
    state = torch.load(checkpoint, weights_only=True)["model"]
    torch.save({name: value.half() for name, value in state.items()}, folder / "model.pt")
    (folder / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False) + "\n", "utf-8")
    config = {
        "model": "Paraformer",
        **network(),
        "frontend": "WavFrontend",
        "frontend_conf": FRONTEND,
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    shift, scale = np.load(checkpoint.parent / "cmvn.npy")
    write_cmvn(folder / "am.mvn", np.tile(shift, STACK), np.tile(scale, STACK))
    return folder


def write_cmvn(path: Path, shift: np.ndarray, scale: np.ndarray) -> None:
    """Kaldi's nnet form of global mean and variance normalisation, which FunASR reads."""
    lines = ["<Nnet>", f"<Splice> {len(shift)} {len(shift)}", "[ 0 ]"]
    for tag, values in (("AddShift", shift), ("Rescale", scale)):
        numbers = " ".join(f"{value:.5f}" for value in values)
        lines += [f"<{tag}> {len(values)} {len(values)}", f"<LearnRateCoef> 0 [ {numbers} ]"]
    path.write_text("\n".join([*lines, "</Nnet>", ""]))

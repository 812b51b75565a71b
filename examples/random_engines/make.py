"""Write small speech recognisers with RANDOM WEIGHTS in the formats whisperX and FunASR load: they hear nothing.

    python examples/random_engines/make.py DIR [--seed N]

    seed ──> HF Whisper ──ctranslate2 converter──> DIR/whisper-random/      (100 languages, zh, en and yue among them)
         └─> ... English-only vocabulary ────────> DIR/whisper-random.en/
    seed ──> FunASR Paraformer ──────────────────> DIR/paraformer-random/

They exist so that the real engine code (feature extraction, encoder, language detection, beam search, CIF, tokenizers)
runs in tests and in the demo on a machine that cannot reach a model hub. Text depends on the audio, and on nothing
sensible. Two things are arranged rather than random, so that runs are short and output is printable: the end-of-text
token becomes likelier at every step, and tokens that are part of a character, or of a language other than zh, en and
yue, never win.

Same seed, same versions of the libraries: same bytes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import string
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, WhisperForConditionalGeneration

CARD = """# {name}: RANDOM WEIGHTS, HEARS NOTHING

A {kind} in the true file format with random weights (seed {seed}), written by `examples/random_engines/make.py`.
It was never trained. Its transcripts depend on the audio but mean nothing: use it to test code, never to label data.
No licence attaches to the weights; they are output of a random number generator.
"""

END_DIM, FLAT_DIM = 0, 1  # coordinates of the Whisper decoder kept out of the random part: see `_randomise_whisper`
HAN = [chr(code) for code in itertools.chain(range(0x4E00, 0xA000), range(0x3400, 0x4DC0))]  # Unified, Extension A
SYMBOLS = [*"\"#()*+/:;<=>@[\\]^_`{|}~-'♪"]
HEARD_LANGUAGES = ("zh", "en", "yue")


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes, indexed by byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    stand_in = {byte: chr(byte) for byte in printable}
    spare = itertools.count(0x100)
    return [stand_in[byte] if byte in stand_in else chr(next(spare)) for byte in range(256)]


def _merges(count: int) -> list[tuple[str, str]]:
    """The first `count` byte-level merges: every Han character, then made-up Latin words with and without a space."""
    symbols = _byte_symbols()
    seen: set[str] = set(symbols)
    merges: list[tuple[str, str]] = []

    def merge(left: str, right: str) -> str:
        if left + right not in seen:
            seen.add(left + right)
            merges.append((left, right))
        return left + right

    for character in HAN[: 0xA000 - 0x4E00]:
        first, second, third = (symbols[byte] for byte in character.encode())
        merge(merge(first, second), third)
    consonants, vowels = sorted(set(string.ascii_lowercase) - set("aeiou")), "aeiou"
    syllables = [merge(c, v) for c in consonants for v in vowels]
    spaced = [merge(symbols[0x20], syllable) for syllable in syllables]
    for head in (spaced, syllables):
        for left, right in itertools.product(head, syllables):
            merge(left, right)
    for character in HAN[0xA000 - 0x4E00 :]:
        first, second, third = (symbols[byte] for byte in character.encode())
        merge(merge(first, second), third)
    if len(merges) < count:
        raise ValueError(f"only {len(merges)} merges are defined, {count} asked for")
    return merges[:count]


def _whisper_tokenizer(multilingual: bool) -> PreTrainedTokenizerFast:
    """Whisper's vocabulary layout (ids and special tokens as in large-v3, or in the .en models) over made-up merges."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    merges = _merges(50256 - 256)
    vocabulary = {symbol: index for index, symbol in enumerate(_byte_symbols())}
    vocabulary |= {left + right: 256 + index for index, (left, right) in enumerate(merges)}
    if multilingual:
        vocabulary[""] = 50256  # as in OpenAI's vocabulary; CTranslate2 takes its presence to mean "multilingual"
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    languages = [f"<|{code}|>" for code in LANGUAGES][: 100 if multilingual else 99]
    task = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True) for t in ["<|endoftext|>", "<|startoftranscript|>", *languages, *task]]
    )
    tokenizer.add_tokens([AddedToken(f"<|{i * 0.02:.2f}|>", special=False) for i in range(1501)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=["<|startoftranscript|>", *languages, *task],
    )


def _randomise_whisper(model: WhisperForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Draw weights wide enough for text to follow the audio; steer the end of text and the tokens that may win.

    Two coordinates of the decoder stay out of the random part. END_DIM holds a ramp over positions that only the
    end-of-text token reads, so an utterance ends after some 8 to 25 tokens. FLAT_DIM is 1 after the last layer norm, so
    a token with a negative weight there never wins.
    """
    import torch

    decoder = model.model.decoder
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() < 2 or "embed_" in name:
                continue
            gain = 3.0 if ("q_proj" in name or "k_proj" in name) else 2.0
            weight.copy_(torch.randn_like(weight) * gain / math.sqrt(weight[0].numel()))
        for layer in decoder.layers:
            for projection in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
                projection.weight[[END_DIM, FLAT_DIM]] = 0
        words = decoder.embed_tokens.weight
        words.copy_(torch.randn_like(words) * 3 / math.sqrt(words.shape[1]))
        words[:, [END_DIM, FLAT_DIM]] = 0
        ids = tokenizer.get_vocab()
        partial = [
            i for i in range(tokenizer.convert_tokens_to_ids("<|endoftext|>")) if "\ufffd" in tokenizer.decode([i])
        ]
        other = [i for t, i in ids.items() if t[:2] == "<|" and t[2:-2] not in HEARD_LANGUAGES and t != "<|endoftext|>"]
        words[partial + other, FLAT_DIM] = -30
        words[ids["<|endoftext|>"], END_DIM] = 12
        places = decoder.embed_positions.weight
        places.copy_(torch.randn_like(places))
        places[:, END_DIM] = torch.linspace(-2, 12, 40)[torch.arange(len(places)).clamp(max=39)]
        places[:, FLAT_DIM] = 0
        decoder.layer_norm.weight[FLAT_DIM] = 0
        decoder.layer_norm.bias[FLAT_DIM] = 1


def _level_languages(model: WhisperForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Give the three languages the same mean score over made-up inputs, so that the audio decides between them."""
    import torch

    ids = tokenizer.convert_tokens_to_ids([f"<|{code}|>" for code in HEARD_LANGUAGES])
    start = torch.tensor([[model.config.decoder_start_token_id]])
    with torch.no_grad():
        scores = []
        for seconds in (2, 4, 8, 16, 29):
            mel = torch.full((1, 80, 3000), -0.6)
            mel[:, :, : seconds * 100] += torch.rand(1, 80, 1) + 0.4 * torch.randn(1, 80, seconds * 100)
            scores.append(model(input_features=mel, decoder_input_ids=start).logits[0, 0, ids])
        model.model.decoder.embed_tokens.weight[ids, FLAT_DIM] -= torch.stack(scores).mean(0)


def make_whisper(
    folder: Path, seed: int = 0, *, multilingual: bool = True, width: int = 32, layers: int = 2, heads: int = 2
) -> Path:
    """Write a random CTranslate2 Whisper that unmodified `whisperx.load_model(folder)` loads; returns the folder.

    width, layers (of encoder and of decoder) and heads as in a published size give that size's speed: base is 512, 6,
    8.
    """
    import torch
    from ctranslate2.converters import TransformersConverter
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    tokenizer = _whisper_tokenizer(multilingual)
    end, start = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|startoftranscript|>"])
    config = WhisperConfig(
        vocab_size=51866 if multilingual else 51864,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        decoder_start_token_id=start,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
    )
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(config).eval()
    _randomise_whisper(model, tokenizer)
    _level_languages(model, tokenizer)
    symbols = [tokenizer.encode(prefix + s, add_special_tokens=False) for s in SYMBOLS for prefix in ("", " ")]
    special = [
        "<|startoftranscript|>",
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
    ]
    suppressed = {ids[0] for ids in symbols if len(ids) == 1} | set(tokenizer.convert_tokens_to_ids(special))
    languages = [t for t in tokenizer.additional_special_tokens if t[2:-2] not in [s[2:-2] for s in special]]
    model.generation_config = GenerationConfig(
        suppress_tokens=sorted(suppressed),
        begin_suppress_tokens=[tokenizer.encode(" ", add_special_tokens=False)[0], end],
        alignment_heads=[[layers - 1, head] for head in range(heads)],
        lang_to_id={t: tokenizer.convert_tokens_to_ids(t) for t in languages if t != "<|notimestamps|>"},
        decoder_start_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
    )
    with tempfile.TemporaryDirectory() as source:
        model.save_pretrained(source)
        tokenizer.save_pretrained(source)
        converter = TransformersConverter(source, copy_files=["tokenizer.json"])
        converter.convert(str(folder), quantization="int8", force=True)
    file = folder / "tokenizer.json"  # as written it is twice the size, all of it indentation
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")), ensure_ascii=False, separators=(",", ":")), "utf-8")
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80, "sampling_rate": 16000}))
    _card(folder, "Whisper" if multilingual else "Whisper (English only)", seed)
    return folder


def make_paraformer(folder: Path, seed: int = 0) -> Path:
    """Write a random Paraformer that unmodified `funasr.AutoModel(model=str(folder))` loads; returns the folder."""
    import torch
    import yaml
    from funasr.models.paraformer.model import Paraformer

    folder.mkdir(parents=True, exist_ok=True)
    words = [
        "the",
        "and",
        "you",
        "that",
        "have",
        "with",
        "this",
        "from",
        "they",
        "what",
        "ing@@",
        "con@@",
        "re@@",
        "tion",
    ]
    tokens = ["<blank>", "<s>", "</s>", *HAN[:400], *words, "<unk>"]
    (folder / "tokens.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    block = {"attention_heads": 2, "linear_units": 128, "dropout_rate": 0.1, "positional_dropout_rate": 0.1}
    network = {
        "model_conf": {
            "ctc_weight": 0.0,
            "lsm_weight": 0.1,
            "length_normalized_loss": True,
            "predictor_weight": 1.0,
            "predictor_bias": 1,
            "sampling_ratio": 0.75,
        },
        "encoder": "SANMEncoder",
        "encoder_conf": {
            **block,
            "output_size": 64,
            "num_blocks": 3,
            "attention_dropout_rate": 0.1,
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
            "self_attention_dropout_rate": 0.1,
            "src_attention_dropout_rate": 0.1,
            "att_layer_num": 2,
            "kernel_size": 11,
            "sanm_shfit": 0,
        },
        "predictor": "CifPredictorV2",
        "predictor_conf": {"idim": 64, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45},
    }
    # as in the published Paraformer, dither is not set here: FunASR's default is 1.0, noise that the caller must turn
    # off
    frontend = {
        "fs": 16000,
        "window": "hamming",
        "n_mels": 80,
        "frame_length": 25,
        "frame_shift": 10,
        "lfr_m": 7,
        "lfr_n": 6,
    }
    config = {
        "model": "Paraformer",
        **network,
        "frontend": "WavFrontend",
        "frontend_conf": frontend,
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    size = frontend["n_mels"] * frontend["lfr_m"]
    _write_cmvn(folder / "am.mvn", shift=[-12.0] * size, rescale=[0.25] * size)
    torch.manual_seed(seed)
    names = {key: value for key, value in network.items() if key != "model_conf"}
    model = Paraformer(**network["model_conf"], **names, input_size=size, vocab_size=len(tokens))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn_like(weight) * 1.5 / math.sqrt(weight[0].numel()))
        model.predictor.cif_output.bias.fill_(-1.0)  # about five tokens a second, as in speech
    torch.save(model.state_dict(), folder / "model.pt")
    _card(folder, "FunASR Paraformer", seed)
    return folder


def _write_cmvn(path: Path, shift: list[float], rescale: list[float]) -> None:
    """Kaldi's nnet form of global mean and variance normalisation, which FunASR reads."""
    lines = ["<Nnet>"]
    for tag, values in (("Splice", None), ("AddShift", shift), ("Rescale", rescale)):
        lines.append(f"<{tag}> {len(shift)} {len(shift)}")
        lines.append("[ 0 ]" if values is None else f"<LearnRateCoef> 0 [ {' '.join(map(str, values))} ]")
    path.write_text("\n".join([*lines, "</Nnet>", ""]))


def _card(folder: Path, kind: str, seed: int) -> None:
    (folder / "README.md").write_text(CARD.format(name=folder.name, kind=kind, seed=seed), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write small recognisers with random weights; they hear nothing.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the three model folders go")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for folder in (
        make_whisper(options.folder / "whisper-random", options.seed),
        make_whisper(options.folder / "whisper-random.en", options.seed, multilingual=False),
        make_paraformer(options.folder / "paraformer-random", options.seed),
    ):
        megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        print(f"{folder}  {megabytes:.1f} MB  RANDOM WEIGHTS: hears nothing")


if __name__ == "__main__":
    main()

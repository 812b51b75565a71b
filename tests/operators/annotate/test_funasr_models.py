"""emotion2vec, SenseVoice and CAM++ as FunASR itself builds them: the true architectures, tiny, with random weights.

They hear nothing. What is tested is that folders of their layout load, and that their answers are read right.
"""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from operators.annotate.annotator import Heard, opinions
from operators.annotate.embeddings import FunAsrEmbedder
from operators.annotate.emotion import EMOTIONS, FunAsrEmotion
from operators.annotate.sensevoice import EMOTIONS as SENSEVOICE_EMOTIONS
from operators.annotate.sensevoice import EVENTS, SenseVoice
from operators.asr.funasr import FunAsr
from operators.clip import KINDS
from operators.errors import UserError
from tests.support.engines import sounds

CLIPS = [Heard(pcm=pcm, text="好", language="zh") for pcm in sounds(2, 4.5, 3.1)]


def written(folder: Path, config: dict[str, Any], model: Any, weights: str = "model.pt", **metas: Any) -> Path:
    """Write a folder as ModelScope lays it out; every weight of the model is drawn, from one seed."""
    import torch

    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                spread = 1.5 / math.sqrt(weight[0].numel())
                weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
    torch.save(model.state_dict(), folder / weights)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    layout = {"model": {"type": "funasr"}, "file_path_metas": {"init_param": weights, "config": "config.yaml", **metas}}
    (folder / "configuration.json").write_text(json.dumps({"framework": "pytorch", **layout}))
    return folder


EMOTION_LABELS = [
    *("生气/angry", "厌恶/disgusted", "恐惧/fearful", "开心/happy", "中立/neutral"),
    *("其他/other", "难过/sad", "吃惊/surprised", "<unk>"),
]


@pytest.fixture(scope="module")
def emotion2vec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from funasr.models.emotion2vec.model import Emotion2vec

    folder = tmp_path_factory.mktemp("emotion2vec_plus_tiny")
    audio = {
        **{"type": "AUDIO", "prenet_depth": 1, "prenet_layerdrop": 0.05, "prenet_dropout": 0.1, "model_depth": 1},
        **{"start_drop_path_rate": 0.0, "end_drop_path_rate": 0.0, "num_extra_tokens": 10, "decoder": None},
        **{"init_extra_token_zero": True, "mask_noise_std": 0.01, "local_grad_mult": 1.0, "ema_local_encoder": True},
        **{"use_alibi_encoder": True, "alibi_scale": 1.0, "learned_alibi": False, "alibi_max_pos": None},
        **{"learned_alibi_scale": True, "learned_alibi_scale_per_head": True, "learned_alibi_scale_per_layer": False},
        **{"num_alibi_heads": 2, "alibi_distance": None, "extractor_mode": "layer_norm", "conv_pos_pre_ln": False},
        **{"feature_encoder_spec": "[(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2", "conv_pos_width": 15},
        **{"conv_pos_groups": 2, "conv_pos_depth": 2},
    }
    network = {
        **{"depth": 1, "embed_dim": 16, "num_heads": 2, "mlp_ratio": 2.0, "norm_eps": 1e-5, "norm_affine": True},
        **{"start_drop_path_rate": 0.0, "end_drop_path_rate": 0.0, "encoder_dropout": 0.1, "post_mlp_drop": 0.1},
        **{"attention_dropout": 0.1, "activation_dropout": 0.0, "dropout_input": 0.0, "layerdrop": 0.05},
        **{"layer_norm_first": False, "average_top_k_layers": 1, "end_of_block_targets": False, "clone_batch": 8},
        **{"loss_beta": 0.0, "loss_scale": None, "normalize": True, "modalities": {"audio": audio}},
    }
    config = {
        **{"model": "Emotion2vec", "model_conf": network, "scope_map": ["d2v_model.", "none"]},
        **{"tokenizer": "CharTokenizer", "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True}},
    }
    (folder / "tokens.txt").write_text("\n".join(EMOTION_LABELS) + "\n", encoding="utf-8")
    model = Emotion2vec(model_conf=network, vocab_size=len(EMOTION_LABELS))
    return written(folder, config, model, tokenizer_conf={"token_list": "tokens.txt"})


def test_emotion2vec_from_its_folder_names_an_emotion(emotion2vec: Path) -> None:
    engine = FunAsrEmotion(str(emotion2vec))
    seen: list[tuple[int, float]] = []
    found = engine.annotate(CLIPS, lambda clips, seconds: seen.append((clips, round(seconds, 1))))
    assert seen == [(1, 2.0), (2, 6.5), (3, 9.6)]
    said = [each["emotion"] for each in found if each]
    assert said, "all abstain: this test tests nothing"
    assert {each.labels[0] for each in said} <= set(EMOTIONS.values())
    assert all(1 / len(EMOTION_LABELS) <= (each.score or 0) <= 1 for each in said)
    assert engine.annotate(CLIPS[1:]) == found[1:], "no clip depends on another"
    sure = FunAsrEmotion(str(emotion2vec), min_score=1.0)
    assert sure.annotate(CLIPS) == [{}] * 3
    assert engine.name == f"emotion2vec/{emotion2vec.name}"


TAGS = [
    *("<|zh|>", "<|en|>", "<|yue|>", "<|ja|>", "<|ko|>", "<|nospeech|>", "<|withitn|>", "<|woitn|>"),
    *(f"<|{name}|>" for name in (*SENSEVOICE_EMOTIONS, "EMO_UNKNOWN", *EVENTS, "Speech", "Event_UNK")),
]


@pytest.fixture(scope="module")
def sensevoice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sentencepiece = pytest.importorskip("sentencepiece")  # FunASR's tokenizers bring it
    from funasr.models.sense_voice.model import SenseVoiceSmall

    folder = tmp_path_factory.mktemp("SenseVoiceTiny")
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["你好世界", "good morning", "早上好"] * 9),
        model_writer=trained,
        vocab_size=len(TAGS) + 24,
        hard_vocab_limit=False,
        user_defined_symbols=TAGS,
        minloglevel=2,
    )
    (folder / "tiny.bpe.model").write_bytes(trained.getvalue())
    size = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue()).get_piece_size()
    encoder = {
        **{"output_size": 16, "attention_heads": 2, "linear_units": 16, "num_blocks": 2, "tp_blocks": 1},
        **{"dropout_rate": 0.1, "positional_dropout_rate": 0.1, "attention_dropout_rate": 0.1, "input_layer": "pe"},
        **{"pos_enc_class": "SinusoidalPositionEncoder", "normalize_before": True, "kernel_size": 11},
        **{"sanm_shfit": 0, "selfattention_layer_type": "sanm"},
    }
    frontend = {"fs": 16000, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10}
    config = {
        **{"model": "SenseVoiceSmall", "model_conf": {"sos": 1, "eos": 2}},
        **{"encoder": "SenseVoiceEncoderSmall", "encoder_conf": encoder},
        **{"frontend": "WavFrontend", "frontend_conf": {**frontend, "lfr_m": 7, "lfr_n": 6}},
        **{"tokenizer": "SentencepiecesTokenizer", "tokenizer_conf": {"unk_symbol": "<unk>"}},
    }
    model = SenseVoiceSmall(
        encoder="SenseVoiceEncoderSmall", encoder_conf=encoder, input_size=560, vocab_size=size, sos=1, eos=2
    )
    return written(folder, config, model, tokenizer_conf={"bpemodel": "tiny.bpe.model"})


def test_sensevoice_from_its_folder_says_what_its_tags_say(sensevoice: Path) -> None:
    engine = SenseVoice(str(sensevoice))
    assert engine.name == f"sensevoice/{sensevoice.name}"
    heard = FunAsr(str(sensevoice)).transcribe([clip.pcm for clip in CLIPS], [None] * 3)
    written_tags = [each.tags or () for each in heard]
    assert any(written_tags), "no tag is written: this test tests nothing"
    found = opinions(engine, CLIPS, KINDS)
    for clip_tags, said in zip(written_tags, found, strict=True):
        by_kind = {each.kind: each.labels for each in said}
        events = sorted({EVENTS[tag] for tag in clip_tags if tag in EVENTS})
        assert list(by_kind.get("events", ())) == events
        emotions = [SENSEVOICE_EMOTIONS[tag] for tag in clip_tags if tag in SENSEVOICE_EMOTIONS]
        assert by_kind.get("emotion") == ((emotions[0],) if len(emotions) == 1 else None)
    assert opinions(engine, CLIPS, KINDS) == found


def test_campplus_from_its_folder_embeds(tmp_path: Path) -> None:
    from funasr.models.campplus.model import CAMPPlus

    shape: dict[str, Any] = {"feat_dim": 80, "embedding_size": 16, "growth_rate": 4, "bn_size": 2, "init_channels": 8}
    shape |= {"config_str": "batchnorm-relu", "memory_efficient": True, "output_level": "segment"}
    config = {"model": "CAMPPlus", "model_conf": shape}
    folder = written(tmp_path, config, CAMPPlus(**shape), weights="campplus_cn_common.bin")
    engine = FunAsrEmbedder(str(folder))
    vectors = [engine.embed(clip.pcm) for clip in CLIPS]
    assert {vector.shape for vector in vectors} == {(16,)}
    assert all(np.isfinite(vector).all() for vector in vectors)
    assert np.array_equal(engine.embed(CLIPS[1].pcm), vectors[1])
    assert not np.array_equal(vectors[0], vectors[1])


@pytest.mark.parametrize("engine", [FunAsrEmotion, SenseVoice])
def test_a_folder_without_its_weights_is_one_line(engine: Any, emotion2vec: Path, tmp_path: Path) -> None:
    for file in emotion2vec.iterdir():
        if file.name != "model.pt":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError) as raised:
        engine(str(tmp_path))
    assert "\n" not in str(raised.value)

"""Chunk by chunk equals the whole under the chunk's mask; nothing behind a chunk is heard; training draws chunks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from model_training import config
from model_training.config import ModelSettings, MoESettings
from model_training.data.features import OVERLAP, SUBSAMPLING
from model_training.model.chunks import FARTHEST, LARGEST, Chunk, draw_chunk
from model_training.model.conformer import subsampled
from model_training.model.speech_model import SpeechModel
from operators.errors import UserError
from tests.support.corpus import one_thread

V = 30
KINDS: dict[str, dict[str, object]] = {
    "experts": {"moe": MoESettings()},
    "dense": {"moe": MoESettings(ffn="none")},
    "3m": {"moe": MoESettings(ffn="second", shared=0, experts=[4], top_k=1, norm_topk=False, embedding_layers=2)},
    "wenet": {"moe": MoESettings(ffn="none"), "encoder": "wenet"},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def small(**changes: object) -> SpeechModel:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "heads": 2, "d_ff": 32, "encoder_layers": 3, "decoder_layers": 1, "kernel": 5}
    settings = {**sizes, "causal": True, "dynamic_chunks": True, "dropout": 0.0}
    return SpeechModel(ModelSettings(**(settings | changes)), V).eval()  # type: ignore[arg-type]


@torch.inference_mode()
def by_chunks(model: SpeechModel, features_BF80: torch.Tensor, n_experts: int, chunk: Chunk) -> torch.Tensor:
    """The encoding of clips of one length, a chunk at a time, the last one shorter."""
    cache, parts = model.stream_cache(len(features_BF80)), []
    last = SUBSAMPLING * int(subsampled(torch.tensor(features_BF80.shape[1])))
    for first in range(0, last, step := SUBSAMPLING * chunk.frames):
        parts.append(model.encode_chunk(features_BF80[:, first : min(first + step, last) + OVERLAP], cache, n_experts))
        cache.keep(chunk.kept)
    return torch.cat(parts, 1)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_chunk_by_chunk_equals_the_whole_under_the_same_mask(kind: str) -> None:
    model = small(**KINDS[kind])
    n_experts = model.sizes[-1]
    for frames in (7, 66, 147):  # 1, 15 and 36 encoder frames, multiples of a chunk and others
        x = torch.randn(2, frames, 80, generator=torch.Generator().manual_seed(frames))
        for chunk in (Chunk(1, 7), Chunk(4), Chunk(4, 0), Chunk(5, 2), Chunk(16), Chunk(64)):
            whole, lengths = model.encode(x, torch.tensor([frames] * 2), n_experts, chunk)
            got = by_chunks(model, x, n_experts, chunk)
            assert got.shape == whole.shape
            assert lengths.tolist() == [whole.shape[1]] * 2
            torch.testing.assert_close(got, whole, rtol=0, atol=1e-4)
            torch.testing.assert_close(model.ctc_logits(got), model.ctc_logits(whole), rtol=0, atol=1e-4)


@torch.inference_mode()
def test_a_chunk_hears_nothing_behind_it_and_no_farther_back_than_it_may() -> None:
    model, chunk = small(encoder_layers=1, kernel=1), Chunk(4, 1)
    x = torch.randn(1, SUBSAMPLING * 16 + OVERLAP, 80, generator=torch.Generator().manual_seed(0))
    encoded, _ = model.encode(x, torch.tensor([x.shape[1]]), 15, chunk)
    changed = x.clone()
    changed[:, SUBSAMPLING * 4 + OVERLAP : SUBSAMPLING * 8] += 1.0  # of the second chunk alone
    other, _ = model.encode(changed, torch.tensor([x.shape[1]]), 15, chunk)
    moved = [(encoded - other)[0, 4 * number : 4 * number + 4].abs().max() > 1e-4 for number in range(4)]
    assert moved == [False, True, True, False]


@torch.inference_mode()
def test_the_whole_sees_all_and_padding_leaks_into_no_chunk() -> None:
    model = small()
    x = torch.randn(3, 90, 80, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([61, 90, 7])
    for row, length in enumerate(lengths.tolist()):
        x[row, length:] = 1e3
    encoded, _ = model.encode(x, lengths, 7, Chunk(4, 2))
    for row, length in enumerate(lengths.tolist()):
        alone = by_chunks(model, x[row : row + 1, :length], 7, Chunk(4, 2))
        torch.testing.assert_close(encoded[row, : alone.shape[1]], alone[0], rtol=0, atol=1e-4)
    whole, _ = model.encode(x, lengths, 7)
    one_chunk, _ = model.encode(x, lengths, 7, Chunk(100))
    torch.testing.assert_close(whole, one_chunk, rtol=0, atol=1e-6)
    torch.testing.assert_close(whole[1:2, :21], by_chunks(model, x[1:2], 7, Chunk(100)), rtol=0, atol=1e-4)
    assert not torch.allclose(whole[1, 0], encoded[1, 0], atol=1e-3)


def test_a_models_settings_say_whether_it_streams() -> None:
    with pytest.raises(UserError, match=r"dynamic_chunks=true: set model.causal=true"):
        config.load(None, ["model.dynamic_chunks=true"])
    with pytest.raises(UserError, match="not trained for chunks"):
        small(dynamic_chunks=False).stream_cache()


def test_training_draws_chunks_of_all_sizes_and_the_whole() -> None:
    drawn = [draw_chunk(0, batch) for batch in range(4000)]
    assert drawn == [draw_chunk(0, batch) for batch in range(4000)]
    assert drawn != [draw_chunk(1, batch) for batch in range(4000)]
    chunks = [chunk for chunk in drawn if chunk is not None]
    assert 0.46 < len(chunks) / len(drawn) < 0.54
    assert set(Counter(chunk.frames for chunk in chunks)) == set(range(1, LARGEST + 1))
    assert 0.4 < sum(chunk.left is None for chunk in chunks) / len(chunks) < 0.6
    assert max(chunk.kept or 0 for chunk in chunks) <= FARTHEST

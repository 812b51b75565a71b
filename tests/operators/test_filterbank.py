"""The filterbank against torchaudio's Kaldi port, and the sums for normalisation against plain statistics."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from operators.filterbank import BINS, MelSums, filterbank
from operators.shard import feature_frames

SECOND = 16_000


def noise(samples: int, scale: float = 1000.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, samples).astype(np.int16)


def tone(samples: int, hertz: float, scale: float) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(samples) / SECOND) * scale


SIGNALS = {
    "noise": noise(3 * SECOND),
    "faint noise": noise(3 * SECOND, 1.5),
    "clipped square": np.where(noise(2 * SECOND) > 0, 32767, -32768).astype(np.int16),
    "digital silence": np.zeros(SECOND, np.int16),
    "direct current": np.full(SECOND, 1234, np.int16),
    "tone over noise": (tone(2 * SECOND, 440, 20_000) + noise(2 * SECOND, 5)).astype(np.int16),
    "one window": noise(400),
    "more than one chunk": noise(12 * SECOND),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_the_filterbank_is_kaldis(name: str) -> None:
    torch = pytest.importorskip("torch")
    from torchaudio.compliance import kaldi

    pcm = SIGNALS[name]
    expected = kaldi.fbank(torch.from_numpy(pcm).float()[None], num_mel_bins=BINS, dither=0.0).numpy()
    features = filterbank(pcm)
    assert features.shape == expected.shape
    assert features.dtype == np.float32
    assert np.abs(features - expected).max() < 1e-3


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 401, 559, 560, 561, 16_000, 163_999, 164_240, 164_241])
def test_the_number_of_frames_is_the_ledgers(samples: int) -> None:
    assert filterbank(noise(samples)).shape == (feature_frames(samples), BINS)


def test_a_frame_depends_on_its_own_window_only() -> None:
    pcm = noise(11 * SECOND)
    late = filterbank(pcm[1050 * 160 :])
    np.testing.assert_allclose(filterbank(pcm)[1050:], late, atol=2e-5)


def test_an_hour_needs_little_more_than_its_features() -> None:
    pcm = np.tile(noise(SECOND), 600)
    tracemalloc.start()
    features = filterbank(pcm)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - features.nbytes < 32 << 20


@pytest.mark.parametrize("bad", [np.zeros(800, np.float32), np.zeros((2, 800), np.int16)])
def test_other_than_int16_mono_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="int16"):
        filterbank(bad)


def test_sums_give_the_mean_and_deviation_of_all_frames() -> None:
    clips = [filterbank(noise(SECOND * (1 + seed), 10.0 ** (1 + seed), seed)) for seed in range(3)]
    sums = MelSums()
    for clip in clips:
        sums = sums.add(clip)
    mean, istd = sums.cmvn()
    together = np.concatenate(clips).astype(np.float64)
    assert sums.frames == len(together)
    np.testing.assert_allclose(mean, together.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(istd, 1 / together.std(axis=0), rtol=1e-5)
    assert mean.dtype == istd.dtype == np.float32
    normalised = (together - mean) * istd
    np.testing.assert_allclose(normalised.std(axis=0), 1.0, atol=1e-4)


def test_sums_add_up_and_survive_json_to_the_bit() -> None:
    first, second = MelSums().add(filterbank(noise(9000))), MelSums().add(filterbank(noise(5000, seed=1)))
    total = first + second
    assert total.frames == first.frames + second.frames
    assert np.array_equal(total.sums, first.sums + second.sums)
    assert MelSums.from_dict(json.loads(json.dumps(total.to_dict()))) == total
    assert total != first


def test_a_bin_that_never_changes_is_not_blown_up() -> None:
    mean, istd = MelSums().add(filterbank(np.zeros(SECOND, np.int16))).cmvn()
    assert np.isfinite(mean).all()
    assert istd.max() <= 100.5


def test_nothing_cannot_be_normalised_by() -> None:
    with pytest.raises(ValueError, match="no frames"):
        MelSums().cmvn()

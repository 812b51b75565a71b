"""Channels become one: the voice stays, whatever is on the others."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import soundfile
from hypothesis import example, given, settings
from hypothesis import strategies as st

from operators.audio.decode import decode
from operators.audio.mix import Mixer, block_seconds
from operators.clip import SAMPLE_RATE


def voice(seconds: float, seed: int = 1) -> np.ndarray:
    """Syllables of noise between pauses, like speech in its ups and downs; mean power 1."""
    rng, count = np.random.default_rng(seed), round(seconds * SAMPLE_RATE)
    signal, at = np.zeros(count + SAMPLE_RATE), 0
    while at < count:
        length = int(rng.uniform(0.1, 0.5) * SAMPLE_RATE)
        signal[at : at + length] = rng.standard_normal(length) * rng.uniform(0.2, 1) * np.hanning(length)
        at += length + int(rng.choice([0.02, 0.05, 0.3, 1.0], p=[0.4, 0.3, 0.2, 0.1]) * SAMPLE_RATE)
    signal = signal[:count]
    return signal / np.sqrt((signal**2).mean())


def amplitude(db: float) -> float:
    return float(10 ** (db / 20))


def noise(count: int, db: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count) * amplitude(db)


def mixed(channels: Sequence[np.ndarray]) -> np.ndarray:
    block = round(block_seconds(SAMPLE_RATE, len(channels)) * SAMPLE_RATE)
    signal = np.clip(np.stack(channels), -1, 1).astype(np.float32)
    mixer = Mixer(SAMPLE_RATE)
    return np.concatenate([mixer.mix(signal[:, at : at + block]) for at in range(0, signal.shape[1], block)])


def snr(heard: np.ndarray, clean: np.ndarray) -> float:
    """dB of the voice over the rest, block by block, as the gain may change between them."""
    good = bad = 0.0
    for at in range(0, len(clean), 8 * SAMPLE_RATE):
        got, want = heard[at : at + 8 * SAMPLE_RATE], clean[at : at + 8 * SAMPLE_RATE]
        gain = (got * want).sum() / (want * want).sum()
        good, bad = good + gain**2 * (want**2).sum(), bad + ((got - gain * want) ** 2).sum()
    return float(10 * np.log10(good / bad))


def level(pcm: np.ndarray) -> float:
    return float(10 * np.log10((pcm.astype(float) ** 2).mean()))


@pytest.mark.parametrize("noise_db", [-60, -35, -20, -10, -3])
@pytest.mark.parametrize("seconds", [3, 20])
def test_a_noisy_channel_does_not_drown_the_clean_one(noise_db: float, seconds: float) -> None:
    clean = voice(seconds) * amplitude(-25)
    left = clean + noise(len(clean), -70, 2)
    for right in (noise(len(clean), noise_db, 3), clean + noise(len(clean), noise_db, 3)):
        heard = mixed([left, right])
        assert snr(heard, clean) > 25
        assert abs(level(heard) - level(clean)) < 1 or noise_db > -25


Channel = tuple[int, int, int, int]
"""Level of the voice and of the noise in dB, how many samples late the voice comes, and which way round."""
CHANNELS = st.tuples(
    st.sampled_from([0, -3, -10, -25, -200]),
    st.sampled_from([-10, -15, -30, -40, -50, -70, -90, -200]),
    st.sampled_from([0, 0, 7, 40, 400]),
    st.sampled_from([1, 1, -1]),
)
CENTRE = [
    (-200, -40, 0, 1),
    (-200, -40, 0, 1),
    (0, -70, 0, 1),
    (-200, -200, 0, 1),
    (-200, -15, 0, 1),
    (-200, -90, 0, 1),
]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    channels=st.lists(CHANNELS, min_size=2, max_size=6),
    shared_db=st.sampled_from([-200, -200, -40, -20]),
    seconds=st.sampled_from([2, 4, 9, 17]),
)
@example(CENTRE, -200, 9)
# Weights that nobody compares with the plain mean lost 8.6, 0.7 and 0.4 dB here.
@example([(-200, -30, 40, -1), (0, -15, 0, 1), (-3, -90, 400, 1), (0, -40, 0, 1), (0, -30, 0, -1)], -20, 9)
@example([(0, -70, 0, 1), (-25, -70, 40, 1), (-3, -30, 7, -1), (0, -40, 40, 1)], -200, 4)
@example([(-10, -30, 0, -1), (-25, -90, 0, 1), (-25, -70, 400, -1), (-25, -50, 400, -1)], -200, 9)
@example([(0, -50, 0, 1), (0, -50, 0, -1)], -200, 9)
def test_the_voice_is_never_worse_off_than_in_a_plain_mean(
    channels: list[Channel], shared_db: int, seconds: int
) -> None:
    """Noise levels, noise that all share, silent channels, delays, antiphase, a voice in the centre of 5.1: 0.1 dB."""
    if all(gain == -200 for gain, *_ in channels):
        return
    clean = voice(seconds) * amplitude(-22)
    shared = noise(len(clean), shared_db, 99)
    voices = np.stack([sign * np.roll(clean, delay) * amplitude(gain) for gain, _, delay, sign in channels])
    given_ = voices + shared + [noise(len(clean), floor, number) for number, (_, floor, _, _) in enumerate(channels)]
    given_ = given_.clip(-1, 1).astype(np.float32)
    rest = given_ - voices
    block, ramp = round(block_seconds(SAMPLE_RATE, len(given_)) * SAMPLE_RATE), SAMPLE_RATE // 100
    powers = np.zeros((2, 2))  # mix and plain mean; voice and rest
    heard = mixed(given_)
    for at in range(0, len(clean), block):
        part = slice(at + ramp, at + block)
        shares = np.linalg.lstsq(given_[:, part].T.astype(float), heard[part].astype(float), rcond=1e-9)[0]
        for row, weights in enumerate((shares / np.abs(shares).sum(), np.full(len(shares), 1 / len(shares)))):
            powers[row] += ((weights @ voices[:, part]) ** 2).sum(), ((weights @ rest[:, part]) ** 2).sum()
    (good, bad), (plain_good, plain_bad) = powers
    assert good * plain_bad >= plain_good * bad * 10 ** (-0.1 / 10)


@pytest.mark.parametrize("other_db", [-14, -22, -45])
def test_a_second_voice_is_no_worse_off_either(other_db: float) -> None:
    """Two people, a channel each: neither is taken for noise."""
    one, other = voice(20, 1) * amplitude(-22), voice(20, 2) * amplitude(other_db)
    channels = [one + noise(len(one), -60, 3), other + noise(len(one), -70, 4)]
    heard = mixed(channels)
    for each in (one, other):
        assert snr(heard, each) > snr(np.mean(channels, axis=0), each) - 0.5


def test_a_voice_in_one_of_many_channels_keeps_its_level() -> None:
    clean = voice(10) * amplitude(-22)
    for ambience in (-200, -75):  # the centre of 5.1, the others silent or nearly so
        channels = [noise(len(clean), ambience, number) for number in range(6)]
        channels[2] = clean
        assert abs(level(mixed(channels)) - level(clean)) < 0.5


def test_antiphase_is_turned_round_and_equal_channels_are_left_alone() -> None:
    clean = (voice(10) * amplitude(-22)).clip(-1, 1).astype(np.float32)
    np.testing.assert_array_equal(mixed([clean, clean]), clean)
    np.testing.assert_array_equal(np.abs(mixed([clean, -clean])), np.abs(clean))
    rustling = mixed([clean + noise(len(clean), -45, 1), -clean + noise(len(clean), -45, 2)])
    assert abs(level(rustling) - level(clean)) < 0.5


def test_the_mix_is_no_louder_than_its_loudest_channel() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 3, 8):
        channels = [rng.uniform(-1, 1, 3 * SAMPLE_RATE) * rng.choice([0.1, 1]) for _ in range(count)]
        assert np.abs(mixed(channels)).max() <= max(np.abs(channel).max() for channel in channels) * 1.001


def test_windows_of_changing_channels_join_bit_for_bit() -> None:
    clean, rate = voice(40), 44_100
    left = np.repeat(clean * amplitude(-25), 3)[: 40 * rate]
    right = left * np.where(np.arange(len(left)) // (9 * rate) % 2, 1, -0.2) + noise(len(left), -50, 1)
    sink = io.BytesIO()
    soundfile.write(sink, np.stack([left, right], axis=1), rate, format="FLAC")
    whole = decode(sink).pcm
    cuts = [0, 100_000, 250_000, 250_007, 430_000, None]
    parts = [decode(sink, window).pcm for window in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)

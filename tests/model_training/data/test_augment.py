"""Augmentation: what is measured afterwards is what was asked for."""

from __future__ import annotations

import numpy as np
import pytest

from model_training.config import DataSettings, Settings, check
from model_training.data.augment import (
    Augment,
    AugmentSettings,
    add_noise,
    change_speed,
    coloured_noise,
    power,
    resample,
    reverberate,
    room_response,
)
from operators.errors import UserError
from tests.support.corpus import noise, voice

RATE = 16_000


def measured_snr_db(clean: np.ndarray, noisy: np.ndarray) -> float:
    """Project out the clean part first: the mixture may have been turned down as a whole."""
    clean, noisy = clean.astype(np.float64), noisy.astype(np.float64)
    gain = (clean @ noisy) / (clean @ clean)
    return float(10 * np.log10(np.mean((gain * clean) ** 2) / np.mean((noisy - gain * clean) ** 2)))


def schroeder_rt60(response: np.ndarray) -> float:
    """RT60 by backward integration (Schroeder 1965) and a line through -15 to -40 dB of it."""
    energy = np.cumsum(response[::-1].astype(np.float64) ** 2)[::-1]
    decay = 10 * np.log10(energy / energy[0])
    used = np.flatnonzero((decay < -15) & (decay > -40))
    slope = np.polyfit(used / RATE, decay[used], 1)[0]
    return float(-60 / slope)


@pytest.mark.parametrize("asked", [15.0, 22.5, 30.0])
@pytest.mark.parametrize("source", ["made", "recorded, longer", "recorded, shorter"])
def test_the_snr_is_what_was_asked_for(asked: float, source: str) -> None:
    settings = AugmentSettings(noise_probability=1, reverb_probability=0, snr_db=[asked, asked])
    recordings = {"made": [], "recorded, longer": [noise(60_000, 300)], "recorded, shorter": [noise(7_000, 300)]}
    augment = Augment(settings, recordings[source])
    for seed in range(4):
        clean = voice(32_000, seed=seed)
        noisy = augment.samples(clean, np.random.default_rng(seed))
        assert measured_snr_db(clean, noisy) == pytest.approx(asked, abs=0.5)


def test_a_loud_clip_is_turned_down_rather_than_clipped() -> None:
    clean = (voice(32_000).astype(np.float64) * 32767 / np.abs(voice(32_000)).max()).astype(np.int16)
    settings = AugmentSettings(noise_probability=1, reverb_probability=0, snr_db=[15, 15])
    noisy = Augment(settings).samples(clean, np.random.default_rng(0))
    assert np.count_nonzero(np.abs(noisy.astype(int)) >= 32767) <= 1
    assert measured_snr_db(clean, noisy) == pytest.approx(15, abs=0.5)


def test_silence_gets_no_noise() -> None:
    settings = AugmentSettings(noise_probability=1, reverb_probability=1)
    assert not Augment(settings).samples(np.zeros(RATE, np.int16), np.random.default_rng(0)).any()


@pytest.mark.parametrize("rt60", [0.1, 0.3, 0.6, 0.9])
def test_a_room_decays_in_the_time_asked_for(rt60: float) -> None:
    for seed in range(5):
        response = room_response(rt60, np.random.default_rng(seed))
        assert schroeder_rt60(response) == pytest.approx(rt60, rel=0.15)


def test_reverberation_keeps_time_and_loudness_and_is_a_convolution() -> None:
    signal = noise(8_000).astype(np.float32)
    response = room_response(0.2, np.random.default_rng(1))
    heard = reverberate(signal, response)
    expected = np.convolve(signal.astype(np.float64), response)[: len(signal)]
    expected *= np.sqrt(power(signal) / np.mean(expected**2))
    np.testing.assert_allclose(heard, expected, atol=0.02)
    lag = np.argmax(np.correlate(heard, signal, "full")) - (len(signal) - 1)
    assert lag == 0
    assert np.array_equal(reverberate(signal, room_response(0.0, np.random.default_rng(1))), signal)


def test_resampling_agrees_with_scipy_and_keeps_tones() -> None:
    signal_module = pytest.importorskip("scipy.signal")
    source = noise(20_000).astype(np.float32)
    band = signal_module.firwin(513, 0.8)
    source = signal_module.lfilter(band, 1, source).astype(np.float32)
    for up, down in ((10, 9), (10, 11), (160, 441), (2, 1), (1, 3)):
        count = -(-len(source) * up // down)
        ours = resample(source, up, down)
        assert len(ours) == count
        if down > 2 * up:
            continue  # scipy's own filter rolls off where this signal still has power
        theirs = signal_module.resample_poly(source.astype(np.float64), up, down, window=("kaiser", 12.0))
        edge = 600
        limited = signal_module.firwin(257, 0.7 * min(1, down / up) if up > down else 0.7)
        apart = signal_module.lfilter(limited, 1, ours[:count] - theirs[:count])[edge:-edge]
        assert np.sqrt(np.mean(apart**2)) < 0.02 * np.sqrt(power(ours))


def test_what_lies_above_the_new_nyquist_is_gone() -> None:
    time = np.arange(48_000) / 48_000
    high = (10_000 * np.sin(2 * np.pi * 11_000 * time)).astype(np.float32)
    low = (10_000 * np.sin(2 * np.pi * 1_000 * time)).astype(np.float32)
    assert power(resample(high, 1, 3)[200:-200]) < 1e-7 * power(high)
    kept = resample(low, 1, 3)
    np.testing.assert_allclose(kept[200:-200], low[::3][200:-200], atol=2)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_speed_changes_length_and_pitch(factor: float) -> None:
    time = np.arange(32_000) / RATE
    faster = change_speed((8_000 * np.sin(2 * np.pi * 500 * time)).astype(np.int16), factor)
    assert len(faster) == pytest.approx(32_000 / factor, abs=1)
    spectrum = np.abs(np.fft.rfft(faster[2_000:18_000].astype(float) * np.hanning(16_000)))
    assert np.argmax(spectrum) == pytest.approx(500 * factor, abs=1)
    assert power(faster) == pytest.approx(8_000**2 / 2, rel=0.01)
    assert change_speed(faster, 1.0) is faster


def test_masks_are_zero_bounded_and_counted() -> None:
    settings = AugmentSettings(frequency_mask_bins=30, time_mask_frames=50, time_mask_share=0.2)
    widest_bins, widest_frames = 0, 0
    for seed in range(200):
        features = np.ones((100, 80), np.float32)
        masked = Augment(settings).masks(features, np.random.default_rng(seed))
        assert set(np.unique(masked)) <= {0.0, 1.0}
        assert (features == 1).all()
        bins, frames = int((masked == 0).all(axis=0).sum()), int((masked == 0).all(axis=1).sum())
        widest_bins, widest_frames = max(widest_bins, bins), max(widest_frames, frames)
        assert bins <= 2 * 30
        assert frames <= 2 * 20  # a fifth of the clip, twice
        rest = masked[~(masked == 0).all(axis=1)][:, ~(masked == 0).all(axis=0)]
        assert (rest == 1).all()
    assert widest_bins > 40
    assert widest_frames > 28


def test_empty_and_tiny_features_can_be_masked() -> None:
    for frames in (0, 1, 4):
        Augment(AugmentSettings()).masks(np.ones((frames, 80), np.float32), np.random.default_rng(0))


def test_draws_are_as_likely_as_asked_and_follow_the_generator() -> None:
    settings = AugmentSettings(noise_probability=0.3, reverb_probability=0.0)
    clean = voice(2_000)
    changed = [
        not np.array_equal(Augment(settings).samples(clean, np.random.default_rng(seed)), clean) for seed in range(300)
    ]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.09)
    both = Augment(AugmentSettings(noise_probability=1, reverb_probability=1))
    first, second = (both.samples(clean, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first, second)
    speeds = [both.speed(np.random.default_rng(seed)) for seed in range(300)]
    assert {speed: 60 < speeds.count(speed) < 140 for speed in (0.9, 1.0, 1.1)} == {0.9: True, 1.0: True, 1.1: True}


def test_made_noise_has_colours() -> None:
    tilts = []
    for seed in range(20):
        spectrum = np.abs(np.fft.rfft(coloured_noise(16_384, np.random.default_rng(seed)))) ** 2
        tilts.append(10 * np.log10(spectrum[200:400].mean() / spectrum[4000:6000].mean()))
    assert min(tilts) < 6
    assert max(tilts) > 18


def test_silent_noise_leaves_the_clip() -> None:
    signal = voice(1_000).astype(np.float32)
    assert np.array_equal(add_noise(signal, np.zeros(1_000, np.float32), 20), signal)


@pytest.mark.parametrize(
    "bad",
    [
        {"noise_probability": 1.5},
        {"snr_db": [30.0, 15.0]},
        {"snr_db": [15.0]},
        {"rt60_seconds": [-0.1, 0.5]},
        {"speed_factors": [0.0, 1.0]},
        {"time_mask_share": -1.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(bad: dict) -> None:
    settings = Settings(data=DataSettings(augment=AugmentSettings(**bad)))
    with pytest.raises(UserError, match=rf"data\.augment\.{next(iter(bad))}="):
        check(settings)


def test_a_planner_must_leave_room_for_the_slowest() -> None:
    assert AugmentSettings().stretch == pytest.approx(1 / 0.9)
    assert AugmentSettings(speed_factors=[]).stretch == 1

"""Augmentation: other speeds; rooms and noises for the samples and masks for the features (SpecAugment) as 3M has them.

    pcm ──speed (resampled)──> ──reverberation──> ──noise at an SNR──> pcm' ──filterbank, CMVN──> ──masks──> features

Every draw comes from the generator that the caller gives, so what becomes of a clip is a function of that alone.

Shapes: T samples, F frames, 80 mel bins. Sources: 3M (You et al. 2022) section 3.1; Ko et al. 2015; Park et al. 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import numpy as np

from operators.errors import UserError
from operators.filterbank import SAMPLE_RATE
from operators.settings import setting

_FULL_SCALE = 32767.0
_ZERO_CROSSINGS = 24
"""of the resampling filter on each side; with the roll-off below its stop band is under -80 dB."""
_ROLL_OFF = 0.94
_KAISER_BETA = 9.0


@dataclass(kw_only=True)
class AugmentSettings:
    """The settings say which augmentation, how often, and how strong. Noise and rooms are 3M's (section 4.2), masks
    those of its published recipe; other speeds are Ko et al. 2015's.
    """

    speed_factors: list[float] = setting(
        [0.9, 1.0, 1.1], "one for each clip, by resampling, alike likely; []: none", at_least=0.5, at_most=2
    )
    noise_probability: float = setting(0.5, "of noise in a clip", at_least=0, at_most=1)
    snr_db: list[float] = setting([15.0, 30.0], "power of the clip over power of the noise, drawn evenly")
    noises: list[str] = setting([], "recordings of noise, local or s3://; none: noise of random colour is made")
    reverb_probability: float = setting(0.5, "of a room around a clip", at_least=0, at_most=1)
    rt60_seconds: list[float] = setting(
        [0.0, 0.9], "time for the sound of a made room to fall by 60 dB, drawn evenly", at_least=0
    )
    frequency_masks: int = setting(2, "stretches of bins that are hidden in a clip (SpecAugment)", at_least=0)
    frequency_mask_bins: int = setting(30, "the widest; widths are drawn evenly from 0 up", at_least=0)
    time_masks: int = setting(2, "stretches of frames that are hidden in a clip", at_least=0)
    time_mask_frames: int = setting(50, "the widest; widths are drawn evenly from 0 up", at_least=0)
    time_mask_share: float = setting(0.2, "no time mask is longer than this share of the clip", at_least=0, at_most=1)

    def check_ranges(self, section: str) -> None:
        """Refuse ranges that are none. `section` is the settings' place in their tree, for the UserError."""
        for name in ("snr_db", "rt60_seconds"):
            ends = list(getattr(self, name))
            if len(ends) != 2 or ends[0] > ends[1]:
                raise UserError(f"{section}.{name}={ends}: give two numbers, the smaller one first")

    @property
    def stretch(self) -> float:
        """Return the most that a clip is lengthened by: a planner must leave this much room."""
        return 1 / min(self.speed_factors, default=1.0)


@dataclass(frozen=True, slots=True)
class Augment:
    """An Augment applies the settings. `noises` are int16 [T] at 16 kHz; without any, coloured noise is made."""

    settings: AugmentSettings
    noises: Sequence[np.ndarray] = field(default=())

    def speed(self, generator: np.random.Generator) -> float:
        """Return a speed, drawn for one clip."""
        factors = self.settings.speed_factors
        return float(factors[generator.integers(len(factors))]) if factors else 1.0

    def samples(self, pcm: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return the clip in a room and with noise, each with its probability: int16 [T] to int16 [T]."""
        settings = self.settings
        # All draws of a fixed number come first: switching one augmentation off leaves the others as they were.
        in_room, noisy = generator.random(2) < (settings.reverb_probability, settings.noise_probability)
        (shortest, longest), (faintest, clearest) = settings.rt60_seconds, settings.snr_db
        rt60, snr_db = generator.uniform(shortest, longest), generator.uniform(faintest, clearest)
        room_seed, noise_seed = generator.integers(1 << 63, size=2)
        if not in_room and not noisy:
            return pcm
        signal = pcm.astype(np.float32)
        if in_room:
            signal = reverberate(signal, room_response(rt60, np.random.default_rng(room_seed)))
        if noisy:
            signal = self._with_noise(signal, snr_db, np.random.default_rng(noise_seed))
        return to_int16(signal)

    def masks(self, features_F80: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return normalised features [F, 80] with stretches masked (SpecAugment): 0, which is the mean after CMVN."""
        masked = features_F80.copy()
        bands, stretches = self.masked(masked.shape[0], masked.shape[1], generator)
        for low, high in bands:
            masked[:, low:high] = 0.0
        for first, last in stretches:
            masked[first:last] = 0.0
        return masked

    def masked(
        self, frames: int, bins: int, generator: np.random.Generator
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return the bins and the frames that `masks` masks, [first, last) each."""
        settings = self.settings
        bands = [_stretch(bins, settings.frequency_mask_bins, generator) for _ in range(settings.frequency_masks)]
        widest = min(settings.time_mask_frames, int(frames * settings.time_mask_share))
        return bands, [_stretch(frames, widest, generator) for _ in range(settings.time_masks)]

    def _with_noise(self, signal_T: np.ndarray, snr_db: float, generator: np.random.Generator) -> np.ndarray:
        if not self.noises:
            return add_noise(signal_T, coloured_noise(len(signal_T), generator), snr_db)
        noise = self.noises[int(generator.integers(len(self.noises)))].astype(np.float32)
        start = int(generator.integers(max(1, len(noise) - len(signal_T) + 1)))
        # A shorter noise goes round; from a place drawn at random, so that clips do not all begin alike.
        turned = np.roll(noise, -int(generator.integers(len(noise)))) if len(noise) < len(signal_T) else noise[start:]
        return add_noise(signal_T, np.resize(turned, len(signal_T)), snr_db)


def change_speed(pcm: np.ndarray, factor: float) -> np.ndarray:
    """Return int16 [T] played `factor` times as fast, pitch and all: int16 [ceil(T / factor)]."""
    if factor == 1.0:
        return pcm
    ratio = 1 / Fraction(factor).limit_denominator(100)
    return to_int16(resample(pcm.astype(np.float32), ratio.numerator, ratio.denominator))


def resampled_length(samples: int, up: int, down: int) -> int:
    """Return the samples that `resample` makes of so many."""
    return -(-samples * up // down)


def resample(signal_T: np.ndarray, up: int, down: int) -> np.ndarray:
    """Return float32 [T] at up/down times its rate, [ceil(T * up / down)], resampled by a Kaiser-windowed sinc."""
    shared = np.gcd(up, down)
    up, down = int(up // shared), int(down // shared)
    if up == down or not len(signal_T):
        return signal_T
    taps, before = _filters(up, down)
    count = resampled_length(len(signal_T), up, down)
    last = (count - 1) * down // up
    padded = np.pad(signal_T, (before, max(0, last + taps.shape[1] - before - len(signal_T) + 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps.shape[1])
    out = np.empty(count, np.float32)
    for phase in range(min(up, count)):
        mine = out[phase::up]
        first = phase * down // up
        mine[:] = windows[first : first + (len(mine) - 1) * down + 1 : down] @ taps[phase]
    return out


@lru_cache(maxsize=32)
def _filters(up: int, down: int) -> tuple[np.ndarray, int]:
    """Return a filter for each place of an output between input samples [up, taps], and the taps before it."""
    cutoff = _ROLL_OFF * min(1.0, up / down)
    reach = int(np.ceil(_ZERO_CROSSINGS / cutoff))
    places = np.arange(up)[:, np.newaxis] * down % up / up
    distance = np.arange(-reach + 1, reach + 1) - places
    window = np.i0(_KAISER_BETA * np.sqrt(np.maximum(0.0, 1 - (distance / reach) ** 2))) / np.i0(_KAISER_BETA)
    taps = cutoff * np.sinc(cutoff * distance) * window
    return (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32), reach - 1


def room_response(rt60: float, generator: np.random.Generator) -> np.ndarray:
    """Return a synthetic room, float32 [rt60 seconds]: direct sound, then noise that decays by 60 dB in `rt60` seconds.

    The reverberant part has a drawn energy 0 to 12 dB below the direct sound. Below one sample's time there is no room.
    """
    length = int(rt60 * SAMPLE_RATE)
    direct_db = generator.uniform(0.0, 12.0)
    response = np.zeros(max(1, length))
    response[0] = 1.0
    if length > 1:
        tail = generator.standard_normal(length - 1) * 10.0 ** (-3.0 * np.arange(1, length) / length)
        response[1:] = tail / np.sqrt(np.sum(tail**2)) * 10.0 ** (-direct_db / 20)
    return response.astype(np.float32)


def reverberate(signal_T: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return float32 [T] as heard through a room's response, cut to T, as loud as before, the direct sound in place."""
    if len(response) == 1 or not len(signal_T):
        return signal_T
    size = 1 << (len(signal_T) + len(response) - 2).bit_length()
    product = np.fft.rfft(signal_T, size) * np.fft.rfft(response, size)
    heard = np.fft.irfft(product, size)[: len(signal_T)].astype(np.float32)
    before, after = power(signal_T), power(heard)
    return heard * np.float32(np.sqrt(before / after)) if after > 0 else heard


def coloured_noise(samples: int, generator: np.random.Generator) -> np.ndarray:
    """Return noise whose power falls as 1 / f^a with a drawn from 0 (white) to 2 (brown), float32 [samples]."""
    size = 1 << max(1, (samples - 1).bit_length())
    slope = generator.uniform(0.0, 2.0)
    spectrum = np.fft.rfft(generator.standard_normal(size))
    # Flat below 50 Hz: there is no speech, and a few drifting bins would take most of the power.
    frequencies = np.maximum(np.arange(len(spectrum)) * SAMPLE_RATE / size, 50.0)
    return np.fft.irfft(spectrum * frequencies ** (-slope / 2), size)[:samples].astype(np.float32)


def add_noise(signal_T: np.ndarray, noise_T: np.ndarray, snr_db: float) -> np.ndarray:
    """Return the signal with noise scaled to `snr_db` below it. Silence on either side stays as it is."""
    loud, noisy = power(signal_T), power(noise_T)
    if loud == 0 or noisy == 0:
        return signal_T
    return signal_T + noise_T * np.float32(np.sqrt(loud / noisy * 10 ** (-snr_db / 10)))


def power(signal_T: np.ndarray) -> float:
    """Return the mean square."""
    return float(np.mean(np.square(signal_T, dtype=np.float64))) if len(signal_T) else 0.0


def to_int16(signal_T: np.ndarray) -> np.ndarray:
    """Return float samples of int16 scale, rounded; what would clip is turned down as a whole, not distorted."""
    peak = float(np.max(np.abs(signal_T), initial=0.0))
    if peak > _FULL_SCALE:
        signal_T = signal_T * (_FULL_SCALE / peak)
    return np.rint(signal_T).astype(np.int16)


def _stretch(length: int, widest: int, generator: np.random.Generator) -> tuple[int, int]:
    width = min(length, int(generator.integers(0, widest + 1)))
    start = int(generator.integers(0, length - width + 1))
    return start, start + width

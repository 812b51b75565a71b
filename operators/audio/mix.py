"""Mix the channels of a recording to one, so that a voice in any of them is heard.

    block [C, n] of 8 s ──products of 50-ms frames──> level, floor and sign of each channel ──> weights ─┐
                                      └─ loud and quiet frames ──> SNR of weights and of a plain mean ──┴─> mono [n]

Not the plain mean: seven silent channels would drown a voice in the eighth, a noisy one the clean one beside it, and a
miswired plug (one channel the mirror image of the other) would cancel the voice. The weights are those of maximal-ratio
combining (Brennan, "Linear diversity combining techniques", 1959): what a channel holds above its noise floor, over the
power of that floor.

- The floor is the tenth percentile of a channel's frames, so steady noise has no level above it and no weight.
- The rule holds for channels that carry the same voice. One that carries something else counts as much as the cleanest,
  no more and no less: which of two voices matters nobody knows.
- A channel gets no credit for being louder than the cleanest one: loud bursts do not take over.
- A floor 25 dB below the loudest channel is clean enough; lower ones do not count for more.
- Where no channel rises above its floor (a tone, an engine, noise everywhere) the live channels have equal weights.

Floors and levels of single channels are estimates, and weights made of them can be worse than equal ones: noise that
all channels share is counted in each, an echo passes for another voice. So both mixes are looked at on the same loud
and the same quiet frames, and the weights stand only where they promise at least half a decibel over the plain mean.
Voice in the quiet frames lowers both figures and leaves their order; what is gained below half a decibel is not missed.

The mix is as loud as the loudest channel, but its peak is no higher; equal channels come out unchanged.

Weights are a function of this block and the one before it. They are computed from integers and change over 10 ms.
"""

from __future__ import annotations

import math

import numpy as np

BLOCK_SECONDS = 8.0
"""Long enough for the pauses of speech, by which the floor is found."""
_MOST_SAMPLES = 1 << 22
"""Samples of all channels that a block holds at most, about: many channels at a high rate have shorter blocks."""
_FRAME_SECONDS = 0.05
_RAMP_SECONDS = 0.01
_FLOOR, _LEVEL = 0.1, 0.9
"""Percentiles of the frames' energies."""
_PART = 0.2
"""Of the frames, the loudest and the quietest part by which two mixes are compared."""
_WORTH = 10 ** (0.5 / 10)
"""What the weights must promise over a plain mean."""
_CLEAN = 10 ** (-25 / 10)
_DEAD = 10 ** (-35 / 10)
"""A channel so far below the level of the loudest holds nothing that could be missed, but for its noise."""
_SAME, _MIRROR = 0.3, -0.5
"""Correlation with the cleanest channel from which on a channel carries the same voice (either way round), and below
which it is turned round."""


def block_seconds(sample_rate: int, channels: int) -> float:
    """Return how many seconds are mixed together. One channel needs no weights, so any block will do."""
    return min(BLOCK_SECONDS, max(0.5, _MOST_SAMPLES / (sample_rate * channels))) if channels > 1 else 0.5


class Mixer:
    """A Mixer mixes consecutive blocks of one recording: float32 [C, n] in, float32 [n] out."""

    def __init__(self, sample_rate: int) -> None:
        self._frame = max(1, round(_FRAME_SECONDS * sample_rate))
        self._ramp = math.ceil(_RAMP_SECONDS * sample_rate)
        self._before: np.ndarray | None = None  # products of the last block's frames, [frames, C, C]
        self._weights: np.ndarray | None = None

    def mix(self, block: np.ndarray) -> np.ndarray:
        """Mix the next block."""
        if len(block) == 1:
            return block[0]
        frames = _measure(block, self._frame)
        known = frames if self._before is None else np.concatenate([self._before, frames])
        products = frames.sum(axis=0)
        weights = _better(_weights(known, products), known)
        mono = _weighted_sum(block, weights)
        gain = _gain(weights, products, block, mono)
        if gain != 1:
            weights, mono = weights * gain, mono * gain
        if self._weights is not None and (self._weights != weights).any():
            ramp = min(block.shape[1], self._ramp)
            share = np.arange(1, ramp + 1, dtype=np.float32) / np.float32(ramp)
            mono[:ramp] = share * mono[:ramp] + (1 - share) * _weighted_sum(block[:, :ramp], self._weights)
        self._before, self._weights = frames, weights
        return mono


def _measure(block: np.ndarray, frame: int) -> np.ndarray:
    """Return the products of all channels with each other in each frame, [frames, C, C]; the diagonal is their energy.

    Samples are taken in whole steps of 16 bits. Sums of their products stay below 2^53, so they are exact in float64
    and do not depend on the order that a machine adds in. A rest shorter than a frame belongs to the last frame.
    """
    channels, samples = block.shape
    frame = min(frame, max(1, samples))
    products = np.zeros((samples // frame, channels, channels))
    for number in range(len(products)):
        end = samples if number == len(products) - 1 else (number + 1) * frame
        steps = np.rint(block[:, number * frame : end] * np.float32(32767)).astype(np.float64)
        np.matmul(steps, steps.T, out=products[number])
    return products


def _weights(frames: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Share of each channel in the mix, negative for mirror images: float32 [C], absolute values that sum to 1.

    Args:
        frames: products of the channels in the frames of the last two blocks, [frames, C, C].
        products: [C, C] of the block itself, for the signs.
    """
    energies = frames.diagonal(axis1=1, axis2=2).T
    live = energies[:, energies.any(axis=0)]  # silence in all channels at once tells nothing: a gap, or a pause
    if not live.size:
        return np.full(len(energies), 1 / len(energies), np.float32)
    ordered = np.sort(live, axis=1)
    floor, loud = (ordered[:, int(share * (ordered.shape[1] - 1))] for share in (_FLOOR, _LEVEL))
    level = np.maximum(0.0, loud - 2 * floor)
    level[level < _DEAD * level.max()] = 0
    if not level.any():
        mean = ordered.mean(axis=1)
        shares = (mean > _DEAD * mean.max()).astype(np.float64)
        likeness = _likeness(products, int(mean.argmax()))
    else:
        # Of channels that are all clean the quietest is the measure.
        cleanness = np.minimum(level / np.maximum(floor, 1.0), 1 / _CLEAN)
        cleanest = int(np.where(cleanness == cleanness.max(), level, np.inf).argmin())
        likeness = _likeness(products, cleanest)
        shares = np.sqrt(np.minimum(level, level[cleanest])) / np.maximum(floor, _CLEAN * level.max())
        shares = np.where((np.abs(likeness) < _SAME) & (level > 0), shares[cleanest], shares)
    shares *= np.where(likeness < _MIRROR, -1.0, 1.0)
    return (shares / np.abs(shares).sum()).astype(np.float32)


def _better(weights: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """The weights, or equal ones where those are not seen to do better: float32 [C].

    Args:
        frames: products of the channels in the frames of the last two blocks, [frames, C, C].
    """
    equal = np.full(len(weights), 1 / len(weights), np.float32)
    heard = frames[frames.any(axis=(1, 2))]
    if not len(heard) or (weights == equal).all():
        return weights
    mixes = [_energies(candidate, heard) for candidate in (weights, equal)]
    # Frames are ranked by both, each with its usual loudness as the unit: neither choice is favoured by the ranking.
    order = np.argsort(sum(mix / max(float(np.sort(mix)[len(mix) // 2]), 1.0) for mix in mixes), kind="stable")
    part = max(1, round(_PART * len(order)))
    quiet, loud = order[:part], order[-part:]
    noises = [max(float(mix[quiet].sum()), float(part)) for mix in mixes]
    voices = [float(mix[loud].sum()) - noise for mix, noise in zip(mixes, noises, strict=True)]
    return weights if voices[0] * noises[1] > _WORTH * voices[1] * noises[0] else equal


def _energies(weights: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Energy of a mix in each frame, from the products of its channels."""
    shares = weights.astype(np.float64)
    # Term by term: none of BLAS's freedom.
    energies = np.zeros(len(frames))
    for a, row in enumerate(shares):
        for b, share in enumerate(shares):
            energies += row * share * frames[:, a, b]
    return np.maximum(energies, 0.0)


def _likeness(products: np.ndarray, reference: int) -> np.ndarray:
    """Correlation of each channel with one of them, -1 to 1."""
    energy = products.diagonal()
    likeness: np.ndarray = products[reference] / np.sqrt(energy * energy[reference] + 1)
    return likeness


def _gain(weights: np.ndarray, products: np.ndarray, block: np.ndarray, mono: np.ndarray) -> np.float32:
    """What makes the mix as loud as the loudest channel, with a peak no higher than the highest."""
    shares = weights.astype(np.float64)
    # Term by term: exact sums, and none of BLAS's freedom.
    energy = sum(a * b * product for a, row in zip(shares, products) for b, product in zip(shares, row))
    peak = float(max(mono.max(initial=0), -mono.min(initial=0)))
    if energy <= 0 or not peak:
        return np.float32(1)
    louder = math.sqrt(float(products.diagonal().max()) / energy)
    return np.float32(max(1.0, min(louder, float(max(block.max(), -block.min())) / peak)))


def _weighted_sum(block: np.ndarray, weights: np.ndarray) -> np.ndarray:
    # Channel by channel, not a matrix product: BLAS may add in another order on another machine.
    mono = block[0] * weights[0]
    for channel, weight in zip(block[1:], weights[1:], strict=True):
        mono += channel * weight
    return mono

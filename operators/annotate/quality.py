"""How good a clip's sound is: signal-to-noise ratio, bandwidth, clipping, and DNSMOS where its model is given.

    pcm ──Silero──> frames of speech and of none ──power of both──> SNR in dB
    pcm ──STFT──> spectrum of its loud moments ──cliff──> bandwidth in Hz
    pcm ──runs at full scale──> share that is clipped
    pcm ──windows of 9 s──sig_bak_ovr.onnx──polynomials──> DNSMOS P.835

Everything is a function of the clip's samples, and of its neighbours' where the clip has no pause of its own.
Measured here, judged elsewhere (limits.py). docs/benchmarks/curation.md says how right the numbers are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from operators.clip import SAMPLE_RATE, Quality
from operators.errors import UserError
from operators.speech.vad import SileroVad, VoiceActivity

NO_SPEECH = 0.2
"""A frame whose speech probability is below this is noise. Higher, and weak speech counts as noise (SNR too low)."""
FEWEST_FRAMES = 5
"""of noise (0.16 s) that an SNR is measured on; with fewer the pauses of the neighbours are heard as well."""
ENOUGH_FRAMES = 20
"""of noise (0.64 s) that tell it by themselves. Fewer are weighed against the quiet fifth of the clip, whatever that
is: a sound that comes and goes may not be heard in a short pause."""
MOST_DB = 100.0
"""SNR of a clip whose pauses are digital silence: no more fits into 16 bits."""

_WINDOW, _HOP = 512, 160
_LOUD = 95
"""percentile over time of each bin: a fricative that comes twice counts, a click does not."""
CLIFF_DB = 38.0
"""how far the spectrum falls at an edge that a filter made. Speech itself fell by 35 dB at the most, at the edge of a
low-bitrate codec, filters of 8-kHz audio by 40 dB at the least (docs/benchmarks/curation.md)."""
_EDGES_HZ = np.arange(1500, 6601, 125)


def _bins(lowest_hz: np.ndarray, highest_hz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the half-open stretches of the spectrum's bins whose frequencies lie within bounds, both counted in."""
    places = np.arange(_WINDOW // 2 + 1) * SAMPLE_RATE / _WINDOW
    return np.searchsorted(places, lowest_hz, "left"), np.searchsorted(places, highest_hz, "right")


_BELOW_EDGES = _bins(_EDGES_HZ - 900, _EDGES_HZ - 100)
_ABOVE_EDGES = _bins(_EDGES_HZ + 500, np.minimum(_EDGES_HZ + 1700, 7600))

FULL_SCALE = 32_440
"""99 % of it: resampling after clipping moves the peaks a little."""


class QualityMeter:
    """A QualityMeter measures clips. It loads Silero (its weights ship in a wheel) and, where a path is given, DNSMOS.

    Args:
        dnsmos: sig_bak_ovr.onnx of microsoft/DNS-Challenge, or the folder that holds it; None: DNSMOS is not measured.
        threads: of onnxruntime, for DNSMOS.
        vad: tells speech from noise, by frames of one probability each.

    Raises:
        UserError: there is no such model, or it is another.
    """

    def __init__(self, dnsmos: str | Path | None = None, *, threads: int = 1, vad: VoiceActivity | None = None) -> None:
        self._vad = vad or SileroVad()
        self._dnsmos = Dnsmos(dnsmos, threads=threads) if dnsmos is not None else None

    def measure(self, pcm: np.ndarray, neighbours: Sequence[np.ndarray] = ()) -> Quality:
        """Return the quality of int16 [samples]. neighbours: clips before and after it in its recording, nearest first,
        whose pauses hold the same noise.
        """
        power, is_noise = self._frames(pcm)
        noise = power[is_noise]
        for neighbour in neighbours:
            if len(noise) >= FEWEST_FRAMES:
                break
            their_power, is_their_noise = self._frames(neighbour)
            noise = np.concatenate([noise, their_power[is_their_noise]])
        scores = self._dnsmos(pcm) if self._dnsmos is not None and len(pcm) else (None, None, None)
        snr = snr_db(power, noise) if len(noise) >= FEWEST_FRAMES else None
        clipped = clipped_share(pcm)
        # Rounded: no digit behind these means anything, and the last of a float is not the same on every machine.
        sig, bak, ovrl = (None if score is None else round(score, 3) for score in scores)
        return Quality(
            snr_db=None if snr is None else round(snr, 2),
            bandwidth_hz=bandwidth_hz(pcm),
            clipped=None if clipped is None else round(clipped, 6),
            dnsmos_sig=sig,
            dnsmos_bak=bak,
            dnsmos_ovrl=ovrl,
        )

    def close(self) -> None:
        self._dnsmos = None

    def _frames(self, pcm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean square of each whole frame, and whether it holds no speech."""
        scores = self._vad.scores(pcm)
        count = min(len(scores.values), max(0, len(pcm) - scores.first) // scores.hop)
        frames = pcm[scores.first : scores.first + count * scores.hop].reshape(count, scores.hop)
        return np.square(frames, dtype=np.float64).mean(axis=1), scores.values[:count] < NO_SPEECH


def snr_db(power: np.ndarray, noise: np.ndarray) -> float | None:
    """Return the ratio of the mean power of speech over a clip to that of the noise in it, in dB.

    power: mean square of each frame of the clip, speech and pauses; noise: of frames without speech. None of a clip
    without a sound. Noise is taken to be as loud under the speech as beside it; where nothing is left above the noise
    the ratio is -10 dB.
    """
    if not len(power) or power.mean() <= 0:
        return None
    heard, quiet = float(noise.mean()), float(np.percentile(power, 20))
    if heard <= 0:
        return MOST_DB
    weight = min(1.0, len(noise) / ENOUGH_FRAMES)
    of_noise = float(heard**weight * max(quiet, 1e-2) ** (1 - weight))
    speech = max(float(power.mean()) - of_noise, 0.1 * of_noise)
    return float(min(10 * np.log10(speech / of_noise), MOST_DB))


def bandwidth_hz(pcm: np.ndarray) -> float | None:
    """Return the frequency above which a filter left nothing: about 3,400-4,100 for a telephone, 8,000 without an edge.

    The spectrum of the loud moments is searched for a cliff: a fall of CLIFF_DB from the 800 Hz below an edge to the
    1,200 Hz that begin 500 Hz above it. Noise above the edge that came with the audio makes it no telephone's. None of
    a clip shorter than a frame, or without a sound.
    """
    if len(pcm) < _WINDOW or not pcm.any():
        return None
    frames = np.lib.stride_tricks.sliding_window_view(pcm, _WINDOW)[::_HOP] * np.hanning(_WINDOW).astype(np.float32)
    spectra = np.fft.rfft(frames, axis=1)
    powers = np.square(spectra.real) + np.square(spectra.imag)
    # The nearest rank: np.percentile would sort every bin apart, and cost more than all the rest.
    rank = round(_LOUD / 100 * (len(powers) - 1))
    loud_db = 10 * np.log10(np.partition(powers, rank, axis=0)[rank] + 1e-3)
    sums = np.concatenate([[0.0], np.cumsum(loud_db, dtype=np.float64)])

    def mean_db(first: np.ndarray, behind: np.ndarray) -> np.ndarray:
        means: np.ndarray = (sums[behind] - sums[first]) / (behind - first)
        return means

    falls = mean_db(*_BELOW_EDGES) - mean_db(*_ABOVE_EDGES)
    steepest = int(np.argmax(falls))
    return float(_EDGES_HZ[steepest]) if falls[steepest] >= CLIFF_DB else SAMPLE_RATE / 2


def clipped_share(pcm: np.ndarray) -> float | None:
    """Return the share of samples that lie in a run of two and more at full scale, 0-1; None of an empty clip."""
    if not len(pcm):
        return None
    over = np.zeros(len(pcm) + 2, bool)
    over[1:-1] = (pcm >= FULL_SCALE) | (pcm <= -FULL_SCALE)
    return float(np.count_nonzero(over[1:-1] & (over[:-2] | over[2:])) / len(pcm))


class Dnsmos:
    """A Dnsmos is Microsoft's model of what listeners would say (1-5) of speech, background, and both.

    Source: Reddy et al., DNSMOS P.835, ICASSP 2022; windows and polynomials are those of DNSMOS/dnsmos_local.py.
    """

    WINDOW = 144_160
    _POLYNOMIALS = (
        (-0.08397278, 1.22083953, 0.0052439),
        (-0.13166888, 1.60915514, -0.39604546),
        (-0.06766283, 1.11546468, 0.04602535),
    )

    def __init__(self, path: str | Path, *, threads: int = 1) -> None:
        import onnxruntime

        file = Path(path)
        file = file / "sig_bak_ovr.onnx" if file.is_dir() else file
        if not file.is_file():
            raise UserError(f"no DNSMOS model at {file}: give sig_bak_ovr.onnx of microsoft/DNS-Challenge")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise UserError(f"{file} cannot be loaded ({' '.join(str(error).split())[:200]}): copy it again") from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or list(inputs[0].shape)[1:] != [self.WINDOW]:
            raise UserError(f"{file} is no DNSMOS P.835 model: give sig_bak_ovr.onnx of microsoft/DNS-Challenge")
        self._input = inputs[0].name

    def __call__(self, pcm: np.ndarray) -> tuple[float, float, float]:
        """Return (sig, bak, ovrl) of int16 [samples], at least one: the mean over windows of 9.01 s, one each second.

        A shorter clip is heard over and over, as in the authors' script.
        """
        audio = pcm.astype(np.float32) / 32768
        while len(audio) < self.WINDOW:
            audio = np.concatenate([audio, audio])
        starts = [second * SAMPLE_RATE for second in range(max(1, len(audio) // SAMPLE_RATE - 9))]
        raw = [self._session.run(None, {self._input: audio[None, at : at + self.WINDOW]})[0][0] for at in starts]
        sig, bak, ovrl = (
            float(np.mean(np.polyval(polynomial, np.array(raw, np.float64)[:, index])))
            for index, polynomial in enumerate(self._POLYNOMIALS)
        )
        return sig, bak, ovrl

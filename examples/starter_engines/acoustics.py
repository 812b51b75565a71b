"""What happens to speech on its way into a crawl: rooms, noise, babble, music, telephone bands and codecs.

    float32 [samples], 16 kHz ──reverberate──> ──add_noise(kind, snr_db)──> ──band_limit | through_codec──> same shape

All seeded by the numpy generator given. Noise is made here, not recorded, so nothing needs a licence.
"""

from __future__ import annotations

import io

import numpy as np

SAMPLE_RATE = 16000
NOISES = ("white", "pink", "brown", "street", "music")


def _coloured(r: np.random.Generator, samples: int, slope: float) -> np.ndarray:
    spectrum = np.fft.rfft(r.standard_normal(samples))
    frequency = np.maximum(np.arange(len(spectrum)), samples * 30 / SAMPLE_RATE)  # flat below 30 Hz
    return np.fft.irfft(spectrum * frequency**slope, samples)


def _street(r: np.random.Generator, samples: int) -> np.ndarray:
    """Rumble that swells as cars pass, and now and then a horn."""
    rumble = _unit(_coloured(r, samples, -1.0)) + 0.3 * _unit(_coloured(r, samples, -0.3))
    points = max(2, samples // SAMPLE_RATE)
    swell = np.interp(np.arange(samples), np.linspace(0, samples, points), r.uniform(0.3, 1.6, points))
    out = rumble * swell
    time = np.arange(samples) / SAMPLE_RATE
    for _ in range(r.poisson(samples / SAMPLE_RATE / 12)):
        start, length, pitch = r.uniform(0, time[-1]), r.uniform(0.2, 0.7), r.uniform(300, 500)
        inside = (time >= start) & (time < start + length)
        out[inside] += 0.8 * np.sign(np.sin(2 * np.pi * pitch * time[inside]))
    return out


def music(r: np.random.Generator, samples: int) -> np.ndarray:
    """Plucked chords over a bass in one key, 70 to 130 beats a minute, and a soft beat: float64 [samples], power 1."""
    out = np.zeros(samples + 2 * SAMPLE_RATE)
    beat = int(SAMPLE_RATE * 60 / r.uniform(70, 130))
    root = r.integers(45, 58)
    progression = [(0, 4, 7), (9, 12, 16), (5, 9, 12), (7, 11, 14)]
    for index, start in enumerate(range(0, samples, beat)):
        chord = progression[(index // 4) % 4]
        notes = [root + chord[0] - 12] if index % 4 == 0 else []
        notes += [root + 12 + r.choice(chord) for _ in range(2)]
        for note in notes:
            length = int(SAMPLE_RATE * r.uniform(0.4, 1.8))
            time = np.arange(length) / SAMPLE_RATE
            pitch = 440 * 2 ** ((note - 69) / 12)
            tone = sum(np.sin(2 * np.pi * pitch * k * time) / k**1.5 for k in range(1, 6))
            out[start : start + length] += tone * np.exp(-3 * time) * r.uniform(0.5, 1)
        click = np.exp(-np.arange(1600) / 200.0)
        out[start : start + 1600] += 0.4 * r.standard_normal(1600) * click
    return _unit(out[:samples])


def _unit(x: np.ndarray) -> np.ndarray:
    return x / max(1e-9, float(np.sqrt(np.mean(x**2))))


def noise(r: np.random.Generator, kind: str, samples: int) -> np.ndarray:
    """Noise of a kind in NOISES: float64 [samples], power 1."""
    if kind == "music":
        return music(r, samples)
    if kind == "street":
        return _unit(_street(r, samples))
    return _unit(_coloured(r, samples, {"white": 0.0, "pink": -0.5, "brown": -1.0}[kind]))


def mix(speech: np.ndarray, background: np.ndarray, snr_db: float) -> np.ndarray:
    """`speech` over `background` (same length) at a signal-to-noise ratio over the loud part of the speech."""
    loud = speech[np.abs(speech) > 0.02]
    power = float(np.mean(loud**2)) if len(loud) else 1e-4
    out = speech + _unit(background) * np.sqrt(power / 10 ** (snr_db / 10))
    return (out * min(1.0, 0.95 / max(1e-9, float(np.abs(out).max())))).astype(np.float32)


def reverberate(r: np.random.Generator, speech: np.ndarray, seconds: float) -> np.ndarray:
    """A room whose echo falls by 60 dB in `seconds`: the direct sound and an exponentially decaying noise tail."""
    from scipy.signal import fftconvolve

    length = int(seconds * SAMPLE_RATE)
    tail = r.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
    tail[: SAMPLE_RATE // 200] = 0
    response = 0.35 * tail / np.sqrt(np.sum(tail**2) + 1e-9)
    response[0] = 1.0
    wet = fftconvolve(speech, response)[: len(speech)]
    return (wet * min(1.0, 0.6 / max(1e-9, float(np.abs(wet).max())))).astype(np.float32)


def band_limit(speech: np.ndarray, rate: int) -> np.ndarray:
    """As it sounds after a device that samples at `rate` (8000 for a telephone)."""
    from scipy.signal import resample_poly

    low = resample_poly(speech, rate // 50, SAMPLE_RATE // 50)
    back = resample_poly(low, SAMPLE_RATE // 50, rate // 50).astype(np.float32)
    return np.pad(back, (0, max(0, len(speech) - len(back))))[: len(speech)]


def through_mp3(speech: np.ndarray, quality: float) -> np.ndarray:
    """Encoded to MP3 and back; quality 0 (best) to 1 (worst)."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, speech, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III", compression_level=quality)
    buffer.seek(0)
    decoded, _ = soundfile.read(buffer, dtype="float32")
    return np.pad(decoded, (0, max(0, len(speech) - len(decoded))))[: len(speech)]

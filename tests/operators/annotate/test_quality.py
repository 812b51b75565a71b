"""Quality of a clip against plain references: what was mixed is what is measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import butter, resample_poly, sosfilt

from operators.annotate import quality
from operators.annotate.quality import Dnsmos, QualityMeter, bandwidth_hz, clipped_share, snr_db
from operators.clip import SAMPLE_RATE
from operators.errors import UserError
from operators.speech.vad import Scores

DNSMOS = Path(__file__).resolve().parents[4] / "shared/models/dnsmos/sig_bak_ovr.onnx"


class KnownSpeech:
    """A voice activity detector that is told where speech is: in samples from `first` to `last`."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last = first, last

    def scores(self, pcm: np.ndarray) -> Scores:
        starts = np.arange(len(pcm) // 512) * 512
        return Scores(((starts + 512 > self.first) & (starts < self.last)).astype(np.float32), first=0, hop=512)

    def speech(self, pcm: np.ndarray) -> list:  # type: ignore[type-arg]
        raise NotImplementedError


def noise(seconds: float, rms: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, rms, round(seconds * SAMPLE_RATE))


def pcm(samples: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(samples), -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("wanted", [0, 5, 20, 40])
def test_the_snr_is_that_of_the_mixture(wanted: float) -> None:
    speech = np.zeros(4 * SAMPLE_RATE)
    speech[SAMPLE_RATE : 3 * SAMPLE_RATE] = noise(2, 2000)
    hiss = noise(4, 1, seed=1) * np.sqrt((speech**2).mean()) / 10 ** (wanted / 20)
    measured = QualityMeter(vad=KnownSpeech(SAMPLE_RATE, 3 * SAMPLE_RATE)).measure(pcm(speech + hiss)).snr_db
    assert measured == pytest.approx(10 * np.log10((speech**2).mean() / (hiss**2).mean()), abs=0.3)


def test_a_clip_without_a_pause_hears_its_neighbours_and_alone_has_no_snr() -> None:
    speech, hiss = noise(3, 3000), noise(3, 300, seed=1)
    everywhere = QualityMeter(vad=KnownSpeech(0, 3 * SAMPLE_RATE))
    assert everywhere.measure(pcm(speech + hiss)).snr_db is None
    # The neighbour goes on for two seconds after its speech.
    neighbour = pcm(np.concatenate([noise(3, 3000, seed=2), np.zeros(2 * SAMPLE_RATE)]) + noise(5, 300, seed=3))
    assert everywhere.measure(pcm(speech + hiss), [neighbour]).snr_db == pytest.approx(20, abs=0.5)


def test_an_snr_stays_within_what_can_be_told() -> None:
    ones = np.ones(10)
    assert snr_db(ones, np.zeros(6)) == quality.MOST_DB
    assert snr_db(ones, ones) == snr_db(ones, 2 * ones) == pytest.approx(-10), "nothing is left above the noise"
    assert snr_db(np.zeros(10), np.zeros(6)) is None


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    """Pulses of a voice and hisses of fricatives in turn, over the whole band, falling as speech falls."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    voice = (np.sin(2 * np.pi * 120 * time) > 0.99).astype(float)
    voiced = sosfilt(butter(2, 1500, fs=SAMPLE_RATE, output="sos"), voice + noise(seconds, 0.003, seed))
    hiss = sosfilt(butter(2, 3000, "high", fs=SAMPLE_RATE, output="sos"), noise(seconds, 0.05, seed + 1))
    mixed = np.where((4 * time).astype(int) % 3 == 2, hiss, voiced)
    return mixed / np.abs(mixed).max() * 12_000


def test_the_bandwidth_is_where_a_filter_cut() -> None:
    wide = speech_like(4)
    assert bandwidth_hz(pcm(wide)) == 8000
    assert bandwidth_hz(pcm(wide + noise(4, 200, seed=5))) == 8000, "noise over all of the band is no telephone"
    for rate in (16_000, 48_000):  # what an 8 kHz recording becomes on its way into a wide-band file
        narrow = pcm(resample_poly(wide, 1, 2)).astype(float)
        file = pcm(resample_poly(narrow, rate // 8000, 1)).astype(float)
        assert 3400 <= bandwidth_hz(pcm(resample_poly(file, 1, rate // SAMPLE_RATE))) <= 4400  # type: ignore[operator]
    assert 2000 <= bandwidth_hz(pcm(resample_poly(resample_poly(wide, 3, 10), 10, 3))) <= 2900  # type: ignore[operator]
    assert bandwidth_hz(np.zeros(SAMPLE_RATE, np.int16)) is None
    assert bandwidth_hz(np.ones(100, np.int16)) is None


def test_clipped_samples_are_counted_as_a_plain_loop_counts_them() -> None:
    loud = np.clip(noise(1, 25_000), -32768, 32767)
    loud[1000] = 32767  # one peak that just reaches full scale is no clipping
    loud[999] = loud[1001] = 0
    audio = pcm(loud)
    over = [abs(int(sample)) >= quality.FULL_SCALE for sample in audio]
    expected = sum(
        here and ((place > 0 and over[place - 1]) or (place + 1 < len(over) and over[place + 1]))
        for place, here in enumerate(over)
    )
    assert clipped_share(audio) == expected / len(audio) > 0.01
    assert clipped_share(pcm(noise(1, 1000))) == 0
    assert clipped_share(np.zeros(0, np.int16)) is None


def test_silero_tells_the_noise_of_a_clip_from_what_is_no_noise() -> None:
    """With the real detector: a hiss alone is noise all over."""
    measured = QualityMeter().measure(pcm(noise(3, 500)))
    assert measured.snr_db == pytest.approx(-10)
    assert (measured.bandwidth_hz, measured.clipped, measured.dnsmos_ovrl) == (8000, 0, None)


@pytest.mark.skipif(not DNSMOS.is_file(), reason="needs ../shared/models/dnsmos beside the repository")
def test_dnsmos_is_what_its_authors_script_computes() -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(DNSMOS), providers=["CPUExecutionProvider"])
    audio = pcm(speech_like(11.2) / 4 + noise(11.2, 100))

    def reference(clip: np.ndarray) -> list[float]:
        samples = clip / np.float32(32768)
        while len(samples) < 144_160:
            samples = np.append(samples, samples)
        found = []
        for hop in range(int(np.floor(len(samples) / 16_000) - 9.01) + 1):
            window = samples[hop * 16_000 : int((hop + 9.01) * 16_000)]
            sig, bak, ovr = session.run(None, {"input_1": window[np.newaxis].astype("float32")})[0][0]
            found.append(
                (
                    -0.08397278 * sig**2 + 1.22083953 * sig + 0.0052439,
                    -0.13166888 * bak**2 + 1.60915514 * bak - 0.39604546,
                    -0.06766283 * ovr**2 + 1.11546468 * ovr + 0.04602535,
                )
            )
        return np.mean(found, axis=0).tolist()

    dnsmos = Dnsmos(DNSMOS.parent)
    for clip in (audio, audio[: 5 * SAMPLE_RATE]):  # two windows; heard twice over, one
        found = dnsmos(clip)
        assert found == pytest.approx(reference(clip), abs=1e-4)
        assert 1 <= min(found) <= max(found) <= 5


def test_a_model_that_is_no_dnsmos_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no DNSMOS model at .*: give sig_bak_ovr\.onnx"):
        QualityMeter(tmp_path)
    (tmp_path / "sig_bak_ovr.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="cannot be loaded"):
        QualityMeter(tmp_path)

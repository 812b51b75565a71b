"""Voice activity engines: thresholds against whisperX's own code, real speech found, silence and odd lengths
survived.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.audio.decode import decode
from operators.clip import SAMPLE_RATE, Span
from operators.errors import UserError
from operators.speech import fsmn
from operators.speech.vad import PyannoteVad, Scores, Thresholds, VoiceActivity, hysteresis, load_vad

ENGINES = ("pyannote", "silero", "fsmn")


def thresholds(onset: float = 0.5, offset: float = 0.3, speech: float = 0.0, silence: float = 0.0) -> Thresholds:
    return Thresholds(onset=onset, offset=offset, min_speech_seconds=speech, min_silence_seconds=silence)


@pytest.fixture(scope="module")
def fsmn_dir(shared: Path) -> Path:
    folder = shared / "models" / "fsmn-vad"
    if not folder.is_dir():
        pytest.skip("no ../shared/models/fsmn-vad: the FSMN weights are not here")
    return folder


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> VoiceActivity:
    if request.param == "fsmn":
        return load_vad("fsmn", model=request.getfixturevalue("fsmn_dir"))
    return load_vad(request.param)


@pytest.fixture(scope="module")
def reading(crawl: Path) -> np.ndarray:
    """68 s of an audiobook with pauses."""
    return decode(str(crawl / "audiobook" / "kathleen-s000.wav")).pcm


# --- scores to spans --------------------------------------------------------------------------------------------------


def slow_hysteresis(values: np.ndarray, onset: float, offset: float) -> list[tuple[int, int]]:
    """The obvious loop: first and one-past-last frame of every active run."""
    runs, start = [], None
    for i, value in enumerate(values):
        if start is None and value > onset:
            start = i
        elif start is not None and value < offset:
            runs.append((start, i))
            start = None
    return runs if start is None else [*runs, (start, len(values))]


scores = st.lists(st.sampled_from([0.0, 0.2, 0.3, 0.31, 0.49, 0.5, 0.51, 0.9]), max_size=60)


@given(scores)
def test_hysteresis_is_the_obvious_loop(values: list[float]) -> None:
    found = hysteresis(Scores(np.array(values, np.float32), 0, 100), len(values) * 100, thresholds())
    runs = slow_hysteresis(np.array(values, np.float32), 0.5, 0.3)
    assert found == [Span(start * 100, end * 100) for start, end in runs]


@given(scores, st.integers(0, 900), st.integers(0, 9000), st.floats(0, 0.1), st.floats(0, 0.1))
def test_spans_are_ordered_inside_and_no_shorter_than_asked(
    values: list[float], first: int, total: int, speech: float, silence: float
) -> None:
    rule = thresholds(speech=speech, silence=silence)
    found = hysteresis(Scores(np.array(values, np.float32), first, 150), total, rule)
    assert all(span.samples >= max(1, round(speech * SAMPLE_RATE)) for span in found)
    assert all(right.start - left.end >= round(silence * SAMPLE_RATE) for left, right in itertools.pairwise(found))
    assert all(left.end < right.start for left, right in itertools.pairwise(found))
    assert not found or found[-1].end <= total


def test_speech_at_both_edges_reaches_the_edges() -> None:
    found = hysteresis(Scores(np.array([0.9, 0.9, 0.0, 0.9], np.float32), 500, 300), 1700, thresholds())
    assert found == [Span(0, 1100), Span(1400, 1700)]


def test_hysteresis_is_whisperx_binarize() -> None:
    """Same spans as the code in whisperX that this replaces, except that speech at an edge reaches the edge here."""
    from pyannote.core import SlidingWindow, SlidingWindowFeature
    from whisperx.vads.pyannote import Binarize

    rng = np.random.default_rng(3)
    values = np.clip(np.convolve(rng.normal(0.45, 0.8, 4000), np.ones(9) / 9, "same"), 0, 1).astype(np.float32)
    values[0] = values[-1] = 0.0
    frames = SlidingWindow(start=0.0, duration=991 / SAMPLE_RATE, step=270 / SAMPLE_RATE)
    theirs = Binarize(onset=0.5, offset=0.363)(SlidingWindowFeature(values[:, None], frames))
    ours = hysteresis(Scores(values, 991 // 2, 270), 4000 * 270 + 991, thresholds(0.5, 0.363))
    expected = [(segment.start * SAMPLE_RATE, segment.end * SAMPLE_RATE) for segment in theirs.get_timeline()]
    assert len(expected) > 100
    np.testing.assert_allclose([(span.start, span.end) for span in ours], expected, atol=1.0)


# --- every engine -----------------------------------------------------------------------------------------------------


def test_speech_is_found_and_pauses_are_not(engine: VoiceActivity, reading: np.ndarray, crawl: Path) -> None:
    import json

    lines = (crawl / "truth.jsonl").read_text("utf-8").splitlines()
    record = next(r for line in lines if (r := json.loads(line))["recording_id"] == "kathleen-s000")
    truth = np.zeros(len(reading), bool)
    for segment in record["segments"]:
        truth[round(segment["start_s"] * SAMPLE_RATE) : round(segment["end_s"] * SAMPLE_RATE)] = True
    found = np.zeros(len(reading), bool)
    for span in engine.speech(reading):
        found[span.start : span.end] = True
    assert (found & truth).sum() > 0.9 * truth.sum()
    assert (found & truth).sum() > 0.88 * found.sum()


def test_nothing_is_remembered_between_calls(engine: VoiceActivity, reading: np.ndarray) -> None:
    piece = reading[: 15 * SAMPLE_RATE]
    first = engine.scores(piece).values
    engine.scores(reading[20 * SAMPLE_RATE : 31 * SAMPLE_RATE])
    np.testing.assert_array_equal(engine.scores(piece).values, first)


@pytest.mark.parametrize("level", [0, 1, 3])
def test_silence_is_not_speech(engine: VoiceActivity, level: int) -> None:
    pcm = np.random.default_rng(0).integers(-level, level + 1, 12 * SAMPLE_RATE).astype(np.int16)
    assert engine.speech(pcm) == []


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 511, 990, SAMPLE_RATE, 5 * SAMPLE_RATE, 5 * SAMPLE_RATE + 1])
def test_any_length_is_scored_inside_the_array(engine: VoiceActivity, reading: np.ndarray, samples: int) -> None:
    pcm = reading[2 * SAMPLE_RATE : 2 * SAMPLE_RATE + samples]
    found = engine.scores(pcm)
    assert found.values.dtype == np.float32
    assert np.isfinite(found.values).all()
    spans = engine.speech(pcm)
    assert spans == sorted(spans)
    assert all(0 <= span.start < span.end <= samples for span in spans)


def test_frames_sit_where_they_say(engine: VoiceActivity, reading: np.ndarray) -> None:
    """Speech set between long silences is found where it was put, to 0.15 s."""
    word = reading[round(1.5 * SAMPLE_RATE) : round(4.2 * SAMPLE_RATE)]
    for lead in (3.0, 8.3):
        pcm = np.zeros(round((lead + 4) * SAMPLE_RATE) + len(word), np.int16)
        pcm[round(lead * SAMPLE_RATE) : round(lead * SAMPLE_RATE) + len(word)] = word
        spans = engine.speech(pcm)
        assert spans[0].start / SAMPLE_RATE == pytest.approx(lead, abs=0.15)
        assert spans[-1].end / SAMPLE_RATE == pytest.approx(lead + len(word) / SAMPLE_RATE, abs=0.3)


# --- one engine at a time ---------------------------------------------------------------------------------------------


def test_pyannote_at_its_own_step_is_whisperx(reading: np.ndarray) -> None:
    """At step 0.5 and whisperX's batch size the scores are those of whisperX's own loader and pipeline."""
    import torch
    from whisperx.vads.pyannote import load_vad_model

    pcm = reading[: 12 * SAMPLE_RATE]
    theirs = load_vad_model("cpu")(
        {"waveform": torch.from_numpy(pcm / np.float32(32768))[None], "sample_rate": SAMPLE_RATE}
    )
    ours = load_vad("pyannote", step=0.5, batch_size=32).scores(pcm)
    np.testing.assert_array_equal(ours.values, theirs.data[:, 0])
    assert ours.hop / SAMPLE_RATE == pytest.approx(theirs.sliding_window.step)


def test_two_voices_at_once_are_heard_in_a_meeting_and_not_in_a_reading(reading: np.ndarray, crawl: Path) -> None:
    engine = load_vad("pyannote", step=5.0)
    assert isinstance(engine, PyannoteVad)
    alone = engine.overlap(reading)
    assert (alone.values > 0.5).mean() == 0
    truth = {line["recording_id"]: line for line in map(json.loads, (crawl / "truth.jsonl").open(encoding="utf-8"))}
    meeting = truth["talk #s150 & what's next?"]
    scores = engine.overlap(decode(str(crawl / meeting["path"])).pcm[: 60 * SAMPLE_RATE])
    times = (scores.first + scores.hop * np.arange(len(scores.values))) / SAMPLE_RATE
    speaking = sum((times >= turn["start_s"]) & (times < turn["end_s"]) for turn in meeting["segments"])
    found = scores.values > 0.5
    assert found.sum() > 100
    assert (found & (speaking >= 2)).sum() > 0.7 * found.sum()
    assert len(engine.overlap(reading[:0]).values) == 0


@pytest.mark.gpu
def test_pyannote_in_half_precision_hears_the_same(reading: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("half precision needs a CUDA device")
    full = load_vad("pyannote", device="cuda").scores(reading).values
    half = load_vad("pyannote", device="cuda", half=True).scores(reading).values
    assert float(np.abs(full - half).mean()) < 0.01


def test_fsmn_in_blocks_is_fsmn_at_once(fsmn_dir: Path, reading: np.ndarray) -> None:
    """Features of FunASR's own frontend through one run of the network give the scores that blocks give."""
    import onnxruntime
    import torch
    from funasr.frontends.wav_frontend import WavFrontend

    frontend = WavFrontend(cmvn_file=str(fsmn_dir / "am.mvn"), lfr_m=5, lfr_n=1, dither=0.0)
    features, _ = frontend(torch.from_numpy(reading / np.float32(32768))[None], torch.tensor([len(reading)]))
    session = onnxruntime.InferenceSession(str(fsmn_dir / "model.onnx"), providers=["CPUExecutionProvider"])
    caches = {f"in_cache{i}": np.zeros((1, 128, 19, 1), np.float32) for i in range(4)}
    expected = session.run(None, {"speech": features.numpy()} | caches)[0][0, :, 0]
    found = fsmn.silence(fsmn.load_network(fsmn_dir), reading)
    assert len(found) > 6000  # more than one block
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_fsmn_loads_a_torch_directory_of_funasr(tmp_path: Path) -> None:
    """A directory as FunASR ships it, with random weights: streamed blocks equal its encoder run at once."""
    import torch
    from funasr.models.fsmn_vad_streaming.encoder import FSMN

    shape = {
        "input_dim": 400,
        "input_affine_dim": 24,
        "fsmn_layers": 2,
        "linear_dim": 32,
        "proj_dim": 16,
        "lorder": 20,
        "rorder": 0,
        "lstride": 1,
        "rstride": 0,
        "output_affine_dim": 24,
        "output_dim": 248,
    }
    torch.manual_seed(0)
    encoder = FSMN(**shape).eval()
    torch.save({f"encoder.{name}": value for name, value in encoder.state_dict().items()}, tmp_path / "model.pt")
    config = "model: FsmnVADStreaming\nmodel_conf: {}\nencoder: FSMN\nfrontend: WavFrontendOnline\n"
    config += f"encoder_conf: {shape}\nfrontend_conf: {{fs: 16000, window: hamming, n_mels: 80, lfr_m: 5, lfr_n: 1}}\n"
    (tmp_path / "config.yaml").write_text(config, "utf-8")
    ones = " ".join(["1"] * 400)
    cmvn = "<Nnet>\n<Splice> 400 400\n[ 0 ]\n<AddShift> 400 400\n<LearnRateCoef> 0 [ {0} ]\n<Rescale> 400 400\n"
    (tmp_path / "am.mvn").write_text((cmvn + "<LearnRateCoef> 0 [ {0} ]\n</Nnet>\n").format(ones), "utf-8")

    network = fsmn.load_network(tmp_path)
    features = np.random.default_rng(0).normal(size=(300, 400)).astype(np.float32)
    with torch.inference_mode():
        expected = encoder(torch.from_numpy(features + 1)[None])[0, :, 0].numpy()
    state, parts = network.start(), []
    for begin in range(0, 300, 100):
        part, state = network(features[begin : begin + 100], state)
        parts.append(part)
    np.testing.assert_allclose(np.concatenate(parts), expected, rtol=1e-4, atol=1e-6)


# --- mistakes of the user ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "wrong", "says"),
    [
        ("webrtc", {}, "choose one of pyannote, silero, fsmn"),
        ("silero", {"step": 1.0}, "silero has no setting 'step'"),
        ("silero", {"onset": 0.3, "offset": 0.4}, "offset <= onset"),
        ("silero", {"min_speech_seconds": -1.0}, "negative"),
        ("pyannote", {"step": 6.0}, "at most 5"),
        ("pyannote", {"batch_size": 0}, "batch_size"),
        ("pyannote", {"half": True}, "device=cuda"),
        ("pyannote", {"model": "/no/such/model.bin"}, "no pyannote checkpoint at /no/such/model.bin"),
        ("fsmn", {"model": "/no/such/folder"}, "no FSMN-VAD model at /no/such/folder"),
    ],
)
def test_a_mistake_is_one_line_that_says_how_to_fix_it(engine: str, wrong: dict, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load_vad(engine, **wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("broken", ["model.onnx", "am.mvn", "no am.mvn"])
def test_a_damaged_fsmn_directory_is_a_users_mistake(fsmn_dir: Path, tmp_path: Path, broken: str) -> None:
    for name in ("model.onnx", "am.mvn"):
        if broken == name:
            (tmp_path / name).write_text("not this", "utf-8")
        elif broken != f"no {name}":
            (tmp_path / name).write_bytes((fsmn_dir / name).read_bytes())
    with pytest.raises(UserError, match=str(broken.removeprefix("no "))):
        load_vad("fsmn", model=tmp_path)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(-32768, 32767), min_size=8, max_size=8))
def test_loud_clipped_noise_is_scored_without_complaint(levels: list[int]) -> None:
    pcm = np.repeat(np.array(levels, np.int16), SAMPLE_RATE // 4)
    assert np.isfinite(load_vad("silero").scores(pcm).values).all()

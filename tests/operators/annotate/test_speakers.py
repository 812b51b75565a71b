"""Speakers of a recording, by a tiny embedding made for it: which voice it is, is how bright it sounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from operators.annotate.annotator import ClipSpeaker, Heard
from operators.annotate.speakers import SpeakerClusters, cluster
from operators.clip import SAMPLE_RATE
from operators.errors import UserError


def voice(number: int, seconds: float, seed: int) -> np.ndarray:
    """Noise in one of three bands."""
    low, high = ((100, 800), (1200, 2500), (4000, 7000))[number]
    noise = np.random.default_rng(seed).normal(0, 3000, round(seconds * SAMPLE_RATE))
    return sosfilt(butter(4, (low, high), "band", fs=SAMPLE_RATE, output="sos"), noise).astype(np.int16)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A graph as an export of WeSpeaker is: [1, frames, 80] to [1, 8], here by deviations over time of eight bands."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    bands = np.kron(np.eye(8), np.ones((10, 1))).astype(np.float32) / 10
    nodes = [
        helper.make_node("Mul", ["feats", "feats"], ["square"]),
        helper.make_node("MatMul", ["square", "bands"], ["banded"]),
        helper.make_node("ReduceMean", ["banded"], ["embs"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("feats", TensorProto.FLOAT, ["B", "T", 80])],
        [helper.make_tensor_value_info("embs", TensorProto.FLOAT, ["B", 8])],
        [numpy_helper.from_array(bands, "bands")],
    )
    file = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)
    return str(file)


class Loudest:
    """An embedding of one's own: the share of power in each of three bands."""

    name = "loudest"

    def __init__(self, sharp: float = 1.0) -> None:
        self.sharp = sharp

    def embed(self, pcm: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.rfft(pcm.astype(np.float64))) ** 2
        places = np.fft.rfftfreq(len(pcm), 1 / SAMPLE_RATE)
        bands = [power[(places >= low) & (places < low + 3000)].sum() for low in (0, 1000, 4000)]
        bands[0] = power[places < 1000].sum()
        bands[1] = power[(places >= 1000) & (places < 3500)].sum()
        return (np.array(bands) / sum(bands)) ** self.sharp

    def close(self) -> None:
        self.closed = True


OWN = f"{__name__}:Loudest"


def heard(*voices: int, seconds: float = 4.0) -> list[Heard]:
    return [Heard(pcm=voice(number, seconds, seed), text="") for seed, number in enumerate(voices)]


def test_clips_of_one_voice_have_one_number_in_order_of_appearance() -> None:
    told = SpeakerClusters(embedding=OWN, overlap=False)
    assert [each.number for each in told.speakers(heard(2, 0, 2, 1, 0, 1, 2))] == [0, 1, 0, 2, 1, 2, 0]
    assert told.speakers([]) == []
    assert told.speakers(heard(1)) == [ClipSpeaker(number=0, overlap=None)]
    assert told.name == "clusters/loudest"


def test_a_clip_of_two_voices_is_nobodys_and_of_mostly_one_is_that_ones() -> None:
    both = np.concatenate([voice(0, 6, 1), voice(2, 6, 2)])
    mostly = np.concatenate([voice(0, 12, 3), voice(2, 3, 4)])
    clips = [Heard(pcm=pcm, text="") for pcm in (both, mostly, voice(2, 4, 5), voice(0, 0.2, 6))]
    told = SpeakerClusters(embedding=OWN, overlap=False, options={"sharp": 2.0})
    assert [each.number for each in told.speakers(clips)] == [None, 0, 1, None]


def test_the_threshold_says_how_far_one_voice_may_stray() -> None:
    vectors = np.array([[1, 0.0], [0.9, 0.1], [0, 1], [0.6, 0.8], [0, 0]])
    for threshold in (0.05, 0.3, 0.6, 1.5):
        groups = cluster(vectors[:4], threshold)
        # Average linkage by the plain rule: join the nearest pair of groups for as long as they are near enough.
        plain = [[index] for index in range(4)]
        unit = vectors[:4] / np.linalg.norm(vectors[:4], axis=1, keepdims=True)
        while len(plain) > 1:
            gaps = {
                (a, b): np.mean([1 - unit[i] @ unit[j] for i in plain[a] for j in plain[b]])
                for a in range(len(plain)) for b in range(a)
            }  # fmt: skip
            nearest = min(gaps, key=lambda pair: gaps[pair])
            if gaps[nearest] > threshold:
                break
            plain[nearest[1]] += plain.pop(nearest[0])
        assert sorted(map(sorted, plain)) == sorted(np.flatnonzero(groups == group).tolist() for group in set(groups))
    assert len(cluster(vectors, 0.3)) == 5, "a vector of nothing is like no other"
    assert cluster(vectors[:1], 0.3).tolist() == [0]


def test_an_onnx_embedding_hears_features_without_their_mean(embedding: str) -> None:
    """So it knows a voice by what moves: each swells twenty times a second over a noise that does not."""
    told = SpeakerClusters(embedding, threshold=0.2, overlap=False)
    swell = np.tile(np.repeat([1.0, 0.05], SAMPLE_RATE // 20), 20)
    hiss = np.random.default_rng(9).normal(0, 30, 2 * SAMPLE_RATE)
    clips = [
        Heard(pcm=(voice(number, 2, seed) * swell + hiss).astype(np.int16), text="")
        for seed, number in enumerate((0, 2, 0, 2))
    ]
    found = told.speakers(clips)
    assert [each.number for each in found] == [0, 1, 0, 1]
    assert told.speakers(clips) == found
    told.close()


def test_a_mistake_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    for settings, line in (
        ({"model": "none.onnx"}, "no such ONNX file"),
        ({"model": str(tmp_path / "bad.onnx")}, "cannot be loaded"),
        ({"embedding": "ecapa"}, "give one of onnx, cam"),
        ({"embedding": "tests.none:Class"}, "cannot be loaded"),
        ({"embedding": OWN, "options": {"loud": 1}}, "has no loud: it takes sharp"),
        ({"embedding": "pyannote", "model": str(tmp_path)}, r"no pytorch_model\.bin"),
        ({"embedding": OWN, "threshold": 3}, "between 0 and 2"),
        ({"embedding": OWN, "window_seconds": 0.1}, "window_seconds must be"),
    ):
        with pytest.raises(UserError, match=line):
            SpeakerClusters(**settings, overlap=False)  # type: ignore[arg-type]

"""Word times by CTC: the best path against torchaudio and by hand, the engine over an export, and the command."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import torchaudio.functional

from model_training.__main__ import main
from model_training.data.features import Cmvn
from model_training.decoding.align import CheckpointAligner, CtcAligner, ExportedAligner
from model_training.export.export import export
from model_training.text.tokenizer import Tokenizer
from model_training.text.tokens import Scheme
from operators.align.ctc import best_path, token_frames
from operators.annotate.annotator import Heard
from operators.clip import SAMPLE_RATE
from tests.support.corpus import make_checkpoint, one_thread


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


def test_the_best_path_is_torchaudios() -> None:
    rng = np.random.default_rng(0)
    compared = 0
    while compared < 200:
        longer = 12 if compared % 20 == 0 else 1  # some of more places than a byte counts
        vocabulary, frames = int(rng.integers(3, 30)), int(rng.integers(1, 60)) * longer
        ids = rng.integers(1, vocabulary, int(rng.integers(1, 12)) * longer)
        log_probs_SV = torch.log_softmax(torch.tensor(rng.normal(0, 3, (frames, vocabulary)), dtype=torch.float32), -1)
        path_S = best_path(log_probs_SV.numpy(), ids.tolist())
        if frames < len(ids) + int((ids[1:] == ids[:-1]).sum()):
            assert path_S is None
            continue
        wanted, _ = torchaudio.functional.forced_align(log_probs_SV[None], torch.tensor(ids)[None])
        places = np.zeros(2 * len(ids) + 1, int)
        places[1::2] = ids
        assert path_S is not None
        assert places[path_S].tolist() == wanted[0].tolist()
        for token, (first, last) in zip(ids, token_frames(path_S), strict=True):
            assert first < last
            assert (wanted[0][first:last] == token).all()
        compared += 1


def test_the_best_path_is_the_best_of_all() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        log_probs_SV = np.log(rng.dirichlet(np.ones(3), 5))
        best = max(
            sum(log_probs_SV[frame, token] for frame, token in enumerate(path))
            for path in itertools.product(range(3), repeat=5)
            if [token for token, _ in itertools.groupby(path) if token] == [1, 1, 2]
        )
        path_S = best_path(log_probs_SV, [1, 1, 2])
        assert path_S is not None
        tokens = np.array([0, 1, 0, 1, 0, 2, 0])[path_S]
        assert sum(log_probs_SV[range(5), tokens]) == pytest.approx(best)


def test_what_cannot_be_spelt_has_no_path() -> None:
    even = np.log(np.full((3, 3), 1 / 3))
    assert best_path(even, [1, 1, 2]) is None
    assert best_path(even[:0], []) is None
    never = even.copy()
    never[:, 2] = -np.inf
    assert best_path(never, [1, 2]) is None
    assert best_path(even, []).tolist() == [0, 0, 0]  # type: ignore[union-attr]


def spelt(text: str) -> Tokenizer:
    return Tokenizer.train([text], Scheme(), bpe_size=100)


def test_words_lie_where_their_letters_are_heard() -> None:
    """A model that is sure of every letter, over 60 s in windows of 5 s."""
    tokenizer = spelt("one two 你好")
    said = [("one", 3.0), ("two", 12.0), ("你", 31.0), ("好", 32.0), ("one", 55.0)]
    pcm = np.random.default_rng(0).normal(0, 3, 60 * SAMPLE_RATE)
    for _, start in said:
        at = round(start * SAMPLE_RATE)
        pcm[at : at + 4800] += np.random.default_rng(1).normal(0, 3000, 4800)
    heard = 0

    def log_probs(features_F80: np.ndarray) -> np.ndarray:
        """Blank, but for the letters of each word, one a frame, from its begin on, as if the audio had told."""
        nonlocal heard
        frames = (len(features_F80) - 7) // 4 + 1
        log_probs_SV = np.full((frames, len(tokenizer)), -20.0)
        log_probs_SV[:, 0] = 0
        loud = features_F80.mean(axis=1) > LEVEL
        begins = [frame for frame in range(len(loud)) if loud[frame] and not loud[max(0, frame - 30) : frame].any()]
        for begin in begins:
            ids = tokenizer.encode(said[heard][0])
            for number, token in enumerate(ids):
                log_probs_SV[min(begin // 4 + 1 + number, frames - 1), [0, token]] = -20, 0
            heard += 1
        return log_probs_SV

    aligner = CtcAligner("sure", log_probs, tokenizer, Cmvn(np.zeros(80), np.ones(80)), 500)
    found = aligner.place(pcm.astype(np.int16), "One, two 你好 <event:dog> Ωmega one")
    assert found is not None
    assert [word.text for word in found] == ["One", "two", "你", "好", "one"], "Ω is in no vocabulary: left out"
    for word, (_, start) in zip(found, said, strict=True):
        assert word.start / SAMPLE_RATE == pytest.approx(start, abs=0.06)
        assert word.end / SAMPLE_RATE == pytest.approx(start + 0.3, abs=0.11)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ("model.moe.experts=[3,7]", "data.max_clip_frames=200", "data.max_frames=2000")
    return make_checkpoint(tmp_path_factory.mktemp("run"), *settings)


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(checkpoint, 7, "onnx", tmp_path_factory.mktemp("onnx") / "n7", measure=False)[0].folder


LEVEL = 13.0
"""of the filterbank, between that of faint noise and of loud noise"""
PCM = np.random.default_rng(0).normal(0, 2000, 5 * SAMPLE_RATE).astype(np.int16)


def test_an_export_aligns_as_its_checkpoint_does_and_each_clip_alone(folder: Path, checkpoint: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    text = tokenizer.decode(tokenizer.text_ids)[:30]
    clips = [Heard(pcm=PCM, text=text), Heard(pcm=PCM[:8000], text="Ω"), Heard(pcm=PCM[:300], text=text)]
    exported, trained = ExportedAligner(str(folder)), CheckpointAligner(str(checkpoint))
    found = exported.align(clips)
    assert found[1:] == [None, None]
    assert found[0]
    assert found == [*exported.align(clips[:1]), None, None]
    assert trained.align(clips) == found
    edges = [edge for word in found[0] or () for edge in (word.start, word.end)]
    assert edges == sorted(edges)
    assert 0 <= edges[0] <= edges[-1] <= len(PCM)


def test_the_command_needs_no_torch_and_prints_what_others_read(folder: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(folder)
    (tmp_path / "said.txt").write_text(tokenizer.decode(tokenizer.text_ids)[:30], encoding="utf-8")
    soundfile.write(tmp_path / "a.flac", PCM, SAMPLE_RATE)
    program = (
        "import sys\n"
        "for name in ('torch', 'jiwer', 'rapidfuzz', 'onnx', 'ray'): sys.modules[name] = None\n"
        "from model_training.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = ["align", str(folder), str(tmp_path / "a.flac"), "--text-file", str(tmp_path / "said.txt")]
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) > 1
    assert all(0 <= line["start"] <= line["end"] <= 5 for line in lines)
    assert lines[0].keys() == {"word", "start", "end"}


def test_mistakes_are_a_line_each(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soundfile.write(tmp_path / "a.flac", PCM, SAMPLE_RATE)
    for command, line in (
        (["a.flac", "--text", "Ω"], "does not fit"),
        (["a.flac", "--text-file", "none.txt"], "cannot read none.txt"),
        (["none.flac", "--text", "a"], "cannot read none.flac"),
    ):
        audio = tmp_path / command[0]
        given = str(audio) if audio.exists() else command[0]
        assert main(["align", str(folder), given, *command[1:]]) == 2
        assert line in capsys.readouterr().err
    assert main(["align", str(tmp_path), str(tmp_path / "a.flac"), "--text", "a"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1

"""How long recordings are, before they are planned: as headers say, or measured, wherever they lie."""

from __future__ import annotations

import io
import os
import wave
from pathlib import Path

import numpy as np
import pytest

from operators.clip import SAMPLE_RATE
from operators.storage.base import S3Settings
from operators.storage.fetch import Fetch, open_store
from pipeline.config import PlanSettings, SourceSettings
from pipeline.sources.files import SourceFile, read_sources
from pipeline.sources.probe import probe_files
from pipeline.sources.units import make_plan
from tests.support.odd_recordings import aiff, encode
from tests.support.recordings import read, tar_bytes
from tests.support.s3_server import FaultyProxy


def wav(seconds: float) -> bytes:
    sink = io.BytesIO()
    with wave.open(sink, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * round(seconds * 16_000)))
    return sink.getvalue()


def test_lengths_are_what_the_headers_declare_wherever_the_file_lies(
    s3_server: str, bucket: str, tmp_path: Path
) -> None:
    contents = {"a.wav": wav(1.5), "long.wav": wav(60), "noise.wav": b"no audio" * 100, "empty.mp3": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "x.tar").write_bytes(tar_bytes({"a.wav": contents["a.wav"], "long.wav": contents["long.wav"]}))
    os.mkfifo(tmp_path / "pipe.wav")
    expected = {"a.wav": 24_000, "long.wav": 960_000, "x.tar#a.wav": 24_000, "x.tar#long.wav": 960_000}
    local = read(tmp_path)
    lengths = probe_files(local, Fetch(), workers=2)
    assert {file.recording_id: length.declared for file, length in zip(local, lengths) if length.declared} == expected
    with FaultyProxy(s3_server) as proxy:
        s3 = S3Settings(endpoint_url=proxy.url)
        store = open_store(f"s3://{bucket}", s3)
        for name in [*contents, "x.tar"]:
            store.put(name, tmp_path / name)
        remote = list(read_sources([SourceSettings(path=f"s3://{bucket}/")], s3))
        remote.append(SourceFile(uri=f"s3://{bucket}/gone.mp3", recording_id="gone.mp3", domain="d"))
        proxy.requests.clear()
        lengths = probe_files(remote, Fetch(s3), workers=2)
        assert {
            file.recording_id: length.declared for file, length in zip(remote, lengths) if length.declared
        } == expected
        assert sum(request.sent_bytes for request in proxy.requests) < 1_500_000  # of 3.9 MB


def test_what_declares_no_length_is_measured(tmp_path: Path) -> None:
    seconds = 100
    (tmp_path / "pipe.aiff").write_bytes(aiff(seconds, 16_000, from_pipe=True))
    (tmp_path / "short.wav").write_bytes(wav(3))
    hiss = np.random.default_rng(0).uniform(-0.3, 0.3, 40 * SAMPLE_RATE)
    (tmp_path / "three.flac").write_bytes(encode("flac", "flac", hiss, SAMPLE_RATE) * 3)
    files = read(tmp_path)
    by_name = dict(zip((file.recording_id for file in files), probe_files(files, Fetch(), measure=True)))
    assert not by_name["short.wav"].measured
    assert by_name["pipe.aiff"].measured
    assert by_name["pipe.aiff"].declared is None
    three = by_name["three.flac"]  # its header says 40 s
    assert (three.declared, three.measured) == (None, True)
    assert three.estimated == pytest.approx(120 * SAMPLE_RATE, abs=SAMPLE_RATE)
    assert by_name["pipe.aiff"].estimated == pytest.approx(seconds * SAMPLE_RATE, abs=SAMPLE_RATE // 10)
    (guessed,) = probe_files([file for file in files if file.recording_id == "pipe.aiff"], Fetch())
    assert not guessed.measured
    settings = PlanSettings(unit_minutes=0.5, edge_radius_seconds=5)
    lengths = [by_name[file.recording_id] for file in files]
    long = [p for unit in make_plan(files, lengths, settings) for p in unit.pieces if p.recording.uri.endswith("aiff")]
    assert [(p.start, p.end) for p in long] == [
        (0, 480_000), (480_000, 960_000), (960_000, 1_440_000), (1_440_000, None)
    ]  # fmt: skip

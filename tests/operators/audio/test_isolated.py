"""The isolated decoder: the same answers, and a death that costs one recording."""

from __future__ import annotations

import io
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from operators.audio.decode import AudioError, FileRange, Limits, decode, probe
from operators.audio.isolated import IsolatedDecoder
from operators.clip import SAMPLE_RATE
from operators.errors import MachineTrouble
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> str:
    """20 s that no two moments of which are alike."""
    path = tmp_path_factory.mktemp("decoder") / "line\nbreak \udcff 🎙.flac"
    noise = np.random.default_rng(0).normal(0, 0.1, (20 * 44_100, 2))
    with open(os.fsencode(str(path)), "wb") as file:
        soundfile.write(file, noise, 44_100, format="FLAC")
    return str(path)


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> FileRange:
    """More than five hours, which take the decoder seconds: long enough to be killed in."""
    path = tmp_path_factory.mktemp("decoder") / "endless.mp3"
    half_minute = io.BytesIO()
    with av.open(half_minute, "w", format="mp3", options={"write_xing": "0", "id3v2_version": "0"}) as output:
        stream = output.add_stream("libmp3lame", rate=SAMPLE_RATE, options={"b": "8000"})
        stream.codec_context.layout, stream.codec_context.format = "mono", "s16p"
        for at in range(0, 30 * SAMPLE_RATE, 576):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 576), np.int16), "s16p", "mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, at
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    path.write_bytes(half_minute.getvalue() * 600)
    return FileRange(str(path))


END = (2 * 3600 * SAMPLE_RATE - 100, 2 * 3600 * SAMPLE_RATE)


@pytest.fixture
def decoder() -> Iterator[IsolatedDecoder]:
    with IsolatedDecoder() as decoder:
        yield decoder


class Saboteur:
    """Sends a signal to the decoder's child a moment after it takes up work, `times` times."""

    def __init__(self, decoder: IsolatedDecoder, number: int, times: int) -> None:
        self._decoder, self._number, self._times = decoder, number, times
        self.victims: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while len(self.victims) < self._times and not self._over.wait(0.01):
            pid = self._decoder.pid
            if pid is not None and pid not in self.victims and busy(pid):
                os.kill(pid, self._number)
                self.victims.add(pid)

    def __enter__(self) -> Saboteur:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def busy(pid: int) -> bool:
    """Whether the process holds the long file open."""
    try:
        return any("endless" in os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return False


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether the process ends within the time (a zombie has ended)."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_answers_are_those_of_the_decoder_itself(decoder: IsolatedDecoder, speech: str) -> None:
    size = os.stat(os.fsencode(speech)).st_size
    with open(os.fsencode(speech), "rb") as file:
        sources: list[Callable[[], object]] = [lambda: speech, lambda: FileRange(speech, 0, size), lambda: file]
        for source in sources:
            assert decoder.probe(source()) == probe(speech)  # type: ignore[arg-type]
            for window in ((0, None), (12_345, 200_000), (319_000, 10**9), (10**8, None)):
                ours, theirs = decoder.decode(source(), window), decode(speech, window)  # type: ignore[arg-type]
                np.testing.assert_array_equal(ours.pcm, theirs.pcm)
                assert ours.pcm.dtype == np.int16
                assert (ours.end_reached, ours.total_samples, ours.problems) == (
                    theirs.end_reached,
                    theirs.total_samples,
                    theirs.problems,
                )


def test_bad_files_are_answered_by_the_same_child(decoder: IsolatedDecoder, speech: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    decoder.probe(speech)
    child = decoder.pid
    for source, reason in (
        (str(tmp_path / "pipe.wav"), "not_a_file"),
        ("missing.mp3", "missing"),
        (io.BytesIO(b"<html>"), "not_audio"),
        (io.BytesIO(), "empty_file"),
    ):
        for ask in (decoder.probe, decoder.decode):
            with pytest.raises(AudioError) as caught:
                ask(source)
            assert caught.value.reason == reason
    assert decoder.pid == child


def test_problems_cross_over(decoder: IsolatedDecoder, speech: str) -> None:
    with open(os.fsencode(speech), "rb") as file:
        cut = file.read()[:1_000_000]
    decoded = decoder.decode(io.BytesIO(cut))
    assert decoded.problems == decode(io.BytesIO(cut)).problems
    assert decoded.problems[-1].reason == "truncated"


def test_limits_cross_over(speech: str) -> None:
    with IsolatedDecoder(Limits(max_channels=1)) as decoder, pytest.raises(AudioError) as caught:
        decoder.decode(speech)
    assert caught.value.reason == "too_large"


def test_one_crash_is_survived(decoder: IsolatedDecoder, endless: FileRange) -> None:
    with Saboteur(decoder, signal.SIGSEGV, times=1) as saboteur:
        decoded = decoder.decode(endless, END)
    assert len(saboteur.victims) == 1
    assert len(decoded.pcm) == 100
    assert decoder.pid not in saboteur.victims


def test_a_recording_that_always_crashes_is_given_up_and_the_next_one_is_read(
    decoder: IsolatedDecoder, endless: FileRange, speech: str
) -> None:
    with Saboteur(decoder, signal.SIGSEGV, times=2) as saboteur, pytest.raises(AudioError) as caught:
        decoder.decode(endless, END)
    assert caught.value.reason == "decoder_crash"
    assert "SIGSEGV" in caught.value.detail
    assert len(saboteur.victims) == 2
    assert len(decoder.decode(speech).pcm) == 20 * SAMPLE_RATE


def test_a_hang_is_ended_and_the_next_recording_is_read(endless: FileRange, speech: str) -> None:
    with IsolatedDecoder(timeout_seconds=1.0) as decoder:
        with Saboteur(decoder, signal.SIGSTOP, times=2) as saboteur, pytest.raises(AudioError) as caught:
            decoder.decode(endless, END)
        assert caught.value.reason == "decoder_timeout"
        assert len(saboteur.victims) == 2
        assert all(gone(pid) for pid in saboteur.victims)
        assert len(decoder.decode(speech).pcm) == 20 * SAMPLE_RATE


def test_processor_time_is_bounded(endless: FileRange) -> None:
    with IsolatedDecoder(cpu_seconds=0, attempts=1) as decoder, pytest.raises(AudioError) as caught:
        decoder.decode(endless, (10 * 3600 * SAMPLE_RATE, None))
    assert caught.value.reason == "decoder_timeout"


def test_memory_is_bounded(speech: str) -> None:
    refused = pytest.raises((AudioError, MachineTrouble))
    with IsolatedDecoder(memory_bytes=64 << 20, attempts=1) as decoder, refused as caught:
        decoder.decode(speech)
    assert isinstance(caught.value, MachineTrouble) or caught.value.reason == "too_large"


@pytest.mark.parametrize("limit", ["-v 4100000", "-t 3000"])
def test_a_limit_below_ours_is_kept_and_harms_no_recording(limit: str, speech: str) -> None:
    """A hard limit that a batch system or a login shell sets."""
    script = "from operators.audio.isolated import IsolatedDecoder as D; print(len(D(attempts=1).decode(%r).pcm))"
    command = f"ulimit {limit}; exec {sys.executable} -c {shlex.quote(script % speech)}"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == f"{20 * SAMPLE_RATE}\n", done.stderr


def test_a_decoder_that_fails_on_anything_is_no_recordings_fault(
    decoder: IsolatedDecoder, endless: FileRange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("operators.audio.isolated._sound_recording", lambda: b"as good as nothing")
    with (
        Saboteur(decoder, signal.SIGSEGV, times=2),
        pytest.raises(MachineTrouble, match="on a sound recording as well"),
    ):
        decoder.decode(endless, END)


def test_a_kill_from_outside_is_no_recordings_fault(decoder: IsolatedDecoder, endless: FileRange, speech: str) -> None:
    """As the kernel kills when memory runs out."""
    with Saboteur(decoder, signal.SIGKILL, times=2), pytest.raises(MachineTrouble, match="ended from outside"):
        decoder.decode(endless, END)
    assert len(decoder.decode(speech).pcm) == 20 * SAMPLE_RATE


def test_a_child_is_replaced_before_its_processor_time_runs_out(speech: str) -> None:
    script = (
        "from operators.audio.isolated import IsolatedDecoder as D\n"
        "with D(attempts=1) as decoder:\n"
        "    pids = set()\n"
        "    while len(pids) < 2:\n"
        f"        assert len(decoder.decode({speech!r}).pcm) == {20 * SAMPLE_RATE}\n"
        "        pids.add(decoder.pid)\n"
        "    print('replaced')"
    )
    command = f"ulimit -t 4; exec {sys.executable} -c {shlex.quote(script)}"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout == "replaced\n", done.stderr


def test_opening_a_file_loads_no_library(speech: str) -> None:
    """The limit is in force by then: what does not fit any more must be the file, not code."""
    script = (
        "import sys, operators.audio.isolated, operators.audio.decode\n"
        "before = set(sys.modules)\n"
        "operators.audio.decode.decode(sys.argv[1])\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, speech], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_a_child_that_died_idle_costs_nobody_an_attempt(speech: str) -> None:
    with IsolatedDecoder(attempts=1) as decoder:
        decoder.probe(speech)
        child = decoder.pid
        assert child is not None
        os.kill(child, signal.SIGKILL)
        # Not `gone`: /proc calls a process a zombie once its first thread has ended, wait() not before all have.
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert len(decoder.decode(speech).pcm) == 20 * SAMPLE_RATE


class _Broken(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError("the network is down")


def test_the_callers_own_read_error_is_the_callers(decoder: IsolatedDecoder, speech: str) -> None:
    with pytest.raises(OSError, match="network is down"):
        decoder.decode(_Broken(b"x" * 1000))
    assert len(decoder.decode(speech).pcm) == 20 * SAMPLE_RATE


def test_close_ends_the_child_and_it_may_start_again(decoder: IsolatedDecoder, speech: str) -> None:
    decoder.probe(speech)
    child = decoder.pid
    assert child is not None
    decoder.close()
    assert gone(child)
    assert decoder.pid is None
    assert decoder.probe(speech).channels == 2


def test_the_child_dies_with_its_parent_and_nothing_reaches_the_terminal(endless: FileRange) -> None:
    program = f"""
import os, sys, threading, time
from operators.audio.isolated import IsolatedDecoder, FileRange
decoder = IsolatedDecoder()
try: decoder.decode(FileRange({__file__!r}))
except Exception: pass
print(decoder.pid, flush=True)
threading.Timer(0.3, os.kill, (os.getpid(), 9)).start()
decoder.decode(FileRange({endless.path!r}), {END!r})
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert run.stderr == ""
    assert gone(int(run.stdout), seconds=3)

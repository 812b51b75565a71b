"""Decode in a process of its own, so that a crash or a hang of FFmpeg costs one recording and never the worker.

    worker ──request (JSON)──────────────────> child ──operators.audio.decode──> FFmpeg
           <──PCM as it is decoded, ending────
           <──read at / bytes──> when the source is the worker's own file object

The child lives long and is replaced when it dies, hangs or is asked to hold too much. It is a fresh interpreter, not a
fork, so it works under Ray and beside threads; it dies with its parent, whose end of the socket it watches; its memory
and CPU time are bounded by the kernel. Messages are JSON and raw samples, never pickles: a decoder that was taken over
must not reach the worker.

**Whose fault is a death?** A recording's only if the machine is well: when the child was killed from outside, or dies
on a sound recording of our own as well, the answer is `MachineTrouble`, and nobody's data are rejected. Limits are what
is wanted or what the machine allows, whichever is less.
"""

from __future__ import annotations

import io
import json
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from operators.audio.decode import AudioError, Collector, Decoded, Ending, Limits, Problem, Source, decode_into, probe
from operators.audio.measure import measure
from operators.audio.media import FileRange, Probe
from operators.clip import Span, pcm_bytes
from operators.errors import MachineTrouble

# The first two bytes of a message; two, so that samples behind them stay aligned.
_PCM, _ALIVE, _READ, _ENDING, _PROBE, _ERROR, _BUG, _TROUBLE = b"PC", b"..", b"RD", b"EN", b"PR", b"ER", b"BG", b"MT"

_MAX_MESSAGE = 1 << 26
_PARCEL = 1 << 18
"""Bytes of samples that travel together, about 8 s."""

_START_SECONDS = 120.0


class _Died(Exception):
    """The child is gone; `reason` and `detail` are those of the AudioError it becomes after the last attempt."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


class IsolatedDecoder:
    """An IsolatedDecoder runs `probe` and `decode` in a child process that may die. Not for use by two threads at once.

    Args:
        limits: bounds on a recording.
        timeout_seconds: how long the child may give no sign of life (it gives one every few seconds of audio) before it
            counts as hung. Reading a source that is the caller's own file object does not count.
        cpu_seconds: processor time that one call may take.
        memory_bytes: address space of the child.
        attempts: how often a recording that kills its decoder is tried.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        timeout_seconds: float = 60.0,
        cpu_seconds: int = 3600,
        memory_bytes: int = 4 << 30,
        attempts: int = 2,
    ) -> None:
        self._limits = limits or Limits()
        self._timeout = timeout_seconds
        self._bounds = {"cpu_seconds": cpu_seconds, "memory_bytes": memory_bytes}
        self._attempts = attempts
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._asked_at = self._busy_seconds = 0.0
        """since the child was started: at least its processor time"""

    @property
    def pid(self) -> int | None:
        """Process id of the child, None when there is none."""
        return self._process.pid if self._process else None

    def probe(self, source: Source) -> Probe:
        """Call `operators.audio.decode.probe`; also raises AudioError "decoder_crash" and "decoder_timeout", and
        MachineTrouble.
        """
        answer = self._ask({"do": "probe"}, source, None)
        return Probe(**answer)

    def measure(self, source: Source) -> int:
        """Call `operators.audio.measure.measure`; also raises as `probe`."""
        answer: dict[str, int] = self._ask({"do": "measure"}, source, None)
        return answer["samples"]

    def decode(self, source: Source, window: tuple[int, int | None] = (0, None)) -> Decoded:
        """Call `operators.audio.decode.decode`; also raises AudioError "decoder_crash" and "decoder_timeout", and
        MachineTrouble.
        """
        return self._ask({"do": "decode", "window": window}, source, window)

    def close(self) -> None:
        """End the child."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()  # the child sees the end of its socket and leaves
        if process is not None:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], source: Source, window: tuple[int, int | None] | None) -> Any:
        request |= self._request()
        file = None
        if isinstance(source, str | FileRange):
            request["file"] = asdict(source if isinstance(source, FileRange) else FileRange(source))
        else:
            file = source
            request["size"] = source.seek(0, os.SEEK_END)
        died = _Died("decoder_crash", "")
        for _ in range(self._attempts):
            try:
                return self._exchange(request, file, window)
            except _Died as error:
                died = error
            except AudioError as error:
                if error.detail != _NO_MEMORY or not self._cramped():
                    raise
                died = _Died("too_large", error.detail)
        self._check_machine(died)
        raise AudioError(died.reason, f"{died.detail} ({self._attempts} attempts)")

    def _check_machine(self, died: _Died) -> None:
        """Raises MachineTrouble when a recording's end says more about the machine than about the recording."""
        if died.detail == signal.SIGKILL.name or died.reason == "too_large":
            limit = self._cramped() or "too little memory, or somebody's kill"
            raise MachineTrouble(f"the decoder was ended from outside ({limit}): give the machine's workers more room")
        control = self._request() | {"do": "decode", "window": (0, None)}
        file = io.BytesIO(_sound_recording())
        try:
            self._exchange(control | {"size": len(file.getvalue())}, file, (0, None))
        except (_Died, AudioError) as error:
            limit = self._cramped()
            raise MachineTrouble(
                f"the decoder fails on a sound recording as well ({error}{', ' + limit if limit else ''}): "
                "raise the limits (ulimit -v, -t), or run fewer workers"
            ) from None

    def _cramped(self) -> str:
        """The limit by which the machine allows the child less than is wanted; "" where there is none."""
        for kind, name, wanted, unit in (
            (resource.RLIMIT_AS, "ulimit -v", self._bounds["memory_bytes"], 1024),
            (resource.RLIMIT_CPU, "ulimit -t", self._bounds["cpu_seconds"], 1),
        ):
            hard = resource.getrlimit(kind)[1]
            if hard != resource.RLIM_INFINITY and hard < wanted:
                return f"{name} {hard // unit}"
        return ""

    def _request(self) -> dict[str, Any]:
        return {"limits": asdict(self._limits), **self._bounds}

    def _exchange(self, request: dict[str, Any], file: BinaryIO | None, window: tuple[int, int | None] | None) -> Any:
        connection = self._running()
        self._asked_at = time.monotonic()
        collected = None if window is None else Collector(window)
        answered = False
        try:
            connection.send_bytes(json.dumps(request).encode())
            while True:
                if not connection.poll(self._timeout):
                    raise _Died("decoder_timeout", f"no sign of life for {self._timeout:g} s")
                message = connection.recv_bytes(_MAX_MESSAGE)
                kind = message[:2]
                if kind == _PCM and collected is not None:
                    collected.add(np.frombuffer(message, "<i2", offset=2))
                    continue
                body = message[2:]
                if kind == _READ and file is not None:
                    at, size = json.loads(body)
                    file.seek(at)
                    connection.send_bytes(file.read(size))
                elif kind == _ENDING and collected is not None:
                    answered = True
                    return collected.finish(_ending(json.loads(body)))
                elif kind == _PROBE:
                    answered = True
                    return json.loads(body)
                elif kind == _ERROR:
                    answered = True
                    raise AudioError(*json.loads(body))
                elif kind == _TROUBLE:
                    answered = True
                    raise MachineTrouble(body.decode())
                elif kind == _BUG:
                    answered = True
                    raise RuntimeError(f"bug in the decoder:\n{body.decode()}")
        except (EOFError, ConnectionError):
            raise self._obituary() from None
        finally:
            self._busy_seconds += time.monotonic() - self._asked_at
            # Hung, dead or interrupted half-way: nothing it says later may be taken for another answer.
            if not answered:
                self.close()

    def _obituary(self) -> _Died:
        assert self._process is not None
        code = self._process.wait()
        if -code == signal.SIGXCPU:
            return _Died("decoder_timeout", f"more than {self._bounds['cpu_seconds']} s of processor time")
        return _Died("decoder_crash", signal.Signals(-code).name if code < 0 else f"exit code {code}")

    def _running(self) -> Connection:
        """The connection to a child that is alive, as far as one can know."""
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it died while idle: no recording's fault
        most = resource.getrlimit(resource.RLIMIT_CPU)[1]
        if most != resource.RLIM_INFINITY and self._busy_seconds > most / 2:
            self.close()  # the limit counts for its whole life
        if self._connection is None:
            self._start()
        assert self._connection is not None
        return self._connection

    def _start(self) -> None:
        try:
            self._launch()
        # No folder for temporary files, no process: trouble of this machine, not of the recording.
        except OSError as error:
            raise MachineTrouble(f"the decoder process could not be started: {error}") from error

    def _launch(self) -> None:
        self._busy_seconds = 0.0
        ours, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        # One thread each: a decoder is one of many workers, and BLAS would reserve memory for every core.
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(paths),
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        program = f"import operators.audio.isolated as d; d._serve({theirs.fileno()})"
        with tempfile.TemporaryFile() as errors, theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", program],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=environment,
            )
            theirs.close()
            self._connection = Connection(ours.detach())
            try:
                if not self._connection.poll(_START_SECONDS):
                    raise MachineTrouble(f"the decoder process did not start within {_START_SECONDS:g} s")
                self._connection.recv_bytes(_MAX_MESSAGE)
            except (EOFError, ConnectionError):
                self._process.wait()
                errors.seek(0)
                said = " ".join(errors.read().decode(errors="replace").split())[-300:]
                raise MachineTrouble(f"the decoder process did not start: {said or self._cramped()}") from None


def _ending(answer: dict[str, Any]) -> Ending:
    problems = tuple(Problem(Span(start, end), reason) for start, end, reason in answer["problems"])
    return Ending(end_reached=answer["end_reached"], total_samples=answer["total_samples"], problems=problems)


# The child


class _Remote:
    """The worker's file object, read through the socket. Only what `operators.audio.media` asks of a source."""

    def __init__(self, connection: Connection, size: int) -> None:
        self._connection, self._size, self._at = connection, size, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def read(self, size: int) -> bytes:
        self._connection.send_bytes(_READ + json.dumps([self._at, size]).encode())
        data = self._connection.recv_bytes()
        self._at += len(data)
        return data


def _serve(descriptor: int) -> None:
    """The child's life: answer requests until the worker's end of the socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, which will hang up
    threading.Thread(target=_leave_with_parent, args=(descriptor,), daemon=True).start()
    connection = Connection(descriptor)
    connection.send_bytes(_ALIVE)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)  # from here on: FFmpeg's and its libraries' chatter
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except (EOFError, ConnectionError):
            return
        connection.send_bytes(_answer(connection, request))


def _leave_with_parent(descriptor: int) -> None:
    """Exit when the worker is gone, even while FFmpeg is busy (it runs without the interpreter's lock)."""
    watch = select.poll()
    watch.register(descriptor, 0)  # no event asked for: only hang-up and error are reported
    watch.poll()
    os._exit(0)


def _answer(connection: Connection, request: dict[str, Any]) -> bytes:
    limits = Limits(**request["limits"])
    _bound(request["memory_bytes"], request["cpu_seconds"])
    source: Any = FileRange(**request["file"]) if "file" in request else _Remote(connection, request["size"])

    parcel = bytearray(_PCM)

    def emit(pcm: np.ndarray) -> None:
        if not len(pcm):
            connection.send_bytes(_ALIVE)
            return
        parcel.extend(pcm_bytes(pcm))
        if len(parcel) >= _PARCEL:
            send()

    def send() -> None:
        connection.send_bytes(parcel)
        parcel[2:] = b""

    try:
        if request["do"] == "probe":
            return _PROBE + json.dumps(asdict(probe(source, limits))).encode()
        if request["do"] == "measure":
            return _PROBE + json.dumps({"samples": measure(source, limits)}).encode()
        start, end = request["window"]
        ending = decode_into(emit, source, (start, end), limits)
        send()
    except AudioError as error:
        return _ERROR + json.dumps([error.reason, error.detail]).encode()
    except MachineTrouble as error:
        return _TROUBLE + str(error).encode()
    except MemoryError:
        return _ERROR + json.dumps(["too_large", _NO_MEMORY]).encode()
    except ConnectionError:
        os._exit(0)  # the worker hung up
    except Exception:
        return _BUG + traceback.format_exc().encode()
    answer = asdict(ending) | {"problems": [(span.start, span.end, reason) for span, reason in ending.problems]}
    return _ENDING + json.dumps(answer).encode()


def _bound(memory_bytes: int, cpu_seconds: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    wanted = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime) + cpu_seconds + 1,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in wanted.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


_NO_MEMORY = "decoding needs too much memory"


def _sound_recording() -> bytes:
    """A second of a tone, WAV of two channels at 44.1 kHz: everything from demuxer to mixer has to work for it."""
    rate = 44_100
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype("<i2")
    data = np.repeat(tone[:, np.newaxis], 2, axis=1).tobytes()
    fields = struct.pack("<HHIIHH", 1, 2, rate, 4 * rate, 4, 16)
    chunks = b"WAVEfmt " + struct.pack("<I", 16) + fields + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks

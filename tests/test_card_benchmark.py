"""`make gpu` where there is no card: what a CPU can do of it is done, and what goes wrong takes only itself along."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import warnings
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.accelerator import checks
from benchmarks.accelerator.checks import Context, Finding, Outcome, Row, Skipped, supervise


def test_a_cpu_does_every_row_that_asks_no_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "card.json"
    assert gpu.main(["--device", "cpu", "--quick", "--out", str(out)]) == 0, out.with_suffix(".log").read_text()
    found = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert list(found) == [row.name for row in gpu.ROWS]
    assert {name: row["result"] for name, row in found.items() if row["result"] != "ok"} == {"waits": "skip"}
    assert found["going on"]["numbers"]["to_the_bit"]
    assert found["20 steps of tiny"]["numbers"]["float32"]["moved"] == 0
    assert found["20 steps of tiny"]["numbers"]["bf16"]["moved"] > 0
    assert found["paper-1b noise"]["numbers"]["N=15"]["frames_per_second"] > 0
    assert not any("," in row.name for row in gpu.ROWS), "--only splits names at commas"
    assert all(len(line) <= checks.WIDTH for line in capsys.readouterr().out.splitlines()[:-1])


def test_a_wrong_product_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.accelerator.correctness import dispatches
    from model_training.model.dispatch import Sorted

    right = Sorted.__call__
    monkeypatch.setattr(Sorted, "__call__", lambda *arguments: 1.001 * right(*arguments))
    assert "sorted, float32" in dispatches(Context("cpu", tmp_path, quick=True)).wrong


def test_a_row_that_fails_is_a_line_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checks, "_PATIENCE", 1)
    monkeypatch.setattr(
        gpu, "ROWS", [_row("raises"), _row("sleeps", 0.05), _row("finds"), _row("lacks"), _row("works")]
    )
    out = tmp_path / "new" / "card.json"
    assert gpu.main(["--device", "cpu", "--out", str(out)]) == 1
    results = {row["name"]: (row["result"], row["text"]) for row in json.loads(out.read_text())["rows"]}
    assert results == {
        "raises": ("FAIL", "ValueError: no such thing"),
        "sleeps": ("FAIL", "TimeoutError: not done after 0.05 s"),
        "finds": ("FAIL", "two is not three; 2"),
        "lacks": ("skip", "no such package"),
        "works": ("ok", "all of it"),
    }
    assert "FAIL: raises, sleeps, finds; see" in capsys.readouterr().out
    assert re.search(r"in raises\n.*ValueError: no such thing", out.with_suffix(".log").read_text(), re.DOTALL)


def test_what_crashes_or_hangs_takes_only_itself_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a card rows have a process of their own: a fresh one after each that went wrong."""
    monkeypatch.setattr(checks, "_GRACE", 2.0)
    told: list[Outcome] = []
    rows = [_row("works"), _row("dies"), _row("hangs", 1.0), _row("raises"), _row("works")]
    supervise(rows, Context("cuda", tmp_path), told.append, 300)
    assert [(one.name, one.result) for one in told] == [
        ("works", "ok"), ("dies", "FAIL"), ("hangs", "FAIL"), ("raises", "FAIL"), ("works", "ok")
    ]  # fmt: skip
    assert told[1].text == "its process ended (exit code 9)"
    assert told[2].text == "hangs: stopped after 3 s"
    told.clear()
    supervise(rows[:1], Context("cuda", tmp_path), told.append, 0)
    assert (told[0].result, told[0].text) == ("FAIL", "no time was left for it")


def _row(name: str, seconds: float = 60.0) -> Row:
    return Row(name, f"{__name__}:{name}", seconds)


def works(context: Context) -> Finding:
    return Finding("all of it")


def raises(context: Context) -> Finding:
    raise ValueError("no such thing")


def sleeps(context: Context) -> Finding:
    time.sleep(30)
    return Finding("too late")


def finds(context: Context) -> Finding:
    return Finding("2", wrong="two is not three")


def lacks(context: Context) -> Finding:
    raise Skipped("no such package")


def dies(context: Context) -> Finding:
    os._exit(9)


def hangs(context: Context) -> Finding:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})  # as a kernel that never ends
    time.sleep(60)
    return Finding("too late")


def test_without_a_card_the_fix_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert gpu.main([]) == 2
    assert "finds no card here" in capsys.readouterr().err
    monkeypatch.setattr(torch.version, "cuda", None)
    assert gpu.main([]) == 2
    assert "knows no CUDA: pip install --force-reinstall" in capsys.readouterr().err
    assert gpu.main(["--device", "cpu", "--whisper", "nowhere"]) == 2
    assert "no model.bin there" in capsys.readouterr().err


def test_waits_are_counted_by_the_line_that_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.accelerator.waits import waits

    modes: list[str] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    monkeypatch.setattr("torch.cuda.set_sync_debug_mode", modes.append)

    def asks() -> None:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    found = waits(asks)
    (place,) = found
    assert (Path(place.rpartition(":")[0]).name, found.total()) == (Path(__file__).name, 3)
    assert modes == ["warn", "default"]


def test_a_cards_peak_is_that_of_its_name() -> None:
    from benchmarks.accelerator.speed import peak_tflops

    names = {"NVIDIA H100 80GB HBM3": 989, "NVIDIA H100 PCIe": 756, "NVIDIA H200": 989, "NVIDIA A100-SXM4-80GB": 312}
    names |= {"NVIDIA L40S": 362, "NVIDIA L4": 121, "NVIDIA A10G": 70, "NVIDIA B200": 2250}
    assert {name: peak_tflops(name) for name in names} == names
    assert peak_tflops("Tesla T4") is None

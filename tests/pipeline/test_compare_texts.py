"""`compare`: the story of two transcripts, and judged pairs as JSON lines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.__main__ import main


def test_it_says_how_two_transcripts_are_judged_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "Um, it cost $12.50", "it cost twelve dollars and fifty cents", "--language", "en"]) == 0
    told = capsys.readouterr().out
    assert "um it cost twelve dollars and fifty cents" in told
    assert "folded    it cost twelve dollars and fifty cents" in told
    assert "12 50" in told
    assert "verdict   keep" in told


def test_the_rates_are_the_same_wherever_they_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["Um, it cost $12.50", "it cost twelve dollars and fifteen cents"]
    assert main(["compare", *texts, "--language", "en"]) == 0
    rates, why = (line for line in capsys.readouterr().out.splitlines() if line.startswith(("WER", "why")))
    assert re.findall(r"[\d.]+ %", rates)[:2] == re.findall(r"[\d.]+ %", why)


def test_wrong_numbers_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = "昨天晚上我们一起去了城东新开的那家饭馆吃饭当时门口大约有{}个人在排队等着"
    assert main(["compare", text.format(17), text.format("十一"), "--language", "zh"]) == 0
    told = capsys.readouterr().out
    assert "verdict   drop: numbers" in told
    assert main(["compare", text.format(17), text.format("十一"), "--language", "zh", "rover.numbers=counted"]) == 0
    assert "verdict   keep" in capsys.readouterr().out


def test_pairs_come_back_as_json_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text('id\tlang\ta\tb\n1\tzh\t"23度"\t二十三度\n2\ten\tfifteen\tfifty\n', encoding="utf-8")
    assert main(["compare", "--pairs", str(file)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["id"], line["keep"]) for line in lines] == [("1", True), ("2", False)]
    assert lines[0]["spoken"] == ["二十三度", "二十三度"]
    assert lines[1]["numbers"] == [["15"], ["50"]]


@pytest.mark.parametrize(
    ("content", "words"),
    [("lang\ta\n", ["no column b"]), ("lang\ta\tb\nzh\t一\n", ["line 2", "3 fields"])],
)
def test_a_file_that_holds_no_pairs_is_one_line(
    content: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.tsv").write_text(content, encoding="utf-8")
    for asked in (["--pairs", str(tmp_path / "pairs.tsv")], ["--pairs", str(tmp_path / "none.tsv")], ["only one"]):
        assert main(["compare", *asked]) == 2
        error = capsys.readouterr().err
        assert error.startswith("touchasp: ")
        assert error.count("\n") == 1
        if asked[-1].endswith("pairs.tsv"):
            assert all(word in error for word in words)


def test_it_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.__main__ import main; main(['compare', '3个', '三个', '--language', 'zh']);"
        "print(sorted({'torch', 'ray', 'whisperx', 'funasr', 'transformers'} & sys.modules.keys()))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "[]"

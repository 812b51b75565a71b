"""Settings that would fail in every unit, or drop every clip, end a run before a plan is stored; codes of languages
need not.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from operators.asr.whisperx import LANGUAGES
from pipeline.__main__ import main
from tests.support import fast_engines


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crawl")
    fast_engines.write_crawl(folder, 8, seed=2, domains=("talk",))
    return folder


def run(folder: Path, crawl: Path, *settings: str) -> int:
    (folder / "empty.yaml").write_text("{}")
    given = fast_engines.settings(str(folder / "run"), str(crawl), "execution.runner=local", *settings)
    return main(["run", str(folder / "empty.yaml"), *given])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["hallucination.nokey=1"], ["hallucination", "nokey"]),
        (["hallucination.min_avg_logprob=abc"], ["hallucination.min_avg_logprob=abc", "number"]),
        (["hallucination.rates=null"], ["hallucination.rates is a table", "None"]),
        (["asr.engine=whisper"], ["asr.engine=whisper", "whisperx, exported, or module:Class"]),
        (["vad.engine=ears"], ["vad.engine=ears", "pyannote, silero, fsmn, or module:Class"]),
        (["cut.max_seconds=15"], ["target_seconds"]),
        (["asr.engine=whisperx", "asr.languages=[xx]"], ["asr.languages", "'xx'", "sichuan"]),
        (["asr.engine=whisperx", "asr.language=englisch"], ["asr.language", "'englisch'"]),
        (["asr.engine=whisperx", "copilot.models.klingon=hash"], ["copilot.models", "'klingon'"]),
        (["asr.language=no"], ["asr.language", "Norwegian", "quotes"]),
        (["copilot.models={EN: hash, en: hash}"], ["copilot.models", "twice"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_mistake_is_found_before_a_plan_is_stored(
    settings: list[str], words: list[str], crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, crawl, *settings) == 2
    error = capsys.readouterr().err
    assert error.startswith("touchasp: ")
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error
    assert not list((tmp_path / "run").glob("*"))


def test_the_corrected_command_may_use_the_same_output(crawl: Path, tmp_path: Path) -> None:
    assert run(tmp_path, crawl, "hallucination.nokey=1") == 2
    assert run(tmp_path, crawl) == 0


@pytest.mark.parametrize(
    "settings",
    [
        ["asr.languages=[EN]", "copilot.models={en_GB: hash}"],
        ["asr.languages=[english, eng, cmn]", "copilot.models={EN: hash}"],
        ["asr.languages=[en-US, zh]"],
        ["copilot.models={zh-CN: hash}", "asr.language=zh"],
        ["copilot.models={yue: hash}", "asr.language=zh-HK"],
        ["copilot.models={sichuan: hash}", "asr.language=sichuan", "asr.languages=[Sichuan]"],
        ["copilot.models={my-own: hash}", "asr.language=my-own"],
    ],
    ids=" ".join,
)
def test_language_codes_as_people_write_them_serve(settings: list[str], crawl: Path, tmp_path: Path) -> None:
    assert run(tmp_path, crawl, *settings) == 0
    told = [row for path in (tmp_path / "run").glob("shards/*/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert not {"other_language", "no_copilot"} & {row["reason"] for row in told}
    assert any(row["outcome"] == "kept" for row in told)
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["settings"]
    assert ("EN" in str(stored)) == ("EN" in str(settings)), "settings stay as they were written"


def test_the_languages_are_whispers() -> None:
    from faster_whisper.tokenizer import _LANGUAGE_CODES

    assert set(_LANGUAGE_CODES) == LANGUAGES


@pytest.mark.parametrize(
    ("arguments", "needed"), [(["run"], "CONFIG"), (["show"], "RUN, CLIP_ID"), (["score"], "RUN, --truth")]
)
def test_a_missing_argument_is_named_and_no_setting_with_it(
    arguments: list[str], needed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert capsys.readouterr().err.endswith(f"the following arguments are required: {needed}\n")

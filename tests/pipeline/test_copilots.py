"""One engine per language: what may stand in `copilot.models`, and which engine comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from operators.errors import UserError
from pipeline import config, engines
from pipeline.__main__ import main
from tests.support import fast_engines
from tests.support.curated_handoffs import ledger_rows

MINE = "tests.support.fast_engines:HashCopilot"


def specs(*overrides: str) -> dict[str, list[engines.EngineSpec]]:
    return engines.copilots(config.load(None, list(overrides)).copilot, threads=3).models


def test_a_language_may_have_an_engine_of_its_own_beside_plain_names() -> None:
    found = specs(
        f"copilot.models={{zh: paraformer-zh, en: {{engine: '{MINE}', model: ./any/name, options: {{a: 1}}}}}}"
    )
    funasr = {"model": "paraformer-zh", "device": "cpu", "batch_seconds": 300.0, "threads": 3}
    assert found == {
        "zh": [engines.EngineSpec("operators.asr.funasr:FunAsr", funasr)],
        "en": [engines.EngineSpec(MINE, {"model": "./any/name", "a": 1})],
    }


def test_engines_may_be_mixed_in_a_vote() -> None:
    found = specs(
        f"copilot.models={{en: [paraformer-en, {{engine: '{MINE}', model: sun}}, {{model: iic/SenseVoiceSmall}}]}}"
    )
    assert [(each.target.partition(":")[2], each.arguments["model"]) for each in found["en"]] == [
        ("FunAsr", "paraformer-en"), ("HashCopilot", "sun"), ("FunAsr", "iic/SenseVoiceSmall")
    ]  # fmt: skip


def test_options_of_the_section_go_to_its_engine_only_and_own_ones_lie_over_them() -> None:
    funasr, mine = specs(
        "copilot.options={hub: hf, language: given}",
        f"copilot.models={{en: [{{model: a, options: {{hub: ms}}}}, {{engine: '{MINE}', model: b}}]}}",
    )["en"]
    assert (funasr.arguments["hub"], funasr.arguments["language"]) == ("ms", "given")
    assert mine.arguments == {"model": "b"}


def test_one_entry_on_the_command_line_replaces_that_of_the_file_whole(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(f"copilot: {{models: {{zh: z, en: {{engine: '{MINE}', model: a, options: {{old: 1}}}}}}}}\n")
    models: dict[str, Any] = config.load(str(file), ["copilot.models.en={model: b}"]).copilot.models
    assert models == {"zh": "z", "en": {"model": "b"}}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{engine: 'a:B'}", ["copilot.models.en.model=None"]),
        ("{model: ' '}", ["copilot.models.en.model"]),
        ("{model: 3}", ["copilot.models.en.model=3", "expected text"]),
        ("{modle: x}", ["copilot.models.en has no modle", "did you mean model?"]),
        ("{model: x, device: cuda}", ["copilot.models.en has no device", "engine, model and options"]),
        ("{model: x, options: 3}", ["copilot.models.en.options", "table"]),
        ("[x, {engine: 3, model: y}]", ["copilot.models.en.engine=3"]),
        ("3", ["copilot.models.en=3", "list of them"]),
    ],
)
def test_a_wrong_entry_is_one_line_that_names_it(entry: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        config.load(None, [f"copilot.models.en={entry}"])
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_an_engine_that_nobody_knows_is_named_with_its_place() -> None:
    with pytest.raises(
        UserError, match=r"copilot\.models\.en\.engine=parafomer: give funasr, exported, or module:Class"
    ):
        specs("copilot.models={zh: x, en: {engine: parafomer, model: x}}")


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    fast_engines.write_crawl(tmp_path / "crawl", 4, seed=1, domains=["live"])
    return tmp_path / "crawl"


def run(tmp_path: Path, crawl: Path, command: str, *more: str) -> int:
    config_file = tmp_path / "empty.yaml"
    config_file.write_text("{}\n")
    settings = fast_engines.settings(str(tmp_path / "run"), str(crawl), "execution.runner=local", *more)
    return main([command, str(config_file), *settings])


def test_a_run_with_an_engine_of_one_language_names_it_in_its_ledger(crawl: Path, tmp_path: Path) -> None:
    """FunASR serves the rest by default and has nothing to load; what an own engine calls its model may be anything."""
    own = f"copilot.models={{en: {{engine: '{MINE}', model: /no/such/folder}}}}"
    assert run(tmp_path, crawl, "run", "copilot.engine=funasr", "asr.model=./neither/a/folder", own) == 0
    heard = {each["engine"] for row in ledger_rows(str(tmp_path / "run")) for each in row["hypotheses"] or ()}
    assert heard == {"hash", "hash-copilot"}


@pytest.mark.parametrize(
    "entry", ["/no/such/folder", "{model: /no/such/folder}", "[{engine: funasr, model: /no/such/folder}]"]
)
def test_the_folder_of_a_built_in_engine_must_be_there(
    entry: str, crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, crawl, "run", "copilot.engine=funasr", f"copilot.models={{en: {entry}}}") == 2
    assert "copilot.models.en: no model folder /no/such/folder" in capsys.readouterr().err


def test_a_folder_of_another_kind_is_refused_before_anything_is_planned_or_loaded(
    crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    own = f"copilot.models={{en: {{engine: '{MINE}', model: x}}}}"
    assert run(tmp_path, crawl, "check", "asr.engine=whisperx", f"asr.model={tmp_path / 'other'}", own) == 2
    said = capsys.readouterr()
    assert "is no CTranslate2 folder (it has no model.bin)" in said.err
    assert "ok windows" not in said.out
    assert (
        run(tmp_path, crawl, "check", f"copilot.models={{en: {{engine: funasr, model: '{tmp_path / 'other'}'}}}}") == 2
    )
    said = capsys.readouterr()
    assert "is no FunASR folder: it has neither config.yaml nor configuration.json" in said.err
    assert "ok disk" not in said.out


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("copilot.models={{en: {{engine: 'operators.asr.whisperx:WhisperX', model: {other}}}}}",
         "copilot.models.en.model={other} is no CTranslate2 folder"),
        ("asr={{engine: 'operators.asr.funasr:FunAsr', model: {other}}}", "asr model {other} is no FunASR folder"),
        ("annotate.annotators=[{{engine: sensevoice}}, {{engine: sensevoice, model: {other}}}]",
         "annotate.annotators model {other} is no FunASR folder"),
    ],
)  # fmt: skip
def test_an_engine_in_an_unusual_place_names_the_setting_that_put_it_there(
    settings: str, words: str, crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert run(tmp_path, crawl, "check", settings.format(other=other)) == 2
    assert words.format(other=other) in capsys.readouterr().err


def test_languages_that_name_one_engine_share_it() -> None:
    found = specs(f"copilot.models={{en: {{engine: '{MINE}', model: a}}, fr: {{engine: '{MINE}', model: a}}}}")
    assert found["en"] == found["fr"]
    assert found["en"][0].setting != found["fr"][0].setting


def test_check_loads_every_model_and_says_so(crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, crawl, "check") == 0
    assert "every stage has loaded its models" in capsys.readouterr().out
    absent = "copilot.models={en: hash, fr: {engine: 'tests.pipeline.test_copilots:Absent', model: x}}"
    assert run(tmp_path, crawl, "check", absent) == 2
    assert "the weights of x are not here" in capsys.readouterr().err


class Absent:
    def __init__(self, model: str) -> None:
        raise UserError(f"the weights of {model} are not here")


def test_an_exported_model_of_ours_may_stand_in_either_place() -> None:
    """By its import string alone: curation never imports the trainer."""
    arguments = {"model": "my/n7", "device": "cpu", "threads": 3}
    ours = engines.EngineSpec("model_training.decoding.engine:ExportedRecogniser", arguments)
    assert specs("copilot.models={zh: {engine: exported, model: my/n7}}") == {"zh": [ours]}
    asr = config.load(None, ["asr.engine=exported", "asr.model=my/n7", "asr.options={method: attention}"]).asr
    assert engines.recogniser(asr, threads=3).arguments == ours.arguments | {"method": "attention"}
    asr.device = "cuda"
    assert engines.recogniser(asr, threads=3).arguments["device"] == "cuda"


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (["asr.engine=exported", "asr.model=n7"], "asr.model"),
        (["copilot.models={zh: {engine: exported, model: n7}}"], "copilot.models.zh"),
    ],
)
def test_an_exported_model_that_is_not_there_is_said_before_any_work(
    settings: list[str], key: str, crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, crawl, "run", *settings) == 2
    assert f"{key}: no folder n7: give one that 'python -m model_training export' wrote" in capsys.readouterr().err

"""Settings: what overrides what, and one clear line for every mistake."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from operators.errors import UserError
from pipeline import config
from pipeline.__main__ import main
from tests.conftest import REPOSITORY

CONFIGS = Path(config.__file__).parent / "configs"


def test_the_file_of_all_settings_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    full = CONFIGS / "full.yaml"
    assert main(["settings"]) == 0
    assert capsys.readouterr().out == full.read_text(encoding="utf-8"), (
        "pipeline/configs/full.yaml is behind: python -m pipeline settings > pipeline/configs/full.yaml"
    )
    assert asdict(config.load(str(full), [])) == asdict(config.Settings())


@pytest.mark.parametrize(
    "path",
    [*sorted(CONFIGS.glob("*.yaml")), *sorted((REPOSITORY / "examples").glob("*.yaml"))],
    ids=lambda path: path.name,
)
def test_the_schema_takes_what_the_program_takes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), schema)


@pytest.mark.parametrize(
    ("given", "good"),
    [
        ({"sources": "crawl"}, True),
        ({"sources": ["crawl", {"path": "more", "language": "zh"}]}, True),
        ({"sources": [{"pth": "more"}]}, False),
        ({"copilot": {"models": {"zh": ["one", "two"]}}}, True),
        ({"rovr": {}}, False),
        ({"rover": {"max_wer": -1}}, False),
        ({"rover": {"label": {"zh": "nobody"}}}, False),
        ({"execution": {"segment": {"max_workers": 0}}}, False),
        ({"asr": {"language": None}}, True),
        ({"asr": {"model": None}}, False),
    ],
)
def test_the_schema_refuses_what_the_program_refuses(given: dict[str, Any], good: bool, tmp_path: Path) -> None:
    path = tmp_path / "given.yaml"
    path.write_text(yaml.safe_dump(given))
    assert jsonschema.Draft202012Validator(config.schema()).is_valid(given) == good
    if good:
        config.load(str(path), [])
    else:
        with pytest.raises(UserError):
            config.load(str(path), [])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("rovr: {max_wer: 8}", "no setting is called rovr: did you mean rover?"),
        ("rover: {max_wre: 8}", "no setting is called rover.max_wre: did you mean rover.max_wer?"),
        ("ouput: x", "no setting is called ouput: did you mean output?"),
        ("qqq: x", "no setting is called qqq: `python -m pipeline settings` shows every key"),
        ("sources: [{path: a, langage: zh}]", "no setting is called sources[0].langage"),
    ],
)
def test_a_misspelt_key_in_a_file_is_answered_with_the_one_that_was_meant(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        config.load(str(path), [])
    assert str(error.value).startswith(line)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_load(path: Path) -> None:
    config.load(str(path), ["output=x"])


def test_command_line_beats_file_beats_default(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("rover: {max_wer: 12}\nasr: {model: small}\nsources: crawl\n")
    settings = config.load(str(path), ["rover.max_wer=15", "copilot.models.fr=whisper-fr"])
    assert (settings.rover.max_wer, settings.rover.max_per, settings.asr.model) == (15, 5, "small")
    assert settings.sources == [config.SourceSettings(path="crawl")]
    assert settings.copilot.models["fr"] == "whisper-fr"
    assert settings.copilot.models["zh"] == "paraformer-zh"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rover.max_wre=3", ["rover.max_wre", "did you mean rover.max_wer"]),
        ("nonsense=1", ["nonsense"]),
        ("rover.max_wer=much", ["rover.max_wer=much: expected a number"]),
        ("rover.max_wer=-1", ["rover.max_wer", "at least 0"]),
        ("rover.drop_when=never", ["rover.drop_when=never", "either, both"]),
        ("rover.label.zh=nobody", ["rover.label.zh", "asr, copilot"]),
        ("audio.codec=mp3", ["audio.codec=mp3", "flac, opus"]),
        ("execution.runner=spark", ["ray, local"]),
        ("execution.segment.max_workers=0", ["execution.segment.max_workers"]),
        ("cut.max_seconds=1", ["cut.max_seconds"]),
        ("max_wer", ["key=value"]),
        ("plan.edge_radius_seconds=900", ["plan.edge_radius_seconds"]),
        ("sources=[{path: a, colour: red}]", ["colour"]),
        ("s3.endpoint_url=store:9000", ["s3.endpoint_url=store:9000", "http://store:9000"]),
        ("s3.endpoint_url=http://", ["s3.endpoint_url=http://", "host"]),
        ("s3.read_timeout=0", ["s3.read_timeout=0.0", "at least"]),
        ("s3.read_timeout=-1", ["s3.read_timeout=-1.0", "at least"]),
        ("s3.connect_timeout=0", ["s3.connect_timeout=0.0", "at least"]),
        ("rovr.max_wer=1", ["rovr.max_wer", "did you mean rover.max_wer?"]),
        ("rovr={max_wer: 1}", ["rovr:", "did you mean rover?"]),
        ("excution.rover.cpu=1", ["did you mean execution.rover.cpus?"]),
        ("max_wer=1", ["did you mean rover.max_wer?"]),
        ("hallucination.max_repeat=3", ["did you mean hallucination.max_repeats?"]),
        ("hallucination.max_repeats=0", ["hallucination.max_repeats=0: must be at least 1"]),
        ("hallucination.max_repeats=true", ["hallucination.max_repeats=True: expected a number"]),
        ("hallucination.rates={zh: {max_word: 3}}", ["hallucination.rates.zh.max_word"]),
        ("hallucination.rates={zh: {max_han_per_second: fast}}", ["max_han_per_second=fast: expected a number"]),
        ("hallucination.rates={zh: 3}", ["hallucination.rates.zh is a table of settings, not 3"]),
        ("sources=[3]", ["sources[0] is a table of settings, not 3"]),
        ("asr.languages={a: 1}", ["asr.languages={'a': 1}: expected a list"]),
        ("asr.languages=zh", ["asr.languages=zh: expected a list"]),
        ("asr.batch_size=2.5", ["asr.batch_size=2.5: expected a whole number"]),
        ("asr.trust_source_language=maybe", ["asr.trust_source_language=maybe: expected true or false"]),
        ("asr.model=[a]", ["asr.model=['a']: expected text"]),
        ("rover=3", ["rover is a table", "not 3"]),
        ("execution.segment=3", ["execution.segment is a table", "not 3"]),
        ("asr.options=[3]", ["asr.options is a table"]),
        ("hallucination=null", ["hallucination is a table"]),
        ("copilot={models: {no: x}}", ["copilot.models.False", "Norwegian", "in quotes"]),
        ("copilot.models={}", ["copilot.models names no model"]),
        ("copilot.models={zh: null}", ["copilot.models names no model"]),
        ("copilot.models.en=''", ["copilot.models.en"]),
        ("copilot.models={en: [a, ' ']}", ["copilot.models.en"]),
        ("audio.max_hours=inf", ["audio.max_hours=inf", "finite"]),
        ("audio.max_hours=1e300", ["audio.max_hours=1e+300", "at most 10000"]),
        ("audio.max_gigabytes=inf", ["audio.max_gigabytes=inf", "finite"]),
        ("plan.unit_minutes=inf", ["plan.unit_minutes=inf", "finite"]),
        ("cut.pad_seconds=nan", ["cut.pad_seconds=nan", "finite"]),
        ("audio.opus_kbps=257", ["audio.opus_kbps=257", "at most 256"]),
        ("cut.max_seconds=60", ["cut.max_seconds=60", "at most 30"]),
        ("rover.max_wer=nan", ["rover.max_wer=nan"]),
        ("plan.probe_workers=100000", ["plan.probe_workers=100000", "at most 256"]),
        ("asr: {[", ["key=value"]),
        ("asr.model={[", ["YAML"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        config.load(None, [override])
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_infinity_switches_a_rule_of_the_vote_off() -> None:
    assert config.load(None, ["rover.max_wer=inf"]).rover.max_wer == float("inf")


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no settings file"):
        config.load(str(tmp_path / "absent.yaml"), [])
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    with pytest.raises(UserError, match="holds no settings"):
        config.load(str(tmp_path / "list.yaml"), [])
    (tmp_path / "bad.yaml").write_text("a: [1\nb: }")
    with pytest.raises(UserError, match="not valid YAML") as error:
        config.load(str(tmp_path / "bad.yaml"), [])
    assert "\n" not in str(error.value)
    (tmp_path / "latin.yaml").write_bytes("sources: [{path: crawl, domain: café}]\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.yaml is not UTF-8: save it as UTF-8"):
        config.load(str(tmp_path / "latin.yaml"), [])
    with pytest.raises(UserError, match=r"cannot read y+: File name too long"):
        config.load("y" * 300, [])


def test_a_file_that_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")  # root, who runs some tests, may read everything

    (tmp_path / "mine.yaml").write_text("{}")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"^cannot read .*mine\.yaml: Permission denied$"):
        config.load(str(tmp_path / "mine.yaml"), [])


def test_the_environment_cannot_be_pulled_into_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    (tmp_path / "sly.yaml").write_text("asr: {model: '${oc.env:AWS_SECRET_ACCESS_KEY}'}\n")
    for path, overrides in ((str(tmp_path / "sly.yaml"), []), (None, ["asr.model=${oc.env:AWS_SECRET_ACCESS_KEY}"])):
        with pytest.raises(UserError, match="write the value itself") as error:
            config.load(path, overrides)
        assert "hunter2" not in str(error.value)


def test_fingerprint_is_of_the_output_only() -> None:
    base = config.fingerprint(config.load(None, []))
    for same in ("output=elsewhere", "execution.segment.max_workers=8", "s3.region=eu", "plan.probe_workers=9"):
        assert config.fingerprint(config.load(None, [same])) == base, same
    for other in (
        "rover.max_wer=11",
        "asr.device=cuda",
        "asr.model=small",
        "plan.unit_minutes=10",
        "vad.options={step: 1}",
        "audio.codec=opus",
    ):
        assert config.fingerprint(config.load(None, [other])) != base, other


@pytest.mark.parametrize(
    ("settings", "stored", "in_fingerprint"),
    [
        ([], {}, {}),
        (["hallucination.max_repeats=5"], {"max_repeats": 5}, {"hallucination.max_repeats": 5}),
        (
            ["hallucination.rates={zh: {max_han_per_second: 12.5}}"],
            {"rates": {"zh": {"max_han_per_second": 12.5}}},
            {"hallucination.rates.zh.max_han_per_second": 12.5},
        ),
    ],
)
def test_a_run_from_before_hallucination_had_named_settings_goes_on(
    settings: list[str], stored: dict[str, Any], in_fingerprint: dict[str, Any]
) -> None:
    """Its config.yaml holds what the user gave and nothing else, and so does its fingerprint."""
    now = config.load(None, settings)
    assert config.restore(config.to_dict(now) | {"hallucination": stored}) == now
    found = config.output_settings(now)
    assert {key: value for key, value in found.items() if key.startswith("hallucination")} == in_fingerprint
    spelt_out = config.load(None, [*settings, "hallucination.min_stock_share=0.8"])
    assert config.fingerprint(spelt_out) == config.fingerprint(now)


def test_a_run_from_before_recordings_had_a_say_in_language_is_restored_as_it_was() -> None:
    """Else `redecide` would write that its clips were asked twice, and `run` would go on and mix both."""
    values = config.to_dict(config.load(None, []))
    assert config.restore(values).asr.sure_language_prob == 0.8
    del values["asr"]["sure_language_prob"], values["asr"]["retry_language"]
    assert config.restore(values).asr.sure_language_prob == 0.0

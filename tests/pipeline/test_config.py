"""Settings: what overrides what, and one clear line for every mistake."""

from __future__ import annotations

import errno
from dataclasses import asdict
from pathlib import Path

import pytest

from operators.errors import UserError
from pipeline import config

CONFIGS = Path(config.__file__).parent / "configs"


def test_the_documented_defaults_are_the_defaults() -> None:
    assert asdict(config.load(str(CONFIGS / "full.yaml"), [])) == asdict(config.Settings())


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
        ("rover.max_wer=much", ["rover.max_wer", "much"]),
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
        ("asr.engine=whisper", ["asr.engine=whisper", "whisperx, or module:Class"]),
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
    monkeypatch.setattr(Path, "read_text", refuse)
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

"""A run directory that somebody has touched, a store that fails, names made to mislead: one clear line, nothing
miscounted.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from operators.audio.decode import AudioError
from operators.errors import UserError
from operators.shard import read_ledger
from operators.storage.atomic import TEMPORARY
from operators.storage.base import StoreUnavailable
from operators.storage.fetch import Fetch, open_store
from pipeline import config
from pipeline.__main__ import main
from tests.support import fast_engines
from tests.support.kills import digest

HERE = "tests.pipeline.test_damage"


def run(out: Path, crawl: Path, *more: str) -> int:
    empty = out.parent / "empty.yaml"
    empty.write_text("{}\n")
    return main(["run", str(empty), *fast_engines.settings(str(out), str(crawl), "execution.runner=local", *more)])


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "crawl"
    fast_engines.write_crawl(folder, 40, seed=21)
    return folder


@pytest.fixture(scope="module")
def finished(crawl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run(out, crawl) == 0
    return out


def first(out: Path, ending: str) -> Path:
    return sorted(out.glob(f"shards/*/*{ending}"))[0]


def scramble(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for at in range(8, len(content) // 3):
        content[at] ^= 0x5A
    path.write_bytes(content)


def written_under_other_settings(out: Path) -> None:
    path = first(out, ".parquet")
    table = pq.read_table(path)
    metadata = table.schema.metadata | {b"touchasp.fingerprint": b"another"}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def lost(name: str) -> Callable[[Path], object]:
    return lambda out: (out / name).unlink()


DAMAGE: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "plan is garbage": (lambda out: (out / "plan.parquet").write_bytes(b"garbage"), ["plan.parquet is damaged"]),
    "plan is damaged inside": (lambda out: scramble(out / "plan.parquet"), ["plan.parquet is damaged"]),
    "plan is lost": (lost("plan.parquet"), ["shards and no plan", "another output"]),
    "config is no YAML": (lambda out: (out / "config.yaml").write_text("{a: ["), ["config.yaml is damaged"]),
    "config is no table": (
        lambda out: (out / "config.yaml").write_text("settings: 3\nfingerprint: x\n"),
        ["config.yaml"],
    ),
    "config is lost": (lost("config.yaml"), ["no config.yaml"]),
    "ledger is garbage": (lambda out: first(out, ".parquet").write_bytes(b"x"), ["ledger", "remove it"]),
    "ledger is damaged inside": (lambda out: scramble(first(out, ".parquet")), ["ledger", "remove it"]),
    "ledger of other settings": (written_under_other_settings, ["other settings", "remove it"]),
    "ledger of another plan": (
        lambda out: shutil.copy(first(out, ".parquet"), first(out, ".parquet").with_name("audiobook-900000.parquet")),
        ["audiobook-900000", "no unit of the plan"],
    ),
    "tar is lost": (lambda out: first(out, ".tar").unlink(), ["tar", "remove both"]),
    "tar is cut short": (
        lambda out: first(out, ".tar").write_bytes(first(out, ".tar").read_bytes()[:-512]),
        ["tar", "remove both"],
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_run_directory_is_one_line(
    kind: str, finished: Path, crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = DAMAGE[kind]
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    damage(out)
    assert run(out, crawl) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    for word in words:
        assert word in error


def test_the_advice_fixes_it(finished: Path, crawl: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    first(out, ".tar").unlink()
    first(out, ".parquet").unlink()
    assert run(out, crawl) == 0
    assert digest(out) == digest(finished)


def test_a_tar_of_an_older_run_is_not_copied_into_a_new_one(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "run"
    shutil.copytree(finished, old)
    tar = first(old, ".tar")
    table, _ = read_ledger(tar.with_suffix(".parquet").read_bytes())
    last = max(row["tar_offset"] for row in table.to_pylist() if row["outcome"] == "kept")
    tar.write_bytes(tar.read_bytes()[: last + 100])
    new = ["rover.label_form=written", "execution.runner=local", "--output", str(tmp_path / "new")]
    assert main(["redecide", str(old), *new]) == 1
    told = capsys.readouterr().out
    assert "ends before" in told
    assert not (tmp_path / "new" / tar.with_suffix(".parquet").relative_to(old)).exists()


def test_what_a_killed_writer_left_is_swept(finished: Path, crawl: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    orphan = out / "shards" / f"{TEMPORARY}0123456789abcdef"
    orphan.write_bytes(b"half a shard")
    assert run(out, crawl) == 0
    assert not orphan.exists()


class Unreachable(fast_engines.HashRecogniser):
    """Fails as a store does that does not answer, for some units only."""

    def transcribe(self, clips, languages):  # type: ignore[no-untyped-def]
        if len(clips) > 12:
            raise StoreUnavailable("cannot reach the store")
        return super().transcribe(clips, languages)


def test_a_store_that_does_not_answer_costs_its_units(
    crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "run", crawl, f"asr.engine={HERE}:Unreachable") == 1
    assert "cannot reach the store" in capsys.readouterr().out
    assert list((tmp_path / "run").glob("shards/*/*.parquet")), "the others were done"
    assert run(tmp_path / "gives-up", crawl, f"asr.engine={HERE}:Unreachable", "execution.max_failures=1") == 2
    error = capsys.readouterr().err
    assert "cannot reach the store" in error
    assert error.count("\n") == 1


class Faulty(fast_engines.HashRecogniser):
    def __init__(self, model: str) -> None:
        raise ZeroDivisionError("a bug while loading")


def test_an_engine_that_falls_over_while_loading_has_not_passed_the_roll_call(
    crawl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("{}\n")
    settings = fast_engines.settings(
        str(tmp_path / "run"), str(crawl), "execution.runner=local", f"asr.engine={HERE}:Faulty"
    )
    assert main(["check", str(empty), *settings]) == 2
    told = capsys.readouterr()
    assert "ok engines" not in told.out
    assert "a bug while loading" in told.err
    assert told.err.count("\n") == 1


class Quoting(fast_engines.HashRecogniser):
    def transcribe(self, clips, languages):  # type: ignore[no-untyped-def]
        raise ValueError("cannot read \x1b]0;owned\x07 [/red] \x1b[2J name")


def test_names_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences are printed as text, and what looks like markup stays as it is."""
    folder = tmp_path / "crawl [b]"
    fast_engines.write_crawl(folder, 8, seed=22, domains=("li[b]ve \x1b[2J",))
    assert run(tmp_path / "out [bold]", folder) == 0
    assert run(tmp_path / "bug", folder, f"asr.engine={HERE}:Quoting") == 1
    empty = tmp_path / "empty.yaml"
    assert main(["plan", str(empty), *fast_engines.settings(str(tmp_path / "out [bold]"), str(folder))]) == 0
    row = next(
        row for path in (tmp_path / "out [bold]").glob("shards/*/*.parquet") for row in pq.read_table(path).to_pylist()
    )
    clip = row["clip_id"] or pq.read_table(first(tmp_path / "out [bold]", ".parquet")).to_pylist()[1]["clip_id"]
    assert main(["show", str(tmp_path / "out [bold]"), clip]) == 0
    assert main(["report", str(tmp_path / "no \x1b[31m such run")]) == 2
    told = capsys.readouterr()
    assert "\x1b]0;" not in told.out + told.err
    assert "\x1b[2J" not in told.out + told.err
    assert "\x1b[31m" not in told.out + told.err
    assert "crawl [b] (folder)" in told.out
    assert "li[b]ve \\x1b[2J" in told.out
    assert "out [bold]" in told.out
    assert "cannot read \\x1b]0;owned" in told.out


@pytest.mark.parametrize(
    "setting",
    [
        "audio.decode_attempts=0", "audio.max_hours=0", "audio.decode_timeout_seconds=0", "audio.max_gigabytes=nan",
        "execution.max_failures=0", "execution.max_task_retries=-1", "execution.segment.threads=0",
        "execution.rover.cpus=-1",
        "s3.max_attempts=0", "copilot.models={zh: 3}", "copilot.models={zh: [a, [b]]}", "s3.endpoint_url=http://me:pw@store",
    ],
)  # fmt: skip
def test_a_setting_that_would_ruin_a_run_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match=setting.partition("=")[0].replace(".", r"\.")) as caught:
        config.load(None, [setting])
    assert ":pw@" not in str(caught.value)


def test_threads_of_an_engine_are_part_of_what_a_run_is() -> None:
    """Four threads add up in another order than one: the run could not be resumed to the same bytes."""
    one = config.load(None, [])
    assert config.fingerprint(config.override(one, ["execution.transcribe.threads=4"])) != config.fingerprint(one)
    for free in ("execution.transcribe.max_workers=4", "execution.rover.threads=2", "execution.runner=local"):
        assert config.fingerprint(config.override(one, [free])) == config.fingerprint(one)


def test_an_object_beyond_the_limit_is_not_downloaded(s3_server: str, bucket: str, tmp_path: Path) -> None:
    s3 = config.S3Settings(endpoint_url=s3_server, region="us-east-1")
    store = open_store(f"s3://{bucket}/crawl", s3)
    store.put("big.wav", bytes(1001))
    fetch = Fetch(s3, str(tmp_path), max_bytes=1000)
    with pytest.raises(AudioError) as caught, fetch.fetch(store.url("big.wav")):
        pass
    assert caught.value.reason == "too_large"
    with fetch.fetch(store.url("big.wav"), (0, 1000)) as path:
        assert Path(path).stat().st_size == 1000

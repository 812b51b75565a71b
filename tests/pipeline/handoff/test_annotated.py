"""A hand-off of an annotated run: what is known of a clip, which clips are taken, how evenly they are seen."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.__main__ import main
from tests.support import fast_engines
from tests.support.curated_handoffs import copied, curate, everything, index, ledger_rows, record, rewrite


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with attributes and quality in its ledgers: more women than men in one domain, a manifest with labels."""
    folder = tmp_path_factory.mktemp("annotated")
    fast_engines.write_crawl(folder / "crawl", 24, seed=5)
    run = curate(folder, "run", str(folder / "crawl"), *fast_engines.annotated())

    def label(rows: list[dict[str, Any]], _: dict[str, str]) -> None:
        for number, row in enumerate(row for row in rows if row["outcome"] == "kept"):
            row["gender"] = (None, "male", "female", "female")[number % 4]
            row["provenance"] = json.dumps({"gender": "male", "age": "Adult", "answer": "Yes, sir"})
            row["agreed_language"] = "yue" if number % 2 else None
            row["snr_db"] = float(number) if number % 3 else None
            row["words"] = [{"text": "a", "start": 0, "end": 1600}]

    rewrite(Path(run), label)
    return run


@pytest.fixture
def hand_off(annotated: str, tmp_path: Path) -> Callable[..., Path]:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text('{"schema_version": 1, "scheme": {}}')

    def made(*arguments: str, code: int = 0) -> Path:
        given = ["--tokenizer", str(tmp_path / "tokenizer"), "--dev", "0", "--test", "0"]
        out = tmp_path / f"handoff-{len(list(tmp_path.iterdir()))}"
        assert main(["handoff", annotated, *arguments, "--out", str(out), *given]) == code
        return out

    return made


def test_the_ledger_comes_before_the_manifest(annotated: str, hand_off: Callable[..., Path]) -> None:
    out = hand_off()
    found = {row["clip_id"]: row for row in index(out, "train")}
    kept = ledger_rows(annotated)
    assert len(found) == len(kept) > 10
    for row in kept:
        own = found[row["clip_id"]]
        assert own["gender"] == (row["gender"] or "male")
        assert (own["age"], own["answer"], own["emotion"]) == ("adult", "Yes, sir", row["emotion"])
        assert own["language"] == (row["agreed_language"] or row["language"])
        assert (own["snr_db"], own["words"], own["events"]) == (row["snr_db"], row["words"], row["events"])
    counted = Counter(row["gender"] for row in found.values())
    assert record(out)["attributes"]["gender"] == dict(counted)
    assert record(out)["attributes"].keys() == {"language", "age", "gender", "emotion", "style", "events"}


def test_a_condition_takes_the_clips_that_meet_it(annotated: str, hand_off: Callable[..., Path]) -> None:
    out = hand_off("--where", "snr_db >= 4 and gender = 'female'")
    wanted = {
        row["clip_id"]
        for row in ledger_rows(annotated)
        if row["snr_db"] is not None and row["snr_db"] >= 4 and row["gender"] == "female"
    }
    assert {row["clip_id"] for row in index(out, "train")} == wanted
    assert wanted
    made = record(out)
    assert made["left_out"] == len(ledger_rows(annotated)) - len(wanted)
    assert made["settings"]["where"] == "snr_db >= 4 and gender = 'female'"
    assert json.loads((out / "cmvn.json").read_text())["frames"] > 0


def test_a_clip_that_is_left_out_does_not_stand_in_for_its_repetition(
    annotated: str, hand_off: Callable[..., Path], tmp_path: Path
) -> None:
    again = copied(annotated, tmp_path / "again")
    rewrite(again, lambda rows, _: [row.update(snr_db=99.0) for row in rows if row["outcome"] == "kept"])
    out = hand_off(str(again), "--where", "snr_db = 99")
    assert len(index(out, "train")) == len(ledger_rows(annotated))


def test_balance_shows_an_attribute_more_evenly_and_keeps_the_domains_of_dev(
    annotated: str, hand_off: Callable[..., Path]
) -> None:
    plain, out = hand_off(), hand_off("--balance", "gender", "--alpha", "0")
    own, before = record(out), record(plain)
    seen: Counter[str] = Counter()
    for name, domain in own["domains"].items():
        if domain["clips"]:
            seen[name.partition("=")[2]] += domain["weight"] * domain["hours"]
    assert seen["male"] == pytest.approx(seen["female"], rel=0.01), "alpha 0: all labels alike"
    rows = {row["clip_id"]: row for row in index(out, "train")}
    for row in index(plain, "train"):
        assert rows[row["clip_id"]] == row | {"domain": f"{row['domain']}/gender={row['gender']}"}
    assert own["settings"]["balance"] == ["gender"]
    assert before["settings"]["balance"] == []
    split = hand_off("--balance", "gender", "--dev", "0.5")
    domains = {name: {row["domain"] for row in rows} for name, rows in everything(split).items()}
    assert all("/gender=" in name for name in domains["train"])
    assert not any("/" in name for name in domains.get("dev", ()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--where", "snr > 3"], ["no column is called snr", "snr_db"]),
        (["--where", "snr_db > 1000"], ["--where"]),
        (["--balance", "style"], ["--balance style", "no clip of train has a known style"]),
    ],
)
def test_a_mistake_is_one_line(
    hand_off: Callable[..., Path], capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    capsys.readouterr()
    hand_off(*arguments, code=2)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in words:
        assert word in error

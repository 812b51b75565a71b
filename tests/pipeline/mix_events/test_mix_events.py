"""Vocal events put into speech: what is heard is what the text says, and a hand-off reads the set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.audio.decode import decode
from operators.audio.vary import vary
from operators.clip import SAMPLE_RATE, Word
from operators.storage.base import S3Settings
from operators.text.scripts import tokens
from pipeline.__main__ import main
from pipeline.handoff.labelled import LabelledSet, labelled_rows
from pipeline.handoff.spool import SpoolNames
from pipeline.mix_events.mix import FACTOR, LEVEL_DB, Placed, draw, loudness, mix, pauses, trimmed, with_event


def tone(hertz: float, seconds: float, rms: float = 3000) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.rint(rms * np.sqrt(2) * np.sin(2 * np.pi * hertz * time)).astype(np.int16)


def pitch(pcm: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(pcm * np.hanning(len(pcm)))).argmax() * SAMPLE_RATE / len(pcm))


@pytest.mark.parametrize(("speed", "height"), [(1.0, 1.0), (0.85, 1.15), (1.15, 0.85), (1.1, 1.0)])
def test_speed_and_pitch_are_what_was_asked_for(speed: float, height: float) -> None:
    varied = vary(tone(440, 2), speed=speed, pitch=height)
    assert len(varied) == pytest.approx(2 * SAMPLE_RATE / speed, rel=0.01)
    assert pitch(varied) == pytest.approx(440 * height, rel=0.005)
    assert np.array_equal(varied, vary(tone(440, 2), speed=speed, pitch=height))


def words(*seconds: tuple[float, float]) -> list[Word]:
    return [
        Word(text=f"w{n}", start=round(a * SAMPLE_RATE), end=round(b * SAMPLE_RATE)) for n, (a, b) in enumerate(seconds)
    ]


def test_a_pause_is_long_enough_and_is_known_by_the_words_before_it() -> None:
    assert pauses(words((0, 0.5), (0.6, 1.0), (1.5, 2.0), (2.0, 2.2))) == [(2, round(1.25 * SAMPLE_RATE))]


def test_what_is_drawn_lies_within_bounds_and_reaches_every_place() -> None:
    spoken = words((0, 0.5), (0.8, 1.0), (1.5, 2.0))
    drawn = [draw(np.random.default_rng(seed), 40_000, spoken, 3) for seed in range(200)]
    assert {(each.where, each.after_words) for each in drawn} == {("start", 0), ("end", 3), ("pause", 1), ("pause", 2)}
    for name, (low, high) in (("level_db", LEVEL_DB), ("speed", FACTOR), ("pitch", FACTOR)):
        values = [getattr(each, name) for each in drawn]
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    untimed = [draw(np.random.default_rng(seed), 40_000, spoken[:2], 3).where for seed in range(50)]
    assert set(untimed) == {"start", "end"}, "a text of which not every word is timed has no known pauses"


def test_the_event_lies_where_it_was_put_as_loud_as_it_was_asked_and_speech_is_whole() -> None:
    speech = np.concatenate([tone(200, 1.0), np.zeros(8000, np.int16), tone(200, 1.0)])
    placed = Placed(where="pause", after_words=1, at=20_000, level_db=5, speed=1, pitch=1)
    event = np.concatenate([np.zeros(16_000, np.int16), tone(1000, 0.5, rms=100), np.zeros(16_000, np.int16)])
    mixture = mix(speech, "one two", event, "cough", placed)
    assert mixture.text == "one <event:cough> two"
    inside = mixture.pcm[mixture.event_start : mixture.event_start + mixture.event_samples]
    assert mixture.event_samples == pytest.approx(0.5 * SAMPLE_RATE, abs=1000), "the quiet around an event is left out"
    assert pitch(inside) == pytest.approx(1000, abs=5)
    assert np.array_equal(mixture.pcm[:20_000], speech[:20_000])
    assert np.array_equal(mixture.pcm[20_000 + mixture.event_samples :], speech[20_000:])
    assert 20 * np.log10(loudness(inside[800:-800]) / loudness(speech)) == pytest.approx(5, abs=0.2)
    loud = mix(tone(200, 1, rms=20_000), "one", event, "cough", placed)
    assert np.abs(loud.pcm.astype(int)).max() <= 32_000, "turned down, not clipped"
    with pytest.raises(ValueError, match="the speech is silent"):
        mix(np.zeros(30_000, np.int16), "one", event, "cough", placed)


def test_a_long_event_is_heard_where_it_is_loudest() -> None:
    long = np.concatenate([tone(500, 4, rms=1000), tone(500, 2, rms=4000), tone(500, 4, rms=1000)])
    kept = trimmed(long, 3.0)
    assert len(kept) == 3 * SAMPLE_RATE
    assert loudness(kept[8000:-8000]) == pytest.approx(4000, rel=0.3)


@settings(max_examples=60)
@given(st.text("ab你好, .'é ", max_size=20), st.integers(0, 8))
def test_the_tag_moves_no_word(text: str, after: int) -> None:
    tagged = with_event(text, "dog", after)
    before, _, behind = tagged.partition("<event:dog>")
    said = tokens(text)
    assert [*tokens(before), *tokens(behind)] == said
    assert len(tokens(before)) == min(after, len(said))
    assert "".join((before + behind).split()) == "".join(text.split())


def test_punctuation_stays_with_its_word() -> None:
    assert with_event("Good morning, all.", "cough", 2) == "Good morning, <event:cough> all."
    assert with_event("你好，世界", "cough", 2) == "你好， <event:cough> 世界"


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "in"
    folder.mkdir()
    soundfile.write(folder / "s.wav", np.concatenate([tone(200, 2), tone(300, 2)]), SAMPLE_RATE)
    for name, hertz in (("dog", 1000), ("cough", 2000)):
        soundfile.write(folder / f"{name}.wav", tone(hertz, 0.4), SAMPLE_RATE)
    speech = [
        {
            "uri": "s.wav",
            "text": "good morning",
            "start": 0,
            "end": 2,
            "language": "en",
            "speaker": "kim",
            "gender": "female",
        },
        {"uri": "s.wav", "text": "早上好", "start": 2, "language": "zh", "events": []},
        {"uri": "gone.wav", "text": "never there"},
        {"uri": "s.wav", "text": ""},
        {"uri": "s.wav", "text": "no such second", "start": 9},
    ]
    events: list[dict[str, Any]] = [
        {"uri": "dog.wav", "events": ["Dog"]},
        {"uri": "cough.wav", "events": "cough"},
        {"uri": "cough.wav", "events": ["cough", "dog"]},
    ]
    for name, rows in (("speech", speech), ("events", events)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "speech.jsonl", folder / "events.jsonl"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_set_is_whole_repeatable_and_read_by_a_hand_off(
    sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["mix-events", *map(str, sets), "--copies", "3", "--seed", "5"]
    assert main([*command, "--out", str(tmp_path / "a")]) == 0
    assert "6 clips:" in capsys.readouterr().out
    assert main([*command, "--out", str(tmp_path / "b")]) == 0
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert [(tmp_path / "a" / file).read_bytes() for file in files] == [
        (tmp_path / "b" / file).read_bytes() for file in files
    ]
    rows = lines(tmp_path / "a" / "manifest.jsonl")
    assert len(rows) == 6
    for row in rows:
        pcm = decode(str(tmp_path / "a" / row["uri"])).pcm
        label = row["text"].partition("<event:")[2].partition(">")[0]
        first = round(row["mixed"]["event_start"] * SAMPLE_RATE)
        inside = pcm[first : first + round(row["mixed"]["event_seconds"] * SAMPLE_RATE)]
        assert pitch(inside) == pytest.approx({"dog": 1000, "cough": 2000}[label] * row["mixed"]["pitch"], rel=0.01)
        assert row["text"].startswith("<") == (row["mixed"]["where"] == "start")
    english, chinese = rows[0], rows[3]
    assert (english["speaker"], english["gender"], english["language"]) == ("kim", "female", "en")
    assert "events" not in english, "what else is in that recording nobody said"
    assert len(chinese["events"]) == 1
    assert {row["recording_id"] for row in rows} == {str(sets[0].parent / "s.wav")}
    assert [each["reason"] for each in lines(tmp_path / "a" / "skipped.jsonl")] == [
        "no_event",
        "missing",
        "no_text",
        "bad_span",
    ]
    assert main([*command, "--out", str(tmp_path / "a")]) == 2
    assert "holds a set already" in capsys.readouterr().err
    names, unread = SpoolNames(), list[Any]()
    labelled = LabelledSet.parse(f"{tmp_path}/a/manifest.jsonl")
    (batch,) = labelled_rows(labelled, 0, names, S3Settings(), unread)
    assert not unread
    read = batch.to_pylist()
    assert [row["label"] for row in read] == [row["text"] for row in rows]
    assert {row["speaker"] for row in read} == {"kim", None}


def test_a_mistake_is_a_line(sets: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speech, events = map(str, sets)
    sounds = sets[1].with_name("sounds.jsonl")
    sounds.write_text('{"uri": "dog.wav", "events": ["dog"]}\n', encoding="utf-8")
    for command, line in (
        ([speech, speech, "--out", str(tmp_path / "o")], "no row of"),
        ([str(sounds), events, "--out", str(tmp_path / "o")], "a row of speech needs 'text'"),
        ([speech, events, "--out", str(tmp_path / "o"), "--copies", "0"], "--copies 0"),
        ([speech, events, "--out", str(tmp_path / "o"), "--align", str(tmp_path)], "cannot read"),
    ):
        assert main(["mix-events", *command]) == 2
        assert line in capsys.readouterr().err

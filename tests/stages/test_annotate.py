"""The Annotate stage: who is asked, with what, and what becomes of a clip that sounds too bad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from operators.annotate.limits import QualityLimits
from operators.clip import (
    Attributes,
    Clip,
    Hypothesis,
    Piece,
    Quality,
    Recording,
    Rejection,
    Span,
    Unit,
    Verdict,
    Word,
    clip_hash,
    clip_id,
)
from operators.shard import opinions_of, quality_of, sample_record, unit_rows
from operators.storage.local import LocalStore
from stages.annotate import Annotate, AnnotationRule, RunCache, speaker_name
from tests.support.fast_engines import HashAligner, HashAnnotator, HashDiarisation

DROPPED = Verdict(rejection=Rejection(stage="rover", reason="wer"))


def unit(*verdicts: Verdict, provenance: dict[str, str] | None = None, start: int = 0) -> Unit:
    """One recording, cut into clips of a second with these verdicts."""
    recording = Recording(recording_id="r", uri="r.wav", domain="d", provenance=provenance or {})
    spans = [Span(start + at * 16_000, start + (at + 1) * 16_000) for at in range(len(verdicts))]
    heard = (Hypothesis(engine="asr", text="one two", language="en"),)
    clips = tuple(
        Clip(clip_id=clip_id("r", span), recording_id="r", span=span, hypotheses=heard, verdict=verdict)
        for span, verdict in zip(spans, verdicts, strict=True)
    )
    pcm = np.random.default_rng(1).integers(-3000, 3000, len(verdicts) * 16_000, np.int16)
    return Unit(unit_id="d-0", domain="d", pieces=(Piece(recording=recording, start=start),), clips=clips, audio=pcm)


KEPT = Verdict(label="one two")


class LevelMeter:
    """SNR is the level of the first sample; remembers whose neighbours were given."""

    def __init__(self) -> None:
        self.neighbours: list[list[int]] = []

    def measure(self, pcm: np.ndarray, neighbours: Sequence[np.ndarray] = ()) -> Quality:
        self.neighbours.append([int(each[0]) for each in neighbours])
        return Quality(snr_db=float(pcm[0]))

    def close(self) -> None:
        pass


def annotated(made: Unit, folder: Path, **settings: object) -> Unit:
    chosen: dict[str, object] = {
        "annotators": [HashAnnotator, lambda: HashAnnotator("b")],
        "kinds": ("gender", "emotion", "events"),
    }
    stage = Annotate(store=LocalStore(str(folder)), **(chosen | settings))  # type: ignore[arg-type]
    stage.open()
    done = stage.process(made)
    stage.close()
    return done


def test_kept_clips_alone_are_asked_about(tmp_path: Path) -> None:
    done = annotated(unit(KEPT, DROPPED, KEPT), tmp_path)
    assert [clip.attributes is None for clip in done.clips] == [False, True, False]
    assert done.clips[1] == unit(KEPT, DROPPED, KEPT).clips[1]
    assert [said.annotator[-1] for said in done.clips[0].opinions] == ["a"] * 3 + ["b"] * 3
    nothing = unit(DROPPED)
    assert annotated(nothing, tmp_path) is nothing


def test_the_manifest_wins_and_names_the_speaker(tmp_path: Path) -> None:
    made = unit(*[KEPT] * 12, provenance={"gender": "f", "speaker": "Ann", "age": "n/a"})
    done = annotated(made, tmp_path, diarisation=HashDiarisation)
    assert {clip.attributes.gender for clip in done.clips if clip.attributes} == {"female"}
    assert {clip.attributes.age for clip in done.clips if clip.attributes} == {None}
    assert {clip.speaker for clip in done.clips} == {"Ann"}
    assert {said.labels for clip in done.clips for said in clip.opinions if said.kind == "gender"} == {
        ("female",),
        ("male",),
    }, "what annotators said is kept all the same"


def test_speakers_are_named_by_recording_and_piece(tmp_path: Path) -> None:
    done = annotated(unit(*[KEPT] * 8), tmp_path, annotators=(), diarisation=HashDiarisation)
    name = clip_hash("r")
    assert {clip.speaker for clip in done.clips} == {f"{name}-0", f"{name}-1"}
    assert done.clips[0].speaker == f"{name}-0"
    later = unit(*[KEPT] * 8, start=48_000)
    assert speaker_name(later.pieces[0], 0) == f"{name}-48000-0", "nobody knows whether this voice is the first one"


def test_words_are_those_that_two_aligners_place_alike(tmp_path: Path) -> None:
    aligners = [HashAligner, lambda: HashAligner("late")]
    done = annotated(unit(Verdict(label="one two three four")), tmp_path, annotators=(), aligners=aligners)
    assert done.clips[0].words == tuple(
        Word(text=word, start=4000 * at, end=4000 * at + 4000) for at, word in enumerate(("two", "three", "four"), 1)
    )


def test_a_clip_below_a_limit_is_rejected_and_its_opinions_stay(tmp_path: Path) -> None:
    made = unit(*[KEPT] * 6)
    levels = [float(pcm[0]) for pcm in made.clip_audio()]
    least = sorted(levels)[2]
    rule = AnnotationRule(limits=QualityLimits(min_snr_db=max(-50.0, least)))
    done = annotated(made, tmp_path, meter=LevelMeter, rule=rule)
    rejected = [clip for clip in done.clips if clip.verdict and not clip.verdict.kept]
    assert {clip.span.start // 16_000 for clip in rejected} == {at for at, level in enumerate(levels) if level < least}
    reasons = {
        (clip.verdict.rejection.stage, clip.verdict.rejection.reason)
        for clip in rejected
        if clip.verdict and clip.verdict.rejection
    }
    assert reasons == {("annotate", "low_snr")}
    rows = {row["start"]: row for row in unit_rows(done)}
    for clip in done.clips:
        row = rows[clip.span.start]
        assert opinions_of(row) == clip.opinions
        assert quality_of(row) == clip.quality
        assert (row["outcome"] == "kept") == (clip not in rejected)


def test_neighbours_are_clips_of_the_recording_the_nearest_first(tmp_path: Path) -> None:
    made = unit(KEPT, DROPPED, KEPT, KEPT)
    first = [int(pcm[0]) for pcm in made.clip_audio()]
    meter = LevelMeter()
    annotated(made, tmp_path, annotators=(), meter=lambda: meter)
    assert meter.neighbours == [
        [first[1], first[2], first[3]],
        [first[1], first[3], first[0]],
        [first[2], first[1], first[0]],
    ], "a rejected clip's pauses are as quiet"
    other = replace(made, clips=(made.clips[0], *(replace(clip, recording_id="other") for clip in made.clips[1:])))
    stranger = Piece(recording=Recording(recording_id="other", uri="o.wav", domain="d"))
    meter.neighbours.clear()
    annotated(replace(other, pieces=(*made.pieces, stranger)), tmp_path, annotators=(), meter=lambda: meter)
    assert meter.neighbours[0] == []


def test_what_is_unknown_is_absent_from_the_shard(tmp_path: Path) -> None:
    """And what nobody was asked about as well."""
    plain = sample_record(unit_rows(unit(KEPT))[0])
    for clip in annotated(unit(*[KEPT] * 8), tmp_path, diarisation=HashDiarisation).clips:
        (row,) = unit_rows(replace(unit(*[KEPT] * 8), clips=(clip,), audio=np.zeros(16_000, np.int16)))
        record = sample_record(row)
        assert clip.attributes is not None
        known = {kind for kind in ("gender", "emotion") if getattr(clip.attributes, kind) is not None}
        known |= {"events"} if clip.attributes.events else {"no_events"} if clip.attributes.events == () else set()
        assert record.keys() - plain.keys() == known | {"opinions", "speaker", "overlap"}
    assert plain["language"] == "en"
    dialect = replace(unit(KEPT).clips[0], attributes=Attributes(language="sichuan"))
    assert sample_record(unit_rows(replace(unit(KEPT), clips=(dialect,)))[0])["language"] == "sichuan"


def test_answers_are_kept_in_the_run_and_taken_from_an_earlier_one(tmp_path: Path) -> None:
    old, new = LocalStore(str(tmp_path / "old")), LocalStore(str(tmp_path / "new"))
    key = "0123456789abcdef"
    RunCache(old).put(key, b"answer")
    assert RunCache(new).get(key) is None
    assert RunCache(new, old).get(key) == b"answer"
    assert RunCache(new).get(key) == b"answer", "the new run stands by itself"
    with pytest.raises(ValueError, match="no hash"):
        RunCache(new).put("../../etc/passwd", b"")

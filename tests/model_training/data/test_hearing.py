"""The trainer, `index` and `recognize` hear what curation hears."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from model_training.data.audio import REASONS, BadSample
from model_training.data.audio import decode as heard_in_training
from model_training.data.index import Index
from model_training.data.plain_tars import IndexSettings, index_from_tars
from model_training.decoding.windows import windows
from operators.audio.decode import Problem, decode, encode_flac
from operators.clip import SAMPLE_RATE
from operators.shard import feature_frames
from tests.support.odd_recordings import ODD, bursts, encode, odd, vorbis

HOLED = ("zeros.ts", "hole.opus", "hole.ogg", "hole.mp3", "hole.aac", "end.aac")


@pytest.mark.parametrize("name", ODD)
def test_training_hears_the_samples_of_curation(name: str) -> None:
    expected = decode(io.BytesIO(odd(name)))
    if name in HOLED:  # the label speaks of what is not there
        with pytest.raises(BadSample, match=r"s could not be read") as caught:
            heard_in_training("clip", io.BytesIO(odd(name)))
        assert caught.value.reason in REASONS
        holes = expected.problems[0].span.start, expected.problems[-1].span.end
        for start in (holes[0] - 2 * SAMPLE_RATE, holes[1] + SAMPLE_RATE):  # nothing is left after the hole of end.aac
            if start + SAMPLE_RATE <= len(expected.pcm):
                part = heard_in_training("clip", io.BytesIO(odd(name)), start, start + SAMPLE_RATE)
                np.testing.assert_array_equal(part, expected.pcm[start : start + SAMPLE_RATE])
        return
    np.testing.assert_array_equal(heard_in_training("clip", io.BytesIO(odd(name))), expected.pcm)
    part = heard_in_training("clip", io.BytesIO(odd(name)), 17_000, 60_000)
    np.testing.assert_array_equal(part, expected.pcm[17_000:60_000])


@pytest.mark.parametrize("name", ODD)
def test_recognize_hears_the_samples_of_curation(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(odd(name))
    expected, holes = decode(io.BytesIO(odd(name))), list[Problem]()
    parts = list(windows(tmp_path / name, 4 * SAMPLE_RATE, holes.append))
    np.testing.assert_array_equal(np.concatenate(parts), expected.pcm)
    assert tuple(holes) == expected.problems


def test_a_clip_of_a_shard_is_read_as_any_decoder_reads_it() -> None:
    pcm = (bursts(3, SAMPLE_RATE) * 32767).astype(np.int16)
    data = encode_flac(pcm)
    np.testing.assert_array_equal(heard_in_training("clip", io.BytesIO(data)), pcm)
    np.testing.assert_array_equal(heard_in_training("clip", io.BytesIO(data), 100, 30_000), pcm[100:30_000])
    twice = heard_in_training("clip", io.BytesIO(data + data))
    np.testing.assert_array_equal(twice, np.concatenate([pcm, pcm]))
    data = encode_flac(np.random.default_rng(0).integers(-3000, 3000, 3 * SAMPLE_RATE).astype(np.int16))
    for broken in (data[: len(data) // 2], data[:30_000] + bytes(500) + data[30_500:]):
        with pytest.raises(BadSample):
            heard_in_training("clip", io.BytesIO(broken))


def test_antiphase_and_the_centre_of_many_channels_are_heard() -> None:
    one = bursts(4, 48_000)
    mono = heard_in_training("clip", io.BytesIO(encode("flac", "flac", one, 48_000))).astype(float)
    mirrored = heard_in_training("clip", io.BytesIO(encode("flac", "flac", np.stack([one, -one]), 48_000)))
    assert abs(np.abs(mirrored.astype(float)).mean() / np.abs(mono).mean() - 1) < 0.02


def test_an_index_is_made_of_odd_recordings(tmp_path: Path) -> None:
    names = ("vbr.mp3", "cbr.mp3", "advert.mp3", "rates.ogg", "channels.opus", "zero.wav", "two.wav", "pipe.flac")
    first, second = ("odd-a.tar", names[:5]), ("odd-b.tar", names[5:])
    for tar_name, own in (first, second):
        with tarfile.open(tmp_path / tar_name, "w") as tar:
            for name in own:
                key, _, ending = name.partition(".")
                for suffix, data in ((ending, odd(name)), ("txt", b"\xef\xbb\xbfone two")):
                    member = tarfile.TarInfo(f"./talk/{key}-{ending}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    both = tmp_path / "both.tar"
    both.write_bytes((tmp_path / "odd-a.tar").read_bytes() + (tmp_path / "odd-b.tar").read_bytes())
    done = index_from_tars([str(both)], tmp_path / "out", IndexSettings(dev_share=0, test_share=0))
    assert (tmp_path / "out" / "bad_samples.jsonl").read_text() == ""
    assert done.splits["train"].clips == len(names)
    index = Index.open(str(tmp_path / "out" / "train.arrow"))
    rows = [index.row(number) for number in range(len(names))]
    assert {row.label for row in rows} == {"one two"}
    for row in rows:
        name = row.clip_id.rpartition("/")[2].replace("-", ".")
        assert row.frames == feature_frames(len(decode(io.BytesIO(odd(name))).pcm)), name


def test_damage_costs_the_clip_and_not_the_run() -> None:
    for data in (b"", b"no audio at all", vorbis(2)[:3000], odd("cbr.mp3")[:100]):
        with pytest.raises(BadSample):
            heard_in_training("clip", io.BytesIO(data))

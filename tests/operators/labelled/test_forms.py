"""Sets as they are published: each form becomes the rows of a labelled manifest, and a bad line costs that line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from operators.errors import UserError
from operators.labelled.forms import place_of, published
from operators.labelled.splits import known_split, split_of
from operators.storage.base import S3Settings


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, "utf-8")
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in published(str(path), S3Settings()).rows() if isinstance(row, dict)]


def faults(path: Path) -> list[str]:
    return [row for _, row in published(str(path), S3Settings()).rows() if isinstance(row, str)]


def known(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def test_a_kaldi_folder_is_cut_by_its_segments(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "test",
        wav__scp="talk  /data/a talk.wav\nnews /data/news.wav\n",
        text="u1 你好\nu2 good  morning\nu3 lost\nu4 no recording\n",
        segments="u1 talk 0.5 2.25\nu2 news 1 -1\nu4 gone 0 1\n",
        utt2spk="u1 kim\nu2 lee\n",
        spk2gender="kim f\n",
    )
    assert [known(row) for row in rows(folder)] == [
        {"uri": "/data/a talk.wav", "text": "你好", "start": "0.5", "end": "2.25", "recording_id": "talk",
         "speaker": "kim", "gender": "f"},
        {"uri": "/data/news.wav", "text": "good  morning", "start": "1", "recording_id": "news", "speaker": "lee"},
    ]  # fmt: skip
    assert faults(folder) == ["u3 has no line 'recording start end' in segments", "gone is not in wav.scp"]
    assert published(str(folder), S3Settings()).name == "test"


def test_no_command_of_a_kaldi_folder_is_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    folder = write(
        tmp_path / "kaldi",
        wav__scp=f"a flac -c -d -s /data/a.flac |\nb touch {ran} |\nc c.wav\n",
        text="a one\nb two\nc three\n",
        c__wav="",
    )
    assert [row["uri"] for row in rows(folder)] == ["/data/a.flac", "c.wav"]
    assert "none is run" in faults(folder)[0]
    assert not ran.exists()


def test_librispeech_is_read_as_it_is_unpacked(tmp_path: Path) -> None:
    chapter = tmp_path / "LibriSpeech" / "test-clean" / "61" / "70968"
    write(
        chapter, **{"61-70968.trans.txt": "61-70968-0000 HE BEGAN\n61-70968-0001 GIVE NOT\n", "61-70968-0000.flac": ""}
    )
    write(tmp_path / "LibriSpeech", SPEAKERS__TXT=";ID |SEX| SUBSET\n61   | M | test-clean | 8.1 | A Name\n")
    first, second = rows(tmp_path / "LibriSpeech" / "test-clean")
    assert first == {
        "uri": str(chapter / "61-70968-0000.flac"), "text": "HE BEGAN", "recording_id": "61-70968", "speaker": "61",
        "gender": "M", "language": "en",
    }  # fmt: skip
    assert second["text"] == "GIVE NOT"


def test_aishell_is_read_as_it_is_unpacked(tmp_path: Path) -> None:
    root = tmp_path / "data_aishell"
    write(root / "transcript", **{"aishell_transcript_v0.8.txt": "BAC009S0764W0121 甚至 出现\n"})
    write(root / "wav" / "test" / "S0764", BAC009S0764W0121__wav="", BAC009S0764W0122__wav="")
    (row,) = rows(root / "wav" / "test")
    assert (row["text"], row["speaker"], row["language"]) == ("甚至 出现", "S0764", "zh")
    assert faults(root / "wav" / "test") == ["BAC009S0764W0122.wav has no transcript"]


def test_esc50_and_speechio_are_read_by_their_own_tables(tmp_path: Path) -> None:
    head = "filename,fold,target,category,esc10,src_file,take\n"
    write(tmp_path / "ESC-50" / "meta", esc50__csv=f"{head}1-100032-A-0.wav,1,0,dog,True,100032,A\n")
    found = published(str(tmp_path / "ESC-50" / "meta" / "esc50.csv"), S3Settings())
    ((_, row),) = found.rows()
    assert isinstance(row, dict)
    assert (row["events"], row["fold"], row["recording_id"]) == (["dog"], "1", "100032")
    assert place_of(row["uri"], found.folder) == str(tmp_path / "ESC-50" / "audio" / "1-100032-A-0.wav")
    write(tmp_path / "ZH00001", metadata__tsv='ID\tAUDIO\tDURATION\tTEXT\nx\twav/x.wav\t2.1\t说"好"\n')
    assert rows(tmp_path / "ZH00001") == [{"uri": "wav/x.wav", "text": '说"好"'}]


@pytest.mark.parametrize(
    ("value", "split"),
    [("test", "test"), ("Test-clean", "test"), ("validation", "dev"), (" dev_other ", "dev"), ("train-960", "train"),
     ("tset", None), ("other", None), ("5", None)],
)  # fmt: skip
def test_splits_are_known_by_the_words_that_sets_use(value: str, split: str | None) -> None:
    assert known_split(value) == split
    if split is None:
        with pytest.raises(UserError, match=r"set.csv:3: the split .* is not known: write train, dev or test"):
            split_of({"split": value}, "set.csv:3")
    else:
        assert split_of({"split": value}, "set.csv:3") == split


@pytest.mark.parametrize("path", ["nothing", "empty", "song.mp3", "gone.csv"])
def test_what_is_no_set_is_one_line(path: str, tmp_path: Path) -> None:
    write(tmp_path / "empty")
    write(tmp_path, song__mp3="")
    with pytest.raises(UserError, match=path):
        published(str(tmp_path / path), S3Settings())
    assert split_of({"split": ""}, "x") is split_of({}, "x") is None

"""Reading: the same tensors for any workers, ranks and restarts; bad clips named and skipped; local, S3, long files."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from botocore.awsrequest import AWSPreparedRequest, AWSResponse

from model_training.data.augment import Augment, AugmentSettings
from model_training.data.batching import BatchPlan, Planner
from model_training.data.features import Cmvn
from model_training.data.handoff import Handoff
from model_training.data.index import Index
from model_training.data.loading import ClipBatches, tensor
from model_training.data.reading import BadSample, Batch, Batches, Reader, WaveformForm, check_shards, load_noises
from operators.errors import UserError
from operators.filterbank import MelSums, filterbank
from operators.index import Row
from operators.storage.base import S3Settings
from operators.storage.fetch import locate
from tests.support.corpus import at, encoded, make_handoff, make_index, make_rows, noise, targets, voice, write_tar
from tests.support.s3_server import FaultyProxy, Rule, bucket, s3_server

__all__ = ["bucket", "s3_server"]

PLAN = BatchPlan(max_frames=600, max_clips=4, seed=3)
AUGMENT = Augment(AugmentSettings(noise_probability=0.5, reverb_probability=0.3))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return make_rows(tmp_path_factory.mktemp("corpus"), 24)


@pytest.fixture(scope="module")
def index(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_index(tmp_path_factory.mktemp("index"), rows)


@pytest.fixture(scope="module")
def cmvn(rows: list[Row]) -> Cmvn:
    sums = MelSums()
    for row in rows[:4]:
        sums = sums.add(filterbank(Reader().read(row)))
    return Cmvn.of(sums)


def planner(index: Index, stretch: float = AUGMENT.settings.stretch) -> Planner:
    return Planner(index, PLAN, stretch=stretch)


def same(first: Batch, second: Batch) -> bool:
    tensors = [name for name in Batch.__slots__ if isinstance(getattr(first, name), torch.Tensor)]
    assert len(tensors) == 9
    plain = ("global_batch", "clip_ids", "rows")
    return all(getattr(first, name) == getattr(second, name) for name in plain) and all(
        torch.equal(getattr(first, name), getattr(second, name)) for name in tensors
    )


def test_workers_and_a_resume_change_no_tensor(index: Index, cmvn: Cmvn) -> None:
    def batches(first: int, last: int, workers: int) -> list[Batch]:
        made = Batches(
            index, planner(index), Reader(), targets, cmvn, AUGMENT,
            first_global_batch=first, last_global_batch=last, workers=workers,
        )  # fmt: skip
        return list(made)

    reference = batches(0, 12, 0)
    assert [batch.global_batch for batch in reference] == list(range(12))
    for workers in (1, 2):
        assert all(map(same, reference, batches(0, 12, workers)))
    resumed = batches(7, 12, 2)
    assert len(resumed) == 5
    assert all(map(same, reference[7:], resumed))


def test_ranks_share_a_step_and_their_union_is_the_same(index: Index, cmvn: Cmvn) -> None:
    def numbers(world: int) -> list[list[int]]:
        def of_rank(rank: int) -> Batches:
            share = {"rank": rank, "world": world, "micro_batches": 4}
            plan = planner(index, 1.0)
            return Batches(index, plan, Reader(), targets, cmvn, first_global_batch=4, last_global_batch=12, **share)

        return [[batch.global_batch for batch in of_rank(rank)] for rank in range(world)]

    for world in (1, 2, 4):
        shares = numbers(world)
        assert sorted(chain.from_iterable(shares)) == list(range(4, 12))
        assert len({len(share) for share in shares}) == 1
    with pytest.raises(UserError, match="3 ranks"):
        Batches(index, planner(index), Reader(), targets, cmvn, world=3, micro_batches=4)


def test_a_batch_holds_the_features_and_ids_of_its_clips(index: Index, cmvn: Cmvn) -> None:
    batch = next(iter(Batches(index, planner(index, 1.0), Reader(), targets, cmvn)))
    assert batch.features_BT80.dtype == torch.float32
    for place, row in enumerate(batch.rows):
        expected = cmvn.apply(filterbank(Reader().read(row)))
        length = int(batch.feature_lengths_B[place])
        assert length == row.frames
        np.testing.assert_array_equal(batch.features_BT80[place, :length].numpy(), expected)
        assert not batch.features_BT80[place, length:].any()
        assert batch.ctc_targets_BU[place].tolist() == [10, 11, 12]
        assert batch.decoder_inputs_BL[place].tolist() == [2, 10, 11, 12]
        assert batch.decoder_targets_BL[place].tolist() == [10, 11, 12, 3]
        assert batch.content_B2[place].tolist() == [0, 3]


def test_padding_is_blank_end_of_text_and_no_loss(rows: list[Row], cmvn: Cmvn, tmp_path: Path) -> None:
    labels = ["a", "abcd", "ab", "abc"]
    one_bucket = [row for row in rows if row.frames > 80]
    clips = [at(row, label=label, label_tokens=len(label)) for row, label in zip(one_bucket, labels)]
    index = make_index(tmp_path, clips)
    wide = BatchPlan(max_frames=10_000, max_clips=10, max_padding=0.9)
    (batch,) = Batches(index, Planner(index, wide), Reader(), targets, cmvn, last_global_batch=1)
    assert sorted(batch.ctc_lengths_B.tolist()) == [1, 2, 3, 4]
    place = [row.label for row in batch.rows].index("ab")
    assert batch.ctc_targets_BU[place].tolist() == [10, 11, 0, 0]
    assert batch.decoder_inputs_BL[place].tolist() == [2, 10, 11, 3, 3]
    assert batch.decoder_targets_BL[place].tolist() == [10, 11, 3, -1, -1]
    assert batch.decoder_lengths_B[place] == 3


def broken_members() -> dict[str, tuple[bytes, str]]:
    """Members that cannot be used, and why."""
    good = encoded(voice(16_000))
    flipped = bytearray(good)
    for place in range(len(good) // 3, len(good) // 3 + 400):
        flipped[place] ^= 0x5A
    floats = voice(16_000).astype(np.float32) / 32768
    floats[8000] = np.nan
    return {
        "corrupt": (bytes(flipped), "unreadable|truncated|length_differs"),
        "no-audio": (b"this is no audio at all" * 9, "unreadable"),
        "truncated": (good[: len(good) // 2], "unreadable|truncated|length_differs"),
        "empty": (b"", "unreadable"),
        "no-samples": (encoded(np.zeros(0, np.int16), "WAV"), "empty"),
        "nan": (encoded(floats, "WAV", "FLOAT"), "non_finite"),
        "short": (encoded(voice(600)), "too_short"),
        "other-length": (encoded(voice(20_000)), "length_differs"),
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_clips_are_named_and_skipped_and_cost_no_other(
    rows: list[Row], cmvn: Cmvn, tmp_path: Path, workers: int
) -> None:
    broken = broken_members()
    places = write_tar(tmp_path / "bad.tar", [(name, data) for name, (data, _) in broken.items()])
    bad = [
        at(
            rows[0],
            clip_id=name,
            shard=str(tmp_path / "bad.tar"),
            offset=places[name][0],
            size=places[name][1],
            frames=98,
        )
        for name in broken
    ]
    # 24 encoder frames hold 13 letters, but not 13 equal ones with blanks between them.
    long = at(rows[0], clip_id="repeats", label="a" * (rows[0].frames // 4 - 3), label_tokens=5)
    unknown = at(rows[1], clip_id="unknown-letters", label="漢字", label_tokens=2)
    index = make_index(tmp_path, [*rows[2:6], *bad, long, unknown])
    plan = planner(index, 1.0)
    named: dict[str, str] = {}

    def on_bad(clip_id: str, reason: str, detail: str) -> None:
        assert clip_id not in named, "named twice"
        assert detail
        named[clip_id] = reason

    epoch = plan.batches_per_epoch(0)
    made = list(
        Batches(index, plan, Reader(), targets, cmvn, last_global_batch=2 * epoch, workers=workers, on_bad=on_bad)
    )
    seen = [clip for batch in made for clip in batch.clip_ids]
    assert sorted(seen) == sorted(2 * [*(row.clip_id for row in rows[2:6]), "unknown-letters"])
    assert set(named) == {*broken, "repeats"}
    assert named["repeats"] == "label_too_long"
    for name, (_, reason) in broken.items():
        assert named[name] in reason.split("|"), name
    assert sum(len(batch.bad) for batch in made) == 2 * (len(broken) + 1)
    empty = [batch for batch in made if not batch.clip_ids]
    assert all(batch.features_BT80.shape[0] == batch.ctc_targets_BU.shape[0] == 0 for batch in empty)


def test_masks_come_after_normalisation(index: Index, cmvn: Cmvn) -> None:
    masks_only = AugmentSettings(speed_factors=[], noise_probability=0, reverb_probability=0)
    plan = planner(index, 1.0)
    plain = list(Batches(index, plan, Reader(), targets, cmvn, last_global_batch=6))
    masked = list(Batches(index, plan, Reader(), targets, cmvn, Augment(masks_only), last_global_batch=6))
    changed = 0
    for before, after in zip(plain, masked, strict=True):
        different = before.features_BT80 != after.features_BT80
        changed += int(different.sum())
        assert not after.features_BT80[different].any()  # masked = 0, the mean
    assert changed > 1000


def test_a_label_that_fits_only_at_normal_speed_keeps_it(rows: list[Row], cmvn: Cmvn, tmp_path: Path) -> None:
    label = "ab" * 100
    tight = at(rows[0], label=label[: (rows[0].frames - 1) // 2 // 2 - 1], label_tokens=3)
    index = make_index(tmp_path, [tight])
    fast = Augment(AugmentSettings(speed_factors=[1.1], noise_probability=0, reverb_probability=0))
    (batch,) = Batches(index, planner(index), Reader(), targets, cmvn, fast, last_global_batch=1)
    assert batch.feature_lengths_B.tolist() == [tight.frames]
    loose = make_index(tmp_path, [at(tight, label="abc")])
    (batch,) = Batches(loose, planner(loose), Reader(), targets, cmvn, fast, last_global_batch=1)
    assert batch.feature_lengths_B[0] == pytest.approx(tight.frames / 1.1, abs=1)


def test_tasks_are_drawn_by_weight_and_fall_back(index: Index, cmvn: Cmvn) -> None:
    from tests.support.corpus import Ids

    def never(row: Row) -> Ids:
        return Ids(ctc=[5], inputs=[2, 5], targets=[-1, 3], content=(0, 1))  # its text is for CTC whatever the task

    def gender(row: Row) -> Ids:
        return Ids(ctc=[], inputs=[2, 5], targets=[6, 3], content=(0, 0))

    def drawn(choices: list) -> list[int]:
        batches = Batches(index, planner(index, 1.0), Reader(), choices, cmvn, last_global_batch=24)
        return [int(length) for batch in batches for length in batch.ctc_lengths_B]

    lengths = drawn([(1.0, targets), (3.0, gender)])
    assert 0.55 < np.mean(np.array(lengths) == 0) < 0.92
    assert lengths == drawn([(1.0, targets), (3.0, gender)])
    assert set(drawn([(1.0, targets), (3.0, never)])) == {3}
    assert set(drawn([(0.0, targets), (1.0, never), (1.0, gender)])) == {0}, "a task of weight 0 is no way out"
    assert set(drawn([(0.0, targets), (1.0, never)])) == {1}, "there is something for CTC"


def test_the_samples_of_a_lossless_member_come_back_as_they_were(tmp_path: Path) -> None:
    pcm = noise(16_000, 9000)
    pcm[:2] = -32768, 32767
    members = {"a.flac": encoded(pcm), "a.wav": encoded(pcm, "WAV")}
    places = write_tar(tmp_path / "x.tar", list(members.items()))
    for name, (offset, size) in places.items():
        np.testing.assert_array_equal(Reader().read(clip(str(tmp_path / "x.tar"), 98, offset, size)), pcm, name)


def clip(shard: str, frames: int, offset: int, size: int, start: int | None = None, end: int | None = None) -> Row:
    return Row(
        clip_id="one", shard=shard, offset=offset, size=size, start_sample=start, end_sample=end, frames=frames,
        label_tokens=1, label="a", domain="d",
    )  # fmt: skip


@pytest.mark.parametrize(("format", "subtype", "rate"), [
    ("WAV", "PCM_16", 16_000), ("FLAC", "PCM_16", 44_100), ("WAV", "FLOAT", 8_000), ("FLAC", "PCM_24", 48_000),
])  # fmt: skip
def test_a_stretch_of_a_long_file_is_that_of_the_whole(tmp_path: Path, format: str, subtype: str, rate: int) -> None:
    time = np.arange(rate * 6) / rate
    sweep, tone = np.sin(2 * np.pi * (200 + 50 * time) * time), 0.5 * np.sin(2 * np.pi * 900 * time)
    stereo = 0.4 * np.stack([sweep + tone] * 2, axis=1)
    path = tmp_path / "long"
    soundfile.write(path, stereo, rate, format=format, subtype=subtype)
    size = path.stat().st_size
    whole = Reader().read(clip(str(path), 598, 0, size))
    assert len(whole) == 96_000
    part = Reader().read(clip(str(path), 98, 0, size, 40_001, 56_001))
    assert np.abs(part.astype(int) - whole[40_001:56_001]).max() <= 1
    mono = (stereo.mean(axis=1) * 32768)[:: rate // 16_000] if rate % 16_000 == 0 else None
    if mono is not None:  # the sounds lie far below 8 kHz, so that dropping samples is resampling
        assert np.abs(whole[200:-200] - mono[200:-200]).max() < 8
    with pytest.raises(BadSample) as caught:
        Reader().read(clip(str(path), 98, 0, size, 90_000, 106_000))
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize(("format", "subtype"), [("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_members_are_read(tmp_path: Path, format: str, subtype: str) -> None:
    pcm = voice(32_000)
    data = encoded(pcm, format, subtype)
    (tmp_path / "x").write_bytes(data)
    heard = Reader().read(clip(str(tmp_path / "x"), 198, 0, len(data))).astype(float)
    expected = pcm[: len(heard)].astype(float)
    heard = heard[: len(expected)]
    assert np.corrcoef(heard, expected)[0, 1] > 0.9


def test_a_missing_or_shortened_shard_is_one_line_that_names_it(rows: list[Row], cmvn: Cmvn, tmp_path: Path) -> None:
    tar = tmp_path / "talk.tar"
    tar.write_bytes(Path(rows[0].shard).read_bytes())
    index = make_index(tmp_path, [at(row, shard=str(tar)) for row in rows if row.domain == "talk"])
    check_shards(index)
    with tar.open("r+b") as file:
        file.truncate(tar.stat().st_size // 2)
    with pytest.raises(UserError, match=r"talk\.tar has \d+ bytes, but its clips need"):
        check_shards(index)
    tar.unlink()
    with pytest.raises(UserError, match=r"talk\.tar is gone"):
        check_shards(index)
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"talk\.tar is gone") as caught:
            list(Batches(index, planner(index), Reader(), targets, cmvn, workers=workers, last_global_batch=2))
        assert "\n" not in str(caught.value)


def test_noise_recordings(tmp_path: Path) -> None:
    (tmp_path / "good.wav").write_bytes(encoded(noise(8000), "WAV"))
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    assert [len(one) for one in load_noises([str(tmp_path / "good.wav")])] == [8000]
    for name in ("bad.wav", "gone.wav"):
        with pytest.raises(UserError, match=name):
            load_noises([str(tmp_path / name)])


def test_s3_gives_the_same_tensors_through_broken_connections(
    rows: list[Row], index: Index, cmvn: Cmvn, tmp_path: Path, s3_server: str, bucket: str
) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    for shard in {row.shard for row in rows}:
        client.upload_file(shard, bucket, f"x/{Path(shard).name}")
    remote_rows = [at(row, shard=f"s3://{bucket}/x/{Path(row.shard).name}") for row in rows]
    make_index(tmp_path, remote_rows)
    client.upload_file(str(tmp_path / "train.arrow"), bucket, "train.arrow")
    faults = [
        Rule(action="cut", method="GET", path_contains=".tar", every=5, times=10**6),
        Rule(
            action="error", method="GET", path_contains=".tar", every=7, times=10**6, status=500, code="InternalError"
        ),
    ]
    with FaultyProxy(s3_server, faults) as proxy:
        s3 = S3Settings(proxy.url)
        remote = Index.open(f"s3://{bucket}/train.arrow", s3)
        check_shards(remote, s3)
        local_batches = list(Batches(index, planner(index), Reader(), targets, cmvn, AUGMENT, last_global_batch=5))
        for workers in (0, 1):
            made = Batches(
                remote, planner(remote), Reader(s3), targets, cmvn, AUGMENT, last_global_batch=5, workers=workers
            )
            for here, there in zip(local_batches, made, strict=True):
                assert here.clip_ids == there.clip_ids
                assert torch.equal(here.features_BT80, there.features_BT80)
        assert any(request.fault for request in proxy.requests)
        # By range: no request fetched a whole shard.
        gets = [r for r in proxy.requests if r.method == "GET" and r.path.endswith(".tar") and not r.fault]
        assert max(request.sent_bytes for request in gets) <= max(row.size for row in rows)
    part = Reader(S3Settings(s3_server)).read(at(remote_rows[0], start_sample=1600, end_sample=4800, frames=18))
    np.testing.assert_array_equal(part, Reader().read(rows[0])[1600:4800])


def test_s3_errors_are_one_line(
    rows: list[Row], tmp_path: Path, s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = S3Settings(s3_server)
    with pytest.raises(UserError, match="no index s3://"):
        Index.open(f"s3://{bucket}/none.arrow", settings)
    gone = make_index(tmp_path, [at(rows[0], shard=f"s3://{bucket}/gone.tar")])
    with pytest.raises(UserError, match=r"gone\.tar is gone"):
        check_shards(gone, settings)
    with pytest.raises(UserError, match="no bucket no-such-bucket"):
        Reader(settings).read(at(rows[0], shard="s3://no-such-bucket/x"))
    from operators.storage import s3

    monkeypatch.setattr(s3, "_clients", {})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(UserError, match="no usable credentials"):
        check_shards(gone, settings)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[AWSPreparedRequest]:
    """What would have gone to a store; its answer is always that nothing is there."""
    from botocore.httpsession import URLLib3Session

    sent: list[AWSPreparedRequest] = []

    def send(_: object, request: AWSPreparedRequest) -> AWSResponse:
        sent.append(request)
        answer = AWSResponse(request.url, 404, {}, None)
        answer._content = b""
        return answer

    monkeypatch.setattr(URLLib3Session, "send", send)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    return sent


@pytest.mark.parametrize(
    ("recorded", "url", "region"),
    [
        (
            {"endpoint_url": "https://oss.example", "region": "oss-cn-hangzhou", "addressing_style": "virtual"},
            "https://shards.oss.example/x.tar",
            "oss-cn-hangzhou",
        ),
        ({"endpoint_url": "http://store:9000", "region": "garage"}, "http://store:9000/shards/x.tar", "garage"),
        ({"endpoint_url": "http://store:9000"}, "http://store:9000/shards/x.tar", "us-east-1"),
        ({"endpoint_url": None, "region": "eu-west-1"}, "https://shards.s3.eu-west-1.amazonaws.com/x.tar", "eu-west-1"),
    ],
)
def test_a_store_is_addressed_as_the_handoff_says(
    tmp_path: Path, asked: list[AWSPreparedRequest], recorded: dict[str, str | None], url: str, region: str
) -> None:
    handoff = make_handoff(tmp_path / "handoff", train=2, dev=1)
    record = json.loads((handoff / "handoff.json").read_text())
    (handoff / "handoff.json").write_text(json.dumps(record | {"storage": recorded}))
    store, key = locate("s3://shards/x.tar", Handoff.open(str(handoff)).s3)
    with pytest.raises(FileNotFoundError):
        store.read_range(key, 0, 10)
    assert [request.url for request in asked] == [url]
    assert f"/{region}/s3/aws4_request" in str(asked[0].headers["Authorization"])


def test_a_handoff_is_found_in_a_store_that_takes_buckets_in_the_hosts_name_only(
    tmp_path: Path, s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own record would say so, but must be read first."""
    import boto3

    handoff = make_handoff(tmp_path / "handoff", train=2, dev=1)
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    client.upload_file(str(handoff / "handoff.json"), bucket, "h/handoff.json")
    refusal = Rule(action="error", status=403, code="SecondLevelDomainForbidden")
    with FaultyProxy(s3_server, [refusal]) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        assert Handoff.open(f"s3://{bucket}/h").has("train")
        assert len(proxy.requests) == 2
        refusal.seen, refusal.times = 0, 99
        with pytest.raises(UserError, match=r"the store refused s3://.* with SecondLevelDomainForbidden"):
            Handoff.open(f"s3://{bucket}/h")


@pytest.fixture
def long_recording(s3_server: str, bucket: str) -> Row:
    """A second in the middle of a recording of two minutes, on S3."""
    import boto3

    data = encoded(noise(16_000 * 120), "WAV")
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").put_object(
        Bucket=bucket, Key="long.wav", Body=data
    )
    return clip(f"s3://{bucket}/long.wav", 98, 0, len(data), 16_000 * 60, 16_000 * 61)


def test_nothing_of_a_file_is_read_beyond_what_is_needed(s3_server: str, long_recording: Row) -> None:
    with FaultyProxy(s3_server, []) as proxy:
        part = Reader(S3Settings(proxy.url)).read(long_recording)
        np.testing.assert_array_equal(part, noise(16_000 * 120)[16_000 * 60 : 16_000 * 61])
        assert sum(request.sent_bytes for request in proxy.requests) < long_recording.size / 4


def test_a_store_that_fails_within_a_stretch_is_no_fault_of_the_clip(
    s3_server: str, long_recording: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libsndfile reads in C, through which no exception passes: it takes one for the end of the file."""
    monkeypatch.setattr("operators.storage.s3.time.sleep", lambda _: None)
    # The header is read at the start of the file; it is the stretch in the middle that cannot be had.
    refusal = Rule(action="error", method="GET", skip=1, times=10**6, status=403, code="AccessDenied")
    with FaultyProxy(s3_server, [refusal]) as proxy, pytest.raises(UserError, match=r"access denied to s3://"):
        Reader(S3Settings(proxy.url)).read(long_recording)


def test_features_made_where_the_model_is_are_the_loaders_but_for_rounding(index: Index, cmvn: Cmvn) -> None:
    for augment in (None, AUGMENT):
        stretch = AUGMENT.settings.stretch if augment else 1.0
        share = {"last_global_batch": planner(index, stretch).batches_per_epoch(0)}
        wanted = list(Batches(index, planner(index, stretch), Reader(), targets, cmvn, augment, **share))
        form = WaveformForm([(1.0, targets)], cmvn, augment, torch.device("cpu"))
        found = list(ClipBatches(index, planner(index, stretch), Reader(), form, workers=1, **share))
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours.features_BT80, theirs.features_BT80, rtol=0, atol=2e-3)
            assert torch.equal(ours.features_BT80 == 0, theirs.features_BT80 == 0), "masked and padded alike"
            assert ours.clip_ids == theirs.clip_ids
            assert torch.equal(ours.ctc_targets_BU, theirs.ctc_targets_BU)
    none = form.batch(**{name: tensor(value) for name, value in form.collate([]).items()}, bad=(), global_batch=0)
    assert len(none) == 0
    assert none.features_BT80.shape == (0, 0, 80)

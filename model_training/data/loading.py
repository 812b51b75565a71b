"""Rows of an index become batches of tensors, the same however many workers, ranks or restarts there are.

    global batch ──Planner──> rows ──Reads──> pcm ──Form.features──> features ──┐
                                └──Form.targets: what the clip teaches ─────────┴──Form.collate──> Form.batch
    a clip that cannot be used ──> on_bad(clip_id, reason, detail); its batch goes on without it

A model says by its Form what a clip becomes; everything else is the same for all models.
Randomness is counted, not kept: the numbers for a clip follow from (seed, global batch, place, row) alone.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any, Generic, Protocol, TypeVar, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from model_training.data.audio import BadSample
from model_training.data.batching import Planner, rank_batches
from model_training.data.index import Index
from model_training.data.permutation import derive
from operators.errors import UserError
from operators.index import Row
from operators.storage.uri import is_s3

_AUGMENT = 4  # what a counter is for, beside those of batching
_REQUESTS = 8

B_co = TypeVar("B_co", covariant=True)
B = TypeVar("B")
D = TypeVar("D")


def only(batch: D, wanted_B: Sequence[bool]) -> D:
    """Return a batch of some of its clips, with the padding as it was: tensors and lists have one entry a clip."""
    kept = [place for place, wanted in enumerate(wanted_B) if wanted]
    values = {field.name: getattr(batch, field.name) for field in fields(cast(Any, batch))}
    fewer: dict[str, Any] = {name: value[kept] for name, value in values.items() if isinstance(value, torch.Tensor)}
    fewer |= {name: [value[place] for place in kept] for name, value in values.items() if isinstance(value, list)}
    return cast(D, replace(cast(Any, batch), **fewer))


class Reads(Protocol):
    """Reads gives the samples of a row, int16 [T] at 16 kHz. Raises BadSample, or UserError for a missing shard."""

    def read(self, row: Row) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Sample:
    """A Sample is one clip of a batch before it is padded."""

    row: Row
    features: Any
    """what `Form.features` returned: what the model hears"""
    targets: Any
    """what `Form.targets` returned"""


class Form(Protocol[B_co]):
    """A Form says what a model's clips become. All draws come from the generator that it is given."""

    @property
    def batch(self) -> Callable[..., B_co]:
        """Called with what `collate` returned (arrays as tensors), `bad` and `global_batch`."""

    def targets(self, row: Row, generator: np.random.Generator) -> Any:
        """Return what the clip is to teach. Raises BadSample where it has nothing to teach."""

    def features(self, row: Row, pcm: np.ndarray, targets: Any, generator: np.random.Generator) -> Any:
        """Return what the model hears of the samples. Raises BadSample where that cannot be used."""

    def collate(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return arrays and lists of a batch of these clips, which may be none."""


class ClipBatches(Generic[B]):
    """The batches are one rank's, from `first_global_batch` on, without end or up to `last_global_batch` (exclusive).

    `on_bad` is called with every bad clip once, in the consumer's process. `workers` processes work ahead; 0 works when
    asked. A batch depends on none of this but the form.
    """

    def __init__(
        self,
        index: Index,
        planner: Planner,
        reader: Reads,
        form: Form[B],
        *,
        first_global_batch: int = 0,
        last_global_batch: int | None = None,
        rank: int = 0,
        world: int = 1,
        micro_batches: int = 1,
        workers: int = 0,
        on_bad: Callable[[str, str, str], None] | None = None,
    ) -> None:
        """Take what batches are made of. Raises UserError when `world` does not divide `micro_batches`."""
        self._maker, self._form = _Maker(index, planner, reader, form), form
        self._numbers = lambda: rank_batches(
            first_global_batch, last_global_batch, rank=rank, world=world, micro_batches=micro_batches
        )
        self._numbers()  # refuses a bad share now, not in a loop
        self._workers, self._on_bad = workers, on_bad
        self._named: set[tuple[str, str]] = set()

    def __iter__(self) -> Iterator[B]:
        for made in self._made():
            if isinstance(made, UserError):
                raise made
            for bad in made["bad"]:
                if self._on_bad and (bad.clip_id, bad.reason) not in self._named:
                    self._named.add((bad.clip_id, bad.reason))
                    self._on_bad(bad.clip_id, bad.reason, bad.detail)
            yield self._form.batch(**{name: tensor(value) for name, value in made.items()})

    def _made(self) -> Iterator[dict[str, Any] | UserError]:
        if not self._workers:
            yield from map(self._maker.__getitem__, self._numbers())
            return
        # Arrays come through pipes, not shared memory, of which containers have 64 MB.
        yield from DataLoader(
            self._maker,
            batch_size=None,
            sampler=_Numbers(self._numbers),
            num_workers=self._workers,
            prefetch_factor=4,
            collate_fn=_as_it_is,
            worker_init_fn=_outlive_sigterm,
        )


class _Numbers:
    def __init__(self, numbers: Callable[[], Iterator[int]]) -> None:
        self._numbers = numbers

    def __iter__(self) -> Iterator[int]:
        return self._numbers()


def _outlive_sigterm(_: int) -> None:
    # Sent to all processes of a job, it would take the loaders from under the step that is being finished. They end
    # with the process that asks them.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_it_is(made: Any) -> Any:
    return made


def tensor(value: Any) -> Any:
    """Return an array as a tensor, and anything else as it is."""
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def padded(sequences: Sequence[Sequence[int]], padding: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sequences of ids as int64 [B, longest], `padding` behind their ends, and their lengths [B]."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    ids = np.full((len(sequences), lengths.max(initial=0)), padding, np.int64)
    for place, sequence in enumerate(sequences):
        ids[place, : len(sequence)] = sequence
    return ids, lengths


class _Maker(Dataset[Any]):
    """A maker makes any batch from its number, in whichever process."""

    def __init__(self, index: Index, planner: Planner, reader: Reads, form: Form[Any]) -> None:
        self._index, self._planner, self._reader, self._form = index, planner, reader, form

    def __getitem__(self, global_batch: int) -> dict[str, Any] | UserError:
        rows = self._planner.batch(*self._planner.locate(global_batch))
        jobs = [
            (self._index.row(row), self._generator(global_batch, place, row)) for place, row in enumerate(rows.tolist())
        ]
        try:
            # One thread for sums: more would change their order, and workers would fight over the cores.
            with _one_thread():
                if any(is_s3(row.shard) for row, _ in jobs):
                    with ThreadPoolExecutor(_REQUESTS) as pool:
                        made = list(pool.map(self._make, jobs))
                else:
                    made = [self._make(job) for job in jobs]
        except UserError as error:
            return error  # raised by the consumer, without the traceback that a worker would wrap it in
        good = [one for one in made if isinstance(one, Sample)]
        bad = tuple(one for one in made if isinstance(one, BadSample))
        return self._form.collate(good) | {"bad": bad, "global_batch": global_batch}

    def _generator(self, global_batch: int, place: int, row: int) -> np.random.Generator:
        key = derive(self._planner.plan.seed, _AUGMENT)
        return np.random.Generator(np.random.Philox(key=key, counter=[0, place, global_batch, row]))

    def _make(self, job: tuple[Row, np.random.Generator]) -> Sample | BadSample:
        row, generator = job
        try:
            targets = self._form.targets(row, generator)
            pcm = self._reader.read(row)
            return Sample(row, self._form.features(row, pcm, targets, generator), targets)
        except BadSample as bad:
            return bad


@cache
def _thread_pools() -> Any:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _one_thread() -> AbstractContextManager[Any]:
    return cast(AbstractContextManager[Any], _thread_pools().limit(limits=1, user_api="blas"))

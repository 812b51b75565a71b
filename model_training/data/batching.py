"""Which clips make which batch: a pure function of (index, plan, epoch, batch number), so a restart is exact.

    frames of every clip ──bucket by length, at most 10 % padding in one──> buckets
    bucket x domain = segment; epoch e takes its places [floor(e·w·n), floor((e+1)·w·n)) of an endless stream of passes
    batch number ──shuffled──> (bucket, chunk) ──shuffled──> places of segments ──shuffled per pass──> rows of the index

Nothing is made per epoch. A pass over a segment shows each of its n clips once, so a domain of weight w shows every
clip w times per epoch; of a fraction, different clips have their turn in different epochs, all equally often.

The batches of all epochs form one sequence. A step of G micro-batches takes G of them in a row, and rank r of W those
with i % W == r: what a step sees does not depend on W, and no rank ever has more batches than another.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from model_training.data.features import MIN_FRAMES, subsampled
from model_training.data.index import Index
from model_training.data.permutation import derive, shuffle
from operators.errors import UserError

_UNIT = 1_000_000
"""Weights count in millionths, so that streams are cut in integers."""
_BUCKET, _BATCH, _CLIP = 1, 2, 3  # what a shuffle is for, so that no two share a key


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """The plan says how large batches are, and the seed of their order."""

    max_frames: int
    """10 ms feature frames in one batch, padding counted."""
    max_clips: int
    """clips in one batch."""
    seed: int = 0
    max_padding: float = 0.1
    """the largest share of a batch that may be padding, before speeds are perturbed; larger: fewer, wider buckets."""

    def __post_init__(self) -> None:
        if self.max_frames < MIN_FRAMES or self.max_clips < 1 or not 0 < self.max_padding < 1:
            raise UserError(
                f"no batch can be made of max_frames={self.max_frames}, max_clips={self.max_clips}, "
                f"max_padding={self.max_padding}: want at least {MIN_FRAMES}, 1, and a share between 0 and 1"
            )


@dataclass(frozen=True, slots=True)
class Unusable:
    """An Unusable is a clip that the plan leaves out, and why."""

    clip_id: str
    reason: str
    """one of "too_short", "too_long", "label_too_long", "empty_label"."""
    detail: str


class Planner:
    """A Planner knows the batches of an index. Building one sorts the clips by bucket; the rest is arithmetic."""

    def __init__(
        self,
        index: Index,
        plan: BatchPlan,
        domain_weights: Mapping[str, float] | None = None,
        *,
        min_frames: int = MIN_FRAMES,
        max_clip_frames: int | None = None,
        stretch: float = 1.0,
        may_be_empty: bool = False,
        needs_text: bool = True,
        favoured_N: np.ndarray | None = None,
        favour: float = 1.0,
    ) -> None:
        """Sort the clips of an index by length.

        Args:
            domain_weights: how often an epoch shows a clip of the domain, 1 where not given.
            max_clip_frames: longer clips are left out; at most what `plan` has room for.
            stretch: the most that augmentation lengthens a clip (1 / the slowest speed); batches leave room for it.
            needs_text: leave out clips without text or event, and those whose label CTC cannot fit into their frames.
            favoured_N: bool, clips that an epoch shows `favour` times as often as their domain's others: a domain then
                is two, each with its own weight. None: no clip is.

        Raises:
            UserError: a weight for an unknown domain, or a negative one; no clip that can be used, unless it
                `may_be_empty`.
        """
        self.plan, self._index, self._stretch, self._needs_text = plan, index, stretch, needs_text
        room = int(plan.max_frames / stretch)
        self._longest = min(room, max_clip_frames or room)
        self._shortest = max(min_frames, MIN_FRAMES)
        self._weights = self._checked_weights(domain_weights or {})
        self._codes = index.domain_codes
        if favoured_N is not None:
            self._codes = self._codes * 2 + favoured_N
            self._weights = np.stack((self._weights, np.rint(self._weights * favour).astype(np.int64)), 1).ravel()
        self._segment()
        self._firsts = np.zeros(1, np.int64)  # of each epoch, the number of its first batch since the beginning
        if may_be_empty:
            return
        if not self._sizes_UD.any():
            raise UserError(f"{index.name} has no clip that can be used: {self._summary()}")
        if not self._batch_counts(np.arange(_period(self._weights))).any():
            raise UserError(f"the weights of the domains leave no clip of {index.name} to train on: raise one above 0")

    def batches_per_epoch(self, epoch: int) -> int:
        """Return how many batches this epoch has, which differs a little where weights are no whole numbers."""
        return int(self._batch_counts(np.array([epoch]))[0].sum())

    def locate(self, global_batch: int) -> tuple[int, int]:
        """Return (epoch, number) of a batch counted from the beginning of training."""
        if global_batch < 0:
            raise ValueError(f"no batch {global_batch}")
        if self._whole:
            return divmod(global_batch, self.batches_per_epoch(0))
        while self._firsts[-1] <= global_batch:
            known = len(self._firsts) - 1
            more = self._batch_counts(np.arange(known, 2 * known + 64)).sum(axis=1)
            self._firsts = np.concatenate((self._firsts, self._firsts[-1] + np.cumsum(more)))
        epoch = int(np.searchsorted(self._firsts, global_batch, side="right")) - 1
        return epoch, global_batch - int(self._firsts[epoch])

    def batch(self, epoch: int, number: int) -> np.ndarray:
        """Return the rows of the index in batch `number` of `epoch`, int64 [B]."""
        seed = self.plan.seed
        counts_U = self._batch_counts(np.array([epoch]))[0]
        total = int(counts_U.sum())
        if not 0 <= number < total:
            raise IndexError(f"epoch {epoch} has {total} batches, so none is {number}")
        place = int(shuffle(np.array([number]), total, derive(seed, _BATCH, epoch))[0])
        firsts = np.concatenate(([0], np.cumsum(counts_U)))
        bucket = int(np.searchsorted(firsts, place, side="right")) - 1
        chunk, chunks = place - int(firsts[bucket]), int(counts_U[bucket])

        begins_D, ends_D = self._stream(np.array([epoch]))[:, 0, bucket]
        edges = np.concatenate(([0], np.cumsum(ends_D - begins_D)))
        clips = int(edges[-1])
        places = np.arange(clips * chunk // chunks, clips * (chunk + 1) // chunks)
        places = shuffle(places, clips, derive(seed, _BUCKET, epoch, bucket))
        domains = np.searchsorted(edges, places, side="right") - 1
        rows = np.empty(len(places), np.int64)
        for domain in np.unique(domains):
            mine = domains == domain
            stream = begins_D[domain] + places[mine] - edges[domain]
            rows[mine] = self._rows(bucket, int(domain), stream)
        return rows

    def usable(self) -> np.ndarray:
        """Return which clips are in batches, bool [N]: those of use, of domains that weigh anything."""
        usable_N = self._weights[self._codes] > 0
        for fault in self._faults().values():
            usable_N &= ~fault
        return usable_N

    def unusable(self) -> Iterator[Unusable]:
        """Yield the clips that are in no batch, in the order of the index."""
        frames, tokens = self._index.frames, self._index.label_tokens
        for reason, rows in self._reasons().items():
            for start in range(0, len(rows), 4096):
                part = rows[start : start + 4096]
                for row, clip_id in zip(part, self._index.clip_ids(part), strict=True):
                    yield Unusable(clip_id, reason, f"{frames[row]} frames, {tokens[row]} label tokens")

    def _checked_weights(self, weights: Mapping[str, float]) -> np.ndarray:
        names = self._index.domain_names
        for domain, weight in weights.items():
            if domain not in names:
                raise UserError(f"there is no domain {domain} to weigh: {self._index.name} has {', '.join(names)}")
            if not 0 <= weight <= 1000:
                raise UserError(f"the weight of {domain} is {weight}: want 0 to 1000")
        return np.array([round(weights.get(name, 1.0) * _UNIT) for name in names], np.int64)

    @property
    def _whole(self) -> bool:
        return not (self._weights % _UNIT).any()

    def _faults(self) -> dict[str, np.ndarray]:
        frames, tokens = self._index.frames, self._index.label_tokens
        lengths = {"too_short": frames < self._shortest, "too_long": frames > self._longest}
        if not self._needs_text:
            return lengths
        silent = np.flatnonzero(tokens == 0)
        empty = np.zeros(len(frames), bool)
        empty[silent[~self._index.has_events(silent)]] = True
        return lengths | {
            # Whether equal neighbours need more is known when the label is made into units.
            "label_too_long": tokens > subsampled(frames),
            "empty_label": empty,
        }

    def _reasons(self) -> dict[str, np.ndarray]:
        """Return the unusable rows by the first reason that holds."""
        named, rows = np.zeros(len(self._index), bool), {}
        for reason, fault in self._faults().items():
            rows[reason] = np.flatnonzero(fault & ~named)
            named |= fault
        return rows

    def _summary(self) -> str:
        return ", ".join(f"{len(rows)} {reason}" for reason, rows in self._reasons().items() if len(rows)) or "0 clips"

    def _segment(self) -> None:
        """Sort the clips by bucket and domain, with those of no use at the end. U buckets, D domains.

        This is all of a restart that takes time, so it goes over the index as few times as it can.
        """
        upper_U = _bucket_edges(self._shortest, self._longest, self.plan.max_padding)
        domains = max(1, len(self._weights))
        segments = len(upper_U) * domains
        kind = np.uint16 if segments + domains < 1 << 16 else np.int64  # of 16 bits numpy sorts in linear time
        bucket_of = np.searchsorted(upper_U, np.arange(self._longest + 2)).astype(kind)
        frames = np.clip(self._index.frames, 0, self._longest + 1)
        segment = np.multiply(bucket_of, domains, dtype=kind)[frames]
        np.add(segment, self._codes, out=segment, casting="unsafe")
        for fault in self._faults().values():
            segment[fault] = segments
        self._order = np.argsort(segment, kind="stable")
        sizes = np.bincount(segment, minlength=segments + 1)[:segments]
        self._sizes_UD = sizes.reshape(len(upper_U), domains)
        self._starts_UD = (np.cumsum(sizes) - sizes).reshape(self._sizes_UD.shape)
        padded_U = np.ceil(upper_U * self._stretch).astype(np.int64)
        self._capacity_U = np.clip(self.plan.max_frames // padded_U, 1, self.plan.max_clips)

    def _stream(self, epochs_E: np.ndarray) -> np.ndarray:
        """Return begin and end of every epoch in the stream of every segment: [2, E, U, D]."""
        whole, part = np.divmod(self._sizes_UD * self._weights, _UNIT)  # exact, and far below 2^63 for any epoch
        both = np.stack((epochs_E, epochs_E + 1))[..., np.newaxis, np.newaxis].astype(np.int64)
        return both * whole + both * part // _UNIT

    def _batch_counts(self, epochs_E: np.ndarray) -> np.ndarray:
        """Return the batches of every bucket in every epoch, [E, U]."""
        begins, ends = self._stream(epochs_E)
        return -(-(ends - begins).sum(axis=-1) // self._capacity_U)

    def _rows(self, bucket: int, domain: int, stream: np.ndarray) -> np.ndarray:
        size, start = int(self._sizes_UD[bucket, domain]), int(self._starts_UD[bucket, domain])
        passes, places = np.divmod(stream, size)
        rows = np.empty(len(stream), np.int64)
        for number in np.unique(passes):
            mine = passes == number
            key = derive(self.plan.seed, _CLIP, bucket, domain, int(number))
            rows[mine] = self._order[start + shuffle(places[mine], size, key)]
        return rows


def rank_batches(first: int, last: int | None, *, rank: int, world: int, micro_batches: int) -> Iterator[int]:
    """Yield the numbers in [first, last) of this rank's batches; without end where `last` is None.

    `micro_batches` of all ranks make a step.

    Raises:
        UserError: the ranks cannot share a step evenly, so that steps would differ between numbers of ranks.
    """
    if micro_batches % world:
        raise UserError(f"{micro_batches} micro-batches a step cannot be shared by {world} ranks: choose a multiple")
    mine = first + (rank - first) % world
    return itertools.count(mine, world) if last is None else iter(range(mine, last, world))


def _bucket_edges(shortest: int, longest: int, max_padding: float) -> np.ndarray:
    """Return inclusive upper edges of buckets, whose shortest clip has at least 1 - max_padding of the longest."""
    edges: list[int] = []
    low = shortest
    while low <= longest:
        edges.append(min(longest, max(low, int(low / (1 - max_padding)))))
        low = edges[-1] + 1
    return np.array(edges or [longest], np.int64)


def _period(weights: np.ndarray) -> int:
    """Return the epochs after which the smallest weight above zero has had a turn, but no more than a few thousand."""
    above = weights[weights > 0]
    return 1 if not len(above) else min(4096, -(-_UNIT // int(above.min())))

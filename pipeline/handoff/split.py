"""Which clips stay, and which split each belongs to.

    content, clip ids ──first wins──> kept, or the clip that it repeats
    recordings ──tied by uri, speaker, repeated audio──> groups ──hash of seed and name──> train | dev | test

A group goes to one split as a whole. Its place is a hash, so it depends on no other group, and adding a run later
moves no recording, with one exception: when the new run shows that two groups are one (the same speaker, the same
audio). Then the group is train's if either was: what a model may have trained on never becomes test data.

A labelled set may name a recording otherwise than the run that was curated from it, and either may have been there
first. So the split is made twice, runs before labelled sets and the other way about: what one of the two gives to train
is train's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.handoff.clip_keys import first_places, keys
from pipeline.handoff.clips import Gathered, Spool

SPLITS = ("train", "dev", "test")
"""In the order in which a group that was in several is given to one."""

CONTENT, NAME = 1, 2
REASONS = {CONTENT: "content", NAME: "clip_id"}
"""Why a clip is dropped: the same samples are there already, or the same stretch of a recording, decoded otherwise."""


@dataclass(frozen=True, slots=True)
class Sifted:
    """What became of each of the spool's N clips."""

    repeats: np.ndarray
    """int64 [N]: the clip that it repeats; its own place when it stays."""
    reason: np.ndarray
    """int8 [N]: of REASONS, 0 when it stays."""

    @property
    def kept(self) -> np.ndarray:
        """bool [N]"""
        return self.reason == 0


def sift(spool: Spool) -> Sifted:
    """Drop every clip whose content, or whose name, came before: the first in the order of sources stays."""
    ids, contents = [np.zeros((0, 2), np.uint64)], [np.zeros((0, 2), np.uint64)]
    for batch in spool.batches():
        own = keys(batch.column("clip_id").to_pylist())
        hashes = batch.column("content_hash")
        content = keys(text or "" for text in hashes.to_pylist())
        unknown = np.asarray(hashes.is_null())
        contents.append(np.where(unknown[:, None], own, content))
        ids.append(own)
    repeats = first_places(np.concatenate(contents))
    reason = np.where(repeats == np.arange(len(repeats)), 0, CONTENT).astype(np.int8)
    alive = np.flatnonzero(reason == 0)
    same_name = alive[first_places(np.concatenate(ids)[alive])]
    again = same_name != alive
    repeats[alive[again]] = same_name[again]
    reason[alive[again]] = NAME
    return Sifted(repeats, reason)


def repeated_audio(spool: Spool, sifted: Sifted) -> Iterator[tuple[int, int, int]]:
    """(source, recording, recording) of recordings that share a clip, by their nodes."""
    dropped = np.flatnonzero(~sifted.kept)
    recording, source = spool.numbers("recording"), spool.numbers("source")
    triples = np.stack([source[dropped], recording[dropped], recording[sifted.repeats[dropped]]], axis=1)
    yield from map(tuple, np.unique(triples[triples[:, 1] != triples[:, 2]], axis=0).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Of groups, 0-1, that go to dev and to test."""

    dev: float
    test: float
    seed: int

    def draw(self, name: str) -> int:
        """The place in SPLITS of a group by its name. A larger share takes in what a smaller one had."""
        digest = hashlib.blake2b(f"{self.seed}\0{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        at = int.from_bytes(digest, "little") / 2**64
        return 2 if at < self.test else 1 if at >= 1 - self.dev else 0


def split_gathered(
    gathered: Gathered, repeated: Iterable[tuple[int, int, int]], shares: Shares, *, runs: int
) -> tuple[np.ndarray, np.ndarray]:
    """int8 [nodes], the place in SPLITS of each node, and int64 [nodes], its group.

    Sources from number `runs` on are labelled sets. `repeated` are links as `repeated_audio` gives them.
    """
    names = list(gathered.nodes)
    links = {*gathered.links, *repeated}
    split, groups = split_nodes(names, gathered.node_sources, links, shares)
    sources = 1 + max(gathered.node_sources, default=-1)
    if sources > runs:
        # The other way about: every run is numbered behind the labelled sets.
        def turn(source: int) -> int:
            return source if source >= runs else sources + source

        first = [2 * sources] * len(names)
        for source, *pair in gathered.links:
            for node in pair:
                first[node] = min(first[node], turn(source))
        turned = ((turn(source), a, b) for source, a, b in links)
        split = np.minimum(split, split_nodes(names, first, turned, shares)[0])
    return split, groups


def split_nodes(
    names: Sequence[str], first_sources: Sequence[int], links: Iterable[tuple[int, int, int]], shares: Shares
) -> tuple[np.ndarray, np.ndarray]:
    """int8 [nodes], the place in SPLITS of each node, and int64 [nodes], its group.

    `names` are "kind\\0name", `first_sources` the first source that has the node, `links` (source, node, node). Done
    source by source, so that the answer for the sources before is that of a hand-off without this one.
    """
    parent = list(range(len(names)))
    split: dict[int, int] = {}  # of the roots that are settled

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    tied: dict[int, list[tuple[int, int]]] = {}
    for source, a, b in sorted(links):
        tied.setdefault(source, []).append((a, b))
    new: dict[int, list[int]] = {}
    for node, source in enumerate(first_sources):
        new.setdefault(source, []).append(node)
    for source in sorted({*tied, *new}):
        for a, b in tied.get(source, ()):
            a, b = sorted((root(a), root(b)))
            if a != b:
                parent[b] = a
                settled = [split.pop(each) for each in (a, b) if each in split]
                if settled:
                    split[a] = min(settled)
        fresh: dict[int, list[int]] = {}
        for node in new.get(source, ()):
            fresh.setdefault(root(node), []).append(node)
        for group, members in fresh.items():
            if group not in split:
                split[group] = shares.draw(min((names[node] for node in members), key=_rank))
    groups = np.array([root(node) for node in range(len(names))], np.int64)
    return np.array([split[group] for group in groups.tolist()], np.int8), groups


_KINDS = {"speaker": 0, "recording": 1, "uri": 2}


def _rank(name: str) -> tuple[int, str]:
    # A speaker's place is the speaker's alone, whichever recordings a run has of them.
    return _KINDS[name.partition("\0")[0]], name

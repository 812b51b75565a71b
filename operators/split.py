"""Which split a clip belongs to: one rule, for curation's hand-off and for tars from elsewhere.

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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from operators.names import Names
from operators.storage.local import real_uri

SPLITS = ("train", "dev", "test")
"""In the order in which a group that was in several is given to one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Shares are the parts of the groups, 0-1, that go to dev and to test, and the seed of the draw."""

    dev: float
    test: float
    seed: int

    def draw(self, name: str) -> int:
        """Return the place in SPLITS of a group by its name. A larger share takes in what a smaller one had."""
        digest = hashlib.blake2b(f"{self.seed}\0{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        at = int.from_bytes(digest, "little") / 2**64
        return 2 if at < self.test else 1 if at >= 1 - self.dev else 0


@dataclass(frozen=True, slots=True)
class NodeTable:
    """The table holds what a split is made of: nodes (recordings, their uris, their speakers) and the links that tie
    them.

    Sources are numbers in the order given: a run, a labelled set, a set of tars.
    """

    names: Names = field(default_factory=Names)
    """ "kind\\0name" of each node; its code is the node's number"""
    sources: list[int] = field(default_factory=list)
    """the first source that has the node"""
    links: set[tuple[int, int, int]] = field(default_factory=set)
    """(source, node, node): what no split may part, and a source that says so"""

    def recording(self, recording_id: str, uri: str | None, speaker: str | None, source: int = 0) -> int:
        """Return the node of a recording, tied to its uri and its speaker where these are known."""
        own = self._node("recording", recording_id, source)
        if uri:
            self.links.add((source, own, self._node("uri", real_uri(uri), source)))
        if speaker:
            self.links.add((source, own, self._node("speaker", speaker, source)))
        return own

    def _node(self, kind: str, name: str, source: int) -> int:
        node = self.names.code(f"{kind}\0{name}")
        if node == len(self.sources):
            self.sources.append(source)
        return node


def split_table(
    table: NodeTable, shares: Shares, *, runs: int = 1, repeated: Iterable[tuple[int, int, int]] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 [nodes], the place in SPLITS of each node, and int64 [nodes], its group.

    Sources from number `runs` on are labelled sets. `repeated` are more links: recordings that share audio.
    """
    names = list(table.names)
    links = {*table.links, *repeated}
    split, groups = split_nodes(names, table.sources, links, shares)
    sources = 1 + max(table.sources, default=-1)
    if sources > runs:
        # The other way about: every run is numbered behind the labelled sets.
        def turn(source: int) -> int:
            return source if source >= runs else sources + source

        first = [2 * sources] * len(names)
        for source, *pair in table.links:
            for node in pair:
                first[node] = min(first[node], turn(source))
        turned = ((turn(source), a, b) for source, a, b in links)
        split = np.minimum(split, split_nodes(names, first, turned, shares)[0])
    return split, groups


def split_nodes(
    names: Sequence[str], first_sources: Sequence[int], links: Iterable[tuple[int, int, int]], shares: Shares
) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 [nodes], the place in SPLITS of each node, and int64 [nodes], its group.

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

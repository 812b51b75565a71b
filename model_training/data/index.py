"""Reading an index of clips: one row for each, memory-mapped, so that ten million cost no time to open.

    train.arrow (operators/index.py) ──Index.open──> columns as arrays, row(i)

What the planner needs of every clip (frames, label length, domain) is an array; what one clip is read and labelled by
is decoded for that row alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.errors import UserError
from operators.index import ADDED, CLIP_SCHEMA, Row, row_of
from operators.storage.base import S3Settings
from operators.storage.fetch import local_copy

_EVENT = re.compile(r"<event:([^\s<>:|]+)>")


class Index:
    """An Index is memory-mapped. The arrays of length N are copies of no column that is one chunk."""

    def __init__(self, table: pa.Table, name: str) -> None:
        missing = [column for column in CLIP_SCHEMA.names if column not in table.column_names]
        if missing := [column for column in missing if column not in ADDED]:
            raise UserError(f"{name} is no index of clips: it lacks the column {missing[0]}; run the hand-off again")
        self.name = name
        # Decoded once, so that row() never touches a dictionary, and every chunk shares the same one.
        known = [column for column in CLIP_SCHEMA.names if column in table.column_names]
        self._table = table.select(known).unify_dictionaries()
        self._starts = np.cumsum([0, *(len(chunk) for chunk in self._table.column("frames").chunks)])
        self._batches = self._table.to_batches()

    @staticmethod
    def open(uri: str, s3: S3Settings | None = None) -> Index:
        """Open a local or s3:// index; the latter is downloaded to scratch once. Raises UserError."""
        try:
            path = local_copy(uri, s3)
            with pa.memory_map(str(path)) as source:
                table = pa.ipc.open_file(source).read_all()
        except FileNotFoundError:
            raise UserError(f"there is no index {uri}: run the hand-off, or fix the path") from None
        except UserError:
            raise
        except (pa.ArrowInvalid, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{uri} is no Arrow file that can be read ({reason}): run the hand-off again") from None
        return Index(table, uri)

    def __len__(self) -> int:
        return self._table.num_rows

    @cached_property
    def frames(self) -> np.ndarray:
        """Return int32 [N], the 10 ms feature frames."""
        return self._numbers("frames")

    @cached_property
    def label_tokens(self) -> np.ndarray:
        """Return int32 [N], the tokens of the labels."""
        return self._numbers("label_tokens")

    @cached_property
    def domain_names(self) -> tuple[str, ...]:
        """Return the domains sorted by name, so that plans do not depend on how the index was written."""
        return tuple(sorted(self._names("domain")))

    @cached_property
    def domain_codes(self) -> np.ndarray:
        """Return int32 [N], the place of each clip's domain in `domain_names`."""
        names, codes = self._names("domain"), self._codes("domain")
        if tuple(names) == self.domain_names:
            return codes
        place = {name: number for number, name in enumerate(self.domain_names)}
        return np.array([place[name] for name in names], np.int32)[codes]

    def of_domain(self, domain: str) -> Index:
        """Return the clips of one domain, in the same order."""
        chosen = pa.array(self.domain_codes == self.domain_names.index(domain))
        return Index(self._table.filter(chosen), f"{self.name} ({domain})")

    def only(self, chosen_N: np.ndarray) -> Index:
        """Return the clips that are chosen, bool [N], in the same order; unlike the whole they lie in memory."""
        return Index(self._table.filter(pa.array(chosen_N)), self.name)

    def recordings(self) -> np.ndarray:
        """Return a number for the recording of each clip, int64 [N]; a clip of which none is known is one by itself."""
        coded = pc.dictionary_encode(self._table.column("recording_id")).unify_dictionaries()
        if not coded.num_chunks:
            return np.zeros(0, np.int64)
        numbers = np.concatenate([pc.fill_null(chunk.indices, -1).to_numpy() for chunk in coded.chunks]).astype(
            np.int64
        )
        names = coded.chunk(0).dictionary
        unknown_N = np.isin(numbers, [-1, *np.flatnonzero(names.to_numpy(zero_copy_only=False) == "")])
        return np.where(unknown_N, len(names) + np.arange(len(self)), numbers)

    def has_events(self, rows: np.ndarray) -> np.ndarray:
        """Return bool [len(rows)]: is the clip known to hold a sound event?"""
        return pc.fill_null(pc.list_value_length(self._table.column("events")), 0).to_numpy()[rows] > 0

    def knows(self, column: str) -> bool:
        """Say whether any clip has something in a column of `Row`, which an older index may lack."""
        if column not in self._table.column_names:
            return False
        values = self._table.column(column)
        return values.null_count < len(values)

    def label_counts(self, kind: str) -> dict[str, int]:
        """Return how many clips have each label of an attribute."""
        if not self.knows(kind):
            return {}
        counted = pc.value_counts(pc.drop_null(self._table.column(kind))).to_pylist()
        return {one["values"]: one["counts"] for one in counted}

    def labelled(self, kinds: Iterable[str]) -> np.ndarray:
        """Return bool [N]: has the clip a label of any of these attributes?"""
        found = np.zeros(len(self), bool)
        for kind in kinds:
            if kind in self._table.column_names:
                found |= pc.is_valid(self._table.column(kind)).to_numpy()
        return found

    def labels(self, kind: str) -> set[str]:
        """Return the labels that any clip has of a kind: language, age, gender, emotion, style, or event, which may
        stand in its text or apart.
        """
        if kind in ADDED and kind not in self._table.column_names:
            return set()
        if kind != "event":
            return set(pc.unique(self._table.column(kind)).drop_null().to_pylist())
        events = set(pc.unique(pc.list_flatten(self._table.column("events"))).drop_null().to_pylist())
        for texts in self._table.column("label").chunks:  # one array of text cannot hold 2 GiB
            for text in pc.unique(texts.filter(pc.match_substring(texts, "<event:"))).to_pylist():
                events |= set(_EVENT.findall(text))
        return events

    def clip_ids(self, rows: np.ndarray) -> list[str]:
        """Return the names of some clips."""
        batches = np.searchsorted(self._starts, rows, side="right") - 1
        places = zip(batches.tolist(), (rows - self._starts[batches]).tolist(), strict=True)
        return [self._batches[batch].column("clip_id")[place].as_py() for batch, place in places]

    def shard_ends(self) -> dict[str, int]:
        """Return, for every shard used, the bytes it must have: the largest offset + size of its clips."""
        names = self._names("shard")
        ends = np.full(len(names), -1, np.int64)
        np.maximum.at(ends, self._codes("shard"), self._numbers("offset") + self._numbers("size"))
        return {name: int(end) for name, end in zip(names, ends, strict=True) if end >= 0}

    def row(self, number: int) -> Row:
        """Return one clip. Raises IndexError."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        batch = int(np.searchsorted(self._starts, number, side="right")) - 1
        return row_of(self._batches[batch].slice(number - self._starts[batch], 1).to_pylist()[0])

    def _numbers(self, column: str) -> np.ndarray:
        values = self._table.column(column)
        if values.null_count:
            raise UserError(f"{self.name} has clips without {column}: run the hand-off again")
        return values.chunk(0).to_numpy() if values.num_chunks == 1 else values.to_numpy()

    def _names(self, column: str) -> list[str]:
        values = self._table.column(column)
        return values.chunk(0).dictionary.to_pylist() if values.num_chunks else []

    def _codes(self, column: str) -> np.ndarray:
        values = self._table.column(column)
        if values.null_count:
            raise UserError(f"{self.name} has clips without a {column}: run the hand-off again")
        codes = [chunk.indices.to_numpy() for chunk in values.chunks]
        return codes[0] if len(codes) == 1 else np.concatenate(codes) if codes else np.zeros(0, np.int32)

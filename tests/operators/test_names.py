"""Names as codes and keys."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from operators.names import Names, first_places


def test_first_places_against_a_loop() -> None:
    draw = np.random.default_rng(0).integers(0, 3, (200, 2)).astype(np.uint64)
    first: dict[tuple[int, ...], int] = {}
    expected = [first.setdefault(tuple(key), place) for place, key in enumerate(draw.tolist())]
    assert first_places(draw).tolist() == expected
    assert first_places(np.zeros((0, 2), np.uint64)).tolist() == []


def test_codes_are_in_order_of_appearance_and_null_stays_null() -> None:
    names = Names()
    assert names.code("b") == 0
    assert names.codes(pa.chunked_array([["a", None], ["b", "c"]])).to_pylist() == [1, None, 0, 2]
    assert names.array().to_pylist() == list(names) == ["b", "a", "c"]

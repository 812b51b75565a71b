"""The table that ends a benchmark: what was wanted, what was measured. `run_all` collects these tables."""

from __future__ import annotations

from collections.abc import Sequence


def show_targets(rows: Sequence[tuple[str, float, float]], *, at_least: bool = False, digits: int = 2) -> None:
    """Rows of (what, wanted, measured)."""
    print(f"\n| target | {'at least' if at_least else 'at most'} | measured | verdict |\n|---|--:|--:|---|")
    for what, wanted, measured in rows:
        met = measured >= wanted if at_least else measured <= wanted
        print(f"| {what} | {wanted:g} | {measured:.{digits}f} | {'met' if met else 'missed'} |", flush=True)

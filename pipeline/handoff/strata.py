"""`--balance`: train is seen more evenly over an attribute, through strata of its domains.

    spool ──the domain and the labels of a clip──> live, live/gender=female, live/gender=male ──> domains of train.arrow
    hours of the strata ──as domains are balanced──> a weight each, for the trainer to draw by

A stratum is a domain to the trainer, and nothing else changes for it. dev and test keep the domains as they are, so
what is evaluated is named as before. A clip whose label nobody knows stays in its domain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from operators.errors import UserError
from pipeline.handoff.indexes import Amount
from pipeline.handoff.spool import Spool, SpoolNames


@dataclass(frozen=True, slots=True)
class Stratum:
    """A Stratum is the clips of a domain that are labelled alike."""

    domain: str
    labels: tuple[tuple[str, str], ...]
    """(kind, label) of those that are known."""

    @property
    def name(self) -> str:
        return "/".join([self.domain, *(f"{kind}={label}" for kind, label in self.labels)])


@dataclass(frozen=True, slots=True)
class Strata:
    """Strata say of every clip of a spool which stratum it is in."""

    codes: np.ndarray
    """int32 [N]: the stratum's name among those of domains."""
    by_name: Mapping[str, Stratum]


def stratify(spool: Spool, names: SpoolNames, kinds: Sequence[str]) -> Strata:
    """Return the strata of the domains by these kinds, their names put among those of the domains."""
    known = {name: list(names.coded[name]) for name in ("domain", *kinds)}
    seen: dict[tuple[int | None, ...], int] = {}
    by_name: dict[str, Stratum] = {}
    parts = []
    for batch in spool.batches():
        columns = [batch.column(name).to_pylist() for name in ("domain", *kinds)]
        keys = list(zip(*columns, strict=True))
        for key in dict.fromkeys(keys):
            if key not in seen:
                labels = [
                    (kind, known[kind][code]) for kind, code in zip(kinds, key[1:], strict=True) if code is not None
                ]
                stratum = Stratum(known["domain"][key[0]], tuple(labels))
                by_name[stratum.name] = stratum
                (seen[key],) = names.coded["domain"].codes(pa.array([stratum.name])).to_pylist()
        parts.append(np.array([seen[key] for key in keys], np.int32))
    return Strata(np.concatenate(parts) if parts else np.zeros(0, np.int32), by_name)


def balance(
    amounts: Mapping[str, Amount], strata: Strata, domain_weights: Mapping[str, float], kinds: Sequence[str], *,
    alpha: float, max_weight: float,
) -> dict[str, float]:  # fmt: skip
    """Return the weight of every stratum of train: its domain's, times how often its labels are to be seen.

    A label is seen in proportion to its hours to the power of `alpha`, over all domains, as a domain is. Raises
    UserError for a kind that no clip of train has a label of.
    """
    weights = {name: domain_weights[strata.by_name[name].domain] for name in amounts}
    for kind in kinds:
        hours: dict[str, float] = {}
        for name, amount in amounts.items():
            if label := dict(strata.by_name[name].labels).get(kind):
                hours[label] = hours.get(label, 0.0) + amount.hours
        if not hours:
            raise UserError(f"--balance {kind}: no clip of train has a known {kind}")
        scale = sum(hours.values()) / sum(each**alpha for each in hours.values())
        for name in weights:
            if label := dict(strata.by_name[name].labels).get(kind):
                weights[name] *= scale * hours[label] ** (alpha - 1)
    return {name: float(f"{min(max_weight, weight):.4g}") for name, weight in weights.items()}

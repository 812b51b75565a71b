"""The form of a card: a README.md that hubs read, of a dataset or of a model.

    front matter, parts ──card──> README.md, whose last line is a hash of the others
    README.md, hash still right ──is_own──> may be written again; changed by a person ──> is left alone

The keys are those of Hugging Face's cards (hub-docs: datasetcard.md, modelcard.md), which its server checks when a
README.md is pushed: a licence must be one that it lists, a language a code of ISO 639.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FILE = "README.md"
OTHER = "other"
_NAMES = """
afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc0-1.0
cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0
cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1
lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 pddl postgresql unknown
unlicense wtfpl zlib
"""
LICENCES = frozenset(_NAMES.split())
"""Names of licences that the hub takes; any other is `other` with a `license_name`."""

_CREATIVE_COMMONS = re.compile(r"creativecommons\.org/(?:licenses/([a-z-]+)|publicdomain/(zero))/([\d.]+)")
_ISO_639 = {"minnan": "nan", "sichuan": "zh", "jw": "jv"}
_OWN = re.compile(r"\n<!-- touchasp card ([0-9a-f]{16}) -->\n\Z")


def card(front: Mapping[str, Any], *parts: str) -> str:
    """Return the text of README.md: the front matter as YAML between lines of dashes, then the parts, Markdown."""
    import yaml

    matter = yaml.safe_dump(dict(front), allow_unicode=True, sort_keys=False).rstrip()
    text = "\n\n".join([f"---\n{matter}\n---", *(part.strip("\n") for part in parts)]) + "\n"
    return f"{text}\n<!-- touchasp card {_hash(text)} -->\n"


def is_own(text: str) -> bool:
    """Return whether a README.md is as `card` wrote it, so that nothing of a person's is lost with it."""
    found = _OWN.search(text)
    return found is not None and found[1] == _hash(text[: found.start()])


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Return a Markdown table, whose last `numbers` columns stand to the right."""
    under = ["---"] * (len(head) - numbers) + ["---:"] * numbers
    return "\n".join(f"| {' | '.join(map(_cell, row))} |" for row in [head, under, *rows])


def licence(names: Iterable[str | None]) -> dict[str, Any]:
    """Return the keys `license` and `license_name` for licences as people name them; None where one is not known."""
    found = sorted({OTHER if name is None else _spelt(name) for name in names})
    if found and all(name in LICENCES for name in found):
        return {"license": found[0] if len(found) == 1 else found}
    named = [name for name in found if name != OTHER]
    return {"license": OTHER} | ({"license_name": "-and-".join(named)} if named and named == found else {})


def languages(codes: Iterable[str]) -> list[str]:
    """Return codes of ISO 639 for our codes of languages, sorted; what has none is left out."""
    return sorted({code for code in (_ISO_639.get(each, each) for each in codes) if re.fullmatch("[a-z]{2,3}", code)})


def _spelt(name: str) -> str:
    """Return a licence as the hub spells it: cc-by-4.0 for CC BY 4.0, or for its address."""
    if (found := _CREATIVE_COMMONS.search(name.lower())) is not None:
        return f"cc0-{found[3]}" if found[2] else f"cc-{found[1]}-{found[3]}"
    plain = re.sub(r"[^a-z0-9.+]+", "-", name.lower()).strip("-")
    return {"cc0": "cc0-1.0", "cc-0": "cc0-1.0", "cc-zero": "cc0-1.0"}.get(plain, plain) or OTHER


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

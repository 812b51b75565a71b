"""What is checked before the first tar is read: a mistake found after terabytes were hashed costs hours.

--out ──a probe, put and deleted──┐
--labelled ──first row, splits────┼──> nothing, or UserError
--weight ──domains by name────────┘        scratch folder ──full, unwritable──> UserError
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from operators.errors import UserError
from operators.storage.base import S3Settings, Store
from operators.storage.uri import is_s3
from pipeline.config import SourceSettings
from pipeline.handoff.labelled import LabelledSet, check_splits, named_domains
from pipeline.preflight import try_output
from pipeline.sources.files import check_source


def check_writable(store: Store) -> None:
    """Raise UserError when a store cannot be written to. Nothing is left behind, no empty folder either."""
    root = Path(store.root)
    missing = [] if is_s3(store.root) else [folder for folder in (root, *root.parents) if not os.path.lexists(folder)]
    try:
        try_output(store, "--out")
    finally:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def check_labelled(labelled: Sequence[LabelledSet], s3: S3Settings) -> None:
    """Raise UserError for a labelled set whose manifest is not there, is none, or names an unknown split."""
    for each in labelled:
        check_source(SourceSettings(path=each.path, domain=each.domain), s3)
        check_splits(each, s3)


def check_weights(weighed: set[str], known: set[str], labelled: Sequence[LabelledSet], s3: S3Settings) -> None:
    """Raise UserError for a domain that is neither `known`, from the plans, nor in a labelled set."""
    known = known | {each.domain for each in labelled}
    if not weighed <= known:  # only then is a whole manifest read for the domains that its rows name
        known = known.union(*(named_domains(each, s3) for each in labelled))
    if unknown := sorted(weighed - known):
        raise UserError(f"--weight {unknown[0]}: no such domain (there are {', '.join(sorted(known))})")


@contextmanager
def scratch_folder(parent: str | None) -> Iterator[Path]:
    """Make a folder for temporary files under `parent` (None: the system's), gone afterwards. Raises UserError."""
    advice = "give a writable folder with more room as --scratch"
    try:
        folder = tempfile.TemporaryDirectory(prefix="touchasp-handoff-", dir=parent)
    except OSError as error:
        where = parent or "the system's folder"
        raise UserError(f"cannot use {where} for temporary files ({error.strerror}): {advice}") from error
    with folder as path:
        try:
            yield Path(path)
        except OSError as error:
            # Stores explain their own errors, so a full disk that is left is scratch.
            if isinstance(error, UserError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise UserError(f"no room for temporary files in {path} ({os.strerror(error.errno)}): {advice}") from error

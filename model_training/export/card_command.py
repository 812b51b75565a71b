"""The command `card`: a checkpoint or an exported folder tells what it is, as hubs read it.

exported folder ──ExportFolder, Speed──> card.render ──────────────┐
run, RUN@best, checkpoint ──trainer.json, hand-off──> run_card.py ─┴──> README.md, unless a person changed it
"""

from __future__ import annotations

import argparse
from pathlib import Path

from model_training.evaluation.evaluation import Evaluation, read_evaluation
from operators.errors import UserError
from operators.handoff_record import HandoffRecord
from operators.page.card import FILE, is_own
from operators.storage import atomic

EVALUATION = "eval.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `python -m model_training card`."""
    parser.add_argument(
        "folder", metavar="FOLDER", help="an exported folder, a checkpoint, a run (its newest), RUN@best"
    )
    parser.add_argument("--evaluation", metavar="JSON", help=f"what eval wrote (default: {EVALUATION} in it)")
    parser.add_argument("--data", metavar="DIR", help="the hand-off it was trained on (default: where it was then)")
    parser.add_argument("--license", metavar="ID", help="under which you share it, for example apache-2.0")
    parser.add_argument("--no-speed", action="store_true", help="do not time an exported model on this machine")
    parser.add_argument("--out", metavar="FILE", help=f"file to write instead (default: {FILE} in it)")


def main(options: argparse.Namespace) -> int:
    """Write the card, say where, and return the exit code. Raises UserError."""
    folder = Path(options.folder)
    place, text = _exported(options, folder) if _is_exported(folder) else _checkpoint(options)
    out = Path(options.out) if options.out else place / FILE
    if out.is_file() and not is_own(out.read_text(encoding="utf-8", errors="replace")):
        raise UserError(f"{out} was changed since it was written here: move it away, or give --out another FILE")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic.replace(out, text.encode("utf-8"))
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}): give --out another FILE") from None
    print(f"card: {out}")
    return 0


def _is_exported(folder: Path) -> bool:
    from model_training.decoding.onnx_scorer import CONFIG

    return (folder / CONFIG).is_file() or (folder.is_dir() and any(folder.glob(f"n*/{CONFIG}")))


def _evaluation(options: argparse.Namespace, folder: Path) -> Evaluation | None:
    if options.evaluation:
        return read_evaluation(options.evaluation)
    return read_evaluation(folder / EVALUATION) if (folder / EVALUATION).is_file() else None


def _exported(options: argparse.Namespace, folder: Path) -> tuple[Path, str]:
    from model_training.decoding.onnx_scorer import ExportFolder
    from model_training.export import card
    from model_training.export.export import SHERPA, load

    found = ExportFolder.open(folder)
    is_torch, is_sherpa = found.config["format"] == "safetensors", found.config["format"].startswith(SHERPA)
    speed = None
    if not options.no_speed and not is_sherpa:
        speed = card.measure(folder, load(folder)[0] if is_torch else None)
    return folder, card.render(found.config, None, speed, _evaluation(options, folder), options.license)


def _checkpoint(options: argparse.Namespace) -> tuple[Path, str]:
    from model_training.data.handoff import Handoff
    from model_training.export.run_card import checkpoint_card
    from model_training.training.choosing import open_chosen

    found = open_chosen(options.folder)
    record: HandoffRecord | None = None
    try:
        handoff = Handoff.open(options.data or str(found.record.get("handoff") or ""))
        if handoff.tokenizer().fingerprint == found.record["tokenizer"]:
            record = handoff.record
    except UserError:
        if options.data:
            raise
    if options.data and record is None:
        raise UserError(f"{options.data} has another tokenizer than {found.path}: give the hand-off it was trained on")
    return found.path, checkpoint_card(found, record, _evaluation(options, found.path), options.license)

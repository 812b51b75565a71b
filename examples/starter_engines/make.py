"""One command from nothing to the two starter engines: synthesise, extract, train, export, measure.

    python -m examples.starter_engines.make WORK                      both engines, about an hour on 2 CPU cores
    python -m examples.starter_engines.make WORK --only whisper       one of them
    python -m examples.starter_engines.make WORK --manifest m.jsonl --dev-manifest d.jsonl      from your own audio

    grammar + eSpeak NG ──> WORK/whisper/corpus, WORK/paraformer/corpus (other voices, noise, seed), WORK/dev
                        ──> features ──> checkpoints ──> models/whisper-starter, models/paraformer-starter ──> measured.json

Every step leaves its result in WORK and is skipped when it is there; training goes on from its last checkpoint. A manifest
is JSONL in the shape of a truth file (path relative to the manifest, language, segments with start_s, end_s, text); its
audio is at 16 kHz in any format libsndfile reads, its text lower-case and without punctuation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from operators.errors import UserError

MODELS = Path(__file__).parent / "models"
HOURS, DEV_HOURS = 16.0, 0.2
SEEDS = {"whisper": 11, "paraformer": 12}
DEV_SEED = 21
ENGINES = tuple(SEEDS)


def prepare(work: Path, engine: str, hours: float, manifest: Path | None, dev_manifest: Path | None) -> None:
    """Corpus and features of one engine, and those of the development set."""
    from examples.starter_engines import features
    from examples.starter_engines.synthesize import corpus
    from examples.starter_engines.voices import UNSEEN, training_voices

    frontend = {"whisper": features.whisper_frontend, "paraformer": features.paraformer_frontend}[engine]
    made = work / engine / "corpus" / "manifest.jsonl"
    if manifest is None and not made.exists():
        draw = ENGINES.index(engine)
        corpus(made.parent, hours=hours, seed=SEEDS[engine], voices=training_voices(draw))
    made_dev = work / "dev" / engine / "corpus" / "manifest.jsonl"
    if dev_manifest is None and not made_dev.exists():
        corpus(made_dev.parent, hours=DEV_HOURS, seed=DEV_SEED, voices=list(UNSEEN), side="test")
    for source, folder in ((manifest or made, work / engine), (dev_manifest or made_dev, work / "dev" / engine)):
        if not (folder / "index.json").exists():
            features.extract(source, folder, frontend)


def train(work: Path, engine: str) -> Path:
    from examples.starter_engines import paraformer, whisper
    from examples.starter_engines.features import Corpus

    trainer = {"whisper": whisper.train, "paraformer": paraformer.train}[engine]
    return trainer(Corpus(work / engine), Corpus(work / "dev" / engine), work / engine / "model", seed=SEEDS[engine])


def export(checkpoint: Path, engine: str, out: Path) -> Path:
    from examples.starter_engines import paraformer, whisper

    return {"whisper": whisper.export, "paraformer": paraformer.export}[engine](checkpoint, out / f"{engine}-starter")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.starter_engines.make", description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, metavar="WORK", help="folder for corpora, features and checkpoints (some 8 GB)")
    parser.add_argument("--only", choices=ENGINES, action="append", help="one engine; both without it")
    parser.add_argument("--hours", type=float, default=HOURS, help=f"of synthetic speech for each engine (default {HOURS:g})")
    parser.add_argument("--manifest", type=Path, help="train on this audio instead of synthetic speech")
    parser.add_argument("--dev-manifest", type=Path, help="and watch the loss on this")
    parser.add_argument("--out", type=Path, default=MODELS, help="where the model folders go")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1: run the two engines side by side)")
    options = parser.parse_args(arguments)
    try:
        for path in (options.manifest, options.dev_manifest):
            if path is not None and not path.is_file():
                raise UserError(f"{path}: no such manifest")
        if (options.manifest is None) != (options.dev_manifest is None):
            raise UserError("give --manifest and --dev-manifest together")
        import torch

        torch.set_num_threads(options.threads)
        for engine in options.only or ENGINES:
            prepare(options.work, engine, options.hours, options.manifest, options.dev_manifest)
            print(export(train(options.work, engine), engine, options.out), flush=True)
    except UserError as error:
        print(f"touchasp: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

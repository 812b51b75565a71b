"""One command from nothing to the two starter engines: synthesise, extract, train, export, measure. And to the starter
perception model, which `--only perception` makes.

    python -m examples.starter_engines.make WORK                     both engines side by side, under 3 h on 2 cores
    python -m examples.starter_engines.make WORK --only whisper      one of them, without measuring
    python -m examples.starter_engines.make WORK --only perception   the perception model, measured
    python -m examples.starter_engines.make WORK --manifest m.jsonl --dev-manifest d.jsonl --out MODELS   from your own
    audio

    per engine, in a process of its own:
    grammar + eSpeak NG ──> WORK/whisper/corpus, WORK/paraformer/corpus (other voices, noise, seed), WORK/dev
                        ──> features ──> checkpoint ──> models/whisper-starter, models/paraformer-starter
    both models ──evaluate──> models/measured.json ──cards──> README.md of each
    perception: WORK/perception/corpus ──hand-offs──> model_training ──> models/perception-starter, with its card

Every step leaves its result in WORK and is skipped when it is there; training goes on from its last checkpoint. What
features were made from stands beside them in made.json, and a WORK that was made from something else is refused. A
manifest is JSONL in the shape of a truth file (path relative to the manifest, language, segments with start_s, end_s,
text); its audio is in any format and rate that the pipeline reads, its text lower-case and without punctuation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from operators.errors import UserError

MODELS = Path(__file__).parent / "models"
HOURS, DEV_HOURS = 16.0, 0.2
PERCEPTION, PERCEPTION_HOURS = "perception", 12.0
SEEDS = {"whisper": 11, "paraformer": 12, PERCEPTION: 13}
DEV_SEED = 21
ENGINES = ("whisper", "paraformer")
SYNTHETIC = "eSpeak NG"


# --- what a WORK was made from ----------------------------------------------------------------------------------------


def origin(manifest: Path | None, hours: float, seed: int) -> dict[str, Any]:
    """What features are made from, as made.json says it: a manifest, or so many hours of synthetic speech."""
    if manifest is None:
        return {"manifest": None, "sha256": None, "hours": hours, "seed": seed}
    return {
        "manifest": manifest.name,
        "sha256": hashlib.sha256(manifest.read_bytes()).hexdigest(),
        "hours": None,
        "seed": seed,
    }


def origins(options: argparse.Namespace, engine: str) -> dict[Path, dict[str, Any]]:
    """By folder: the engine's own features, and those of its development set."""
    if engine == PERCEPTION:  # its hand-off sets dev recordings apart
        return {options.work / engine: origin(options.manifest, options.hours, SEEDS[engine])}
    return {
        options.work / engine: origin(options.manifest, options.hours, SEEDS[engine]),
        options.work / "dev" / engine: origin(options.dev_manifest, DEV_HOURS, DEV_SEED),
    }


def check_origin(folder: Path, made: dict[str, Any]) -> None:
    """Raises UserError where a folder holds what was made from something else."""
    if not any((folder / name).exists() for name in ("index.json", "corpus/manifest.jsonl", "all/handoff.json")):
        return  # nothing is finished in it
    record = folder / "made.json"
    if not record.exists():
        raise UserError(f"{folder} does not say what it was made from (no made.json): give another WORK")
    try:
        before = json.loads(record.read_text("utf-8"))
    except ValueError:
        before = None
    before = before if isinstance(before, dict) else {}
    if any(before.get(key) != made[key] for key in ("sha256", "hours", "seed")):
        raise UserError(f"{folder} was made from {_told(before)}, not from {_told(made)}: give another WORK")


def _told(made: dict[str, Any]) -> str:
    if made.get("manifest"):
        return f"{made['manifest']} (SHA-256 {str(made.get('sha256'))[:8]}, seed {made.get('seed')})"
    if made.get("hours"):
        return f"{made['hours']} h of {SYNTHETIC} (seed {made.get('seed')})"
    return "something that its made.json does not tell"


def check(options: argparse.Namespace, engines: list[str]) -> None:
    """Everything that can be known to be wrong before hours of work. Raises UserError."""
    if not 0 < options.hours < math.inf:
        raise UserError("--hours is a number above 0")
    if (options.manifest is None) != (options.dev_manifest is None):
        raise UserError("give --manifest and --dev-manifest together")
    if options.manifest is not None and options.out is None:
        raise UserError("give --out with --manifest: without it the models that are shipped here would be overwritten")
    from examples.starter_engines.synthesize import read_manifest

    for path in (options.manifest, options.dev_manifest):
        if path is not None:
            if not path.is_file():
                raise UserError(f"{path}: no such manifest")
            read_manifest(path)
    for engine in engines:
        for folder, made in origins(options, engine).items():
            check_origin(folder, made)


# --- one engine -------------------------------------------------------------------------------------------------------


def prepare(options: argparse.Namespace, engine: str) -> None:
    """Corpus and features of one engine, and those of the development set. Raises UserError."""
    from examples.starter_engines import features
    from examples.starter_engines.synthesize import corpus
    from examples.starter_engines.voices import UNSEEN, training_voices

    frontend = {"whisper": features.whisper_frontend, "paraformer": features.paraformer_frontend}[engine]
    for folder, made in origins(options, engine).items():
        check_origin(folder, made)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "made.json").write_text(json.dumps(made, ensure_ascii=False) + "\n", "utf-8")
    made_corpus = options.work / engine / "corpus" / "manifest.jsonl"
    if options.manifest is None and not made_corpus.exists():
        voices = training_voices(ENGINES.index(engine))
        corpus(made_corpus.parent, hours=options.hours, seed=SEEDS[engine], voices=voices)
    made_dev = options.work / "dev" / engine / "corpus" / "manifest.jsonl"
    if options.dev_manifest is None and not made_dev.exists():
        corpus(made_dev.parent, hours=DEV_HOURS, seed=DEV_SEED, voices=list(UNSEEN), side="test")
    sources = options.manifest or made_corpus, options.dev_manifest or made_dev
    for source, folder in zip(sources, origins(options, engine), strict=True):
        if not (folder / "index.json").exists():
            features.extract(source, folder, frontend)


def train(work: Path, engine: str) -> Path:
    from examples.starter_engines import paraformer, whisper
    from examples.starter_engines.features import Corpus

    trainer = {"whisper": whisper.train, "paraformer": paraformer.train}[engine]
    return trainer(Corpus(work / engine), Corpus(work / "dev" / engine), work / engine / "model", seed=SEEDS[engine])


def export(checkpoint: Path, engine: str, out: Path, training: dict[str, Any]) -> Path:
    """Write the model folder with its training.json. What was said of the weights before it is removed, being no longer
    true.
    """
    from examples.starter_engines import paraformer, whisper

    folder = {"whisper": whisper.export, "paraformer": paraformer.export}[engine](checkpoint, out / f"{engine}-starter")
    (folder / "training.json").write_text(json.dumps(training, ensure_ascii=False, indent=1) + "\n", "utf-8")
    for outdated in (folder / "README.md", out / "measured.json"):
        outdated.unlink(missing_ok=True)
    return folder


def make_perception(options: argparse.Namespace, out: Path) -> Path:
    """Train, ship, measure and describe the perception model; return its folder. Raises UserError."""
    from examples.starter_engines.perception import clips, train
    from examples.starter_engines.synthesize import corpus
    from examples.starter_engines.voices import training_voices

    work, seed = options.work / PERCEPTION, SEEDS[PERCEPTION]
    made = origins(options, PERCEPTION)[work]
    check_origin(work, made)
    work.mkdir(parents=True, exist_ok=True)
    (work / "made.json").write_text(json.dumps(made, ensure_ascii=False) + "\n", "utf-8")
    manifest = options.manifest or work / "corpus" / "manifest.jsonl"
    if options.manifest is None and not manifest.exists():
        corpus(manifest.parent, hours=options.hours, seed=seed, voices=training_voices(2))
    run = train.train(clips.handoffs(manifest, work, seed), work, seed=seed, workers=options.threads)
    training = {
        "data": SYNTHETIC if options.manifest is None else options.manifest.name,
        "hours": options.hours if options.manifest is None else None,
        "voices": len(training_voices(2)) if options.manifest is None else None,
        "seed": seed,
    }
    return train.finish(run, out / f"{PERCEPTION}-starter", training)


def training_record(options: argparse.Namespace, engine: str) -> dict[str, Any]:
    """What a model was trained on, for its card."""
    from examples.starter_engines.features import Corpus
    from examples.starter_engines.voices import training_voices

    return {
        "data": SYNTHETIC if options.manifest is None else options.manifest.name,
        "hours": round(Corpus(options.work / engine).hours, 3),
        "voices": len(training_voices(ENGINES.index(engine))) if options.manifest is None else None,
        "seed": SEEDS[engine],
    }


# --- both -------------------------------------------------------------------------------------------------------------


def side_by_side(commands: dict[str, list[str]]) -> int:
    """Run a process per engine, its lines with its name in front. One that fails stops the others.

    Answers 0, or the exit code of the one that failed (128 + n where signal n ended it).
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to leave by the same door as with Ctrl-C
    # The children inherit that Ctrl-C is ignored: it is for this process, which stops them.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    children: dict[str, subprocess.Popen[str]] = {}
    relays = []
    try:
        for engine, command in commands.items():
            children[engine] = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
            )
            for source, sink in ((children[engine].stdout, sys.stdout), (children[engine].stderr, sys.stderr)):
                relays.append(threading.Thread(target=_relay, args=(engine, source, sink), daemon=True))
                relays[-1].start()
        signal.signal(signal.SIGINT, interrupt)
        while True:
            codes = [child.poll() for child in children.values()]
            failed = [code for code in codes if code]
            if failed or None not in codes:
                break
            time.sleep(0.2)
    finally:
        signal.signal(signal.SIGINT, interrupt)
        for child in children.values():
            child.terminate()
        for child in children.values():
            child.wait()
        for relay in relays:
            relay.join(timeout=10)
    if not failed:
        return 0
    return failed[0] if failed[0] > 0 else 128 - failed[0]


def _relay(engine: str, source: IO[str], sink: IO[str]) -> None:
    for line in source:
        print(f"{engine}: {line.rstrip()}", file=sink, flush=True)


def make_both(options: argparse.Namespace, out: Path) -> int:
    """Train both engines side by side, measure them and write their cards. Answers the exit code. Raises UserError."""
    if options.manifest is None:
        from examples.starter_engines.voices import espeak

        espeak()
    given = {
        "--hours": options.hours,
        "--manifest": options.manifest,
        "--dev-manifest": options.dev_manifest,
        "--out": out,
        "--threads": options.threads,
    }
    settings = [f"{name}={value}" for name, value in given.items() if value is not None]
    program = [sys.executable, "-u", "-m", "examples.starter_engines.make", str(options.work), "--child", *settings]
    code = side_by_side({engine: [*program, "--only", engine] for engine in ENGINES})
    if code:
        return code
    from examples.starter_engines import cards, evaluate

    measured = [f"--manifest={options.dev_manifest}"] if options.dev_manifest else []
    return evaluate.main([f"--models={out}", *measured]) or cards.main([f"--models={out}"])


def make_one(options: argparse.Namespace, engine: str, out: Path) -> None:
    """Train and export one engine. Raises UserError."""
    import torch

    torch.set_num_threads(options.threads)
    if engine == PERCEPTION:
        print(make_perception(options, out), flush=True)
        return
    prepare(options, engine)
    checkpoint = train(options.work, engine)
    print(export(checkpoint, engine, out, training_record(options, engine)), flush=True)
    if not options.child:
        measured = f" --manifest {options.dev_manifest}" if options.dev_manifest else ""
        print(
            "when both engines are there, measure them:\n"
            f"  python -m examples.starter_engines.evaluate --models {out}{measured}\n"
            f"  python -m examples.starter_engines.cards --models {out}"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.starter_engines.make", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "work", type=Path, metavar="WORK", help="folder for corpora, features and checkpoints (some 8 GB)"
    )
    parser.add_argument(
        "--only", choices=(*ENGINES, PERCEPTION), action="append", help="one of them; both engines without it"
    )
    parser.add_argument(
        "--hours",
        type=float,
        help=f"of synthetic speech for each engine (default {HOURS:g}, {PERCEPTION_HOURS:g} for perception)",
    )
    parser.add_argument("--manifest", type=Path, help="train on this audio instead of synthetic speech")
    parser.add_argument("--dev-manifest", type=Path, help="and watch the loss, and measure, on this")
    parser.add_argument("--out", type=Path, help="where the model folders go (default: those that are shipped)")
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch, for each engine; of perception: processes, 1 or 2"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)  # started by the command that measures
    options = parser.parse_args(arguments)
    engines = [engine for engine in (*ENGINES, PERCEPTION) if engine in (options.only or ENGINES)]
    if options.hours is None:
        options.hours = PERCEPTION_HOURS if engines == [PERCEPTION] else HOURS
    out = options.out or MODELS
    try:
        check(options, engines)
        if PERCEPTION in engines and len(engines) > 1:
            raise UserError(
                "give --only perception by itself: the two engines are made side by side, and it after them"
            )
        if len(engines) > 1:
            return make_both(options, out)
        make_one(options, engines[0], out)
    except UserError as error:
        print(f"touchasp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("touchasp: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

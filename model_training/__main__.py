"""The command line: python -m model_training train | eval | decode | export | recognize | inspect | tokenizer | index."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from operators.errors import UserError

DESCRIPTION = """\
Shards in; an elastic speech-perception model out: transcription, language, age, gender, emotion and sound events, trained
once, exported at several sizes."""

EXAMPLES = {
    "main": """\
examples:
  python -m pipeline handoff runs/first --out handoff               from a curated run to training data
  python -m model_training train --data handoff --config tiny       train on a laptop
  python -m model_training eval models/tiny --data handoff          every size in one table
  python -m model_training export models/tiny --group 3 --format onnx-int8 --out models/edge
  python -m model_training recognize models/edge talk.mp3           no torch needed""",
    "train": """\
DIR is what 'python -m pipeline handoff' wrote, local or s3://. A stopped run goes on where it was: give the same command again.
Presets: {presets}
Several workers: torchrun --nproc-per-node 8 -m model_training train --data DIR

examples:
  python -m model_training train --data handoff --config tiny
  python -m model_training train --data s3://bucket/handoff --config paper-1b --out models/first train.max_steps=650000
  python -m model_training train --data handoff --config my.yaml model.moe.experts=[3,7] optimizer.learning_rate=0.002""",
    "inspect": """\
examples:
  python -m model_training inspect models/tiny              the newest checkpoint: step, sizes per group, settings
  python -m model_training inspect --config paper-1b        parameters of a preset, without training anything""",
    "tokenizer": """\
examples:
  python -m model_training tokenizer --texts labels.txt --out tokenizer --bpe-size 5000""",
}

Command = Callable[[argparse.Namespace], int]


def parser() -> argparse.ArgumentParser:
    from model_training import config

    main = argparse.ArgumentParser(
        prog="python -m model_training",
        description=DESCRIPTION,
        epilog=EXAMPLES["main"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, run: Command) -> argparse.ArgumentParser:
        epilog = EXAMPLES.get(name, "").replace("{presets}", ", ".join(config.presets()))
        command = commands.add_parser(
            name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.set_defaults(run=run)
        return command

    command = add("train", "train on a hand-off, or go on with a run", _train)
    command.add_argument("--data", required=True, metavar="DIR", help="hand-off directory, local or s3://")
    command.add_argument("--config", metavar="CONFIG", help="preset or YAML file (default: the settings' own defaults)")
    command.add_argument("--out", metavar="RUN", help="folder of the run (default: models/<name of CONFIG>)")
    command.add_argument("settings", nargs="*", metavar="key=value")

    command = add("inspect", "what is in a checkpoint, or how large a configuration is", _inspect)
    command.add_argument("checkpoint", nargs="?", metavar="CKPT", help="folder of a checkpoint or of a run")
    command.add_argument("--config", metavar="CONFIG", help="a preset or YAML file instead of a checkpoint")
    command.add_argument("--vocabulary", type=int, default=6000, help="size of the vocabulary with --config (default 6000)")
    command.add_argument("settings", nargs="*", metavar="key=value")

    command = add("tokenizer", "learn a tokenizer from labels", _tokenizer)
    command.add_argument("--texts", required=True, metavar="FILE", help="one label a line, UTF-8")
    command.add_argument("--scheme", metavar="FILE", help="JSON or YAML with the labels of languages, ages, ...; default: built in")
    command.add_argument("--bpe-size", type=int, default=5000, help="units for words with spaces (default 5000)")
    command.add_argument("--min-char-count", type=int, default=1, help="rarer Han characters become unknown (default 1)")
    command.add_argument("--out", required=True, metavar="DIR")
    return main


def main(arguments: list[str] | None = None) -> int:
    commands = parser()
    options, rest = commands.parse_known_args(arguments)
    # argparse takes the positional arguments in one stretch; settings may stand between options too.
    if any(argument.startswith("-") or "=" not in argument for argument in rest) or (rest and not hasattr(options, "settings")):
        commands.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.settings += rest
    run: Command = options.run
    try:
        return run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def _train(options: argparse.Namespace) -> int:
    from model_training import config
    from model_training.train import train

    settings = config.load(options.config, options.settings)
    out = options.out or f"models/{Path(options.config).stem if options.config else 'default'}"
    # Kubernetes and Slurm stop a job with SIGTERM: leave as Ctrl-C does. The last checkpoint is whole in any case.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    done = train(options.data, out, settings)
    if int(os.environ.get("RANK", "0")) == 0:
        state = "finished" if done.finished else "stopped for time; the same command goes on"
        print(f"{state} at step {done.step}: {done.folder}")
        print(f"next: python -m model_training eval {done.folder} --data {options.data}")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    import torch

    from model_training import config
    from model_training.checkpoint import open_checkpoint
    from model_training.model import SpeechModel

    if options.checkpoint and not options.config:
        found = open_checkpoint(options.checkpoint)
        settings, vocabulary = config.restore(found.record["settings"]), int(found.record["vocabulary"])
        print(f"{found.path}: step {found.step}, vocabulary {vocabulary}")
    elif options.config:
        # A positional key=value lands in `checkpoint` when there is no checkpoint.
        overrides = [*([options.checkpoint] if options.checkpoint else []), *options.settings]
        settings = config.load(options.config, overrides)
        vocabulary = options.vocabulary
        print(f"{options.config}: vocabulary {vocabulary}")
    else:
        raise UserError("give a checkpoint's folder, or --config with a preset or YAML file")
    with torch.device("meta"):
        model = SpeechModel(settings.model, vocabulary)
    for group in model.groups:
        counts = model.parameter_counts(group)
        print(f"  N={group:<3} {counts['total']:>14,} parameters, {counts['active']:>14,} active for a frame")
    print(json.dumps(config.to_dict(settings), indent=1))
    return 0


def _tokenizer(options: argparse.Namespace) -> int:
    import yaml

    from model_training.tokenizer import Tokenizer
    from model_training.tokens import Scheme

    try:
        lines = Path(options.texts).read_text(encoding="utf-8").splitlines()
        plain = yaml.safe_load(Path(options.scheme).read_text(encoding="utf-8")) if options.scheme else {}
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{options.scheme} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError:
        raise UserError(f"{options.texts} is not UTF-8: save it as UTF-8, one label a line") from None
    if options.bpe_size < 1:
        raise UserError(f"--bpe-size {options.bpe_size}: must be at least 1")
    tokenizer = Tokenizer.train(lines, Scheme.from_dict(plain or {}), bpe_size=options.bpe_size, min_char_count=options.min_char_count)
    tokenizer.save(options.out)
    print(f"{len(tokenizer)} units from {len(lines)} labels: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

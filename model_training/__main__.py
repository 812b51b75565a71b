"""The command line: python -m model_training train | eval | decode | export | recognize | align | inspect | ...

Its words are in help.py.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from model_training.help import DESCRIPTION, EXAMPLES, INTERPOLATE, SPEAKER
from operators.errors import UserError

if typing.TYPE_CHECKING:
    from operators.index import Row

# OpenMP threads that wait by spinning take the core from whom they wait for, as soon as anything else runs on the
# machine: with two threads and one busy core a step took 70 times as long. To be set before torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

Command = Callable[[argparse.Namespace], int]


def parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """Return the parser; `wanted` is the command whose module may be imported for its arguments."""
    presets = ", ".join(sorted(path.stem for path in (Path(__file__).parent / "configs").glob("*.yaml")))
    main = argparse.ArgumentParser(
        prog="python -m model_training",
        description=DESCRIPTION,
        epilog=EXAMPLES["main"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, run: Command) -> argparse.ArgumentParser:
        epilog = EXAMPLES.get(name, "").replace("{presets}", presets)
        command = commands.add_parser(
            name, help=text, description=text, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        command.set_defaults(run=run)
        return command

    command = add("train", "train on a hand-off, or go on with a run", _train)
    command.add_argument("--data", required=True, metavar="DIR", help="hand-off directory, local or s3://")
    command.add_argument("--config", metavar="CONFIG", help="preset or YAML file (default: the settings' own defaults)")
    command.add_argument("--out", metavar="RUN", help="folder of the run (default: models/<name of CONFIG>)")
    command.add_argument("settings", nargs="*", default=[], metavar="key=value")

    def searching(command: argparse.ArgumentParser) -> None:
        command.add_argument(
            "--average", type=int, default=1, metavar="N", help="use the mean of the newest N checkpoints"
        )
        command.add_argument("--ema", action="store_true", help="use the averaged weights that training kept")
        command.add_argument("--interpolate", type=float, default=1.0, metavar="SHARE", help=INTERPOLATE)
        command.add_argument("--beam", type=int, default=10)
        command.add_argument("--ctc-weight", type=float, default=0.5, help="of CTC in rescoring (default 0.5)")
        command.add_argument(
            "--reverse-weight", type=float, default=0.3, help="there of a right-to-left decoder (default 0.3)"
        )
        command.add_argument("--speaker", default="surer", metavar="WHO", help=SPEAKER)
        command.add_argument("--task", default="transcribe")
        command.add_argument("--device", default="auto", help="auto | cpu | cuda")
        precision = "auto (default): bfloat16 on a card that has it, float32 on a CPU; scores are always float32"
        command.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto", help=precision)
        command.add_argument("--threads", type=int, default=0, help="of torch on a CPU (default: torch's choice)")

    command = add("eval", "error rates and accuracies of every size in one table", _eval)
    several = "folders of checkpoints, or of runs: their newest; or an eval.json of before. Two are compared"
    command.add_argument("checkpoints", nargs="+", metavar="CKPT", help=several)
    command.add_argument("--twin", action="append", default=[], metavar="CKPT", help="the same as one more CKPT")
    searching(command)
    command.add_argument("--data", metavar="DIR", help="hand-off directory, local or s3://")
    command.add_argument("--split", default="test", help="of the hand-off (default test)")
    published = "a set as published; may be repeated: a manifest, Kaldi, LibriSpeech, AISHELL-1, SpeechIO or ESC-50"
    command.add_argument("--set", action="append", default=[], metavar="[NAME=]PATH[@SPLIT]", help=published)
    command.add_argument("--groups", metavar="N,N", help="numbers of routed experts (default: all of the model's)")
    command.add_argument(
        "--methods",
        default="attention_rescoring",
        metavar="M,M",
        help="ctc_greedy, ctc_prefix_beam, attention, attention_rescoring",
    )
    command.add_argument(
        "--out", metavar="DIR", help="where eval.json, eval.jsonl and eval.html go (default: beside the checkpoint)"
    )

    command = add("decode", "transcribe files, or a split, with a checkpoint", _decode)
    command.add_argument("checkpoint", metavar="CKPT", help="folder of a checkpoint, or of a run: its newest")
    searching(command)
    command.add_argument("files", nargs="*", default=[], metavar="AUDIO")
    command.add_argument("--data", metavar="DIR", help="decode a hand-off's split instead of files")
    command.add_argument("--split", default="test", help="default test")
    command.add_argument("--group", type=int, help="number of routed experts (default: the largest)")
    command.add_argument("--method", default="attention_rescoring")
    command.add_argument(
        "--given", action="append", default=[], metavar="kind=label", help="what is known, for example language=yue"
    )

    for name, place, text in (
        ("export", "export.export", "a self-contained model folder of one size, or of all"),
        ("recognize", "decoding.recognize", "transcribe recordings with an exported model, without torch"),
        ("align", "decoding.align", "say when each word of a known text is spoken"),
        ("card", "export.card_command", "write the model card of a checkpoint or an exported folder, to share it"),
    ):
        command = add(name, text, _inspect)
        if name == wanted:  # some need torch, and some do without
            module = import_module(f"model_training.{place}")
            module.add_arguments(command)
            command.set_defaults(run=module.main)

    command = add(
        "osum", "OSUM: train | eval | ask | merge | inspect a model that answers questions about speech", _inspect
    )
    if wanted == "osum":
        import_module("model_training.osum.command").add_arguments(command)

    command = add("inspect", "what is in a checkpoint, or how large a configuration is", _inspect)
    command.add_argument("checkpoint", nargs="?", metavar="CKPT", help="folder of a checkpoint or of a run")
    command.add_argument("--config", metavar="CONFIG", help="a preset or YAML file instead of a checkpoint")
    command.add_argument(
        "--vocabulary", type=int, default=6000, help="size of the vocabulary with --config (default 6000)"
    )
    command.add_argument("settings", nargs="*", default=[], metavar="key=value")

    command = add("settings", "every setting of a training, with its default, bounds and meaning", _settings)
    command.add_argument("--config", metavar="CONFIG", help="with the values of a preset or YAML file")
    command.add_argument("--schema", action="store_true", help="as JSON Schema, for editors and other programs")

    command = add("index", "make a hand-off of WebDataset tars from elsewhere", _index)
    command.add_argument(
        "tars", nargs="+", metavar="TAR", help="key.flac|wav|opus|mp3 + key.txt [+ key.json]; local or s3://"
    )
    command.add_argument("--dev", type=float, default=0.02, metavar="SHARE", help="of the recordings (default 0.02)")
    held_out = "of the recordings (default 0.02); 1: all, for 'eval' alone"
    command.add_argument("--test", type=float, default=0.02, metavar="SHARE", help=held_out)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--bpe-size", type=int, default=5000)
    command.add_argument("--out", required=True, metavar="DIR")

    command = add("tokenizer", "learn a tokenizer from labels", _tokenizer)
    command.add_argument("--texts", required=True, metavar="FILE", help="one label a line, UTF-8")
    command.add_argument("--languages", metavar="FILE", help="the language of each label, one a line; empty: not known")
    command.add_argument(
        "--scheme", metavar="FILE", help="JSON or YAML with the labels of languages, ages, ...; default: built in"
    )
    grow = "keep the units of this tokenizer, and add the characters and letters that it lacks"
    command.add_argument("--grow", metavar="TOKENIZER", help=grow)
    command.add_argument("--bpe-size", type=int, help="units for words with spaces (default 5000)")
    command.add_argument(
        "--min-char-count", type=int, default=1, help="rarer Han characters become unknown (default 1)"
    )
    command.add_argument("--out", required=True, metavar="DIR")
    return main


def main(arguments: list[str] | None = None) -> int:
    """Run one command, and return its exit code: 2 where the user has something to fix."""
    arguments = sys.argv[1:] if arguments is None else arguments
    commands = parser(next((argument for argument in arguments if not argument.startswith("-")), None))
    options, rest = commands.parse_known_args(arguments)
    # argparse takes the positional arguments in one stretch; settings, and models, may stand between options too.
    several = getattr(options, "checkpoints", None)
    if any(argument.startswith("-") or ("=" not in argument and several is None) for argument in rest) or (
        rest and several is None and not hasattr(options, "settings")
    ):
        commands.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        (options.settings if several is None else several).extend(rest)
    run: Command = options.run
    for output in (sys.stdout, sys.stderr):  # a terminal of GBK or Latin-1 lacks signs of many languages
        if isinstance(output, io.TextIOWrapper):
            output.reconfigure(errors="backslashreplace")
    try:
        return run(options)
    except UserError as error:
        print(f"touchasp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Loaders outlive SIGTERM. Where a second Ctrl-C came into their end, Python would wait for them for ever.
        for loader in multiprocessing.active_children():
            loader.kill()
        more = "; the same command goes on from the last checkpoint" if options.command == "train" else ""
        print(f"\ntouchasp: stopped{more}", file=sys.stderr)
        return 130


def _train(options: argparse.Namespace) -> int:
    from model_training import config
    from model_training.train import train

    settings = config.load(options.config, options.settings)
    out = options.out or f"models/{Path(options.config).stem if options.config else 'default'}"
    # Kubernetes and Slurm stop a job with SIGTERM. From its first step on a run saves a checkpoint then; before, and
    # at the second SIGTERM, it leaves as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    done = train(options.data, out, settings)
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{_ENDED[done.because]} at step {done.step}: {done.folder}")
        if done.because != "SIGTERM":
            from model_training.data.handoff import evaluated_on

            print(f"next: python -m model_training eval {shlex.quote(str(done.folder))} {evaluated_on(options.data)}")
    # Not 0: a scheduler that stopped the job must not take it for done
    return 128 + signal.SIGTERM if done.because == "SIGTERM" else 0


_ENDED = {
    "": "finished",
    "time": "stopped for time; the same command goes on",
    "patience": "finished, no lower error on dev for train.patience evaluations,",
    "SIGTERM": "stopped by SIGTERM; the same command goes on",
}


def _eval(options: argparse.Namespace) -> int:
    from model_training.evaluation.command import run

    return run(options, _writable)


def _writable(path: str | Path) -> Path:
    """Return the folder for results, tried before the work, so that none is lost for want of it, and left as it was."""
    folder, missing = Path(path), list[Path]()
    try:
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"cannot write to {folder} ({error.strerror}): give --out a folder that can be written to"
        ) from None
    finally:
        for one in missing:
            with suppress(OSError):
                one.rmdir()
    return folder


def _decode(options: argparse.Namespace) -> int:
    from model_training.decoding.decode import decode

    return decode(options)


def _inspect(options: argparse.Namespace) -> int:
    import torch

    from model_training import config
    from model_training.model.flops import flops
    from model_training.model.speech_model import SpeechModel
    from model_training.training.choosing import open_chosen

    if options.vocabulary < 1:
        raise UserError(f"--vocabulary {options.vocabulary}: must be at least 1")
    if options.checkpoint and not options.config:
        found = open_chosen(options.checkpoint)
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
    for n_experts in model.sizes:
        counts = model.parameter_counts(n_experts)
        giga = flops(settings.model, vocabulary, n_experts) / 1e9
        print(
            f"  N={n_experts:<3} {counts['total']:>14,} parameters, {counts['active']:>14,} active for a frame, "
            f"{giga:.2f} GFLOP for a second of audio (encoder and CTC)"
        )
    print(json.dumps(config.to_dict(settings), indent=1))
    return 0


def _settings(options: argparse.Namespace) -> int:
    from model_training.config import Settings, load
    from operators.settings import as_yaml, json_schema

    if options.schema:
        print(json.dumps(json_schema(Settings(), "Settings of python -m model_training"), indent=1, ensure_ascii=False))
    else:
        print(as_yaml(load(options.config, [])), end="")
    return 0


def _index(options: argparse.Namespace) -> int:
    from model_training.config import s3_settings
    from model_training.data.plain_tars import IndexSettings, index_from_tars
    from model_training.text.tokenizer import Tokenizer
    from model_training.text.tokens import Scheme

    def build_tokenizer(rows: Sequence[Row], folder: Path) -> None:
        labels, languages = (row.label for row in rows), (row.language for row in rows)
        Tokenizer.train(labels, Scheme(), languages=languages, bpe_size=options.bpe_size).save(folder)

    settings = IndexSettings(dev_share=options.dev, test_share=options.test, seed=options.seed)
    out = _writable(options.out)
    record = index_from_tars(options.tars, out, settings, s3=s3_settings(), build_tokenizer=build_tokenizer)
    for name, split in record.splits.items():
        print(f"{name:<6} {split.clips:>9} clips {split.hours:>10.2f} h")
        if not split.clips and getattr(options, name, False) and options.test < 1:
            print(f"{name} is empty: there are few recordings; give it a larger share with --{name}", file=sys.stderr)
    if bad := (out / "bad_samples.jsonl").read_text(encoding="utf-8").count("\n"):
        print(f"{bad} samples cannot be used: bad_samples.jsonl names them", file=sys.stderr)
    if record.splits["train"].clips:
        print(f"next: python -m model_training train --data {shlex.quote(options.out)} --config tiny")
    else:
        from model_training.data.handoff import evaluated_on

        print(f"next: python -m model_training eval CKPT {evaluated_on(options.out)}")
    return 0


def _lines(path: str) -> list[str]:
    """Return the lines of a text file; a label may hold what str.splitlines takes for the end of one."""
    return Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _tokenizer(options: argparse.Namespace) -> int:
    import yaml

    from model_training.text.tokenizer import Tokenizer
    from model_training.text.tokens import Scheme

    path = options.texts
    try:
        lines = _lines(path)
        path = options.languages
        languages = _lines(path) if path else [""] * len(lines)
        path = options.scheme
        plain = yaml.safe_load(Path(path).read_text(encoding="utf-8")) if path else {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8: save it as UTF-8") from None
    if options.bpe_size is not None and options.bpe_size < 1:
        raise UserError(f"--bpe-size {options.bpe_size}: must be at least 1")
    if options.bpe_size is not None and options.grow is not None:
        raise UserError("--bpe-size: with --grow words are cut as they were; leave it out")
    if len(languages) != len(lines):
        raise UserError(f"{options.languages} has {len(languages)} lines, {options.texts} {len(lines)}: one for each")
    _writable(options.out)
    scheme = Scheme.from_dict(plain or {})
    told = [language or None for language in languages]
    least = options.min_char_count
    if options.grow is not None:
        earlier = Tokenizer.load(options.grow)
        tokenizer = earlier.grown(lines, scheme if options.scheme else None, languages=told, min_char_count=least)
    else:
        size = options.bpe_size or 5000
        tokenizer = Tokenizer.train(lines, scheme, languages=told, bpe_size=size, min_char_count=least)
    tokenizer.save(options.out)
    print(f"{len(tokenizer)} units from {len(lines)} labels: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

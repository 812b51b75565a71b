"""The command line of `handoff`: options, the training command that comes out of it, and its launch.

RUN ... --out DIR ──handoff──> DIR ──> "python -m model_training train --data DIR" ──--launch──> that, started
"""

from __future__ import annotations

import argparse
import math
import re
import shlex
import subprocess
import sys

from rich.console import Console

from operators.clip import KINDS
from operators.errors import UserError
from operators.storage.base import S3Settings
from operators.storage.uri import is_s3

EXAMPLES = """\
Checks every shard against its ledger, drops what two runs share, splits by recording, sums the normalisation, builds
the tokenizer, balances the domains. Audio stays where it is: the indexes in DIR point at it.

examples:
  python -m pipeline handoff runs/first --out handoff
  python -m pipeline handoff runs/first runs/second --out handoff --dev 0.02 --test 0.02 --seed 1
  python -m pipeline handoff runs/first --out handoff --labelled aishell.jsonl:read --weight read=2
  python -m pipeline handoff --labelled meetings.csv --test 1 --out sets/meetings
  python -m pipeline handoff runs/first --out handoff --where "snr_db > 15 and language = 'zh'" --balance gender
  python -m pipeline handoff s3://bucket/run --out s3://bucket/handoff s3.endpoint_url=http://store:9000
  python -m pipeline handoff runs/first --out handoff --config tiny --launch"""

BALANCED = tuple(kind for kind in KINDS if kind != "events")
"""What can be balanced: of events a clip may have several."""

_SETTING = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*=")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Declare the arguments of `handoff`."""
    add = command.add_argument
    several = "run directories, local or s3://; then s3.* settings (key=value). None, with --labelled and --test 1"
    add("runs", metavar="RUN", nargs="*", default=[], help=several)
    add("--out", metavar="DIR", required=True, help="directory of the hand-off, local or s3://")
    add("--seed", type=int, default=0, help="seed of the split (default: %(default)s)")
    share = "share of the recordings held out for %s (default: 0.01)"
    add("--dev", type=float, default=0.01, metavar="SHARE", help=share % "development")
    add("--test", type=float, default=0.01, metavar="SHARE", help=share % "testing" + "; 1: all, nothing is trained")
    balance = "domains are seen by hours^ALPHA: 1 as they come, 0 all alike (default: 0.7)"
    add("--alpha", type=float, default=0.7, help=balance)
    limit = "highest weight that balancing may give (default: %(default)s)"
    add("--max-weight", type=float, default=4.0, metavar="W", help=limit)
    weight = "how often a clip of the domain is seen in an epoch; may be repeated"
    add("--weight", action="append", default=[], metavar="DOMAIN=W", help=weight)
    where = "take only clips of which this is true, such as \"snr_db > 15 and language = 'zh'\""
    add("--where", metavar="CONDITION", help=where)
    evenly = f"show train more evenly over an attribute ({', '.join(BALANCED)}); may be repeated"
    add("--balance", action="append", default=[], metavar="KIND", choices=BALANCED, help=evenly)
    labelled = "manifest of a labelled set; may be repeated"
    add("--labelled", action="append", default=[], metavar="FILE[:DOMAIN]", help=labelled)
    add("--scheme", metavar="FILE", help="languages, ages, emotions, events that the model knows (JSON or YAML)")
    add("--bpe-size", type=int, metavar="N", help="units for words with spaces (default: the trainer's)")
    add("--tokenizer", metavar="DIR", help="tokenizer, or earlier hand-off, whose vocabulary is used again")
    add("--grow", metavar="DIR", help="the same, with the characters and letters that it lacks")
    verify = "how shards are checked (default: %(default)s)"
    add("--verify", choices=("checksums", "sizes"), default="checksums", help=verify)
    add("--skip-damaged", action="store_true", help="leave damaged shards out instead of refusing them")
    add("--scratch", metavar="DIR", help="folder for temporary files (default: the system's)")
    add("--config", metavar="CONFIG", help="preset or YAML file of the training command")
    add("--launch", action="store_true", help="start the training command when all is done")


def split_runs(words: list[str], *, may_be_none: bool = False) -> tuple[list[str], list[str]]:
    """Return the run directories, and the key=value settings among them. Raises UserError."""
    settings = [word for word in words if _SETTING.match(word)]
    runs = [word for word in words if not _SETTING.match(word)]
    if not runs and not may_be_none:
        raise UserError("no run: name at least one run directory")
    return runs, settings


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Make the hand-off, print the training command, start it when asked. Return the exit code. Raises UserError."""
    from pipeline.handoff.build import handoff
    from pipeline.handoff.intake import HandoffSettings
    from pipeline.handoff.labelled import LabelledSet
    from pipeline.handoff.tokenizer import check_config, trainer_environment

    for name in ("dev", "test"):
        if not 0 <= getattr(arguments, name) < 1 and not (name == "test" and arguments.test == 1):
            raise UserError(f"--{name} {getattr(arguments, name)}: a share, at least 0 and below 1")
    if arguments.dev + arguments.test >= 1 and arguments.test < 1:
        raise UserError(
            "--dev and --test together leave nothing to train on: their sum must be below 1, or --test 1 hold out all"
        )
    if arguments.tokenizer is not None and arguments.grow is not None:
        raise UserError("--tokenizer takes a vocabulary as it is, --grow adds to it: give one of them")
    if not 0 <= arguments.alpha <= 1 or not 1 <= arguments.max_weight < math.inf:
        raise UserError("--alpha lies between 0 and 1, --max-weight is a number of at least 1")
    from pipeline.handoff.where import Where

    asked = HandoffSettings(
        seed=arguments.seed,
        dev=arguments.dev if arguments.test < 1 else 0.0,
        test=arguments.test,
        alpha=arguments.alpha,
        max_weight=arguments.max_weight,
        weights=dict(map(_weight, arguments.weight)),
        labelled=tuple(map(LabelledSet.parse, arguments.labelled)),
        scheme=arguments.scheme,
        bpe_size=arguments.bpe_size,
        tokenizer=arguments.tokenizer,
        grow=arguments.grow,
        checksums=arguments.verify == "checksums",
        skip_damaged=arguments.skip_damaged,
        scratch=arguments.scratch,
        where=None if arguments.where is None else Where.parse(arguments.where),
        balance=tuple(dict.fromkeys(arguments.balance)),
    )
    runs, overrides = split_runs(arguments.runs, may_be_none=bool(asked.labelled))
    if arguments.config is not None:
        check_config(arguments.config)
    place = handoff(runs, overrides, arguments.out, asked, console)
    command, environment = training_command(place.uri, place.s3, arguments.config)
    if not place.is_trained_on:
        command = ["python", "-m", "model_training", "eval", "CKPT", "--data", place.uri]
    shown = " ".join([*(f"{key}={shlex.quote(value)}" for key, value in environment.items()), shlex.join(command)])
    console.print("\nnext:", highlight=False)
    console.print(shown, markup=False, highlight=False, soft_wrap=True)
    if not arguments.launch or not place.is_trained_on:
        return 0
    sys.stdout.flush()
    return subprocess.run([sys.executable, *command[1:]], env=trainer_environment() | environment).returncode


def _weight(text: str) -> tuple[str, float]:
    domain, _, number = text.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = -1.0
    if not domain or not 0 <= weight <= 1000:
        raise UserError(f"--weight {text}: expected DOMAIN=NUMBER, for example --weight meeting=2")
    return domain, weight


def training_command(data: str, s3: S3Settings, config: str | None) -> tuple[list[str], dict[str, str]]:
    """Return the command that trains on a hand-off, and what it needs in its environment."""
    command = ["python", "-m", "model_training", "train", "--data", data, *(["--config", config] if config else [])]
    return command, {"AWS_ENDPOINT_URL": s3.endpoint_url} if is_s3(data) and s3.endpoint_url else {}

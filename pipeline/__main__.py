"""The command line: python -m pipeline plan | run | check | report | redecide | score | calibrate | show | compare |
handoff | export | card | mix-events | settings.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import traceback

from rich.console import Console

from operators.errors import UserError
from pipeline import config
from pipeline.card import command as card_command
from pipeline.display.terminal import show_what_can_be_shown
from pipeline.display.words import printable
from pipeline.executor.dependencies import keep_freed_memory, quiet_dependencies
from pipeline.executor.worker import ClusterLost
from pipeline.export import command as export_command
from pipeline.handoff import command as handoff_command
from pipeline.mix_events import command as mix_events_command

DESCRIPTION = """\
Raw crawled audio in; training shards out, with labels that two independent recognisers agree on and a
report that accounts for every second."""

EXAMPLES = {
    "main": """\
examples:
  python -m pipeline run my.yaml                          curate what my.yaml names; run again to go on after a stop
  python -m pipeline run my.yaml rover.max_wer=8 output=s3://bucket/run
  python -m pipeline report runs/first                    retention per domain: terminal, JSON, one HTML page
  python -m pipeline redecide runs/first rover.max_wer=15 the same run under other thresholds, without listening again
  python -m pipeline handoff runs/first --out handoff     everything that training needs, in one directory
  ray job submit --working-dir . -- python -m pipeline run my.yaml""",
    "run": """\
CONFIG is a YAML file; key=value settings override it. The least that it needs:

  output: runs/first
  sources: [{path: crawl/}]          # a folder (first folder = domain), a manifest, a tar; local or s3://
  asr: {model: large-v3}             # hub name or local CTranslate2 folder
  copilot: {models: {zh: paraformer-zh, en: paraformer-en}}

Ray: starts by itself, joins a running cluster (execution.address=auto), or runs inside 'ray job submit'.
A stopped run goes on where it was: give the same command again.
Exit codes: 0 done, 1 units left undone, 2 a mistake to fix, 3 stopped by execution.stop_when.

examples:
  python -m pipeline run my.yaml
  python -m pipeline run my.yaml execution.runner=local      the same shards, in one process, without Ray
  python -m pipeline run my.yaml asr.device=cuda execution.transcribe.gpus=0.5 execution.transcribe.max_workers=4""",
    "plan": """\
Cuts the sources into units of work and lists them per domain. With --estimate it takes a sample of the plan's audio
through the real stages, here and in one process, and says with an interval how many hours of CPUs and GPUs the whole
plan takes, how much it keeps, how long it lasts, and what it costs by execution.prices. The run directory is then left
as it is; docs/how-to/estimate-a-run.md.

examples:
  python -m pipeline plan my.yaml
  python -m pipeline plan my.yaml --estimate 20 execution.prices.cpu_hour=0.04 execution.prices.gigabyte=0.25""",
    "check": (
        "Tries output, sources, paths of models and the cluster, and loads every model of every stage.\n"
        "Nothing is curated.\n\nexamples:\n  python -m pipeline check my.yaml"
    ),
    "report": """\
examples:
  python -m pipeline report runs/first
  python -m pipeline report s3://bucket/run s3.endpoint_url=http://store:9000
  python -m pipeline report runs/first runs/second           side by side, and what changed between them""",
    "redecide": """\
Judges every clip of a finished run again under other rover.* or text.* settings. No recogniser runs: what comes back is
cut from the sources again, what stays is copied. The new run equals a fresh one with these settings, byte for byte.

examples:
  python -m pipeline redecide runs/first rover.max_wer=15
  python -m pipeline redecide runs/first rover.drop_when=both --output runs/lenient
  python -m pipeline redecide runs/first --settings runs/first/calibration.yaml""",
    "score": """\
Compares what each engine wrote, and the labels that were kept, with what was really said. FILE is JSONL,
one recording a line:

  {"recording_id": "talk-7", "language": "en", "segments": [{"start_s": 1.2, "end_s": 4.0, "text": "good morning"}]}

Writes score.json and score.html into the run; docs/how-to/check-label-quality.md says how to read them.

examples:
  python -m pipeline score runs/first --truth truth.jsonl
  python -m pipeline score runs/first --truth truth.jsonl --right 0,2,5""",
    "compare": """\
Says how two transcripts are judged, and why: spoken and folded forms, WER, PER, the numbers found. A is taken as the
ASR's, B as the copilot's. FILE has the columns lang, a, b; every pair gives one JSON object a line, "keep" among it.

examples:
  python -m pipeline compare "I paid $5" "i paid five dollars" --language en
  python -m pipeline compare 23度 二十三度 --language zh rover.max_wer=5
  python -m pipeline compare --pairs pairs.tsv > judged.jsonl""",
    "calibrate": """\
Fits, per language, how likely a label is right to a hand-checked sample (FILE as for 'score'), by what the ledger holds
of its clip, and finds the threshold that keeps the most labels at a character error rate of --target-cer. Writes
calibration.yaml, which 'redecide' takes, and calibration.json into the run; docs/how-to/check-label-quality.md says how
to read them. It reads ledgers only.

examples:
  python -m pipeline calibrate runs/first --truth truth.jsonl --target-cer 2
  python -m pipeline redecide runs/first --settings runs/first/calibration.yaml""",
    "handoff": handoff_command.EXAMPLES,
    "export": export_command.EXAMPLES,
    "card": card_command.EXAMPLES,
    "mix-events": mix_events_command.EXAMPLES,
    "settings": """\
examples:
  python -m pipeline settings > my.yaml                  every setting with its default and its meaning
  python -m pipeline settings --schema > settings.json   the same as JSON Schema: types, defaults, bounds, meanings""",
    "show": """\
examples:
  python -m pipeline show runs/first talk-s126-8d1f0a9b2c3d_0000021856_0000068621
  python -m pipeline show runs/first talk-s126-8d1f0a9b2c3d_0000021856_0000068621 --format vtt > clip.vtt""",
}


def parser() -> argparse.ArgumentParser:
    def describe(name: str) -> dict[str, object]:
        return {"epilog": EXAMPLES[name], "formatter_class": argparse.RawDescriptionHelpFormatter}

    def add_truth(command: argparse.ArgumentParser, right: str | float, meaning: str) -> None:
        command.add_argument("--truth", metavar="FILE", required=True, help="what was said, JSONL, local or s3://")
        for name, default, text in (
            ("right", right, meaning),
            ("tolerance", 0.3, "seconds that a true segment may stick out of its clip"),
            ("silence", 0.8, "the same, into what was taken as silence"),
            ("seed", 0, "of the draws behind the intervals"),
        ):
            text += " (default: %(default)s)"
            command.add_argument(f"--{name}", metavar=name.upper(), type=type(default), default=default, help=text)

    main = argparse.ArgumentParser(prog="python -m pipeline", description=DESCRIPTION, **describe("main"))  # type: ignore[arg-type]
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", **describe(name))  # type: ignore[arg-type]
        command.add_argument("--debug", action="store_true", help="show tracebacks and the log lines of dependencies")
        return command

    for name, text in (
        ("run", "curate: everything that is not done yet, then the report"),
        ("plan", "cut the sources into units of work"),
        ("check", "try everything a run needs, without curating"),
    ):
        command = add(name, text)
        command.add_argument("config", metavar="CONFIG", help="YAML file with settings")
        command.add_argument(
            "settings", metavar="key=value", nargs="*", default=[], help="settings that override the file"
        )
        if name == "plan":
            command.add_argument(
                "--estimate",
                metavar="MINUTES",
                type=float,
                help="curate so many minutes of the plan's audio as a sample, write nothing, and print what all of it "
                "takes, keeps and costs",
            )
    command = add("report", "write and print the retention report of a run, or compare several")
    command.add_argument("runs", metavar="RUN", nargs="+", help="run directories, local or s3://, and s3.* settings")
    command.add_argument(
        "--out", metavar="DIR", help="where a comparison of several is written (default: the last RUN)"
    )
    command = add("redecide", "judge a finished run again under other thresholds")
    command.add_argument("run", metavar="RUN", help="run directory, local or s3://")
    command.add_argument(
        "settings", metavar="key=value", nargs="*", default=[], help="new settings: rover.* and text.*"
    )
    command.add_argument(
        "--settings", dest="file", metavar="FILE", help="YAML file with new settings, such as calibration.yaml"
    )
    command.add_argument("--output", metavar="DIR", help="new run directory (default: RUN plus a hash of the settings)")
    command = add("score", "compare a run's labels and engines with a truth file")
    command.add_argument("run", metavar="RUN", help="run directory, local or s3://")
    command.add_argument(
        "settings", metavar="key=value", nargs="*", default=[], help="s3.* settings, where the run lies on S3"
    )
    add_truth(command, "0,5,10", "error rates, in percent, within which a label counts as right")
    command.add_argument(
        "--written",
        action="store_true",
        help="compare texts as they are written: 23 is then not twenty three, nor $5 five dollars",
    )
    command = add("calibrate", "find the threshold that reaches a target, from a hand-checked sample")
    command.add_argument("run", metavar="RUN", help="run directory, local or s3://")
    command.add_argument(
        "settings", metavar="key=value", nargs="*", default=[], help="s3.* settings, where the run lies on S3"
    )
    command.add_argument(
        "--target-cer", metavar="PERCENT", type=float, required=True, help="character errors that kept labels may have"
    )
    add_truth(command, 5.0, "error rate, in percent, within which a label counts as right")
    command = add("show", "one clip's story, from recording to verdict")
    command.add_argument("run", metavar="RUN", help="run directory, local or s3://")
    command.add_argument("clip_id", metavar="CLIP_ID", help="as in ledgers, tars and the report")
    form = "the story, or word times as WebVTT (of the clip) or CTM (of its recording) (default: %(default)s)"
    command.add_argument("--format", choices=("story", "vtt", "ctm"), default="story", help=form)
    command.add_argument(
        "settings", metavar="key=value", nargs="*", default=[], help="s3.* settings, where the run lies on S3"
    )
    command = add("compare", "say how two transcripts are judged, and why")
    command.add_argument(
        "texts", metavar="A B", nargs="*", default=[], help="two transcripts, and rover.* and text.* settings"
    )
    command.add_argument("--language", metavar="CODE", help="of both, for example en, zh or yue (default: not known)")
    command.add_argument("--pairs", metavar="FILE", help="a TSV file of pairs instead, - for the standard input")
    command = add("settings", "print every setting of run, plan and check with its default")
    command.add_argument("--schema", action="store_true", help="as JSON Schema, for editors and other programs")
    handoff_command.add_arguments(add("handoff", "check the shards of some runs and make training data of them"))
    export_command.add_arguments(add("export", "write manifests for other loaders, which point into the shards"))
    card_command.add_arguments(add("card", "write the dataset card of a run or a hand-off, to share it"))
    mix_events_command.add_arguments(add("mix-events", "put vocal events into clips of speech: a labelled set of two"))
    return main


def command(arguments: argparse.Namespace, console: Console) -> int:
    """Run one command. Return the exit code. Raises UserError."""
    if arguments.command == "settings":
        schema = json.dumps(config.schema(), ensure_ascii=False, indent=2)
        sys.stdout.write(schema + "\n" if arguments.schema else config.full_yaml())
        return 0
    if arguments.command in ("run", "plan", "check"):
        from pipeline.curate import Curation
        from pipeline.show import show_plan

        settings = config.load(arguments.config, arguments.settings)
        if arguments.command == "plan" and arguments.estimate is not None:
            from pipeline.estimate.command import estimate

            estimate(settings, arguments.estimate, console)
            return 0
        curation = Curation(settings=settings, console=console)
        if arguments.command == "run":
            return curation.run()
        if arguments.command == "check":
            return curation.check()
        show_plan(settings, curation.store, curation.plan(), console)
        return 0
    if arguments.command == "compare":
        return _compare(arguments)
    if arguments.command == "redecide":
        from pipeline.redecide import redecide

        return redecide(arguments.run, arguments.settings, arguments.output, console, arguments.file)
    if arguments.command == "handoff":
        return handoff_command.run(arguments, console)
    if arguments.command == "export":
        return export_command.run(arguments, console)
    if arguments.command == "card":
        return card_command.run(arguments, console)
    if arguments.command == "mix-events":
        return mix_events_command.run(arguments, console)
    from pipeline.run_directory import existing_run

    if arguments.command == "report":
        from pipeline.report.command import report

        runs, overrides = handoff_command.split_runs(arguments.runs)
        if len(runs) == 1:
            report(*existing_run(runs[0], overrides), console)
        else:
            from pipeline.report.compare.command import compare

            compare(runs, overrides, arguments.out, console)
        return 0
    settings, store = existing_run(arguments.run, arguments.settings)
    if arguments.command == "show":
        from pipeline.show import captions, show

        if arguments.format == "story":
            show(store, arguments.clip_id, console)
        else:
            sys.stdout.write(captions(store, arguments.clip_id, arguments.format))
        return 0
    if arguments.command == "calibrate":
        from pipeline.calibrate.command import Wish, calibrations, write_calibrations
        from pipeline.score.command import tolerances

        wish = Wish(target_cer=arguments.target_cer, bound=arguments.right)
        allowed = tolerances(arguments.tolerance, arguments.silence)
        made = calibrations(settings, store, arguments.truth, wish, allowed, arguments.seed)
        write_calibrations(store, made, arguments.run, console)
        return 0
    from pipeline.score.command import score, score_settings, write_score

    asked = score_settings(arguments.right, arguments.tolerance, arguments.silence, written=arguments.written)
    write_score(store, score(settings, store, arguments.truth, asked, arguments.seed), console)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from operators.agreement import AgreementJudge
    from pipeline import recipe
    from pipeline.compare_texts import compare_pairs, compare_texts

    texts = [text for text in arguments.texts if not re.match(r"(rover|text)\.[\w.]+=", text)]
    settings = config.load(None, [text for text in arguments.texts if text not in texts])
    judge = AgreementJudge(settings.rover, recipe.folder(settings.text))
    if arguments.pairs is not None and not texts:
        compare_pairs(arguments.pairs, judge)
        return 0
    if arguments.pairs is not None or len(texts) != 2:
        raise UserError("compare takes two transcripts, or --pairs FILE: put quotes around a text with spaces")
    compare_texts(texts[0], texts[1], arguments.language, judge)
    return 0


def main(argv: list[str] | None = None) -> int:
    commands = parser()
    if not (sys.argv[1:] if argv is None else argv):
        commands.print_help(sys.stderr)
        return 2
    arguments, rest = commands.parse_known_args(argv)
    # argparse takes the positional arguments in one stretch; settings may stand behind options too.
    names = (name for name in ("runs", "texts", "settings") if hasattr(arguments, name))
    settings = next((getattr(arguments, name) for name in names), None)
    if rest and (settings is None or any(argument.startswith("-") or "=" not in argument for argument in rest)):
        commands.error(f"unrecognized arguments: {' '.join(rest)}")
    elif settings is not None:
        settings += rest
    keep_freed_memory()
    quiet_dependencies()
    show_what_can_be_shown(sys.stdout, sys.stderr)
    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 160)
    try:
        return command(arguments, console)
    except UserError as error:
        if arguments.debug:
            traceback.print_exc()
        print(f"touchasp: {printable(str(error))}", file=sys.stderr)  # it may quote names from the crawl
        return 2
    except ClusterLost as error:
        if arguments.debug:
            traceback.print_exc()
        print(
            f"touchasp: {error}; units that have a ledger are done, the same command goes on from there",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt as stop:
        estimating = getattr(arguments, "estimate", None) is not None
        left = "nothing of the sample is left" if estimating else "the same command goes on from here"
        print(f"touchasp: stopped; {left}", file=sys.stderr)
        return 143 if isinstance(stop, Terminated) else 130


class Terminated(KeyboardInterrupt):
    """Terminated is raised on SIGTERM, which a cluster sends to a job that it ends: all is closed as after Ctrl-C."""


def terminate(_number: int, _frame: object) -> None:
    raise Terminated


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of native libraries may hold the interpreter at exit; everything that must last has been written.
    os._exit(code)

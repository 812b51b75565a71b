"""The commands of `python -m model_training osum`: train | eval | ask | merge | inspect."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from model_training.osum.ask import Answerer, Said
    from model_training.osum.tasks import Asked

DESCRIPTION = "OSUM: questions about speech, answered by a Whisper encoder, an adaptor and a language model with LoRA"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands and their options."""
    commands = parser.add_subparsers(dest="osum_command", required=True, metavar="COMMAND")

    def add(name: str, text: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        return command

    command = add("train", "train on a hand-off, or go on with a run; stage=1 is Whisper alone", _train)
    command.add_argument("--data", required=True, metavar="DIR", help="hand-off directory, local or s3://")
    command.add_argument(
        "--config", metavar="CONFIG", help="osum-7b, osum-0.5b, osum-tiny, osum-stage1, or a YAML file"
    )
    command.add_argument("--out", metavar="RUN", help="folder of the run (default: models/<name of CONFIG>)")
    command.add_argument("settings", nargs="*", default=[], metavar="key=value")

    def averaged(command: argparse.ArgumentParser) -> None:
        command.add_argument("--ema", action="store_true", help="take the averaged weights (optimizer.ema)")

    def answering(command: argparse.ArgumentParser) -> None:
        command.add_argument("model", metavar="MODEL", help="a run, a checkpoint, or a merged folder")
        command.add_argument("--device", default="auto", help="auto | cpu | cuda")
        command.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
        command.add_argument("--threads", type=int, default=0, help="of torch on a CPU (default: torch's choice)")
        averaged(command)

    command = add("eval", "error rates and accuracies of each task in one table", _eval)
    answering(command)
    command.add_argument("--data", required=True, metavar="DIR", help="hand-off directory, local or s3://")
    command.add_argument("--split", default="test", help="default test")
    command.add_argument(
        "--tasks", metavar="T,T", help="for example asr,asr+gender,gender (default: those of training)"
    )
    command.add_argument("--out", metavar="DIR", help="where eval.json and eval.html go (default: beside the model)")

    command = add("ask", "ask about recordings of any length", _ask)
    answering(command)
    command.add_argument("audio", metavar="AUDIO", nargs="+", help="audio or video files")
    command.add_argument("--task", default=None, help="asr, asr+emotion, gender, ... (default: asr)")
    command.add_argument("--prompt", default=None, help="a question of your own, instead of a task")
    command.add_argument("--all", action="store_true", help="ask about stretches without speech, too")
    command.add_argument("--json", action="store_true", help="one JSON object per recording")

    command = add("merge", "a folder whose llm/ is a plain model of transformers", _merge)
    command.add_argument("model", metavar="MODEL", help="a run or a checkpoint")
    command.add_argument("--out", required=True, metavar="DIR")
    averaged(command)

    command = add("inspect", "parameters, and the memory that a card needs", _inspect)
    command.add_argument("checkpoint", nargs="?", metavar="CKPT", help="folder of a checkpoint or of a run")
    command.add_argument("--config", metavar="CONFIG", help="a preset or YAML file instead of a checkpoint")
    command.add_argument("settings", nargs="*", default=[], metavar="key=value")


def _train(options: argparse.Namespace) -> int:
    from model_training.osum.settings import load
    from model_training.osum.train import train

    settings = load(options.config, options.settings)
    out = options.out or f"models/{Path(options.config).stem if options.config else 'osum'}"
    # As the elastic model's: until its first step a run leaves as Ctrl-C does, then it saves a checkpoint.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    done = train(options.data, out, settings)
    if int(os.environ.get("RANK", "0")) == 0:
        state = "finished" if done.finished else f"stopped ({done.because}); the same command goes on"
        print(f"{state} at step {done.step}: {done.folder}")
        if done.because == "SIGTERM":
            pass
        elif settings.stage == 1:
            print(f"next: python -m model_training osum train ... model.encoder.source={done.folder}")
        else:
            from model_training.data.handoff import evaluated_on

            folder = shlex.quote(str(done.folder))
            print(f"next: python -m model_training osum eval {folder} {evaluated_on(options.data)}")
    # Not 0: a scheduler that stopped the job must not take it for done
    return 128 + signal.SIGTERM if done.because == "SIGTERM" else 0


def _answerer(options: argparse.Namespace) -> Answerer:
    import torch

    from model_training.osum.ask import Answerer
    from model_training.osum.build import open_model

    if options.threads < 0:
        raise UserError(f"--threads {options.threads}: must be at least 0")
    if options.threads:
        torch.set_num_threads(options.threads)
    return Answerer(open_model(options.model, options.device, options.precision, ema=options.ema))


def _eval(options: argparse.Namespace) -> int:
    from model_training.data.handoff import Handoff
    from model_training.data.reading import Reader
    from model_training.evaluation.evaluation import evaluation_of
    from model_training.evaluation.listen import reading
    from model_training.evaluation.report import write_report, write_results
    from model_training.osum.ask import ask_split
    from model_training.osum.tasks import parse_task

    answerer = _answerer(options)
    opened, handoff = answerer.opened, Handoff.open(options.data)
    trained = [name for name, weight in opened.settings.data.tasks.items() if weight]
    tasks = [parse_task(name, "--tasks") for name in (options.tasks.split(",") if options.tasks else trained)]
    for asked in tasks:
        answerer.check(asked)
    found = ask_split(answerer, handoff, options.split, tasks)
    total = sum(parameter.numel() for parameter in opened.model.parameters())
    evaluation = evaluation_of(
        found.answers,
        name=f"{opened.path.name} step {opened.step}",
        parameters={0: {"total": total, "active": total}},
        unusable=found.unusable,
    )
    out = Path(options.out) if options.out else opened.path
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_results(out, evaluation)
        page = write_report(out, [evaluation], hear=reading(Reader(handoff.s3)))
    except OSError as error:
        raise UserError(
            f"cannot write to {out} ({error.strerror}): give --out a folder that can be written to"
        ) from None
    if shifts := found.shifts_ms:
        print(f"words: {sum(shifts) / len(shifts):.0f} ms from their place, the mean of {len(shifts)} starts and ends")
    print(f"report: {page}")
    return 0


def _ask(options: argparse.Namespace) -> int:
    from model_training.data.audio import describe
    from model_training.osum.ask import ask_file
    from model_training.osum.tasks import parse_task
    from operators.audio.decode import Problem

    if options.task and options.prompt:
        raise UserError("give --task or --prompt, not both")
    asked = None if options.prompt else parse_task(options.task or "asr")
    answerer = _answerer(options)
    if asked is not None:
        answerer.check(asked)
    prompt = answerer.prompt(asked) if asked is not None else options.prompt
    # Sounds are asked about where nobody speaks, too.
    has_speech = None if options.all or (asked is not None and asked.name == "events") else speech_detector()
    failed = False
    for path in options.audio:
        holes: list[Problem] = []
        try:
            said = ask_file(answerer, path, asked, prompt, has_speech=has_speech, on_problem=holes.append)
        except UserError as error:
            print(f"touchasp: {error}", file=sys.stderr)
            failed = True
            continue
        for hole in holes:
            print(f"touchasp: {path}: {describe(hole)}", file=sys.stderr)
        print(_json_line(path, asked, said) if options.json else _line(path, asked, said), flush=True)
    return 2 if failed else 0


def speech_detector() -> Callable[[np.ndarray], bool]:
    """Return what says of samples whether anybody speaks in them."""
    from operators.speech.vad import load_vad

    vad = load_vad("silero")
    return lambda pcm: bool(len(pcm)) and bool(vad.speech(pcm))


def _line(path: str, asked: Asked | None, said: Said) -> str:
    from model_training.osum.tasks import timed

    if said.reading is None or asked is None:
        return f"{path}\t{said.answer}"
    parts = [said.reading.text] if asked.wants_text else []
    value = said.reading.value
    if asked.task.name == "words":
        parts.append(timed(value or ()))
    elif asked.task.name != "asr":
        parts.append(asked.task.write(value) if value is not None else "-")
    return "\t".join([path, *(part or "" for part in parts)])


def _json_line(path: str, asked: Asked | None, said: Said) -> str:
    record: dict[str, Any] = {"audio": path, "answer": said.answer}
    if said.reading is not None and asked is not None:
        value = said.reading.value
        if asked.task.name == "words" and value is not None:
            value = [{"text": word.text, "start": word.start, "end": word.end} for word in value]
        if asked.wants_text:
            record["text"] = said.reading.text or ""
        if asked.task.name != "asr":
            record[asked.task.name] = value
    return json.dumps(record, ensure_ascii=False)


def _merge(options: argparse.Namespace) -> int:
    from model_training.osum.build import merge

    merge(options.model, Path(options.out), ema=options.ema)
    print(f"merged: {options.out}; its llm/ is a plain model of transformers")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from model_training.osum.inspect import describe
    from model_training.osum.settings import load, restore
    from model_training.training.checkpoint import open_checkpoint

    if options.checkpoint and not options.config and "=" not in options.checkpoint:
        found = open_checkpoint(options.checkpoint)
        if "osum" not in found.record:
            raise UserError(f"{found.path} is no model of OSUM: python -m model_training inspect is for it")
        settings = restore(found.record["settings"])
        print(f"{found.path}: step {found.step}")
    elif options.config:
        overrides = [*([options.checkpoint] if options.checkpoint else []), *options.settings]
        settings = load(options.config, overrides)
    else:
        raise UserError("give a checkpoint's folder, or --config with a preset or YAML file")
    print(describe(settings))
    return 0

"""The command `touchasp`: the commands of curation and of training under one name.

    touchasp run | report | handoff | ...    ──> python -m pipeline ...
    touchasp train | eval | recognize | ...  ──> python -m model_training ...

`export` and `card` are in both. With --to `export` writes manifests for other loaders, without it a model folder;
`card` looks at the folder. Nothing is imported but what the command needs, so what is not installed is missed only
where it is used.
"""

from __future__ import annotations

import difflib
import os
import runpy
import sys
from importlib import metadata

CURATION = {
    "run": "curate: everything that is not done yet, then the report",
    "plan": "cut the sources into units of work",
    "check": "try everything a run needs, without curating",
    "report": "write and print the retention report of a run, or compare several",
    "redecide": "judge a finished run again under other thresholds",
    "score": "compare a run's labels and engines with a truth file",
    "calibrate": "find the threshold that reaches a target",
    "show": "one clip's story, from recording to verdict",
    "compare": "say how two transcripts are judged, and why",
    "handoff": "check the shards of some runs and make training data of them",
    "mix-events": "put vocal events into clips of speech",
    "settings": "every setting of curation",
}
TRAINING = {
    "train": "train on a hand-off, or go on with a run",
    "eval": "error rates and accuracies of every size in one table",
    "decode": "transcribe files, or a split, with a checkpoint",
    "recognize": "transcribe recordings with an exported model",
    "align": "say when each word of a known text is spoken",
    "osum": "a model that answers questions about speech",
    "inspect": "what is in a checkpoint, or how large a configuration is",
    "index": "make a hand-off of WebDataset tars from elsewhere",
    "tokenizer": "learn a tokenizer from labels",
    "train-settings": "every setting of a training",
}
SHARED = {
    "export": "a model folder of one size, or of all; with --to: manifests of the shards for other loaders",
    "card": "the dataset card of a run or a hand-off, or the card of a model, to share it",
}
_OF_DATA = ("plan.parquet", "handoff.json")


def main() -> int:
    """Run the command that the arguments name, and return its exit code. Many commands leave the process themselves."""
    _complete()
    words = sys.argv[1:]
    if words[:1] == ["--version"]:
        print(f"touchasp {metadata.version('touchasp')}")
        return 0
    name = words[0] if words else ""
    room = _room(name, words)
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if room is None:
        near = difflib.get_close_matches(name, [*CURATION, *TRAINING, *SHARED], n=1)
        hint = f"did you mean {near[0]}?" if near else "see touchasp --help"
        print(f"touchasp: no command is called {name}: {hint}" if name else _help(), file=sys.stderr)
        return 2
    if name == "train-settings":
        words[0] = "settings"
    sys.argv = [sys.argv[0], *words]
    try:
        # As `python -m` does it, so that workers find the same main module.
        runpy.run_module(room, run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "operators", "stages", "pipeline", "model_training"):
            raise
        extra = "curate" if room == "pipeline" else "osum" if name == "osum" else "train"
        print(
            f"touchasp: {name} needs {missing}, which is not installed: pip install 'touchasp[{extra}]'",
            file=sys.stderr,
        )
        return 2
    return 0


def _room(name: str, words: list[str]) -> str | None:
    """Return the package that has a command, None where none has."""
    if name == "export":
        return "pipeline" if any(word.partition("=")[0] == "--to" for word in words) else "model_training"
    if name == "card":
        return "pipeline" if any(map(_is_data, words[1:])) else "model_training"
    return "pipeline" if name in CURATION else "model_training" if name in TRAINING else None


def _is_data(word: str) -> bool:
    """Return whether an argument is a run or a hand-off of curation; of those a model has neither file."""
    return word.startswith("s3://") or any(os.path.exists(os.path.join(word, name)) for name in _OF_DATA)


def _help() -> str:
    lines = ["usage: touchasp COMMAND ... | --version", ""]
    for title, commands in (("curation", CURATION), ("training", TRAINING | SHARED)):
        lines += [f"{title}:", *(f"  {name:<15} {text}" for name, text in commands.items()), ""]
    return "\n".join([*lines, "touchasp COMMAND --help says more of each; docs: docs/README.md"])


def _complete() -> None:
    """Answer the shell that asks for completions, with argcomplete, and leave."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argparse

    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()
    room = _room(words[1], words) if len(words) > 1 else None
    if room == "pipeline":
        from pipeline.__main__ import parser as curation

        argcomplete.autocomplete(curation())
    elif room == "model_training":
        from model_training.__main__ import parser as training

        argcomplete.autocomplete(training(words[1]))
    names = argparse.ArgumentParser()
    names.add_argument("command", choices=[*CURATION, *TRAINING, *SHARED])
    argcomplete.autocomplete(names)

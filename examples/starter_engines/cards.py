"""Write the model cards from what is on record, so that a card cannot say more than was trained and measured.

models/<engine>-starter/training.json (make) ──┐
models/measured.json (evaluate) ───────────────┴──> models/<engine>-starter/README.md

python -m examples.starter_engines.cards --models MODELS
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from operators.errors import UserError

MODELS = Path(__file__).parent / "models"
REPOSITORY = Path(__file__).resolve().parents[2]

KINDS = {
    "whisper": (
        "Whisper (encoder 4 layers, decoder 2, width 128), CTranslate2, int8",
        'whisperx.load_model("{folder}", "cpu", compute_type="int8")',
    ),
    "paraformer": (
        "Paraformer (SANM encoder 5 layers, CIF, decoder 2, width 128), FunASR folder, weights in half precision",
        'funasr.AutoModel(model="{folder}", disable_update=True)',
    ),
}

STARTER = """# {name}

{kind}: a **starter engine**, so that the whole pipeline runs offline. It hears
only its small grammar in synthetic voices.

```python
{load}
```

- **Do not label real audio with it.** It knows some 240 Han characters and 250 English words in the sentence patterns
  of `examples/starter_engines/grammar.py`. Whatever else it is given, it answers with those words.
- **Trained on** {hours} h of {data} speech (half Mandarin, half English, some code-switching), {voices} voice variants
  with drawn pitch, speed and vocal tract, half clean, the rest under noise, babble or music at 3 to 30 dB, some with
  reverberation, telephone band or MP3. Nothing recorded, nobody's voice. The other starter engine was trained on
  another draw: it knows {shared} of these voices, its sentences, noise and seed are others.
- **Recipe**: `python -m examples.starter_engines.make WORK`, seed {seed}{note}. **Size**: {megabytes:.1f} MB.
  **Licence**: Apache-2.0.
- It has never heard a human being, a third language, or two people at once.
"""

OWN = """# {name}

{kind}, trained from nothing by the recipe of the starter engines on the audio of one manifest.

```python
{load}
```

- **Trained on** `{data}`: {hours} h of audio, silence and pauses included. Who speaks there, and what may be done with
  a model of it, only its maker knows. Words and kinds of audio that it does not hold, this model has never heard.
- **Recipe**: `python -m examples.starter_engines.make WORK --manifest {data} ...`, seed {seed}.
  **Size**: {megabytes:.1f} MB.
- The recipe is made for a small closed vocabulary. Measure before labelling anything with it.
"""

RATES = """
## Error rates

{what}: CER in % for Mandarin
(Latin words count as one), WER in % for English. {more_of_what}

{table}

{more}
"""


def table(cells: list[dict[str, Any]], engine: str, quiet: str) -> str:
    """A line for each language and kind of voice, a column for each noise; `quiet` heads the one without any added."""
    snrs = list(dict.fromkeys(cell["snr_db"] for cell in cells))
    rates = {(cell["language"], cell["voices"], cell["snr_db"]): f"{cell[engine]:.1f}" for cell in cells}
    heads = [quiet if snr is None else f"{snr} dB" for snr in snrs]
    lines = ["| language | voices | " + " | ".join(heads) + " |", "|---|---|" + "--:|" * len(heads)]
    for language, voices in dict.fromkeys((cell["language"], cell["voices"]) for cell in cells):
        row = " | ".join(rates.get((language, voices, snr), "–") for snr in snrs)
        lines.append(f"| {language} | {voices} | {row} |")
    return "\n".join(lines)


def card(measured: dict[str, Any], engine: str, folder: Path) -> str:
    """The card of one engine in `folder`, which has its training.json."""
    from examples.starter_engines.voices import training_voices

    training = json.loads((folder / "training.json").read_text("utf-8"))
    place = folder.resolve()
    kind, load = KINDS[engine]
    hours = round(training["hours"], 1 if training["hours"] >= 1 else 3)
    text = (OWN if training["voices"] is None else STARTER).format(
        name=folder.name,
        kind=kind,
        load=load.format(folder=place.relative_to(REPOSITORY) if place.is_relative_to(REPOSITORY) else folder),
        data=training["data"],
        hours=f"{hours:g}",
        voices=training["voices"],
        shared=len(set(training_voices(0)) & set(training_voices(1))),
        seed=training["seed"],
        note=f" ({training['note']})" if "note" in training else "",
        megabytes=sum(file.stat().st_size for file in folder.iterdir() if file.name != "README.md") / 1e6,
    )
    cells = measured["cells"]
    if measured["manifest"] is None:
        what = (
            f"Held-out sentences, up to {measured['sentences_a_clip']} in a clip, through these files and the "
            "unmodified library"
        )
        tokens = round(sum(cell["tokens"] for cell in cells) / len(cells), -1)
        more_of_what = (
            f'"Unseen" voices are in no training set. {cells[0]["clips"]} clips a cell, some {tokens:g}\ntokens.'
        )
    else:
        what = f"Segments of `{measured['manifest']}`, through these files and the unmodified library"
        amounts = [f"{cell['clips']} clips with {cell['tokens']} tokens ({cell['language']})" for cell in cells]
        more_of_what = " and ".join(amounts) + "."
    return text + RATES.format(
        what=what,
        more_of_what=more_of_what,
        table=table(cells, engine, "clean" if measured["manifest"] is None else "as it is"),
        more="\n".join(_mistakes(measured, engine)),
    )


def _mistakes(measured: dict[str, Any], engine: str) -> list[str]:
    cells = measured["cells"]
    wrong = sum(cell["clips_wrong"][engine] for cell in cells)
    both = sum(cell["clips_both_wrong"] for cell in cells)
    same = sum(cell["clips_same_mistake"] for cell in cells)
    lines = [
        f"Of {sum(cell['clips'] for cell in cells)} clips in all cells it got {wrong} not exactly right; in {both} "
        f"the other engine was wrong as well, in {same} with the very same words.",
        f"Of {measured['nonspeech_clips']} clips of noise, music or silence it wrote something for "
        f"{measured['nonspeech_clips_with_text'][engine]}.",
    ]
    if engine == "whisper":
        quiet = "clean clips" if measured["manifest"] is None else "these clips"
        lines.append(f"Language identified on {quiet}: {measured['language_identified_percent']} %.")
        if measured["manifest"] is None:
            shared = measured["shared_windows"]
            lines.append(
                f"**Shared windows**: {shared['clips']} sentences ({shared['seconds']} s) of other recordings, a third "
                f"each clean, at 20 and at 10 dB, in {shared['windows']} windows, {shared['heard_again']} of them "
                f"heard again alone: {shared['shared']} % of tokens wrong, {shared['alone']} % with every "
                "sentence alone."
            )
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.starter_engines.cards", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--models", type=Path, default=MODELS, help="folder with both models (default: the shipped ones)"
    )
    models = parser.parse_args(arguments).models
    folders = {engine: models / f"{engine}-starter" for engine in KINDS}
    try:
        for record in (models / "measured.json", *(folder / "training.json" for folder in folders.values())):
            if not record.is_file():
                raise UserError(f"no {record}: 'make' writes training.json, 'evaluate' measured.json")
    except UserError as error:
        print(f"touchasp: {error}", file=sys.stderr)
        return 2
    measured = json.loads((models / "measured.json").read_text("utf-8"))
    for engine, folder in folders.items():
        (folder / "README.md").write_text(card(measured, engine, folder), "utf-8")
        print(folder / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The card of the starter perception model, written from its training.json and measured.json alone."""

from __future__ import annotations

import json
from pathlib import Path

from operators.page.card import card as write_card

REPOSITORY = Path(__file__).resolve().parents[3]
CONFIG = Path(__file__).with_name("config.yaml")
DEVICE_SIZE = 3
"""the size that is shipped as a device has it, beside the checkpoint of all"""

FRONT = {
    "library_name": "pytorch",
    "pipeline_tag": "automatic-speech-recognition",
    "language": ["zh", "en"],
    "license": "apache-2.0",
    "tags": ["touchasp", "speech-perception", "conformer", "ctc", "moe"],
}
CARD = """# {name}

A Conformer with CTC, an attention decoder and elastic experts, three sizes in one checkpoint: a **starter model**, to
begin a training from, and to see what a trained model does. It hears only
its small grammar in synthetic voices.

```
python -m model_training recognize {place}/n{device} talk.mp3          # one size as a device has it, without torch
python -m model_training eval {place} --data handoff                   # every size
python -m model_training export {place} --out exported --format onnx
python -m model_training train --data handoff --config {config} train.init_from={place}
python -m pipeline run … copilot.models='{{"*": {{engine: exported, model: {place}/n{device}}}}}'
```

- **Do not label real audio with it.** It knows some 240 Han characters and 250 English words in the sentence patterns
  of `examples/starter_engines/grammar.py`.
- **Trained on** {hours} h of {data}{voices}, half clean, the rest under noise, babble or music at 3 to 30 dB,
  some with reverberation, telephone band or MP3. Nothing recorded, nobody's voice. Beside the text it learned the
  language, whether the voice variant is a female one, and two sounds: music, and passing cars (`engine`).
- **Recipe**: `python -m examples.starter_engines.make WORK --only perception`, seed {seed}{note}.
  **Size**: {megabytes:.1f} MB: `model.safetensors` in bfloat16, and `n{device}/` in 8 bits. **Licence**: Apache-2.0.
- It has never heard a human being, a third language, or two people at once.

## Sizes

| routed experts | parameters | of them for one frame |
|--:|--:|--:|
{sizes}

## Error rates

Held-out sentences, up to {sentences} in a clip, through the checkpoint with {method}: CER in % for Mandarin
(Latin words count as one), WER in % for English. "Unseen" voices are in no training set. {clips} clips a cell, {tokens}
tokens in all.

{table}

Of {quiet} clips of noise, music or silence it wrote something for {written}.
"""


def card(folder: Path) -> str:
    """Return the card of the model in `folder`, which has its training.json and measured.json."""
    training = json.loads((folder / "training.json").read_text("utf-8"))
    measured = json.loads((folder / "measured.json").read_text("utf-8"))
    place = folder.resolve()
    sizes, cells = measured["parameters"], measured["cells"]
    snrs = list(dict.fromkeys(cell["snr_db"] for cell in cells))
    heads = ["clean" if snr is None else f"{snr} dB" for snr in snrs]
    lines = [
        "| routed experts | language | voices | " + " | ".join(heads) + " |",
        "|--:|---|---|" + "--:|" * len(heads),
    ]
    for size in sizes:
        for language, voices in dict.fromkeys((cell["language"], cell["voices"]) for cell in cells):
            row = [cell for cell in cells if (cell["language"], cell["voices"]) == (language, voices)]
            rates = " | ".join(f"{100 * cell['errors'][size] / cell['tokens']:.1f}" for cell in row)
            lines.append(f"| {size} | {language} | {voices} | {rates} |")
    voices = f", {training['voices']} voice variants with drawn pitch, speed and vocal tract"
    files = [file for file in folder.rglob("*") if file.is_file() and file != folder / "README.md"]
    text = CARD.format(
        config=CONFIG.relative_to(REPOSITORY),
        name=folder.name,
        place=place.relative_to(REPOSITORY) if place.is_relative_to(REPOSITORY) else folder,
        device=DEVICE_SIZE,
        hours=f"{training['hours']:g}",
        data=f"{training['data']} speech (half Mandarin, half English, some code-switching)",
        voices=voices if training["voices"] else "",
        seed=training["seed"],
        note=f" ({training['note']})" if "note" in training else "",
        megabytes=sum(file.stat().st_size for file in files) / 1e6,
        sizes="\n".join(f"| {size} | {each['total']:,} | {each['active']:,} |" for size, each in sizes.items()),
        sentences=measured["sentences_a_clip"],
        method=measured["method"],
        clips=cells[0]["clips"],
        tokens=sum(cell["tokens"] for cell in cells),
        table="\n".join(lines),
        quiet=measured["nonspeech_clips"],
        written=", ".join(f"{n} (N = {size})" for size, n in measured["nonspeech_clips_with_text"].items()),
    )
    return write_card(FRONT, text)

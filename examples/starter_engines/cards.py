"""Write the model cards from what was measured, so that a card cannot say more than `measured.json` does.

models/measured.json ──> models/<engine>-starter/README.md

python -m examples.starter_engines.cards
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MODELS = Path(__file__).parent / "models"

KINDS = {
    "whisper": (
        "Whisper (encoder 4 layers, decoder 2, width 128), CTranslate2, int8",
        'whisperx.load_model("examples/starter_engines/models/whisper-starter", "cpu", compute_type="int8")',
    ),
    "paraformer": (
        "Paraformer (SANM encoder 5 layers, CIF, decoder 2, width 128), FunASR folder, weights in half precision",
        'funasr.AutoModel(model="examples/starter_engines/models/paraformer-starter", disable_update=True)',
    ),
}

CARD = """# {name}

{kind}: a **starter engine**, so that the whole pipeline runs offline. It hears only its small grammar in synthetic voices.

```python
{load}
```

- **Do not label real audio with it.** It knows some 240 Han characters and 250 English words in the sentence patterns of
  `examples/starter_engines/grammar.py`. Whatever else it is given, it answers with those words.
- **Trained on** {hours:g} h of eSpeak NG speech (half Mandarin, half English, some code-switching), {voices} voice variants with
  drawn pitch, speed and vocal tract, half clean, the rest under noise, babble or music at 3 to 30 dB, some with reverberation,
  telephone band or MP3. Nothing recorded, nobody's voice. The other starter engine was trained on another draw: two thirds of
  its voices are the same, its sentences, noise and seed are not.
- **Recipe**: `python -m examples.starter_engines.make WORK`. **Size**: {megabytes:.1f} MB. **Licence**: Apache-2.0.
- It has never heard a human being, a third language, or two people at once.

## Error rates

Held-out sentences, up to {sentences} in a clip, through the shipped files and the unmodified library: CER in % for Mandarin
(Latin words count as one), WER in % for English. "Unseen" voices are in no training set. {clips} clips a cell, some {tokens:g}
tokens.

| language | voices | clean | 20 dB | 10 dB | 5 dB |
|---|---|--:|--:|--:|--:|
{rows}

{more}
"""


def rows(measured: dict[str, Any], engine: str) -> str:
    lines = []
    for language in ("zh", "en"):
        for voices in ("seen", "unseen"):
            cells = [c for c in measured["cells"] if (c["language"], c["voices"]) == (language, voices)]
            rates = {cell["snr_db"]: f"{cell[engine]:.1f}" for cell in cells}
            lines.append(f"| {language} | {voices} | " + " | ".join(rates[snr] for snr in (None, 20, 10, 5)) + " |")
    return "\n".join(lines)


def card(measured: dict[str, Any], engine: str, folder: Path) -> str:
    from examples.starter_engines.make import HOURS
    from examples.starter_engines.voices import training_voices

    draw = list(KINDS).index(engine)
    cells = measured["cells"]
    wrong = sum(cell["clips_wrong"][engine] for cell in cells)
    both = sum(cell["clips_both_wrong"] for cell in cells)
    same = sum(cell["clips_same_mistake"] for cell in cells)
    more = [
        f"Of {sum(cell['clips'] for cell in cells)} clips in all cells it got {wrong} not exactly right; in {both} "
        f"the other engine was wrong as well, in {same} with the very same words.",
        f"Of {measured['nonspeech_clips']} clips of noise, music or silence it wrote something for "
        f"{measured['nonspeech_clips_with_text'][engine]}.",
    ]
    if engine == "whisper":
        more.append(f"Language identified on clean clips: {measured['language_identified_percent']} %.")
    kind, load = KINDS[engine]
    return CARD.format(
        name=f"{engine}-starter",
        kind=kind,
        load=load,
        voices=len(training_voices(draw)),
        megabytes=sum(file.stat().st_size for file in folder.iterdir() if file.name != "README.md") / 1e6,
        hours=HOURS,
        sentences=measured["sentences_a_clip"],
        clips=cells[0]["clips"],
        tokens=round(sum(cell["tokens"] for cell in cells) / len(cells), -1),
        rows=rows(measured, engine),
        more="\n".join(more),
    )


def main() -> int:
    measured = json.loads((MODELS / "measured.json").read_text("utf-8"))
    for engine in KINDS:
        folder = MODELS / f"{engine}-starter"
        (folder / "README.md").write_text(card(measured, engine, folder), "utf-8")
        print(folder / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())

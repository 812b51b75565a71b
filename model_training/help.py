"""What `python -m model_training --help` and `COMMAND --help` say around the options."""

from __future__ import annotations

DESCRIPTION = """\
Shards in; an elastic speech-perception model out: transcription, language, age, gender, emotion and sound events,
trained once, exported at several sizes."""

SPEAKER = (
    "whose word counts for language, age, gender and emotion where the model has a speaker head: surer (of the two), "
    "head or decoder (default: surer)"
)
INTERPOLATE = "this share of the way from train.init_from to the trained weights, 0.5 for half of it (WiSE-FT)"

EXAMPLES = {
    "main": """\
examples:
  python -m pipeline handoff runs/first --out handoff               from a curated run to training data
  python -m model_training train --data handoff --config tiny       train on a laptop
  python -m model_training eval models/tiny --data handoff          every size in one table
  python -m model_training export models/tiny --group 3 --format onnx-int8 --out models/edge
  python -m model_training recognize models/edge talk.mp3           no torch needed""",
    "train": """\
DIR is what 'python -m pipeline handoff' wrote, local or s3://.
A stopped run goes on where it was: give the same command again. train.init_from begins a new one from weights.
Presets: {presets}
Several workers: torchrun --nproc-per-node 8 -m model_training train --data DIR

examples:
  python -m model_training train --data handoff --config tiny
  python -m model_training train --data s3://bucket/handoff --config paper-1b --out models/first train.max_steps=650000
  python -m model_training train --data handoff --config my.yaml optimizer.learning_rate=0.002
  python -m model_training train --data handoff --config tiny --out models/mine train.init_from=models/tiny@best""",
    "eval": """\
A table per task; also written as eval.json, eval.jsonl (every answer) and eval.html, a page to read and listen to,
beside the checkpoint. Two models are compared on the same clips. Sets are domains of a hand-off, and sets as they are
published: a manifest (of its column split the test rows), a folder of Kaldi, LibriSpeech, AISHELL-1 or SpeechIO,
ESC-50's table.

CKPT is a checkpoint's folder, a run (its newest), RUN@best (the lowest error on dev) or RUN@average (of the best few).

examples:
  python -m model_training eval models/tiny --data handoff                      all sizes on test, attention rescoring
  python -m model_training eval models/tiny --data handoff --groups 3,15 --methods ctc_greedy,attention
  python -m model_training eval models/tiny --set LibriSpeech/test-clean --set aishell=kaldi/data/test
  python -m model_training eval models/tiny --set commands.csv@dev --set ESC-50/meta/esc50.csv@5
  python -m model_training eval models/before models/after --data handoff       what changed, and is it chance
  python -m model_training eval before/eval.json after/eval.json --out compared   the same, of evaluations of before""",
    "decode": """\
Writes one JSON object per clip or file. Needs torch; 'recognize' does the same with an exported
model and without torch.

examples:
  python -m model_training decode models/tiny talk.flac lecture.mp3 --group 3
  python -m model_training decode models/tiny --data handoff --split dev --method ctc_greedy""",
    "export": """\
Formats: safetensors (torch), onnx (float32), onnx-int8 (a quarter of the size), sherpa and sherpa-int8 (sherpa-onnx, on
phones). Keeps the shared experts, the group's experts and its router, and nothing else. The folder holds model,
tokenizer, normalisation, settings and a model card.

examples:
  python -m model_training export models/tiny --group 3 --format onnx-int8 --out models/edge
  python -m model_training export models/tiny --group 7 --format sherpa-int8 --out models/phone
  python -m model_training export models/tiny --format safetensors --out models/sizes --evaluation eval.json""",
    "recognize": """\
examples:
  python -m model_training recognize models/edge talk.mp3 lecture.flac
  python -m model_training recognize models/edge talk.wav --method ctc_greedy --json
  python -m model_training recognize models/edge talk.wav --given language=yue --threads 2
  arecord -q -t raw -f S16_LE -r 16000 -c 1 | python -m model_training recognize models/live - --stream --chunk 16""",
    "align": """\
Prints a JSON object a word, WebVTT or CTM. MODEL is an exported folder (no torch needed) or a checkpoint.

examples:
  python -m model_training align models/edge talk.mp3 --text-file talk.txt --language en
  python -m model_training align models/edge talk.wav --text "good morning" --format vtt > talk.vtt""",
    "card": """\
Writes README.md with the front matter that Hugging Face's hub reads: sizes, data, error rates, limits; only what is on
record or measured here. docs/how-to/share.md says how it is pushed.

examples:
  python -m model_training card models/edge --evaluation eval.json --license apache-2.0
  python -m model_training card models/tiny@best""",
    "inspect": """\
examples:
  python -m model_training inspect models/tiny              the newest checkpoint: step, sizes per group, settings
  python -m model_training inspect --config paper-1b        parameters of a preset, without training anything""",
    "settings": """\
examples:
  python -m model_training settings > my.yaml               a file to begin from: delete what you leave as it is
  python -m model_training settings --schema > touchasp-train.schema.json""",
    "index": """\
For training data that this project did not curate. Splits by recording (json's recording_id, else the key).

examples:
  python -m model_training index data/*.tar --out handoff
  python -m model_training index s3://bucket/set/{00..15}.tar --out handoff --dev 0.01""",
    "tokenizer": """\
examples:
  python -m model_training tokenizer --texts labels.txt --out tokenizer --bpe-size 5000""",
}

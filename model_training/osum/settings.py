"""Settings of an OSUM training, in the same form as the elastic model's (model_training/config.py).

    records (setting: default, meaning, bounds) ──load──> merged with CONFIG and key=value ──check──> OsumSettings

Defaults are the paper's where it says: osum-7b. Source: OSUM (arXiv:2501.13306), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_training import config
from model_training.config import LoadingSettings, OptimizerSettings, TrainSettings
from model_training.osum.tasks import parse_task
from model_training.settings import check_device
from operators.errors import UserError
from operators.settings import check as check_bounds
from operators.settings import setting

PRESETS = Path(__file__).parent / "configs"
PARTS = ("adaptor", "encoder", "llm")
"""What a phase may train; `llm` is its LoRA, or all of it where lora_rank is 0."""


@dataclass
class EncoderSettings:
    """EncoderSettings say where the speech encoder comes from and what it is given."""

    source: str = setting(
        "openai/whisper-medium",
        "hub name, a folder of transformers or CTranslate2, or a run of stage 1",
    )
    window: str = setting(
        "auto",
        "full: Whisper's 30 s, whatever the clip; own: the clip's length; auto: own where a phase trains the encoder",
        choices=("auto", "full", "own"),
    )
    remember: bool = setting(
        False, "keep what a frozen encoder made of each clip in memory (180 MB an hour at whisper-base's width)"
    )


@dataclass
class AdaptorSettings:
    """AdaptorSettings describe what lies between encoder and language model: convolutions, then a Transformer."""

    width: int = setting(1_280, "of convolutions and layers, a multiple of heads", at_least=8)
    inner: int = setting(2_560, "hidden units of a feed-forward block", at_least=1)
    layers: int = setting(4, "of the Transformer", at_least=0)
    heads: int = setting(4, "of attention", at_least=1)
    strides: list[int] = setting([1, 2, 2], "of the convolutions, whose kernels are 3 wide", at_least=1)
    dropout: float = setting(0.1, "share of hidden units dropped in training", at_least=0, below=1)


@dataclass
class LlmSettings:
    """LlmSettings say which language model answers, and how it is adapted."""

    source: str = setting(
        "Qwen/Qwen2-7B-Instruct",
        "hub name or folder of a causal model with a chat template; random: a small one made on the spot",
    )
    lora_rank: int = setting(8, "of LoRA; 0: the whole model is trained", at_least=0)
    lora_alpha: float = setting(32.0, "LoRA's output times alpha over rank", above=0)
    lora_dropout: float = setting(0.1, "share of LoRA's inputs dropped in training", at_least=0, below=1)
    lora_modules: list[str] = setting(["all-linear"], "names of the linear layers with LoRA; all-linear: every one")
    width: int = setting(128, "of a random model; a multiple of 32", at_least=32)
    layers: int = setting(3, "of a random model", at_least=1)
    units: int = setting(400, "of a random model's vocabulary, bytes included", at_least=320)


@dataclass
class Phase:
    """A Phase is a stretch of the training."""

    steps: int = setting(0, "how many; 0 for the last: the rest", at_least=0)
    parts: list[str] = setting(["adaptor"], "what is trained in it", choices=PARTS)
    align: float = setting(0.0, "weight of the adaptor's alignment with the transcript (CTC)", at_least=0)
    answers: bool = setting(True, "whether answers are learnt; without them align must be above 0")


@dataclass
class OsumDataSettings(LoadingSettings):
    """OsumDataSettings say how clips become batches and questions."""

    tasks: dict[str, float] = setting(
        {"asr": 1.0},
        "how often each is asked: asr, words, events, emotion, style, gender, age, chat, or asr+emotion, ...",
        at_least=0,
    )
    prompts: str = setting("", "YAML file of questions by task; empty: the built-in ones")
    languages: list[str] = setting(["en", "zh"], "in which questions are asked")
    max_answer_tokens: int = setting(256, "clips with longer answers are left out, and no answer is longer", at_least=1)


@dataclass
class OsumModelSettings:
    """OsumModelSettings describe the model."""

    encoder: EncoderSettings = setting(EncoderSettings(), "Whisper's encoder")
    adaptor: AdaptorSettings = setting(AdaptorSettings(), "between the two")
    llm: LlmSettings = setting(LlmSettings(), "the language model")
    checkpointing: bool = setting(True, "compute activations twice to keep fewer of them")


@dataclass
class OsumSettings:
    """OsumSettings hold every setting of an OSUM training."""

    stage: int = setting(2, "1: Whisper alone, with more instruction tags; 2: encoder, adaptor and language model")
    model: OsumModelSettings = setting(OsumModelSettings(), "the parts")
    phases: list[Phase] = setting(
        [Phase(2_000, ["adaptor"]), Phase(2_000, ["adaptor", "encoder"]), Phase(0, ["adaptor", "encoder", "llm"])],
        "what is trained when; not of stage 1, which trains all of Whisper",
    )
    rates: dict[str, float] = setting(
        {"adaptor": 1.0, "encoder": 0.1, "llm": 1.0}, "times optimizer.learning_rate, by part", at_least=0
    )
    data: OsumDataSettings = setting(OsumDataSettings(), "batches, tasks and questions")
    optimizer: OptimizerSettings = setting(
        OptimizerSettings(learning_rate=1e-4, clip_norm=1.0), "how weights are moved"
    )
    train: TrainSettings = setting(TrainSettings(), "length, place and output of the run")

    def check(self) -> None:
        """Refuse what cannot work.

        Raises:
            UserError: one line that names the setting and says how to fix it.
        """
        if self.train.precision in ("fp16", "float16", "half"):
            raise UserError("train.precision=fp16: Qwen2 overflows in it (NaN); use bf16, or fp32")
        check_bounds(self)
        if self.stage not in (1, 2):
            raise UserError(f"stage={self.stage}: give 1 (Whisper alone) or 2 (with the language model)")
        check_device(self.train.device)
        if self.optimizer.name != "adamw":
            raise UserError(f"optimizer.name={self.optimizer.name}: OSUM is trained with adamw")
        if self.data.max_clip_frames > 3_000:
            raise UserError(
                f"data.max_clip_frames={self.data.max_clip_frames}: Whisper hears 3000 frames (30 s) at most"
            )
        if self.data.max_frames < self.data.max_clip_frames:
            raise UserError(f"data.max_frames={self.data.max_frames}: must be at least data.max_clip_frames")
        if not sum(self.data.tasks.values()):
            raise UserError("data.tasks: give at least one task a weight above 0, for example {asr: 1}")
        for name in self.data.tasks:
            parse_task(name, "data.tasks")
        adaptor, llm = self.model.adaptor, self.model.llm
        if adaptor.width % adaptor.heads:
            raise UserError(f"model.adaptor.width={adaptor.width}: must be a multiple of its heads={adaptor.heads}")
        if llm.source == "random" and llm.width % 32:
            raise UserError(f"model.llm.width={llm.width}: must be a multiple of 32")
        if self.stage == 2:
            self._check_phases()

    def _check_phases(self) -> None:
        if not self.phases or any(not phase.parts for phase in self.phases):
            raise UserError("phases: give at least one, and each at least one part to train")
        if any(phase.steps == 0 for phase in self.phases[:-1]):
            raise UserError("phases: every phase but the last needs a number of steps")
        if any(not phase.answers and not phase.align for phase in self.phases):
            raise UserError("phases: a phase learns nothing with answers: false and align: 0; give align a weight")
        if unknown := sorted(set(self.rates) - set(PARTS)):
            raise UserError(f"rates.{unknown[0]}: there are {', '.join(PARTS)}")

    def phase(self, step: int) -> int:
        """Return the number of the phase that step `step`, counted from 0, belongs to."""
        end = 0
        for number, phase in enumerate(self.phases[:-1]):
            end += phase.steps
            if step < end:
                return number
        return len(self.phases) - 1

    def trained(self) -> tuple[str, ...]:
        """Return the parts that any phase trains, in the order of PARTS."""
        if self.stage == 1:
            return ("encoder",)
        return tuple(part for part in PARTS if any(part in phase.parts for phase in self.phases))

    def full_window(self) -> bool:
        """Say whether the encoder is given Whisper's 30 s, whatever the clip.

        Whisper without its window is another encoder, so it keeps it while it is frozen.
        """
        window = self.model.encoder.window
        return window == "full" or (window == "auto" and "encoder" not in self.trained())


def load(name: str | None, overrides: list[str]) -> OsumSettings:
    """Return the settings of a preset or YAML file, overlaid with key=value. Raises UserError."""
    return config.load_as(OsumSettings, name, overrides, PRESETS)


def restore(values: dict[str, Any]) -> OsumSettings:
    """Return the settings of a checkpoint. Raises UserError when they are damaged, or of a newer version."""
    return config.restore_as(OsumSettings, values)

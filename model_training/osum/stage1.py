"""Stage 1: Whisper itself, fine-tuned with more instruction tags, one task a pass; its encoder then starts stage 2.

    <|startoftranscript|> <|en|> <|gender|> <|notimestamps|>   female <|endoftext|>
    └── fed, no target ─────────────────────────────────────┘  └── targets ───────┘

The tags take ids that the tokenizer does not use; where Whisper's embedding has no room behind them, it grows.
Clips are heard at their own length, masked as in stage 2. Source: OSUM, "Whisper Fine-tuning".

Shapes: B clips, S encoder frames, L tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_training.data.handoff import Handoff
from model_training.model.device import autocast_dtype
from model_training.osum.data import OsumBatch, OsumSource, Question
from model_training.osum.parts import whisper
from model_training.osum.settings import OsumSettings, restore
from model_training.osum.tasks import ASR, TASKS, Asked
from model_training.training import checkpoint as checkpoints
from model_training.training.losses import Losses
from model_training.training.optimizer import make_optimizer
from model_training.training.run import Run, averaging, check_shares, make_folder
from model_training.training.step import PlainLearner, take_weights
from model_training.training.workers import Workers
from operators.errors import UserError

_START, _PLAIN, _END = "<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>"
_TRANSCRIBE = "<|transcribe|>"
_LANGUAGES = {"sichuan": "zh", "minnan": "zh"}
"""Languages of ours without a token of Whisper's, and the one that stands for them."""


class TagWriter:
    """A TagWriter asks by a tag: one task a pass, transcripts and labels as Whisper's text."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a tokenizers.Tokenizer. Raises UserError where it is not Whisper's."""
        self._tokenizer = tokenizer
        if tokenizer is None:
            raise UserError("model.encoder.source has no tokenizer.json, which stage 1 needs: take a folder with one")
        first = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        self.start, self.end = self._special(_START), self._special(_END)
        own = [name for name in TASKS if name != ASR]
        self.tags = {ASR: self._special(_TRANSCRIBE)} | {name: first + place for place, name in enumerate(own)}
        self.size = first + len(own)
        """ids in use, tags with them"""

    def question(self, asked: Asked, language: str | None, number: int) -> Question:
        """Return the ids that are fed; nothing stands behind the speech, which the decoder looks at all along."""
        if asked.transcript:
            raise UserError(f"data.tasks: stage 1 has one task a pass: take {asked.task.name} instead of {asked.name}")
        code = _LANGUAGES.get(language or "", language or "")
        spoken = self._tokenizer.token_to_id(f"<|{code}|>")
        prefix = [self.start, spoken, self.tags[asked.task.name], self._tokenizer.token_to_id(_PLAIN)]
        return [token for token in prefix if token is not None], []

    def answer(self, text: str) -> list[int]:
        """Return the ids of an answer and its end."""
        return [*self._tokenizer.encode(f" {text}", add_special_tokens=False).ids, self.end]

    def words(self, text: str) -> list[int]:
        """Return nothing: there is no adaptor to align."""
        return []

    def _special(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise UserError(f"model.encoder.source: its tokenizer has no {token}, so it is not Whisper's")
        return int(found)


class TaggedWhisper(nn.Module):
    """A TaggedWhisper is a Whisper whose decoder knows a tag for each task, on clips of any length."""

    def __init__(self, model: Any, writer: TagWriter, *, full_window: bool, checkpointing: bool) -> None:
        super().__init__()
        self.whisper, self.writer = model, writer
        self.full_window, self.checkpointing = full_window, checkpointing
        rows = model.get_input_embeddings().weight.shape[0]
        if writer.size > rows:
            model.resize_token_embeddings(writer.size, mean_resizing=False)
        with torch.no_grad():
            embeddings = model.get_input_embeddings().weight
            for name, tag in writer.tags.items():
                if name != ASR:  # each begins where transcribing is
                    embeddings[tag] = embeddings[writer.tags[ASR]]

    @property
    def bins(self) -> int:
        return int(self.whisper.config.num_mel_bins)

    def losses(
        self, features_BFM: Tensor, lengths_B: Tensor, questions: Sequence[Question], answers: Sequence[list[int]]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the answers cost, a sum for each clip; how many tokens were right, and how many there are."""
        device = features_BFM.device
        whole = [before + answer for (before, _), answer in zip(questions, answers, strict=True)]
        longest = max(map(len, whole))
        ids_BL = torch.tensor([ids + [self.writer.end] * (longest - len(ids)) for ids in whole], device=device)
        targets_BL = torch.full_like(ids_BL, -100)
        for clip, ((before, _), ids) in enumerate(zip(questions, whole, strict=True)):
            targets_BL[clip, len(before) : len(ids)] = ids_BL[clip, len(before) : len(ids)]
        logits_BLV = self.decode(*self.hear(features_BFM, lengths_B), ids_BL[:, :-1]).float()
        targets_BL = targets_BL[:, 1:]
        loss_BL = F.cross_entropy(logits_BLV.transpose(1, 2), targets_BL, ignore_index=-100, reduction="none")
        counted_BL = targets_BL != -100
        right = ((logits_BLV.argmax(-1) == targets_BL) & counted_BL).sum()
        return loss_BL.sum(1), right, counted_BL.sum()

    def hear(self, features_BFM: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the encoded clips [B, S, D], and their frames; a clip with Whisper's window has all of its frames."""
        if self.full_window:
            lengths_B = torch.full_like(lengths_B, features_BFM.shape[1])
        checkpointing = self.checkpointing and self.training
        return whisper.encode(
            self.whisper.model.encoder,
            features_BFM,
            lengths_B,
            full_window=self.full_window,
            checkpointing=checkpointing,
        )

    def decode(self, encoded_BSD: Tensor, frames_B: Tensor, ids_BL: Tensor) -> Tensor:
        """Return logits [B, L, V]. Padding stands behind, where no token before it looks."""
        decoder = self.whisper.model.decoder
        x_BLD = decoder.embed_tokens(ids_BL) * decoder.embed_scale
        x_BLD = x_BLD + decoder.embed_positions.weight[: ids_BL.shape[1]]
        hidden = torch.full((ids_BL.shape[1],) * 2, -1e9, device=x_BLD.device, dtype=x_BLD.dtype).triu(1)
        keep_BS = whisper.within(frames_B, encoded_BSD.shape[1])
        unheard = torch.zeros_like(keep_BS, dtype=x_BLD.dtype).masked_fill(~keep_BS, -1e9)[:, None, None, :]
        for layer in decoder.layers:
            x_BLD = layer(
                x_BLD,
                attention_mask=hidden[None, None].expand(len(ids_BL), 1, -1, -1),
                encoder_hidden_states=encoded_BSD,
                encoder_attention_mask=unheard.expand(-1, 1, ids_BL.shape[1], -1),
                use_cache=False,
            )[0]
        logits: Tensor = self.whisper.proj_out(decoder.layer_norm(x_BLD))
        return logits


@dataclass(frozen=True)
class WhisperLearner(PlainLearner):
    """A WhisperLearner trains all of a TaggedWhisper; there is one variant."""

    model: TaggedWhisper
    settings: OsumSettings
    autocast: torch.dtype | None = None

    def variants(self, step: int) -> tuple[int, ...]:
        """Return the one variant."""
        return (0,)

    def begin_step(self, step: int) -> tuple[int]:
        """Return the one variant."""
        return (0,)

    def losses(self, batch: OsumBatch, variant: int) -> Losses:
        """Return what the answers of a batch cost."""
        loss_B, right, tokens = self.model.losses(
            batch.features_BFM.to(self.device),
            batch.mel_lengths_B.to(self.device),
            [exercise.question for exercise in batch.exercises],
            [exercise.answer for exercise in batch.exercises],
        )
        return Losses(loss_B, {}, None, right, tokens)

    def parameters(self, variants: tuple[int, ...]) -> list[nn.Parameter]:
        """Return all parameters but Whisper's fixed sines."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def weights(self) -> dict[str, Tensor]:
        """Return all weights by name; the head is the embedding, so it stands there once."""
        return {name: parameter.data for name, parameter in self.model.named_parameters()}

    def load(self, weights: dict[str, Tensor], path: Path) -> None:
        """Take a checkpoint's weights. Raises UserError when they are of another model."""
        take_weights(dict(self.model.named_parameters()), weights, path)

    def describe(self) -> str:
        """Say how many parameters there are."""
        return f"{sum(p.numel() for p in self.model.parameters()) / 1e6:.1f} M, all trained"


def build(settings: OsumSettings) -> tuple[TaggedWhisper, str]:
    """Return a Whisper with its tags, and the digest of where it came from. Raises UserError."""
    found = whisper.load(settings.model.encoder.source)
    model = TaggedWhisper(
        found.model,
        TagWriter(found.tokenizer),
        full_window=settings.full_window(),
        checkpointing=settings.model.checkpointing,
    )
    return model, found.digest


def begin(data: str, out: str | Path, settings: OsumSettings, device: torch.device, workers: Workers) -> Run[OsumBatch]:
    """Build a run of stage 1 at step 0. Raises UserError."""
    check_shares(settings, workers)
    handoff = Handoff.open(data)
    torch.manual_seed(settings.train.seed)
    model, digest = build(settings)
    source = OsumSource(handoff, settings, model.writer, model.bins)
    for weight, asked in source.tasks:
        if weight:
            model.writer.question(asked, None, 0)  # refuses ASR+X now, not in a loop
    learner = WhisperLearner(model.to(device), settings, autocast_dtype(settings.train.precision, device))
    return Run(
        folder=make_folder(out),
        workers=workers,
        source=source,
        learner=learner,
        optimizer=make_optimizer(model, settings.optimizer),
        averaged=averaging(learner),
        record=source.record(model.writer.size, digest, {"encoder": digest}),
        texts={},
    )


def open_tagged(path: str | Path) -> tuple[TaggedWhisper, checkpoints.Checkpoint]:
    """Return the model of a run or checkpoint of stage 1, in eval mode. Raises UserError."""
    found = checkpoints.open_checkpoint(path)
    if "osum" not in found.record or found.record["settings"].get("stage") != 1:
        raise UserError(f"{found.path} is no Whisper of stage 1")
    settings = restore(found.record["settings"])
    model, digest = build(settings)
    if digest != found.record["tokenizer"]:
        source = settings.model.encoder.source
        raise UserError(f"{found.path} was trained with another model.encoder.source={source}: put that one back")
    take_weights(dict(model.named_parameters()), found.weights(), found.path)
    return model.eval(), found


def open_whisper(path: str | Path) -> whisper.Whisper:
    """Return the Whisper that stage 1 trained, known by its checkpoint. Raises UserError."""
    model, found = open_tagged(path)
    return whisper.Whisper(model.whisper, found.record["files"]["model.safetensors"], None)

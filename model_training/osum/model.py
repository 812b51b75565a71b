"""OSUM: what a clip says and how it sounds, as embeddings in the middle of a question to a language model.

    features ──Whisper's encoder──> ──adaptor──> speech ─┐
    [before, SPEECH, question, answer] ──embeddings──────┴──> language model ──> loss at the answer's places
                                                                            └──> greedy answer

Questions of a batch are padded once: at the right for the loss, where nothing looks, and at the left for the answer, so
that all answers begin at one place. A clip in a batch is answered as alone.

Source: OSUM section 3.1. Shapes: B clips, F mel frames, T places of the language model, W its width, L answer tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_training.osum.parts.adaptor import Adaptor
from model_training.osum.parts.llm import Chat, hidden_states
from model_training.osum.parts.whisper import encode
from model_training.osum.settings import OsumSettings

LIKENESS = 20.0
"""Logit of an embedding's likeness to itself, in `align`."""


@dataclass(frozen=True)
class Losses:
    """The Losses are sums over the answer's tokens."""

    loss_B: Tensor
    correct: Tensor
    tokens: Tensor


class Osum(nn.Module):
    """An Osum holds the three parts. Which of them are trained is the learner's."""

    def __init__(
        self, encoder: nn.Module, adaptor: Adaptor, llm: nn.Module, chat: Chat, settings: OsumSettings
    ) -> None:
        super().__init__()
        self.encoder, self.adaptor, self.llm = encoder, adaptor, llm
        self.chat, self.full_window = chat, settings.full_window()
        self.checkpointing = settings.model.checkpointing
        keeps = settings.model.encoder.remember and "encoder" not in settings.trained()
        self.memory: dict[bytes, Tensor] | None = {} if keeps else None

    @property
    def bins(self) -> int:
        """Return the mel bins that the encoder is given."""
        return int(self.encoder.conv1.in_channels)  # type: ignore[union-attr, arg-type]

    def speech(self, features_BFM: Tensor, lengths_B: Tensor) -> list[Tensor]:
        """Return each clip's embeddings [T, W]."""
        encoded_BSD, frames_B = self._encoded(features_BFM, lengths_B)
        speech_BTW, lengths_B = self.adaptor(encoded_BSD.to(self.adaptor.out.weight.dtype), frames_B)
        dtype = self.llm.get_input_embeddings().weight.dtype  # type: ignore[operator]
        return [one[:length].to(dtype) for one, length in zip(speech_BTW, lengths_B.tolist(), strict=True)]

    def align(self, speech: Sequence[Tensor], words: Sequence[list[int]], units_U: Tensor) -> Tensor:
        """Return what it costs to read the words off the speech, a CTC loss per clip; 0 where there are none.

        A frame's logits are its likeness to the language model's own embeddings of `units_U`, whose first is the blank:
        the adaptor learns to put a word's embedding where the word is said.
        """
        embeddings_UW = self.llm.get_input_embeddings().weight[units_U].float()  # type: ignore[operator, index]
        scale = LIKENESS / embeddings_UW.square().sum(1).mean()
        place = {unit: number for number, unit in enumerate(units_U.tolist())}
        targets = [[place[word] for word in said if word in place] for said in words]
        frames_BTW = nn.utils.rnn.pad_sequence([one.float() for one in speech], batch_first=True)
        with torch.autocast(frames_BTW.device.type, enabled=False):
            logits_TBU = (frames_BTW @ embeddings_UW.T * scale).transpose(0, 1)
        loss_B = F.ctc_loss(
            logits_TBU.log_softmax(-1),
            torch.tensor([unit for target in targets for unit in target], device=logits_TBU.device, dtype=torch.long),
            torch.tensor([len(one) for one in speech]),
            torch.tensor([len(target) for target in targets]),
            reduction="none",
            zero_infinity=True,
        )
        return loss_B * torch.tensor([bool(target) for target in targets], device=loss_B.device)

    def losses(
        self,
        features_BFM: Tensor,
        lengths_B: Tensor,
        questions: Sequence[tuple[list[int], list[int]]],
        answers: Sequence[list[int]],
    ) -> Losses:
        """Return what the answers cost, one sum per clip."""
        return self.answer_losses(self.speech(features_BFM, lengths_B), questions, answers)

    def answer_losses(
        self, speech: Sequence[Tensor], questions: Sequence[tuple[list[int], list[int]]], answers: Sequence[list[int]]
    ) -> Losses:
        """Return what the answers about embedded speech cost. The head is taken at the answer's places alone."""
        asked = [self._asked(one, question) for one, question in zip(speech, questions, strict=True)]
        inputs = [
            torch.cat([question, self._embed(answer[:-1])]) for question, answer in zip(asked, answers, strict=True)
        ]
        inputs_BTW = nn.utils.rnn.pad_sequence(inputs, batch_first=True)
        keep_BT = torch.zeros(inputs_BTW.shape[:2], dtype=torch.long, device=inputs_BTW.device)
        places: list[tuple[int, int]] = []
        for clip, (question, answer) in enumerate(zip(asked, answers, strict=True)):
            keep_BT[clip, : len(inputs[clip])] = 1
            places += [(clip, len(question) - 1 + token) for token in range(len(answer))]
        states_BTW = hidden_states(self.llm, inputs_embeds=inputs_BTW, attention_mask=keep_BT, use_cache=False)
        clips_L, places_L = torch.tensor(places, device=inputs_BTW.device).unbind(1)
        logits_LV = self.llm.get_output_embeddings()(states_BTW[clips_L, places_L]).float()  # type: ignore[operator]
        targets_L = torch.tensor([token for answer in answers for token in answer], device=logits_LV.device)
        loss_L = F.cross_entropy(logits_LV, targets_L, reduction="none")
        loss_B = torch.zeros(len(answers), device=loss_L.device).index_add(0, clips_L, loss_L)
        return Losses(loss_B, (logits_LV.argmax(-1) == targets_L).sum(), torch.tensor(len(targets_L)))

    @torch.inference_mode()
    def answer(
        self,
        features_BFM: Tensor,
        lengths_B: Tensor,
        questions: Sequence[tuple[list[int], list[int]]],
        max_tokens: int,
    ) -> list[str]:
        """Return the greedy answer to each question. The model should be in eval mode."""
        speech = self.speech(features_BFM, lengths_B)
        asked = [self._asked(one, question) for one, question in zip(speech, questions, strict=True)]
        longest = max(map(len, asked))
        inputs_BTW = torch.stack([F.pad(one, (0, 0, longest - len(one), 0)) for one in asked])
        keep_BT = torch.stack([F.pad(torch.ones(len(one)), (longest - len(one), 0)) for one in asked]).long()
        keep_BT = keep_BT.to(inputs_BTW.device)
        places_BT = (keep_BT.cumsum(1) - 1).clamp(min=0)
        given: dict[str, Any] = {"inputs_embeds": inputs_BTW, "position_ids": places_BT}
        found: list[list[int]] = [[] for _ in asked]
        running, cache = set(range(len(asked))), None
        for _ in range(max_tokens):
            out = self.llm(**given, attention_mask=keep_BT, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            tokens_B = out.logits[:, -1].float().argmax(-1)
            for clip in sorted(running):
                token = int(tokens_B[clip])
                found[clip].append(token)
                if token == self.chat.end:
                    running.discard(clip)
            if not running:
                break
            keep_BT = F.pad(keep_BT, (0, 1), value=1)
            given = {"input_ids": tokens_B.unsqueeze(1), "position_ids": keep_BT.sum(1, keepdim=True) - 1}
        return [self.chat.read(ids) for ids in found]

    def _encoded(self, features_BFM: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the encoder makes of clips; from memory where it is frozen and has met them."""
        if self.memory is None:
            checkpointing = self.checkpointing and self.training
            return encode(
                self.encoder, features_BFM, lengths_B, full_window=self.full_window, checkpointing=checkpointing
            )
        keys = [
            sha256(features_FM[:length].cpu().numpy().tobytes()).digest()
            for features_FM, length in zip(features_BFM, lengths_B.tolist(), strict=True)
        ]
        for key, features_FM, length_1 in zip(keys, features_BFM, lengths_B.split(1), strict=True):
            if key not in self.memory:  # alone, so that it is the same to the bit whatever the batch
                own_1FM = features_FM[None] if self.full_window else features_FM[None, : int(length_1)]
                with torch.no_grad():
                    encoded_1SD, _ = encode(self.encoder, own_1FM, length_1, full_window=self.full_window)
                self.memory[key] = encoded_1SD[0].to(torch.bfloat16, copy=True)
        found = [self.memory[key] for key in keys]
        encoded_BSD = nn.utils.rnn.pad_sequence(found, batch_first=True)
        return encoded_BSD, torch.tensor([len(one) for one in found], device=encoded_BSD.device)

    def _asked(self, speech_TW: Tensor, question: tuple[list[int], list[int]]) -> Tensor:
        before, after = question
        return torch.cat([self._embed(before), speech_TW, self._embed(after)])

    def _embed(self, ids: list[int]) -> Tensor:
        embeddings = self.llm.get_input_embeddings()  # type: ignore[operator]
        return embeddings(torch.tensor(ids, dtype=torch.long, device=embeddings.weight.device))

"""A batch encoded by the torch model, as the search wants to see it.

    features_BF80 ──encode──> encoded_BSD ──ctc_logits──> Scorer.ctc
               │                   └──────decode + Cache──> Scorer.next, Scorer.score, Scorer.score_reverse
               └──early layers──SpeakerHead──> Scorer.head

The model may compute under autocast; logits become log-probabilities in float32, and the search works on those.

Legend: B clips, F feature frames, S encoder frames, D model width, V vocabulary, H hypotheses, L tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model_training.decoding.search import HeadScores
from model_training.model.decoder import Cache
from model_training.model.speech_model import SpeechModel


class ModelScorer:
    """A ModelScorer is the search's Scorer of one batch at one size; it encodes when built. The model should be in eval
    mode.

    Args:
        features_BF80, lengths_B: features with CMVN applied, lengths in feature frames, both on any device.
        autocast: what the model's products are computed in; None: in float32.

    Raises:
        UserError: the model has no size of so many experts.
    """

    @torch.inference_mode()
    def __init__(
        self,
        model: SpeechModel,
        features_BF80: Tensor,
        lengths_B: Tensor,
        n_experts: int,
        autocast: torch.dtype | None = None,
    ) -> None:
        self._model, self._n_experts, self._autocast = model, n_experts, autocast
        self._device = next(model.parameters()).device
        on_device = features_BF80.to(self._device), lengths_B.to(self._device)
        with self._precision():
            encoded_BSD, encoded_lengths_B, early_BSD = model.encode_early(*on_device, n_experts)
            self._ctc_BSV = model.ctc_logits(encoded_BSD)
            head = None
            if model.speaker_head is not None and early_BSD is not None:
                head = model.speaker_head(early_BSD, encoded_lengths_B)
        self._encoded_BSD, self._lengths_B = encoded_BSD, encoded_lengths_B
        self.frames = [int(length) for length in encoded_lengths_B.tolist()]
        self._cache, self._rows = Cache(), 0
        self._head_BV = None if head is None else head.float().cpu().numpy()

    @torch.inference_mode()
    def ctc(self, clip: int) -> np.ndarray:
        return _log_softmax(self._ctc_BSV[clip, : self.frames[clip]])

    @torch.inference_mode()
    def next(self, ids_HL: np.ndarray, clips_H: np.ndarray, parents_H: np.ndarray | None) -> np.ndarray:
        clips = self._tensor(clips_H)
        if parents_H is None:
            self._cache = Cache()
            encoded, inputs = self._encoded_BSD[clips], self._tensor(ids_HL)
        else:
            # Most steps keep their rows: greedy decoding, and clips that have not branched.
            if len(parents_H) != self._rows or (parents_H != np.arange(len(parents_H))).any():
                self._cache = self._cache.pick(self._tensor(parents_H))
            encoded, inputs = None, self._tensor(ids_HL[:, -1:])
        self._rows = len(ids_HL)
        lengths_H = self._lengths_B[clips]
        with self._precision():
            logits_HLV = self._model.decode(encoded, lengths_H, inputs, self._n_experts, cache=self._cache)
        return _log_softmax(logits_HLV[:, -1])

    def score(self, ids_HL: np.ndarray, clips_H: np.ndarray) -> np.ndarray:
        return self._score(ids_HL, clips_H, reverse=False)

    @property
    def has_reverse(self) -> bool:
        return self._model.reverse_decoder is not None

    def score_reverse(self, ids_HL: np.ndarray, clips_H: np.ndarray) -> np.ndarray:
        return self._score(ids_HL, clips_H, reverse=True)

    def head(self, clip: int) -> HeadScores | None:
        if self._head_BV is None:
            return None
        return HeadScores(self._model.settings.speaker_head.attributes, self._head_BV[clip])

    @torch.inference_mode()
    def _score(self, ids_HL: np.ndarray, clips_H: np.ndarray, *, reverse: bool) -> np.ndarray:
        clips = self._tensor(clips_H)
        encoded_HSD, lengths_H = self._encoded_BSD[clips], self._lengths_B[clips]
        inputs_HL = self._tensor(ids_HL)
        with self._precision():
            logits_HLV = self._model.decode(encoded_HSD, lengths_H, inputs_HL, self._n_experts, reverse=reverse)
        return _log_softmax(logits_HLV)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, self._autocast or torch.bfloat16, enabled=self._autocast is not None)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _log_softmax(logits: Tensor) -> np.ndarray:
    array: np.ndarray = logits.float().log_softmax(-1).cpu().numpy()
    return array

"""What early layers hear of the speaker: a learnt mix of them, pooled over the clip, and a small network.

    sub-sampling, first blocks ──normalised, weights by softmax──> early_BSD
    early_BSD ──a layer for every frame──> mean and deviation over frames ──small network──> logits_BV

An encoder that learns to write forgets who speaks, layer by layer, so attributes of the speaker are answered from where
they are still there. The mix is SUPERB's (Yang et al. 2021), the pooling that of x-vectors (Snyder et al. 2018).

The logits have a place for every token of the vocabulary, as a decoder's have; only those of a kind's labels are ever
compared, with each other.

Shapes: B clips, S frames of 40 ms, D model width, E layers in the mix, H hidden units, P = 2 H, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_training.config import ModelSettings

_LEAST_VARIANCE = 1e-5


class SpeakerHead(nn.Module):
    """A SpeakerHead answers the attributes of a clip's speaker from the early layers of an encoder, whatever its size.

    Args:
        settings: of the model, whose `speaker_head` says how large it is.
        vocabulary: V.
    """

    def __init__(self, settings: ModelSettings, vocabulary: int) -> None:
        super().__init__()
        head = settings.speaker_head
        self.layers, self.d_model = head.layers, settings.d_model
        self.mix_E = nn.Parameter(torch.zeros(head.layers + 1))
        self.frame = nn.Linear(settings.d_model, head.hidden)
        self.hidden = nn.Linear(2 * head.hidden, head.hidden)
        self.dropout = nn.Dropout(head.dropout)
        self.out = nn.Linear(head.hidden, vocabulary)

    @property
    def taps(self) -> tuple[int, ...]:
        """Return the depths of the layers in the mix, 0 for the sub-sampling."""
        return tuple(range(self.layers + 1))

    def mix(self, layers: Sequence[Tensor]) -> Tensor:
        """Return the mix (B, S, D) of the encodings at `taps`, float32."""
        weights_E = self.mix_E.float().softmax(0)
        normalised = [F.layer_norm(x_BSD.float(), (self.d_model,)) for x_BSD in layers]
        return torch.stack([weights_E[place] * x_BSD for place, x_BSD in enumerate(normalised)]).sum(0)

    def forward(self, early_BSD: Tensor, lengths_B: Tensor) -> Tensor:
        """Return the logits (B, V) of a mix, of whose frames the first so many are the clip's."""
        frame_S = torch.arange(early_BSD.shape[1], device=early_BSD.device)
        mask_BS1 = (frame_S < lengths_B.unsqueeze(1)).unsqueeze(-1).float()
        frames_B1 = lengths_B.clamp(min=1).unsqueeze(1).float()
        heard_BSH = F.silu(self.frame(early_BSD)).float()
        mean_BH = (heard_BSH * mask_BS1).sum(1) / frames_B1
        variance_BH = (((heard_BSH - mean_BH.unsqueeze(1)) * mask_BS1) ** 2).sum(1) / frames_B1
        pooled_BP = torch.cat([mean_BH, (variance_BH + _LEAST_VARIANCE).sqrt()], -1)
        return self.out(self.dropout(F.silu(self.hidden(pooled_BP))))

"""How many floating point operations one second of audio takes, of any size, without a weight in memory.

    SpeechModel on the meta device ──each elastic layer as a frame uses it──> encode, CTC ──counter──> operations

Counted are the products of matrices, convolutions and attention, a multiplication and an addition each, of encoder,
embedding network and CTC head: what every second needs once. Activations, norms, gates and decoders, which work per
token, are not. 3M's Table 3 gives "FLOPs for a one-second example".

Shapes: T frames, D model width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model_training.config import ModelSettings
from model_training.model.experts import Experts, FeedForward
from model_training.model.moe import ElasticMoE
from model_training.model.router import Routing
from model_training.model.speech_model import SpeechModel

SECOND = 100
"""feature frames"""


def flops(settings: ModelSettings, vocabulary: int, n_experts: int, frames: int = SECOND) -> int:
    """Return the operations that so many feature frames take at a size.

    Raises:
        UserError: the model has no such size.
    """
    with torch.device("meta"):
        model = SpeechModel(settings, vocabulary).eval()
        tier = model.tier(n_experts)
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, ElasticMoE):
                    setattr(module, name, _Active(child, tier))
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            encoded_BSD, _ = model.encode(torch.zeros(1, frames, 80), torch.tensor([frames]), n_experts)
            model.ctc_logits(encoded_BSD)
    return int(counter.get_total_flops())


class _Active(nn.Module):
    """What a frame uses of an elastic layer: a router, and its shared and chosen experts as one block."""

    def __init__(self, layer: ElasticMoE, tier: int) -> None:
        super().__init__()
        experts: Experts = layer.tiers[0]  # type: ignore[assignment]
        _, width, d_model = experts.w_in_EHD.shape
        self.router = layer.routers[tier]
        self.block = FeedForward(d_model, (layer.settings.shared + layer.top_k) * width, 0.0)

    def forward(self, x_BTD: Tensor, routing: Routing) -> Tensor:
        seen = x_BTD if routing.embedding_BTD is None else torch.cat([routing.embedding_BTD, x_BTD], -1)
        F.linear(seen, self.router.weight)  # type: ignore[arg-type]
        return self.block(x_BTD, routing)

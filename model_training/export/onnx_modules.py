"""The model once more as modules that trace into clean ONNX graphs: for the exporter only, never trained.

    features, lengths ──EncoderGraph──> encoded, encoded_lengths, log_probs (CTC)
    encoded ──KeysGraph──> key_0, value_0, ...                                once per utterance
    tokens, encoded_lengths, keys, past ──DecoderGraph──> logits, present     once per token
    the last two once more for a right-to-left decoder
    features, past ──StreamGraph──> encoded, log_probs, present               once per chunk, of models trained for it
    both encoders also give `early` where there is a speaker head; early, encoded_lengths ──SpeakerGraph──> logits

Only the feed-forward blocks differ from training. Where all experts are chosen (N = K) the layer is dense: every
expert over every row, and a sum weighted by the gates. Otherwise pairs of a frame and an expert are sorted by expert
once, every expert multiplies its own rows (perhaps none), and the inverse permutation brings the answers back: no mask
over all frames, no expert that computes in vain. Padding frames are routed as well, which costs little and touches no
frame that anybody reads.

Shapes: B clips, F feature frames, S encoder frames, T rows (all frames of a batch), L tokens, D model width, N experts,
K chosen per frame, P = T*K pairs, V vocabulary, H heads, W width of a head.
"""

from __future__ import annotations

import copy
import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_training.model.chunks import BlockCache, EncoderCache, StreamCache
from model_training.model.conformer import sinusoids
from model_training.model.decoder import Decoder, Layer
from model_training.model.experts import FeedForward
from model_training.model.moe import ElasticMoE
from model_training.model.router import Routing
from model_training.model.speaker_head import SpeakerHead
from model_training.model.speech_model import SpeechModel


class EncoderGraph(nn.Module):
    """An EncoderGraph computes features (B, F, 80) normalised, lengths (B) -> encoded (B, S, D), its lengths (B), CTC's
    log_probs (B, S, V), and what a speaker head hears (B, S, D) where there is one.
    """

    inputs = ("features", "lengths")

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model
        self.outputs = ("encoded", "encoded_lengths", "log_probs", *early_names(model))

    def forward(self, features_BF80: Tensor, lengths_B: Tensor) -> tuple[Tensor, ...]:
        encoded_BSD, lengths_B, early_BSD = self.model.encode_early(features_BF80, lengths_B, self.model.sizes[0])
        early = () if early_BSD is None else (early_BSD,)
        return encoded_BSD, lengths_B, self.model.ctc_logits(encoded_BSD).log_softmax(-1), *early


def early_names(model: SpeechModel) -> tuple[str, ...]:
    """Return the name of the encoders' output that a speaker head hears; none without one."""
    return () if model.speaker_head is None else ("early",)


class SpeakerGraph(nn.Module):
    """A SpeakerGraph computes what a speaker head hears (B, S, D), its lengths (B) -> its logits (B, V)."""

    inputs = ("early", "encoded_lengths")
    outputs = ("logits",)

    def __init__(self, head: SpeakerHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, early_BSD: Tensor, lengths_B: Tensor) -> Tensor:
        logits_BV: Tensor = self.head(early_BSD, lengths_B)
        return logits_BV


class StreamGraph(nn.Module):
    """A StreamGraph computes the next chunk's features (B, 4 S + 3, 80) normalised, frames_before (1) of 40 ms where
    scores go by place, then keys and values (B, H, earlier, W) and inputs of the convolution (B, D, kernel - 1) of
    every block -> encoded (B, S, D), CTC's log_probs (B, S, V), what a speaker head hears where there is one, and the
    same of every block for the next chunk.
    """

    def __init__(self, model: SpeechModel) -> None:
        super().__init__()
        self.model = model
        self.by_place = model.settings.encoder == "wenet"
        empty = model.stream_cache()
        self.layers = [len(one.blocks) for one in (empty.encoder, empty.embedding) if one is not None]
        names = [f"{'embedding_' * place}{part}_{layer}"
                 for place, layers in enumerate(self.layers)
                 for layer in range(layers)
                 for part in ("key", "value", "convolution")]  # fmt: skip
        self.caches = [f"past_{name}" for name in names]
        self.inputs = ("features", *["frames_before"] * self.by_place, *self.caches)
        self.frames_out = ("encoded", "log_probs", *early_names(model))
        self.outputs = (*self.frames_out, *(f"present_{name}" for name in names))

    def example(self) -> tuple[Tensor, ...]:
        """Return inputs of the right shape, to trace with."""
        settings = self.model.settings
        B, S, earlier = 2, 5, 3
        attended = torch.zeros(B, settings.heads, earlier, settings.d_model // settings.heads)
        block = (attended, attended, torch.zeros(B, settings.d_model, settings.kernel - 1))
        before = [torch.tensor([earlier])] * self.by_place
        return torch.zeros(B, 4 * S + 3, 80), *before, *block * sum(self.layers)

    def forward(self, features_BF80: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        frames, past = (past[0], past[1:]) if self.by_place else (0, past)
        blocks = [BlockCache(*past[first : first + 3]) for first in range(0, len(past), 3)]
        own = self.layers[0]
        cache = StreamCache(EncoderCache(blocks[:own], frames), EncoderCache(blocks[own:], frames))
        encoded_BSD, early_BSD = self.model.encode_chunk_early(features_BF80, cache, self.model.sizes[0])
        present = [part for b in blocks for part in (b.key_BHPW, b.value_BHPW, b.convolution_BDP)]
        early = () if early_BSD is None else (early_BSD,)
        return encoded_BSD, self.model.ctc_logits(encoded_BSD).log_softmax(-1), *early, *present


class KeysGraph(nn.Module):
    """A KeysGraph computes encoded (B, S, D) -> keys and values (B, H, S, W) of every decoder layer, which are the same
    for every token.
    """

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.attentions: Any = nn.ModuleList(layer.encoder for layer in cast(list[Layer], list(decoder.layers)))

    def forward(self, encoded_BSD: Tensor) -> tuple[Tensor, ...]:
        return tuple(part for attention in self.attentions for part in attention.keys(encoded_BSD))


class DecoderGraph(nn.Module):
    """A DecoderGraph computes tokens (B, L) that follow the past, lengths (B) in encoder frames, then key and value of
    every layer for the encoder, then for the past (B, H, earlier, W) -> logits (B, L, V), then key and value of every
    layer for all.
    """

    def __init__(self, decoder: Decoder, sees_embedding: bool) -> None:
        super().__init__()
        self.decoder: Any = decoder
        self.sees_embedding = sees_embedding

    def forward(self, tokens_BL: Tensor, lengths_B: Tensor, *keys: Tensor) -> tuple[Tensor, ...]:
        layers = list(self.decoder.layers)
        encoder, past = keys[: 2 * len(layers)], keys[2 * len(layers) :]
        before, after = past[0].shape[2], past[0].shape[2] + tokens_BL.shape[1]
        place_L = torch.arange(before, after)
        d_model = self.decoder.d_model
        x_BLD = self.decoder.embedding(tokens_BL) * math.sqrt(d_model) + sinusoids(place_L.float(), d_model)
        causal_LP = place_L.unsqueeze(1) >= torch.arange(after)
        encoder_mask = (torch.arange(encoder[0].shape[2]) < lengths_B.unsqueeze(1))[:, None, None]
        # A decoder's routers have no acoustic frame to look at, as in SpeechModel.decode.
        routing = Routing(0, embedding_BTD=torch.zeros_like(x_BLD) if self.sees_embedding else None)
        present: list[Tensor] = []
        for number, layer in enumerate(layers):
            own_norm, encoder_norm, ffn_norm = layer.norms
            normed_BLD = own_norm(x_BLD)
            new = layer.own.keys(normed_BLD)
            own = [torch.cat(pair, 2) for pair in zip(past[2 * number :], new)]
            present += own
            x_BLD = x_BLD + layer.own(normed_BLD, *own, causal_LP)
            pair = encoder[2 * number : 2 * number + 2]
            x_BLD = x_BLD + layer.encoder(encoder_norm(x_BLD), *pair, encoder_mask)
            x_BLD = x_BLD + layer.ffn(ffn_norm(x_BLD), routing)
        return self.decoder.out(self.decoder.norm(x_BLD)), *present


def traceable(model: SpeechModel) -> SpeechModel:
    """Return a copy of a pruned model whose feed-forward blocks trace into ONNX. It shares no weight with the model."""
    if len(model.sizes) != 1:
        raise ValueError("prune the model first: a graph holds one size")
    model = copy.deepcopy(model).eval()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, FeedForward):
                setattr(module, name, Plain(child))
            elif isinstance(child, ElasticMoE):
                setattr(module, name, Every(child) if child.sizes[0] == child.top_k else Routed(child))
    return model


class Plain(nn.Module):
    """A Plain is a dense block over rows: (T, D) takes one product with bias where (B, S, D) takes a product and an
    addition.
    """

    def __init__(self, block: FeedForward) -> None:
        super().__init__()
        self.parts = nn.ParameterList(
            [_turned(block.w_in.weight), block.w_in.bias, _turned(block.w_out.weight), block.w_out.bias]
        )

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        return _block(x.reshape(-1, x.shape[-1]), *self.parts).view(x.shape)


class _Experts(nn.Module):
    """What both forms of the elastic layer hold: one tensor per expert and part, so that each becomes an initialiser
    which onnxruntime packs and quantises by itself; and the shared experts as one wide block."""

    def __init__(self, layer: ElasticMoE) -> None:
        super().__init__()
        experts = layer.active_tiers(0)[0]
        self.number, self.top_k, self.norm_topk = layer.sizes[0], layer.top_k, layer.settings.norm_topk
        self.router = layer.routers[0]
        stacks = (experts.w_in_EHD, experts.b_in_EH, experts.w_out_EHD, experts.b_out_ED)
        self.parts = nn.ParameterList()
        for w_in, b_in, w_out, b_out in zip(*stacks):
            self.parts.extend([_turned(w_in), _frozen(b_in), _frozen(w_out), _frozen(b_out)])
        self.shared: nn.ParameterList | None = None
        if layer.shared is not None:
            w_in, b_in, w_out, b_out = layer.shared.parameters()
            rest = (b_in.flatten(), w_out.flatten(0, 1), b_out.sum(0))
            self.shared = nn.ParameterList([_turned(w_in.flatten(0, 1)), *map(_frozen, rest)])

    def forward(self, x: Tensor, routing: Routing) -> Tensor:
        x_TD = x.reshape(-1, x.shape[-1])
        seen = (
            x if routing.embedding_BTD is None else torch.cat([routing.embedding_BTD, x], -1)
        )  # 3M's shared embedding
        y_TD: Tensor = self.routed(x_TD, self.router(seen.reshape(-1, seen.shape[-1])))
        if self.shared is not None:
            y_TD = y_TD + _block(x_TD, *self.shared)
        return y_TD.view(x.shape)

    def routed(self, x_TD: Tensor, logits_TN: Tensor) -> Tensor:
        raise NotImplementedError


class Every(_Experts):
    """Every is for N = K: all experts over all rows, weighted by their gates.

    One at a time, because its hidden layer then stays in the processor's cache: scaling the hidden layer of one wide
    block took 9 % longer.
    """

    def routed(self, x_TD: Tensor, logits_TN: Tensor) -> Tensor:
        gates_TN = logits_TN.softmax(-1)  # over all or over the chosen is the same here
        y_TD = torch.zeros(())
        for expert in range(self.number):
            weighted_TD = _block(x_TD, *self.parts[4 * expert : 4 * expert + 4]) * gates_TN[:, expert : expert + 1]
            y_TD = y_TD + weighted_TD if expert else weighted_TD
        return y_TD


class Routed(_Experts):
    """Routed computes K of N experts for each row."""

    def __init__(self, layer: ElasticMoE) -> None:
        super().__init__(layer)
        self.selection_bias_N: Tensor | None
        self.register_buffer("selection_bias_N", getattr(layer, "selection_bias_0", None))

    def routed(self, x_TD: Tensor, logits_TN: Tensor) -> Tensor:
        chosen_TK, gates_TK = self._choose(logits_TN)
        y_TKD: Tensor = _ByExpert.apply(x_TD, chosen_TK, self.number, self.top_k, *self.parts)  # type: ignore[no-untyped-call]
        return torch.matmul(gates_TK.unsqueeze(1), y_TKD).squeeze(1)

    def _choose(self, logits_TN: Tensor) -> tuple[Tensor, Tensor]:
        if self.selection_bias_N is None and self.norm_topk:
            best_TK, chosen_TK = logits_TN.topk(self.top_k, -1)
            return chosen_TK, best_TK.softmax(-1)
        scores_TN = logits_TN.softmax(-1)
        wanted_TN = scores_TN if self.selection_bias_N is None else scores_TN + self.selection_bias_N
        chosen_TK = wanted_TN.topk(self.top_k, -1).indices
        if self.norm_topk:
            return chosen_TK, logits_TN.gather(1, chosen_TK).softmax(-1)
        return chosen_TK, scores_TN.gather(1, chosen_TK)


def _block(x_TD: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> Tensor:
    return torch.addmm(b_out, F.silu(torch.addmm(b_in, x_TD, w_in)), w_out)


class _ByExpert(torch.autograd.Function):
    """What the chosen experts answer, (T, K, D), and the nodes that compute it."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, chosen_TK: Tensor, number: int, top_k: int, *parts: Tensor) -> Tensor:
        y_TKD = x_TD.new_empty(*chosen_TK.shape, x_TD.shape[1])
        for expert in range(number):
            rows, places = (chosen_TK == expert).nonzero(as_tuple=True)
            y_TKD[rows, places] = _block(x_TD[rows], *parts[4 * expert : 4 * expert + 4])
        return y_TKD

    @staticmethod
    def symbolic(g: Any, x_TD: Any, chosen_TK: Any, number: int, top_k: int, *parts: Any) -> Any:
        def constant(values: list[int] | int) -> Any:
            return g.op("Constant", value_t=torch.tensor(values, dtype=torch.int64))

        expert_P = g.op("Reshape", chosen_TK, constant([-1]))
        pairs_1 = g.op("Shape", expert_P)
        _, order_P = g.op("TopK", expert_P, pairs_1, axis_i=0, largest_i=0, sorted_i=1, outputs=2)
        is_PN = g.op("Equal", g.op("Unsqueeze", expert_P, constant([1])), constant(list(range(number))))
        counts_N = g.op("ReduceSum", g.op("Cast", is_PN, to_i=7), constant([0]), keepdims_i=0)
        # Only indices are split: each expert then gathers its own rows, so no row is copied twice.
        rows = g.op("Split", g.op("Div", order_P, constant(top_k)), counts_N, axis_i=0, outputs=number)
        answers = []
        for expert, row in enumerate(rows):
            w_in, b_in, w_out, b_out = parts[4 * expert : 4 * expert + 4]
            hidden = g.op("Gemm", g.op("Gather", x_TD, row, axis_i=0), w_in, b_in)
            hidden = g.op("Mul", hidden, g.op("Sigmoid", hidden))
            answers.append(g.op("Gemm", hidden, w_out, b_out))
        y_PD = g.op("Concat", *answers, axis_i=0)
        pairs = g.op("Squeeze", pairs_1, constant([0]))
        place_P = g.op("ScatterElements", order_P, order_P, g.op("Range", constant(0), pairs, constant(1)), axis_i=0)
        place_TK = g.op("Reshape", place_P, constant([-1, top_k]))
        y_TKD = g.op("Gather", y_PD, place_TK, axis_i=0)
        y_TKD.setType(x_TD.type().with_sizes([None, top_k, x_TD.type().sizes()[-1] if x_TD.type().sizes() else None]))
        return y_TKD


def _turned(weight: Tensor) -> nn.Parameter:
    """Return inputs before outputs, as a graph's products have it: the quantiser would otherwise turn it itself."""
    return _frozen(weight.t().contiguous())


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)

"""3M's embedding network from a model that was trained before it.

    train.init_embedding_from ──Origin of a dense model──> encoder ──> embedding_network      CTC head ──> embedding_ctc

The dense model has as many blocks as the network, and the same widths. You et al. 2022, section 4.1: "pretrained with
CTC objective before used for MoE training".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from model_training.config import MoESettings, SpeakerHeadSettings
from model_training.model.speech_model import SpeechModel
from model_training.weights.origin import Origin
from model_training.weights.transfer import Report, transfer
from operators.errors import UserError

PARTS = {"encoder.": "embedding_network.", "ctc.": "embedding_ctc."}
"""Beginnings of names there and here."""


def give_embedding(model: SpeechModel, tokens: Sequence[str], origin: Origin) -> Report:
    """Give the model's embedding network and its CTC head the encoder and CTC head of a dense model.

    Rows of the vocabulary are matched by their text, as `transfer` does.

    Raises:
        UserError: the model there has experts, other sizes, or lacks a tensor.
    """
    assert model.embedding_network is not None, "a model without an embedding network"
    layers = model.settings.moe.embedding_layers
    if any(".tiers." in name for name in origin.tensors):
        raise UserError(f"train.init_from={origin.name}: it has experts: give a dense model, model.moe.ffn=none")
    theirs = origin.sizes.get("encoder_layers", layers)
    if theirs != layers:
        raise UserError(
            f"train.init_from={origin.name}: it has {theirs} blocks: set model.moe.embedding_layers={theirs}"
        )
    dense = SpeechModel(
        replace(
            model.settings,
            encoder_layers=layers,
            decoder_layers=origin.sizes.get("decoder_layers", 1),
            reverse_layers=0,
            extra_decoders=0,
            moe=MoESettings(ffn="none"),
            speaker_head=SpeakerHeadSettings(),
        ),
        len(tokens),
    )
    made = transfer(dense, tokens, origin, noise=0.0, seed=0)
    state = {_here(name): tensor for name, tensor in dense.state_dict().items() if _here(name)}
    model.load_state_dict({**model.state_dict(), **state})
    return Report(
        origin=origin.place,
        part="embedding network ",
        taken=[_here(name) for name in made.taken if _here(name)],
        parameters=sum(state[_here(name)].numel() for name in made.taken if _here(name)),
        grown=made.grown,
        fresh=[_here(name) for name in made.fresh if _here(name)],
        left=sorted({*made.left, *(name for name in made.taken if not _here(name))}),
        notes=made.notes,
    )


def _here(name: str) -> str:
    """Return the name of a tensor in our embedding network; "" where it has no place there."""
    return next((ours + name.removeprefix(start) for start, ours in PARTS.items() if name.startswith(start)), "")

"""The elastic model cut over the workers: each keeps a part of every weight, gradient and moment (FSDP2).

    SpeechModel ──shard──> the same, its parameters DTensors    a block is gathered when its turn comes, there and back
    gradients: summed over the workers on the way back, each keeping its part
    whole(tensor) <── checkpoints, norms ──> alike(tensor, parameter)

A checkpoint holds whole tensors, so that any number of workers goes on from it, sharded or not. What a step draws is a
function of the step, so all workers leave out the same experts; where each micro-batch draws for itself, experts that
one leaves out get a gradient of zero, as other workers may have one to send. A worker without clips passes idly to keep
up with the others.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from model_training.model.conformer import Block
from model_training.model.decoder import Decoder
from model_training.model.experts import Experts
from model_training.model.moe import ElasticMoE
from model_training.model.speech_model import SpeechModel
from model_training.training.workers import Workers


def shard(model: SpeechModel, device: torch.device, workers: Workers) -> None:
    """Cut a model's parameters over the workers, in place. Its forward pass must be called through the module."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    mesh = init_device_mesh(device.type, (workers.size,))
    for module in list(model.modules()):
        if isinstance(module, Block | Decoder):
            fully_shard(module, mesh=mesh)
        if isinstance(module, Experts):
            module.keeps_cast = False
        if isinstance(module, ElasticMoE):
            module.touches_all = module.settings.sampling == "micro_batch"
    fully_shard(cast(nn.Module, model), mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # Sums, as between workers that hold everything: the loop divides by the clips. gloo knows no mean.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def is_sharded(tensor: Tensor) -> bool:
    """Say whether a worker holds only a part of the tensor."""
    return hasattr(tensor, "device_mesh")  # torch's DTensor, which takes a second to import


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor. Where it is sharded all workers must ask for it."""
    return cast(Any, tensor).full_tensor() if is_sharded(tensor) else tensor


def alike(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a whole tensor on the device of another, and this worker's part of it where the other is sharded."""
    tensor = tensor.to(other.device)
    if not is_sharded(other):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    place = cast(Any, other)
    return distribute_tensor(tensor, place.device_mesh, place.placements, src_data_rank=None)

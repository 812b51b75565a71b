"""The workers of one training: which of them this process is, and sums over all of them.

Started by torchrun (or anything that sets RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT); without these there is one.

Gradients are summed here in a few flat buckets after the last micro-batch, not by DistributedDataParallel's hooks:
which parameters take part changes with the size that the step draws, some worker may have nothing in its batch, and a
micro-batch may be empty. Every worker sums the same list, so nobody can wait for a hook that never fires.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from operators.errors import UserError

BUCKET_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Workers:
    """A Workers is this process's place among the workers. A context: leaving it leaves the others, whatever
    happened.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def join(cls, device: torch.device) -> Workers:
        """Return the workers that the environment names, joined.

        Raises:
            UserError: the others cannot be reached.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"cannot join the other workers: {error} (start with torchrun, which sets RANK and MASTER_ADDR)"
            ) from None
        return cls(dist.get_rank(), dist.get_world_size())

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Say whether this worker logs, evaluates and writes checkpoints."""
        return self.rank == 0

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all workers, in place."""
        if self.size == 1:
            return
        waiting = []
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            waiting.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in waiting:
            work.wait()
            for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket])):
                tensor.copy_(part.view_as(tensor))

    def any_of(self, mine: Sequence[bool], device: torch.device) -> list[bool]:
        """Return for each place whether it is true on any worker: clocks differ, and signals reach one or all."""
        if self.size == 1:
            return list(mine)
        flags = torch.tensor([float(one) for one in mine], device=device)
        self.sum([flags])
        return [one > 0 for one in flags.tolist()]

    def same(self, mine: int, device: torch.device) -> bool:
        """Return true on every worker when all gave the same number."""
        numbers = torch.zeros(self.size, dtype=torch.float64, device=device)
        numbers[self.rank] = mine
        self.sum([numbers])
        return bool((numbers == numbers[0]).all())

    def barrier(self) -> None:
        """Wait until every worker is here."""
        if self.size > 1:
            dist.barrier()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.nbytes > BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket

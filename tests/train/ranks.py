"""One of two processes that train together, apart from what is slow to import."""

import datetime

import torch
from torch import nn

from holdfast.train import KnowledgePenalty

ROWS = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(10) % 2


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2))


def on_rank(rank, address):
    """Return value and gradients on half of the rows, averaged as DDP does."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{address}", rank=rank, world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )  # fmt: skip
    model = nn.parallel.DistributedDataParallel(small())
    penalty = KnowledgePenalty(model.module, ["1"], weight=1.0)
    mine = slice(5 * rank, 5 * rank + 5)
    value = penalty(model(ROWS[mine]), LABELS[mine])
    value.backward()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    return value.item(), [p.grad.tolist() for p in model.parameters()]


def send_from_rank(rank, address, queue):
    torch.set_num_threads(1)
    queue.put(on_rank(rank, address))

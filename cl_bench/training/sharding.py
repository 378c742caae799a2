"""Weights that are split over processes by torch's FSDP2 (`fully_shard`), and what is whole again.

Matrices are split by rows (their first dimension), each decoder layer a unit whose weights are
gathered for its forward and backward pass alone; vectors stay whole in every process. Gradients do
not come from FSDP: a layer's compact gradient is summed over the processes as soon as it is there,
each of which keeps what belongs to its own rows (`held.py`).

Every process must go through the same passes in the same order. One with fewer micro-batches than
others repeats one that counts nothing (`idle.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from cl_bench.errors import RunError
from cl_bench.models.layouts import is_conv1d
from cl_bench.training.last_mlp import try_last_mlp


def unsplittable(model: nn.Module) -> list[str]:
    """Matrices of layers that only a whole gradient trains (experts, convolutions): not split."""
    known = {
        id(parameter)
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
        if is_conv1d(module) or type(module).forward in (nn.Linear.forward, nn.Embedding.forward)
    }
    return [n for n, p in model.named_parameters() if p.dim() > 1 and id(p) not in known]


def shard_model(
    model: Any,
    device: torch.device,
    world: int,
    main_memory: bool = False,
    fill: Callable[[], None] = lambda: None,
) -> None:
    """Split the weights of `model`, a whole one on any device, over `world` processes.

    Afterwards its matrices are `DTensor`s on `device`, rows of which each process holds. With
    `main_memory` the rows are there, and `device` has a layer only while it is computed; vectors
    stay on `device`. Of a model on the meta device `fill` gives the weights, when it is split.
    """
    mesh = init_device_mesh(device.type, (world,))
    policy = CPUOffloadPolicy(pin_memory=device.type != "cpu") if main_memory else OffloadPolicy()
    kept = {parameter for parameter in model.parameters() if parameter.dim() < 2}
    for layer in (units := _units(model)):
        fully_shard(layer, mesh=mesh, ignored_params=kept, offload_policy=policy)
    fully_shard(
        model, mesh=mesh, ignored_params=kept, reshard_after_forward=True, offload_policy=policy
    )
    _made_real(model, device, torch.device("cpu") if main_memory else device)
    fill()
    for layer in units[-1:]:
        layer.unshard()
        try_last_mlp(model)
        layer.reshard()


def _made_real(model: Any, device: torch.device, rows: torch.device) -> None:
    """Vectors and buffers on `device`, and memory for weights that have none yet."""

    def real(tensor: Tensor) -> Tensor:
        place = rows if isinstance(tensor, DTensor) else device
        return torch.empty_like(tensor, device=place) if tensor.is_meta else tensor.to(place)

    model._apply(real)


@contextmanager
def connected(device: torch.device) -> Iterator[None]:
    """While open one process alone, which no launcher connected, is a group: FSDP2 asks for one."""
    if dist.is_initialized():
        yield
        return
    backend = dist.get_default_backend_for_device(device)
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _units(model: Any) -> list[Any]:
    """The layers that transformers says are not to be torn apart."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are split over processes."""
    return any(is_split(parameter) for parameter in model.parameters())


def is_split(tensor: Tensor) -> bool:
    """Whether each process holds some rows of it."""
    return isinstance(tensor, DTensor)


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds: of a split tensor its rows, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered where it is split: every process must ask."""
    return on_mesh(tensor).full_tensor() if isinstance(tensor, DTensor) else tensor


def on_mesh(tensor: DTensor) -> DTensor:
    """The same on the device that computes, where the rows may be in main memory."""
    local, mesh = tensor.to_local(), tensor.device_mesh
    if local.device.type == mesh.device_type:
        return tensor
    return DTensor.from_local(
        local.to(mesh.device_type),
        mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )


def computes_on(tensor: Tensor) -> torch.device:
    """The device of a tensor; of split rows, which may be in main memory, the one that computes."""
    if isinstance(tensor, DTensor):
        return torch.device(tensor.device_mesh.device_type)
    return tensor.device


def copied(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on `device`; of a split tensor on the device that computes, split as it is."""
    if isinstance(tensor, DTensor):
        return joined(tensor.to_local().detach().clone(), tensor)
    return tensor.detach().to(device, copy=True)


def parts_of(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """What this process holds of each."""
    return (own_part(tensor) for tensor in tensors)


def rows_of(count: int, rank: int, world: int) -> tuple[int, int]:
    """First and last + 1 of the rows out of `count` that a process holds, as FSDP2 splits them."""
    size = -(-count // world)
    return min(rank * size, count), min((rank + 1) * size, count)


def own_rows(tensor: Tensor) -> tuple[int, int]:
    """First and last + 1 of a split tensor's rows that are here."""
    assert isinstance(tensor, DTensor)
    mesh = tensor.device_mesh
    return rows_of(len(tensor), mesh.get_local_rank(), mesh.size())


def split_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in every process, split as `like` is, whose shape it has."""
    if not isinstance(like, DTensor) or isinstance(tensor, DTensor):
        return tensor
    start, stop = own_rows(like)
    return joined(tensor[start:stop].to(computes_on(like), copy=True), like)


def joined(local: Tensor, like: Tensor) -> DTensor:
    """The split tensor of which each process gives its rows, on the device that computes."""
    assert isinstance(like, DTensor)
    stride = torch.empty(like.shape, device="meta").stride()
    return DTensor.from_local(
        local, like.device_mesh, [Shard(0)], run_check=False, shape=like.shape, stride=stride
    )


def group_of(tensor: Tensor) -> ProcessGroup:
    """The processes that a tensor is split over."""
    assert isinstance(tensor, DTensor)
    return tensor.device_mesh.get_group()


def refuse_own_gradients(model: nn.Module) -> None:
    """Raises RunError where a model reads a split weight outside of its layer."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, DTensor) and parameter.grad is not None:
            raise RunError(
                f"{name}: the model multiplies by this weight outside of its layer, so that its "
                "gradient is not known when it is split over processes: give shard: false"
            )


def state_of_first(model: nn.Module, first: bool) -> dict[str, Tensor] | None:
    """All weights on the CPU, one after the other, in the first process; None in the others.

    All must ask.
    """
    found: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        gathered = whole(value)
        if first:
            found[name] = gathered.detach().to("cpu", copy=gathered.device.type == "cpu")
    return found if first else None

"""Linear and embedding layers whose backward pass computes only the selected part of dW.

For y = x W' with x [T, Din], output gradient G [T, Dout] and selected rows r, the gradient of the
rows alone is `dR = G[:, r]' X`: at 30 % rows 30 % of the products of dW = G' X. Columns likewise.
Elements need dW, but of one layer at a time: it is gathered inside backward and freed.

The compact master is an autograd leaf beside the frozen weight. Outside torch.compile the product
is accumulated into the leaf's gradient buffer (`sink`) by the matrix product itself, which saves
writing and adding a temporary; compiled code returns the gradient to autograd instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from cl_bench.training.cpu import matmul
from cl_bench.training.selected import gather


class SelectiveLinear(Function):
    """`x W' + b`; gradients of x, b and of the compact master instead of W's."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        master: Tensor | None,
        sink: Tensor | None,
        index: Tensor | None,
        part: str,
        turned: bool = False,
    ) -> Tensor:
        """x [..., Din], weight [Dout, Din], bias [Dout]; master compact, None when frozen.

        `sink`: gradient buffer of the master's shape that backward adds to; None returns it.
        `turned`: the parameter is [Din, Dout], as GPT-2's Conv1D has it, and so are master, sink,
        `part` and `index`; `weight` is its transpose.
        """
        ctx.save_for_backward(x, weight, index)
        ctx.part, ctx.sink, ctx.turned = part, sink, turned
        ctx.master_dtype = None if master is None else master.dtype
        return matmul.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of (x, -, bias, master, -, -, -, -)."""
        x, weight, index = ctx.saved_tensors
        need_x, _, need_bias, need_master = ctx.needs_input_grad[:4]
        g = grad.reshape(-1, weight.shape[0])
        rows = x.reshape(-1, weight.shape[1])
        active = None if ctx.sink is None else active_tokens(g)
        if active is not None:
            g, rows = g[active], rows[active]
        g = matmul.widen(g)
        dx = dbias = dmaster = None
        if need_x:
            dx = matmul.input_gradient(g, weight).to(x.dtype)
            if active is not None:
                dx = dx.new_zeros((grad.numel() // weight.shape[0], dx.shape[1])).index_copy_(
                    0, active, dx
                )
            dx = dx.view(x.shape)
        if need_bias:
            dbias = g.sum(0).to(weight.dtype)
        if need_master:
            dmaster = _master_gradient(ctx, g, rows, index)
        return dx, None, dbias, dmaster, None, None, None, None


def active_tokens(g: Tensor) -> Tensor | None:
    """Positions [n] of the rows of g [T, D] that are not all zero; None where most are not.

    Padding and, in the last layer, everything but answer positions has no gradient: the products
    leave them out, exactly. Only on the CPU, where looking costs no synchronisation.
    """
    if g.device.type != "cpu" or int((g[:, 0] == 0).sum()) * 8 < len(g):
        return None
    keep = (g != 0).any(1).nonzero().squeeze(1)
    return keep if len(keep) * 8 < 7 * len(g) else None


def _master_gradient(ctx: Any, g: Tensor, x: Tensor, index: Tensor | None) -> Tensor | None:
    """The selected part of `G' X`: g [T, Dout], x [T, Din]; into the sink or returned."""
    part, sink = ctx.part, ctx.sink
    if part in ("rows", "columns"):
        if (part == "rows") != ctx.turned:
            g = _take_columns(g, _given(index))
        else:
            x = _take_columns(x, _given(index))
    x = matmul.widen(x)
    if ctx.turned:  # the gradient of a [Din, Dout] parameter is X' G
        g, x = x, g
    if sink is not None and part != "elements" and x.dtype == sink.dtype:
        sink.addmm_(g.t(), x)
        return None
    product = g.t() @ x
    if part == "elements":
        product = gather(product, part, index)
    if sink is not None:
        sink.add_(product)
        return None
    return product.to(ctx.master_dtype)


class SelectiveEmbedding(Function):
    """`W[ids]`; the gradient of the compact master instead of W's."""

    @staticmethod
    def forward(
        ctx: Any,
        ids: Tensor,
        weight: Tensor,
        master: Tensor,
        sink: Tensor | None,
        index: Tensor | None,
        part: str,
        padding: int | None,
    ) -> Tensor:
        """ids int [...], weight [V, D] -> [..., D]. `padding`: the id that takes no gradient."""
        ctx.save_for_backward(ids, index)
        ctx.part, ctx.padding, ctx.sink = part, padding, sink
        ctx.weight_shape, ctx.master = weight.shape, (master.shape, master.dtype)
        return torch.nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of (-, -, master, -, -, -, -)."""
        ids, index = ctx.saved_tensors
        shape, dtype = ctx.master
        ids = ids.reshape(-1)
        g = grad.reshape(len(ids), -1).to(dtype)
        if ctx.padding is not None:
            g = g * (ids != ctx.padding).unsqueeze(1)
        if ctx.part == "rows":
            place = torch.searchsorted(_given(index), ids).clamp_(max=shape[0] - 1)
            g = g * (_given(index)[place] == ids).unsqueeze(1)
            ids = place
        elif ctx.part == "columns":
            g = _take_columns(g, _given(index))
        sink, out = ctx.sink, None
        if ctx.part == "elements":
            out = torch.zeros(ctx.weight_shape, dtype=dtype, device=g.device)
            out = gather(out.index_add_(0, ids, g), "elements", index)
        elif sink is None:
            out = torch.zeros(shape, dtype=dtype, device=g.device).index_add_(0, ids, g)
        else:
            sink.index_add_(0, ids, g)
        if sink is not None and out is not None:
            sink.add_(out)
            out = None
        return None, None, out, None, None, None, None


def _take_columns(tensor: Tensor, index: Tensor) -> Tensor:
    """`tensor[:, index]`, contiguous. On CPUs gather is 3 to 5 times faster than index_select."""
    return tensor.gather(1, index.expand(len(tensor), -1))


def _given(index: Tensor | None) -> Tensor:
    if index is None:
        raise ValueError("rows and columns need an index")
    return index

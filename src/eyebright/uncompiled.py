"""Parts of torch that load its compiler for nothing, without that.

The first optimizer that is made, and the first step of each kind, load ``torch._dynamo``, only to
tell it that they are not to be compiled; so does drawing weights that take no memory. Nothing here
is compiled, and that takes longer than to load torch itself (`bench/notes.md`). (AdamW stays as it
is: where it is used, for timm's nets, torchvision has loaded all that before.)
"""

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DRAWS = ("normal_", "uniform_", "kaiming_uniform_")  # by which our layers get their first weights


class Undrawn(TorchFunctionMode):
    """While this is on, layers are made without drawing their weights, for the device "meta"."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """What a function of torch gives; the weights as they are, where it would draw them."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", None) in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class Uncompiled(torch.optim.Optimizer):
    """The methods of every optimizer, as torch wrote them before it wrapped them."""

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)


class SGD(Uncompiled, torch.optim.SGD):
    """Stochastic gradient descent with momentum (Sutskever et al. 2013)."""

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class Adam(Uncompiled, torch.optim.Adam):
    """Adam (Kingma and Ba 2015)."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))

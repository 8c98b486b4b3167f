"""torch's optimizers, without what they load to keep its compiler away.

The first optimizer that is made, and the first step of each kind, load ``torch._dynamo``, only to
tell it that they are not to be compiled. Nothing here is, and that takes longer than to load torch
itself (`bench/notes.md`). These are the same optimizers, without that. (AdamW stays as it is: where
it is used, for timm's nets, torchvision has loaded all that before.)
"""

from inspect import unwrap

import torch


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

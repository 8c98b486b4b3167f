"""What a class's logit owes to each place of a layer, or to each pixel: what `explain` draws.

Layers are found by what they give, not by their names: features (batch, channels, height, width)
that the class depends on, or the tokens of a transformer laid out as such.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

STEPS, AT_ONCE = 32, 8  # of integrated gradients; pictures that go through the net together
BLUR = 1 / 24  # of the side: what integrated gradients say of single pixels is noise


class Laid(nn.Module):
    """A layer of tokens whose grid also goes through a layer of its own, as (batch, C, H, W)."""

    def __init__(self, layer: nn.Module, prefix: int):
        super().__init__()
        self.layer, self.prefix, self.grid = layer, prefix, nn.Identity()

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """What the layer gives."""
        out: Tensor = self.layer(*inputs, **named)
        if out.ndim == 4:  # (batch, H, W, C), as Swin has it
            laid: Tensor = self.grid(out.permute(0, 3, 1, 2))
            return laid.permute(0, 2, 3, 1)
        first, rest = out[:, : self.prefix], out[:, self.prefix :]
        side = math.isqrt(rest.shape[1])
        grid = rest.transpose(1, 2).unflatten(2, (side, side))
        return torch.cat((first, self.grid(grid).flatten(2).transpose(1, 2)), 1)


def find_layer(net: nn.Module, x: Tensor, target: int, least: int) -> nn.Module | None:
    """The last layer with features side by side that the class depends on.

    So it is never the last block of a transformer that reads its class token alone.

    Args:
        net: its layers of tokens get a grid (`Laid`).
        x: normalised pictures.
        target: the class.
        least: places a side that it should have; without any such layer, the one with most.
    """
    grids = _lay_tokens(net, x)
    modules: dict[str, nn.Module] = {name: m for name, m in net.named_modules() if name}
    # Of a transformer only the grids are looked at: its attention is square too.
    seen, total = _outputs(net, [f"{name}.grid" for name in grids] or list(modules), x, target)
    laid = {name: out for name, out in seen.items() if _is_map(out, 2, 3) and out.requires_grad}
    if not laid:
        return None
    gradients = torch.autograd.grad(total, list(laid.values()), allow_unused=True)
    pairs = zip(laid, gradients, strict=True)
    sides = {name: g.shape[2] for name, g in pairs if g is not None and g.any()}
    if not sides:
        return None
    enough = min(least, max(sides.values()))
    last: str = [name for name, side in sides.items() if side >= enough][-1]
    return modules[last]


def _outputs(
    net: nn.Module, names: list[str], x: Tensor, target: int
) -> tuple[dict[str, Tensor], Tensor]:
    """What layers give for pictures, in the order of their last call, and the class's logits."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            seen.pop(name, None)
            if isinstance(output, Tensor) and len(output) == len(x):
                seen[name] = output

        return hook

    modules = dict(net.named_modules())
    handles = [modules[name].register_forward_hook(watch(name)) for name in names]
    try:
        total = net(x.detach().requires_grad_())[:, target].sum()
    finally:
        for handle in handles:
            handle.remove()
    return seen, total


def _is_map(out: Tensor, height: int, width: int) -> bool:
    """Whether it has these axes and they are as long as each other: pictures are square."""
    return out.ndim == 4 and out.shape[height] == out.shape[width] > 1


def _lay_tokens(net: nn.Module, x: Tensor) -> list[str]:
    """Give a grid to each layer of tokens that timm's ``feature_info`` names."""
    info = getattr(net, "feature_info", None)
    modules = dict(net.named_modules())
    known = [one["module"] for one in info] if isinstance(info, list) else []
    with torch.no_grad():
        seen, _ = _outputs(net, [name for name in known if name in modules], x, 0)
    found = []
    for name, out in seen.items():
        prefix = 0
        if out.ndim == 3:  # (batch, tokens, C): some nets have class tokens before the others
            counts = (int(getattr(net, "num_prefix_tokens", 0)), 0)
            fits = [n for n in counts if math.isqrt(out.shape[1] - n) ** 2 == out.shape[1] - n > 1]
            if not fits:
                continue
            prefix = fits[0]
        elif _is_map(out, 2, 3) or not _is_map(out, 1, 2):
            continue
        net.set_submodule(name, Laid(modules[name], prefix))
        found.append(name)
    return found


def layer_map(net: nn.Module, layer: nn.Module, x: Tensor, target: int, method: str) -> Tensor:
    """Contribution of each place of a layer, (height, width), those against the class below 0."""
    from captum.attr import LayerGradCam, LayerGradientXActivation

    how = LayerGradCam if method == "grad-cam" else LayerGradientXActivation
    maps = how(net, layer).attribute(x.detach().requires_grad_(), target).detach().sum(1)
    return _as_one(maps)


def integrated_gradients(net: nn.Module, x: Tensor, target: int) -> Tensor:
    """Contribution of each pixel, (height, width); zero is the average colour."""
    from captum.attr import IntegratedGradients

    found = [
        IntegratedGradients(net)
        .attribute(
            side[None].requires_grad_(), target=target, n_steps=STEPS, internal_batch_size=AT_ONCE
        )
        .detach()
        .sum(1)
        for side in x.detach()
    ]
    return _as_one(torch.cat(found))


def _as_one(maps: Tensor) -> Tensor:
    """The map of a picture and, where there is one, of its mirror image, laid upon each other."""
    return maps[0] if len(maps) == 1 else (maps[0] + maps[1].flip(1)) / 2


def blurred(pixels: Tensor) -> Tensor:
    """A map (height, width) without the noise of single pixels."""
    from scipy.ndimage import gaussian_filter

    values = gaussian_filter(pixels.double().cpu().numpy(), BLUR * pixels.shape[0])
    return torch.from_numpy(values).to(pixels.device, pixels.dtype)

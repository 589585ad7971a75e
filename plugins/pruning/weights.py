"""The pruned model as weights: the components' constants written into the layers themselves, where that is possible.

Every way is tried and then checked: the model with new weights must give what the model with the hook gives.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from glasshouse.plugins.encoders.hooked import HookedEncoder
from glasshouse.plugins.pruning.hook import Pruning
from glasshouse.schema.errors import UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

CLOSE = 1e-3
"""Largest difference of a logit between the two models on noise, relative to what the pruning changes at most."""
ROUNDING = 1e-6
"""Likewise, relative to the largest logit."""


def pruned_state_dict(encoder: HookedEncoder, pruning: Pruning) -> dict[str, torch.Tensor]:
    """Return the state dict of the encoder's model with the components switched off.

    Behind a normalisation (and a ReLU, for values ≥ 0) the component's scale becomes 0 and its shift the value; a
    convolution or linear layer likewise by its row and bias; of a neuron that a linear layer reads, its column becomes
    0 and the layer's bias takes what it gave.

    Raises:
        UsageError: no layer of the model can hold it.
    """
    import torch  # late: it takes a second to import

    if pruning.sae != "neurons" or pruning.module is None:
        raise UsageError("Features of an SAE are no part of the model's weights. Write the hook instead: --hook FILE.")
    shape = (2, 3, *encoder.transform.output_size)
    batch_bchw = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(encoder.device)
    classify = encoder.tower.classify
    wanted_bc = encoder.forward_logits(batch_bchw, pruning.hook, pruning.edit())
    changed = (wanted_bc - encoder.forward_logits(batch_bchw)).abs().max()
    allowed = CLOSE * changed + ROUNDING * wanted_bc.abs().max()
    original = copy.deepcopy(encoder.tower.model.state_dict())
    try:
        for tensors in _candidates(encoder.tower.model, pruning):
            encoder.tower.model.load_state_dict({**original, **tensors})
            with torch.inference_mode():
                given_bc = classify(batch_bchw).float() if classify is not None else wanted_bc
            if (given_bc - wanted_bc).abs().max() <= allowed:
                return {name: tensor.cpu() for name, tensor in {**original, **tensors}.items()}
    finally:
        encoder.tower.model.load_state_dict(original)
    raise UsageError(
        f"No layer of {encoder.spec} can hold the components of '{pruning.hook}' as constants. Write the hook instead: "
        "--hook FILE."
    )


def _candidates(model: nn.Module, pruning: Pruning) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the tensors that would change, the layer nearest to the hook point first."""
    from torch import nn

    modules = dict(model.named_modules())
    module, path = modules[str(pruning.module)], str(pruning.module)
    if pruning.side == "input":
        if isinstance(module, nn.Linear) and module.bias is not None:
            yield _columns(path, module, pruning)
        return
    names = list(modules)
    for name in reversed(names[: names.index(path) + 1 + len(list(module.named_modules())) - 1]):
        layer = modules[name]
        if _fits(layer, pruning):
            yield _rows(name, layer, pruning)


def _fits(layer: nn.Module, pruning: Pruning) -> bool:
    from torch import nn

    if not isinstance(layer, nn.BatchNorm2d | nn.LayerNorm | nn.Conv2d | nn.Linear):
        return False
    weight, bias = layer.weight, layer.bias
    return weight is not None and bias is not None and len(bias) > max(pruning.components)


def _rows(path: str, layer: Any, pruning: Pruning) -> dict[str, torch.Tensor]:
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    weight[list(pruning.components)] = 0
    bias[list(pruning.components)] = bias.new_tensor(pruning.values)
    return {f"{path}.weight": weight, f"{path}.bias": bias}


def _columns(path: str, layer: Any, pruning: Pruning) -> dict[str, torch.Tensor]:
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    columns = list(pruning.components)
    bias += weight[:, columns] @ weight.new_tensor(pruning.values)
    weight[:, columns] = 0
    return {f"{path}.weight": weight, f"{path}.bias": bias}

"""What parts promise, checked where they are put together: an error names the class and the promise."""

from __future__ import annotations

from torch import Tensor, nn

from vlm_ablate.errors import ModelError
from vlm_ablate.models.architectures.base import Architecture
from vlm_ablate.models.connectors.base import Connector
from vlm_ablate.models.vision.base import VisionEncoder, VisionFeatures

_METHODS: dict[type[nn.Module], tuple[str, ...]] = {
    VisionEncoder: ("grid", "forward"),
    Connector: ("visual_tokens", "forward"),
    Architecture: ("connector_width", "placeholders", "embed"),
}


def check_methods(part: nn.Module, base: type[nn.Module]) -> None:
    """Raises ModelError where a part is not of its base class, or leaves a method out that its base only names."""
    name = type(part).__name__
    if not isinstance(part, base):
        raise ModelError(f"{name} is no {base.__name__}: a part's class inherits {base.__module__}.{base.__name__}")
    for method in _METHODS[base]:
        if getattr(type(part), method) is getattr(base, method):
            raise ModelError(
                f"{name} does not say `{method}`, which every {base.__name__} promises",
                hint=" ".join((getattr(base, method).__doc__ or "").split("\n\n")[0].split()) or None,
            )


def check_grid(vision: VisionEncoder, height: int, width: int) -> tuple[int, int]:
    """The (rows, columns) of patches that an encoder promises for views of that size.

    Raises:
        ModelError: they are no pair of positive numbers.
    """
    grid = vision.grid(height, width)
    whole = isinstance(grid, tuple) and len(grid) == 2 and all(isinstance(n, int) and n > 0 for n in grid)
    if not whole:
        name = type(vision).__name__
        raise ModelError(f"{name}.grid({height}, {width}) gives {grid!r}, not (rows, columns) of patches")
    return grid


def check_tokens(connector: Connector, grid: tuple[int, int]) -> int:
    """The visual tokens that a connector promises for a grid of patches.

    Raises:
        ModelError: they are no positive number.
    """
    tokens = connector.visual_tokens(grid)
    if not isinstance(tokens, int) or tokens <= 0:
        raise ModelError(f"{type(connector).__name__}.visual_tokens({grid}) gives {tokens!r}, not a number of tokens")
    return tokens


def check_features(vision: VisionEncoder, seen: VisionFeatures, pixels: Tensor) -> None:
    """Raises ModelError where an encoder's features are not those that its grid and width promise."""
    rows, columns = grid = vision.grid(*pixels.shape[-2:])
    promised = (len(pixels), rows * columns, vision.width)
    if tuple(seen.features.shape) != promised or tuple(seen.grid) != tuple(grid):
        given, size = (" x ".join(map(str, shape)) for shape in (seen.features.shape[1:], pixels.shape[-2:]))
        raise ModelError(
            f"{type(vision).__name__} gives {given} features with grid {tuple(seen.grid)} for a view of {size} px,"
            f" where its grid() promises {grid} patches of width {vision.width}"
        )


def check_gradient(connector: Connector, features: Tensor, states: Tensor) -> None:
    """Raises ModelError where nothing of a connector's output leads back to parameters that are to be trained."""
    if states.requires_grad:
        return
    if features.requires_grad or any(p.requires_grad for p in connector.parameters()):
        raise ModelError(
            f"{type(connector).__name__} gives visual tokens without a gradient, though it is to be trained",
            hint="compute them from the parameters with torch operations; no detach(), no torch.no_grad()",
        )

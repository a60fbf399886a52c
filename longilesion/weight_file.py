"""A network's weights in a safetensors file, in float16."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from longilesion.errors import BundleError


def halved_weights(network: nn.Module, path: Path) -> dict[str, Tensor]:
    """A network's state in float16; a tensor with several names is stored under the first.

    `save_model` would list the other names in the header, in an order that differs between runs. Raises BundleError,
    which names the file at `path`, for weights that are not finite in float16.
    """
    state = network.state_dict()
    names = [name for name, _ in chain(network.named_parameters(), network.named_buffers()) if name in state]
    halved = {
        name: state[name].half().contiguous() if state[name].is_floating_point() else state[name] for name in names
    }
    _check_finite(halved, path)
    return halved


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a file that everybody may read."""
    save_file(dict(tensors), path)
    # safetensors makes files readable for the owner only; a container runs as another user.
    path.chmod(0o644)


def check_weights(path: Path) -> None:
    """Raises ValueError where a safetensors file does not have the length that its header implies."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def load_weights(network: nn.Module, path: Path, *, settings_file: str) -> None:
    """Fills a network from a file beside the file of its settings, and sets it to evaluation.

    Raises BundleError for a file that is damaged, or has other tensors than the network.
    """
    try:
        # Layers with two names are stored once; `load_model` detects which names share a tensor.
        missing, unexpected = load_model(network, str(path), strict=False)
    except (SafetensorError, OSError) as error:
        raise BundleError(
            f"{path}: damaged or not a safetensors file ({error}); "
            f"expected the tensors of the network in {settings_file}"
        ) from error
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise BundleError(f"{path}: {reason}; expected the tensors of the network in {settings_file}") from error
    for odd in sorted({*missing, *unexpected}):
        found = "missing" if odd in missing else "unknown"
        raise BundleError(f"{path}: tensor {odd} is {found}; expected the tensors of the network in {settings_file}")
    _check_finite(network.state_dict(), path)
    network.eval()


class WithoutInitialisation(TorchFunctionMode):
    """Skips the random initialisation of new tensors, as a file's weights are loaded into them."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = kwargs or {}
        is_initialisation = getattr(func, "__module__", None) == nn.init.__name__
        return given["tensor"] if is_initialisation else func(*args, **given)


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise BundleError(f"{path}: tensor {name} has NaN or infinity; expected finite float16 numbers")

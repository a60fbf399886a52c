"""Prints how large and how fast the recipes' networks are: `python -m training.networks [RECIPES...] [--device cuda]`.

Each figure that takes a run is measured in a process of its own, with a batch of one VOI of noise.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
import tyro
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from longilesion.config import Device, ModelSettings
from longilesion.ensemble import find_device
from longilesion.markdown import markdown_table
from longilesion.networks import build_network
from longilesion.networks.interface import LesionNetwork, NetworkInput, NetworkOutput
from training.command import run_command
from training.recipe import read_recipe

_RECIPES = Path(__file__).parent / "recipes"

Pass: TypeAlias = Literal["inference", "inference in bfloat16", "training"]
PASSES: tuple[Pass, ...] = ("inference", "inference in bfloat16", "training")


@dataclass
class Arguments:
    """Command line."""

    recipes: tyro.conf.Positional[tuple[Path, ...]] = tuple(sorted(_RECIPES.glob("*.toml")))
    """All those of training/recipes if none is given."""
    device: Device = "auto"
    priors: int = 1
    """Time points before the follow-up, the baseline included; only iterative fusion sees more than one."""
    passes: tuple[Pass, ...] = PASSES
    """What to measure; none for parameters and FLOPs alone."""
    repeats: int = 3
    """Timed passes, after one that is not; the shortest counts. With 0, the first pass counts."""
    threads: int = 1
    """Of a CPU."""
    memory_gb: float = 16.0
    """A run on a CPU that needs more is ended, and its figures are missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A pass: its seconds, and the peak of the memory for network, input and features."""

    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What can be told of a network without running it; a multiplication with an addition is two FLOPs."""

    parameters: int
    flops: int


def count(settings: ModelSettings, *, priors: int = 1) -> Counted:
    """Counts parameters, and the FLOPs of convolutions and matrix products in a pass of inference."""
    counter = FlopCounterMode(display=False)
    # Tensors without values, so that a network of any size is counted at once; of the kernels of attention, the one
    # that is made of matrix products is counted on every device.
    with FakeTensorMode(), counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        network = build_network(settings).eval()
        network(noise(settings, priors=priors, device=torch.device("cpu")))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Counted(parameters=parameters, flops=counter.get_total_flops())


def noise(settings: ModelSettings, *, priors: int, device: torch.device) -> NetworkInput:
    """One VOI with noise in every channel, and that many time points before the follow-up."""
    encoding, shape = settings.encoding, settings.voi.shape_zyx
    followup, baseline = (
        torch.rand((1, encoding.width(channels), *shape), device=device)
        for channels in (encoding.followup_channels, encoding.baseline_channels)
    )
    earlier = priors - 1
    return NetworkInput(
        followup=followup,
        baseline=baseline,
        has_baseline=torch.full((1,), priors > 0, device=device),
        prior_mask=torch.rand_like(followup[:, :1]) if encoding.has_prior_mask else None,
        earlier=torch.rand((1, earlier, *baseline.shape[1:]), device=device) if earlier > 0 else None,
        has_earlier=torch.ones((1, earlier), dtype=torch.bool, device=device) if earlier > 0 else None,
    )


def measure(settings: ModelSettings, what: Pass, device: torch.device, *, priors: int, repeats: int) -> Measured:
    """Runs passes in this process; a pass of training is forward and backward, on a GPU in bfloat16."""
    before = _peak_bytes(device)
    network = build_network(settings).to(device)
    if device.type == "cpu":
        # As in inference.
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    batch = noise(settings, priors=priors, device=device)
    is_short = what == "inference in bfloat16" or (what == "training" and device.type == "cuda")
    seconds = []
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_short):
        for _ in range(repeats + 1):
            begun = time.perf_counter()
            _run(network, batch, what)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begun)
    return Measured(seconds=min(seconds[1:] or seconds), peak_bytes=_peak_bytes(device) - before)


def _run(network: LesionNetwork, batch: NetworkInput, what: Pass) -> None:
    network.train(what == "training")
    with nullcontext() if what == "training" else torch.inference_mode():
        output = network(batch)
    if what == "training":
        network.zero_grad()
        torch.autograd.backward(list(_sums(output)))


def _sums(output: NetworkOutput) -> Iterator[torch.Tensor]:
    """Something of every output, to be differentiated."""
    judged = () if output.presence_logit is None else (output.presence_logit,)
    for logits in (*output.lesion_logits, *(output.baseline_logits or ()), *judged):
        yield logits.float().mean()


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _begin(threads: int, memory_gb: float, device: torch.device) -> None:
    """Limits a process on a CPU, so that a network that is too large takes no memory of others."""
    torch.set_num_threads(threads)
    if device.type == "cpu":
        limit = round(memory_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _measured(arguments: Arguments, recipe: Path, what: Pass, device: torch.device) -> Measured | None:
    """In a process of its own, whose peak is that of nothing else; None where the memory does not suffice."""
    context = multiprocessing.get_context("spawn")
    limits = (arguments.threads, arguments.memory_gb, device)
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=limits) as pool:
        job = pool.submit(
            measure, read_recipe(recipe).model, what, device, priors=arguments.priors, repeats=arguments.repeats
        )
        try:
            return job.result()
        except (BrokenProcessPool, MemoryError, torch.OutOfMemoryError):
            return None
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            return None


def show(arguments: Arguments) -> None:
    """Prints a table in Markdown, with a line per recipe."""
    device = find_device(arguments.device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"a CPU with {arguments.threads} thread(s)"
    measured = [heading for what in arguments.passes for heading in (f"{what}, s", "GB")]
    headings = ("recipe", "network", "VOI", "parameters, M", "GFLOPs", *measured)
    lines = markdown_table(headings, list(_rows(arguments, device)), numbers_from=3)
    print(f"On {where}, a VOI with {arguments.priors} time point(s) before the follow-up:", *lines, sep="\n")


def _rows(arguments: Arguments, device: torch.device) -> Iterator[tuple[str, ...]]:
    for path in arguments.recipes:
        settings = read_recipe(path).model
        counted = count(settings, priors=arguments.priors)
        measured = [_measured(arguments, path, what, device) for what in arguments.passes]
        yield (
            path.stem,
            settings.network.kind,
            "x".join(map(str, settings.voi.shape_zyx)),
            f"{counted.parameters / 1e6:.2f}",
            f"{counted.flops / 1e9:,.3g}" if counted.flops < 1e12 else f"{counted.flops / 1e9:,.0f}",
            *(figure for each in measured for figure in _figures(each)),
        )


def _figures(measured: Measured | None) -> tuple[str, str]:
    return ("-", "-") if measured is None else (f"{measured.seconds:.3g}", f"{measured.peak_bytes / 1e9:.2f}")


def main() -> int:
    """Command line; 1 where a recipe cannot be used."""
    return run_command(show, Arguments, __doc__)


if __name__ == "__main__":
    sys.exit(main())

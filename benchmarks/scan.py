"""Measure the error of the scan over time against a float64 loop, and its speed against loops and torch.nn.

    python benchmarks/scan.py                     # about 3 minutes on 2 cores
    python benchmarks/scan.py --device cuda --dtype bfloat16 --frames 128 4096

Errors are the largest difference of states and of the gradients of all inputs, relative to the largest magnitude, for
retentions drawn from [0, 1] and [0.999, 1], and for retentions of 1. Both sides have the same rounded inputs.

Times are those of a forward pass on noise (B, T, D) and of a forward and backward pass. In every turn, each method runs
once; the result is the median over turns of the ratio to `torch.nn.GRU`. `loop` is the memory step by step, with the
code shared by all memories without a scan; the others are memories of `videomem.heads` as used by heads. The default is
one thread, since two threads on shared cores wait for each other and for other processes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from videomem.heads import GRU, LSTM, RNN, Gated, Leaky, Memory, MinGRU, MinLSTM, NoMemory, linear_scan
from videomem.heads.scan import linear_loop

ERROR_FRAMES = (1, 2, 3, 7, 16, 100, 512, 1024, 4096)
RETENTIONS: tuple[Callable[[Tensor], Tensor], ...] = (lambda u: u, lambda u: 1 - 1e-3 * u, torch.ones_like)
UNIT, SCAN, LOOP = "nn.GRU", "mingru", "mingru, loop"
MEMORIES: dict[str, Callable[..., Memory]] = {
    "none": NoMemory,
    "leaky": Leaky,
    "leaky learned": partial(Leaky, learned=True),
    SCAN: MinGRU,
    "minlstm": MinLSTM,
    "rnn": RNN,
    "gated": Gated,
    "gru": GRU,
    "lstm": LSTM,
}
Way = Callable[[Tensor, Tensor], Tensor]


def states_and_gradients(recurrence: Callable[..., Tensor], parts: list[Tensor], weights_BTH: Tensor) -> list[Tensor]:
    parts = [part.detach().requires_grad_() for part in parts]
    h_BTH = recurrence(*parts)
    gradients = torch.autograd.grad(h_BTH, parts, weights_BTH.to(h_BTH.dtype))
    return [h_BTH.detach().double(), *(gradient.double() for gradient in gradients)]


def errors(num_frames: int, dtype: torch.dtype, device: str) -> tuple[float, float]:
    """The largest errors of states and of gradients, relative to the largest magnitude."""
    generator = torch.Generator().manual_seed(0)
    B, H = 4, 16
    largest = [0.0, 0.0]
    for retention in RETENTIONS:
        keep_BTH = retention(torch.rand(B, num_frames, H, generator=generator))
        take_BTH, weights_BTH = torch.randn(2, B, num_frames, H, generator=generator)
        start_BH = torch.randn(B, H, generator=generator)
        parts = [part.to(device, dtype) for part in (keep_BTH, take_BTH, start_BH)]
        weights_BTH = weights_BTH.to(device, torch.bfloat16)
        answers = states_and_gradients(linear_scan, parts, weights_BTH)
        expected = states_and_gradients(linear_loop, [part.double() for part in parts], weights_BTH)
        relative = [float((a - e).abs().max() / e.abs().max()) for a, e in zip(answers, expected, strict=True)]
        largest = [max(largest[0], relative[0]), max(largest[1], *relative[1:])]
    return largest[0], largest[1]


def print_errors(device: str) -> None:
    print("T | float32, states | float32, gradients | bfloat16, states | bfloat16, gradients")
    print("|".join(["---"] * 5))
    for num_frames in ERROR_FRAMES:
        pairs = [errors(num_frames, dtype, device) for dtype in (torch.float32, torch.bfloat16)]
        print(" | ".join([str(num_frames), *(f"{error:.1e}" for pair in pairs for error in pair)]), flush=True)


def by_memory(memory: Memory, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    return memory(x_BTD, lengths_B)[0]


def by_loop(memory: Memory, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    return Memory.unroll(memory, memory.project(x_BTD), lengths_B)[0]


def by_torch(module: nn.GRU | nn.LSTM, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    return module(x_BTD)[0]


def ways(D: int, H: int, device: str, dtype: torch.dtype) -> dict[str, tuple[nn.Module, Way]]:
    """Each method: its name, its module, and a function from clips to states."""
    gru, lstm = nn.GRU(D, H, batch_first=True), nn.LSTM(D, H, batch_first=True)
    memories = {name: memory(D, H) for name, memory in MEMORIES.items()}
    found: dict[str, tuple[nn.Module, Way]] = {
        UNIT: (gru, partial(by_torch, gru)),
        "nn.LSTM": (lstm, partial(by_torch, lstm)),
    }
    found |= {name: (memory, partial(by_memory, memory)) for name, memory in memories.items()}
    found[LOOP] = (memories[SCAN], partial(by_loop, memories[SCAN]))
    for module, _ in found.values():
        module.to(device, dtype)
    return found


def forward(module: nn.Module, way: Way, x_BTD: Tensor, lengths_B: Tensor) -> None:
    with torch.no_grad():
        way(x_BTD, lengths_B)


def forward_and_backward(module: nn.Module, way: Way, x_BTD: Tensor, lengths_B: Tensor) -> None:
    torch.autograd.grad(way(x_BTD, lengths_B).sum(), list(module.parameters()))


def seconds(run: Callable[[], None], passes: int, device: str) -> float:
    """Mean time of a pass in seconds; synchronizes a GPU before reading the clock."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    for _ in range(passes):
        run()
    wait()
    return (time.perf_counter() - started) / passes


def measure(runs: Mapping[str, Callable[[], None]], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of each method in each turn. A turn has as many passes as take about 20 ms."""
    first = {name: seconds(run, 1, device) for name, run in runs.items()}  # Warms up as well.
    passes = {name: max(1, min(20, int(0.02 / took))) for name, took in first.items()}
    turns: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            turns[name].append(seconds(run, passes[name], device))
    return turns


def times(
    ways: Mapping[str, tuple[nn.Module, Way]], one_pass: Callable[..., None], x_BTD: Tensor, lengths_B: Tensor,
    repeats: int, device: str,
) -> dict[str, list[float]]:  # fmt: skip
    """Seconds of `forward` or `forward_and_backward` of each method in each turn."""
    runs = {name: partial(one_pass, module, way, x_BTD, lengths_B) for name, (module, way) in ways.items()}
    return measure(runs, repeats, device)


def ratio(turns: list[float], unit: list[float]) -> str:
    return f"{statistics.median(one / other for one, other in zip(turns, unit, strict=True)):.2f}"


def print_speed(given: argparse.Namespace, device: str, dtype: torch.dtype) -> None:
    found = ways(given.D, given.H, device, dtype)
    others = [name for name in found if name != UNIT]
    print(" | ".join(["T", "pass", f"{UNIT}, ms", *others, "loop / scan"]))
    print("|".join(["---"] * (len(others) + 4)))
    for num_frames in given.frames:
        x_BTD = torch.randn(given.B, num_frames, given.D, device=device, dtype=dtype)
        lengths_B = torch.full((given.B,), num_frames, device=device)
        repeats = given.repeats if num_frames <= 256 else (given.repeats + 1) // 2
        for name, one_pass in (("forward", forward), ("and backward", forward_and_backward)):
            turns = times(found, one_pass, x_BTD, lengths_B, repeats, device)
            cells = [str(num_frames), name, f"{1000 * statistics.median(turns[UNIT]):.1f}"]
            cells += [ratio(turns[other], turns[UNIT]) for other in others]
            print(" | ".join([*cells, ratio(turns[LOOP], turns[SCAN])]), flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--B", type=int, default=16, help="clips")
    options.add_argument("--D", type=int, default=64, help="features")
    options.add_argument("--H", type=int, default=64, help="hidden units")
    options.add_argument("--frames", type=int, nargs="+", default=[16, 128, 1024, 4096], help="T")
    options.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    options.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the timed passes")
    options.add_argument("--repeats", type=int, default=15, help="turns; half as many where T is above 256")
    options.add_argument("--threads", type=int, default=1, help="of torch on the CPU")
    given = options.parse_args()
    chosen = "cuda" if torch.cuda.is_available() else "cpu"
    device = chosen if given.device == "auto" else given.device
    torch.manual_seed(0)
    torch.set_num_threads(given.threads)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{given.threads} thread(s) on {os.cpu_count()} cores"
    print(f"{where}, torch {torch.__version__}\n\nlargest relative error of the scan against a float64 loop")
    print_errors(device)
    print(f"\ntimes as multiples of {UNIT}'s; {given.dtype}, B = {given.B}, D = {given.D}, H = {given.H}")
    print_speed(given, device, getattr(torch, given.dtype))


if __name__ == "__main__":
    main()

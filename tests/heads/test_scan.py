"""The scan and the memories that use it, compared with loops in float64."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import cache, partial

import pytest
import torch
from helpers.small_heads import steps
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from videomem.heads import Gated, Head, Leaky, Memory, MinGRU, MinLSTM, ParallelMemory, linear_scan
from videomem.heads.scan import linear_loop

B, D, H = 3, 5, 4
# Relative to the largest magnitude. In bfloat16 the only error is the rounding of the result, 2**-8.
SCAN_TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2**-8 + 3e-6}
# Three times the largest measured error. In bfloat16, products with weights before and after the scan are rounded.
MEMORY_TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 2.5e-2}
every_dtype = pytest.mark.parametrize("dtype", list(SCAN_TOLERANCE), ids=str)

RETENTIONS: dict[str, Callable[..., Tensor]] = {
    "any": lambda generator, *shape: torch.rand(shape, generator=generator),
    "near one": lambda generator, *shape: 1 - 1e-3 * torch.rand(shape, generator=generator),
    "a millionth less than one": lambda generator, *shape: torch.full(shape, 1 - 1e-6),
    "one": lambda generator, *shape: torch.ones(shape),
    "zero": lambda generator, *shape: torch.zeros(shape),
    "tiny": lambda generator, *shape: torch.full(shape, 1e-30),
    "zero or one": lambda generator, *shape: torch.rand(shape, generator=generator).round(),
}
MEMORIES: dict[str, Callable[[int], ParallelMemory]] = {
    "mingru": partial(MinGRU, hidden_dim=H),
    "minlstm": partial(MinLSTM, hidden_dim=H),
    "leaky": partial(Leaky, hidden_dim=H, alpha=1 - 2**-10),  # Rounds to 1 in bfloat16.
    "leaky learned": partial(Leaky, hidden_dim=H, alpha=0.9, learned=True),
    "leaky coupled": partial(Leaky, hidden_dim=H, alpha=0.75, coupled=True),
}
every_memory = pytest.mark.parametrize("name", MEMORIES)


def error(answers: list[Tensor], expected: list[Tensor]) -> float:
    """The largest relative error over pairs: the largest difference over the largest expected magnitude."""
    pairs = zip((part.detach() for part in answers), (part.detach() for part in expected), strict=True)
    return max(float((a - e).abs().max() / e.abs().max().clamp(min=1e-300)) for a, e in pairs)


def terms(frames: int, retention: str = "any", dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
    """Inputs of a scan: keep, add, start."""
    generator = torch.Generator().manual_seed(seed)
    keep = RETENTIONS[retention](generator, B, frames, H)
    take, start = (torch.randn(*shape, generator=generator) for shape in ((B, frames, H), (B, H)))
    return [part.to(dtype) for part in (keep, take, start)]


def states_and_gradients(recurrence: Callable[..., Tensor], parts: list[Tensor]) -> list[Tensor]:
    """States, then the gradients of keep, add and start, for a loss with random weights of states."""
    parts = [part.detach().requires_grad_() for part in parts]
    h = recurrence(*parts)
    weights = torch.randn(h.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(h.dtype)
    return [h, *torch.autograd.grad(h, parts, weights)]


# The scan compared with the loop.


@every_dtype
@pytest.mark.parametrize("retention", RETENTIONS)
@pytest.mark.parametrize("frames", [1, 2, 3, 7, 16, 100, 512, 1024, 4096])
def test_scan_is_the_loop(frames: int, retention: str, dtype: torch.dtype) -> None:
    parts = terms(frames, retention, dtype)
    expected = states_and_gradients(linear_loop, [part.double() for part in parts])
    answers = states_and_gradients(linear_scan, parts)
    assert all(part.dtype == dtype for part in answers)
    assert error(answers, expected) <= SCAN_TOLERANCE[dtype]


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 8, 9, 31])
def test_gradients_are_those_of_finite_differences(frames: int) -> None:
    parts = [part[:1, ..., :2].double().requires_grad_() for part in terms(frames)]
    assert torch.autograd.gradcheck(linear_scan, parts)


@given(cut=st.integers(1, 39), frames=st.integers(40, 80), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_two_halves_with_the_state_carried_are_the_whole(cut: int, frames: int, seed: int) -> None:
    keep, take, start = terms(frames, seed=seed)
    first = linear_scan(keep[:, :cut], take[:, :cut], start)
    second = linear_scan(keep[:, cut:], take[:, cut:], first[:, -1])
    assert error([torch.cat([first, second], 1)], [linear_scan(keep, take, start)]) <= 1e-6


@given(alpha=st.floats(0, 1 - 2**-10, width=32), frames=st.integers(1, 300), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_constant_retention_is_a_geometric_series(alpha: float, frames: int, seed: int) -> None:
    _, take, start = terms(frames, seed=seed)
    steady = take[:, :1].expand(-1, frames, -1)
    powers = alpha ** torch.arange(1, frames + 1, dtype=torch.float64)[None, :, None]
    expected = powers * start.double().unsqueeze(1) + (1 - powers) / (1 - alpha) * steady.double()
    assert error([linear_scan(torch.full_like(take, alpha), steady, start)], [expected]) <= 3e-6


@given(frames=st.integers(1, 300), seed=st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_a_retention_of_one_is_a_running_sum(frames: int, seed: int) -> None:
    keep, take, start = terms(frames, "one", seed=seed)
    expected = start.double().unsqueeze(1) + take.double().cumsum(1)
    assert error([linear_scan(keep, take, start)], [expected]) <= 1e-6


def test_a_retention_of_zero_leaves_what_is_taken_to_the_bit() -> None:
    keep, take, start = terms(100, "zero")
    assert torch.equal(linear_scan(keep, take, start), take)


@every_dtype
@pytest.mark.parametrize("retention", [1e-38, 1e-20, 1e-3, 0.5])
def test_products_that_underflow_are_zero_and_no_nan(retention: float, dtype: torch.dtype) -> None:
    keep, take, start = terms(4096, dtype=dtype)
    parts = [keep * retention, take * 1e30, start * 1e30]
    assert float(parts[0].double().prod(1).max()) == 0
    assert all(torch.isfinite(part).all() for part in states_and_gradients(linear_scan, parts))


def test_scan_takes_views_and_leaves_them_as_they_were() -> None:
    keep, take, start = terms(50)
    views = [keep[:, :1].expand_as(keep), take.transpose(1, 2).contiguous().transpose(1, 2), start[:1].expand_as(start)]
    before = [part.clone() for part in views]
    answers = states_and_gradients(linear_scan, views)
    assert all(torch.equal(part, old) for part, old in zip(views, before, strict=True))
    expected = states_and_gradients(linear_loop, [part.double() for part in before])
    assert error(answers, expected) <= SCAN_TOLERANCE[torch.float32]


# Memories compared with the generic loop of all memories.


def rounded(memory: Memory) -> Memory:
    """A memory whose weights are exact in bfloat16, so that one float64 reference is valid for both types."""
    return memory.bfloat16().float()


def clip(frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clips of different lengths with noise as padding, lengths, and a carried state, all exact in bfloat16."""
    generator = torch.Generator().manual_seed(2)
    x, state = torch.randn(B, frames, D, generator=generator), torch.randn(B, H, generator=generator)
    return x.bfloat16().float(), torch.tensor([frames, max(1, frames // 3), 1]), state.bfloat16().float()


def states_and_all_gradients(memory: Memory, frames: int, carried: bool, loop: bool = False) -> list[Tensor]:
    """States, the last state, and gradients of inputs and parameters, for a loss with random weights of states."""
    dtype = next(memory.parameters()).dtype
    x, lengths, state = clip(frames)
    inputs = [part.to(dtype).requires_grad_() for part in (x, state)[: 1 + carried]]
    unroll = partial(Memory.unroll, memory) if loop else memory.unroll
    h, last = unroll(memory.project(inputs[0]), lengths, tuple(inputs[1:]) or None)
    weights = torch.randn(h.shape, generator=torch.Generator().manual_seed(3)).bfloat16()
    loss = (h * weights.to(h)).double().sum() + last[-1].double().sum()
    return [h, last[-1], *torch.autograd.grad(loss, [*inputs, *memory.parameters()])]


@cache
def reference(name: str, frames: int, carried: bool) -> tuple[Memory, list[Tensor]]:
    torch.manual_seed(0)
    memory = rounded(MEMORIES[name](D))
    return memory, states_and_all_gradients(deepcopy(memory).double(), frames, carried, loop=True)


@every_memory
@every_dtype
@pytest.mark.parametrize(
    ("frames", "carried"), [(1, False), (1, True), (17, False), (17, True), (512, True), (4096, True)]
)
def test_memory_is_its_readable_loop(name: str, dtype: torch.dtype, frames: int, carried: bool) -> None:
    memory, expected = reference(name, frames, carried)
    answers = states_and_all_gradients(deepcopy(memory).to(dtype), frames, carried)
    assert answers[0].dtype == dtype
    assert answers[1].dtype == torch.float32, "the carried state is not rounded"
    assert error(answers, expected) <= MEMORY_TOLERANCE[dtype]


@every_memory
@every_dtype
def test_steps_are_the_scan(name: str, dtype: torch.dtype) -> None:
    memory = reference(name, 17, True)[0].to(dtype)
    x, _, start = (part.to(dtype) for part in clip(100))
    h, last = memory(x, torch.full((B,), 100), (start,))
    one_by_one, state = steps(memory, x, (start,))
    assert one_by_one.dtype == dtype
    assert error([one_by_one, state[0]], [h, last[0]]) <= SCAN_TOLERANCE[dtype]
    memory.float()


@every_memory
@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_head_in_bfloat16_steps_through_a_clip(name: str, num_layers: int) -> None:
    torch.manual_seed(0)
    head = Head(MEMORIES[name], D, 3, num_layers).bfloat16().eval()
    x = torch.randn(B, 20, D).bfloat16()
    logits = steps(head, x)[0][:, -1]
    assert logits.dtype == torch.bfloat16
    assert error([logits], [head(x, torch.full((B,), 20))]) <= 2e-2


# Properties.


def test_mingru_is_gated_without_its_recurrent() -> None:
    gated, mingru = Gated(D, H), MinGRU(D, H)
    nn.init.zeros_(gated.forget_recurrent.weight)
    mingru.input.load_state_dict(gated.input.state_dict())
    mingru.update_gate.load_state_dict({k: -v for k, v in gated.forget_input.state_dict().items()})
    x, lengths, state = clip(40)
    assert error([mingru(x, lengths, (state,))[0]], [gated(x, lengths, (state,))[0]]) <= 1e-6


@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 300))
@settings(max_examples=40, deadline=None)
def test_shares_of_minlstm_add_up_to_one(seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    logits = scale * torch.randn(B, 2 * H)
    keep, take, _ = MinLSTM(D, H).gates(torch.cat([torch.ones(B, H), logits], 1))
    assert keep is not None
    assert torch.allclose(keep + take, torch.ones(B, H), rtol=0, atol=1e-6)
    forget, new = torch.sigmoid(logits.double()).chunk(2, dim=1)
    assert torch.allclose(keep.double(), forget / (forget + new), rtol=0, atol=1e-4)


@every_dtype
@pytest.mark.parametrize("logit", [-1e4, -200.0, 200.0, 1e4])
def test_minlstm_halves_where_both_gates_saturate(logit: float, dtype: torch.dtype) -> None:
    projected = torch.full((B, 50, 3 * H), logit, dtype=dtype)
    projected[..., :H] = 1
    projected.requires_grad_()
    memory = MinLSTM(D, H)
    h, _ = memory.unroll(projected, torch.full((B,), 50))
    assert torch.allclose(h, 1 - 0.5 ** torch.arange(1, 51)[:, None].to(dtype).expand(50, H), atol=1e-2)
    (gradient,) = torch.autograd.grad(h.sum(), projected)
    assert torch.isfinite(gradient).all()


def retention(memory: ParallelMemory) -> Tensor:
    """Retention (H,) at zero input, before training."""
    keep = memory.gates(memory.project(torch.zeros(1, D))).keep
    assert keep is not None
    return keep[0].detach()


@pytest.mark.parametrize("memory", [MinGRU, MinLSTM])
@pytest.mark.parametrize("bias", [-2.0, 0.0, 1.0, 5.0])
def test_forget_bias_sets_what_is_kept_at_first(memory: type[MinGRU] | type[MinLSTM], bias: float) -> None:
    expected = torch.sigmoid(torch.full((H,), bias))
    assert torch.allclose(retention(memory(D, H, forget_bias=bias)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("memory", [MinGRU, MinLSTM])
def test_chrono_spreads_what_is_kept_at_first(memory: type[MinGRU] | type[MinLSTM]) -> None:
    torch.manual_seed(0)
    kept = retention(memory(D, 2000, forget_bias="chrono", max_time_frames=64))
    times = 1 / (1 - kept)  # sigmoid(log(u)) = 1 - 1 / (u + 1), with u uniform from 1 to 63.
    assert 1.99 <= times.min() < 3 and 63 < times.max() <= 64.01
    assert abs(times.mean() - 33) < 2


# Autocast, compilation and devices.


@every_memory
def test_autocast_scans_in_float32(name: str) -> None:
    memory, expected = reference(name, 512, True)
    with torch.autocast("cpu", torch.bfloat16):
        answers = states_and_all_gradients(memory, 512, True)
    assert answers[1].dtype == torch.float32
    assert error(answers, expected) <= MEMORY_TOLERANCE[torch.bfloat16]


class States(nn.Module):
    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        return self.memory(x_BTD, lengths_B)[0]


@pytest.mark.parametrize(
    "backend",
    ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)],  # inductor compiles C++ for half a minute.
)
def test_a_compiled_memory_is_one_graph_with_the_same_states_and_gradients(backend: str) -> None:
    if backend == "inductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("needs a C++ compiler")
    memory = MinGRU(D, H)
    compiled = torch.compile(States(memory), backend=backend, fullgraph=True)
    x, lengths, _ = clip(17)
    answers, expected = compiled(x, lengths), memory(x, lengths)[0]
    gradients = [torch.autograd.grad(h.square().sum(), list(memory.parameters())) for h in (answers, expected)]
    assert error([answers, *gradients[0]], [expected, *gradients[1]]) <= 1e-6


def test_memory_exports_for_one_number_of_frames() -> None:
    x, lengths, _ = clip(17)
    module = States(MinGRU(D, H)).eval()
    exported = torch.export.export(module, (x, lengths)).module()
    shorter = torch.tensor([5, 17, 2])
    assert error([exported(x, shorter)], [module(x, shorter)]) <= 1e-6


@pytest.mark.gpu
@every_dtype
@pytest.mark.parametrize("frames", [1, 17, 512, 4096])
def test_scan_on_the_gpu_is_the_loop(frames: int, dtype: torch.dtype) -> None:
    parts = terms(frames, "near one", dtype)
    expected = states_and_gradients(linear_loop, [part.double() for part in parts])
    keep, take, start = (part.cuda().requires_grad_() for part in parts)
    h = linear_scan(keep, take, start)
    weights = torch.randn(h.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    answers = [h, *torch.autograd.grad(h, [keep, take, start], weights.to(h))]
    assert error([part.cpu() for part in answers], expected) <= SCAN_TOLERANCE[dtype]


@pytest.mark.gpu
@every_memory
def test_memory_on_the_gpu_is_that_on_the_cpu(name: str) -> None:
    memory, _ = reference(name, 512, True)
    x, lengths, state = clip(512)
    expected = memory(x, lengths, (state,))
    answers = deepcopy(memory).cuda()(x.cuda(), lengths.cuda(), (state.cuda(),))
    assert error([answers[0].cpu(), answers[1][0].cpu()], [expected[0], expected[1][0]]) <= 1e-5

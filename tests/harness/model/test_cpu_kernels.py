"""A decoder's modules with their gradients written out: transformers' numbers, and those of finite differences."""

import copy
import subprocess
import sys

import pytest
import tiny
import torch
from torch.autograd import gradcheck
from transformers.activations import ACT2FN
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from harness.model import cpu_kernels

ROWS = 2 * cpu_kernels.MANY_ROWS


def llama_mlp(activation="silu"):
    config = copy.deepcopy(tiny.policy().model.config)
    config.hidden_act = activation
    return LlamaMLP(config)


MODULES = {
    "linear": lambda: torch.nn.Linear(32, 48),
    "linear without bias": lambda: torch.nn.Linear(32, 48, bias=False),
    "norm": lambda: LlamaRMSNorm(32, eps=1e-5),
    "gated silu": llama_mlp,
}


def with_gradients(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    return {"output": y.detach(), "input": x.grad, **{name: weight.grad for name, weight in module.named_parameters()}}


@pytest.mark.parametrize("rows", [3, ROWS])
@pytest.mark.parametrize("name", MODULES)
def test_outputs_and_gradients_are_the_modules_own(name, rows):
    torch.manual_seed(0)
    plain = MODULES[name]()
    for weight in plain.parameters():
        torch.nn.init.normal_(weight)
    faster = copy.deepcopy(plain)
    cpu_kernels.adopt(faster)
    x = torch.randn(1, rows, 32)
    expected, found = with_gradients(plain, x), with_gradients(faster, x)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()), msg=key)


@pytest.mark.parametrize("name", MODULES)
def test_gradients_are_those_of_finite_differences(name):
    torch.manual_seed(0)
    module = MODULES[name]().double()
    cpu_kernels.adopt(module)
    names, weights = zip(*module.named_parameters(), strict=True)

    def run(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), x)

    assert gradcheck(run, (torch.randn(2, 3, 32, dtype=torch.double, requires_grad=True), *weights))


@pytest.mark.parametrize("module", [GemmaRMSNorm(32), llama_mlp("gelu"), torch.nn.LayerNorm(32)])
def test_modules_that_compute_something_else_are_left_alone(module):
    cpu_kernels.adopt(module)
    assert "forward" not in vars(module)


def test_every_block_of_the_policy_is_replaced_and_a_copy_runs_on_its_own_weights():
    model = tiny.policy().model
    layer = model.model.layers[0]
    assert all("forward" in vars(m) for m in (layer.mlp, layer.mlp.up_proj, layer.input_layernorm, model.model.norm))
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.zero_()
    x = torch.randn(1, 4, 32)
    assert not layer.mlp(x).any()
    assert twin.mlp(x).any()
    assert twin.input_layernorm(x).any()


def test_a_gated_block_keeps_less_for_its_backward():
    def kept(module):
        sizes = {}

        def keep(tensor):
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        x = torch.randn(1, ROWS, 32, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            module(x)
        return sum(sizes.values())

    plain = llama_mlp()
    faster = copy.deepcopy(plain)
    cpu_kernels.adopt(faster)
    assert kept(faster) < kept(plain)
    assert isinstance(plain.act_fn, type(ACT2FN["silu"]))


def test_ever_new_numbers_of_rows_do_not_fill_the_memory():
    # What was freed and not yet given back comes and goes by tens of MiB; it is no memory that is held.
    script = (
        "import ctypes\nimport torch\nfrom harness.model import cpu_kernels\n"
        "from harness.measure.memory_peak import status_bytes\ncpu_kernels.bound_caches()\n"
        "def held():\n    ctypes.CDLL(None).malloc_trim(0)\n    return status_bytes('VmRSS')\n"
        "weights = [torch.randn(192, 64) for _ in range(3)]\n"
        "for rows in range(300, 1100):\n"
        "    cpu_kernels.product(torch.ones(rows, 64), weights[rows % 3])\n"
        "    if rows == 500:\n        before = held()\n"
        "print(held() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    # Unbounded it grows by hundreds of MiB.
    assert int(done.stdout) < 40 * 2**20

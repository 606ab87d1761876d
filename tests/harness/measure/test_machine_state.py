"""What is recorded of a machine before and after a run."""

import torch

from harness.measure.machine_state import CPU_SIZE, conditions, energy_joules, gemm_seconds, gpu_state


def test_a_machine_without_a_gpu_says_load_and_the_time_of_a_fixed_piece_of_work():
    found = conditions(torch.device("cpu"), torch.float32)
    assert set(found) == {"gemm_s", "gemm_flops_per_s", "load_average", "cpu_mhz"}
    assert found["gemm_flops_per_s"] >= 2 * CPU_SIZE**3 / found["gemm_s"]
    assert 1e-4 < found["gemm_s"] < 60
    assert found["load_average"] >= 0


def test_the_timed_work_leaves_random_state_and_gradients_alone():
    torch.manual_seed(4)
    before = torch.get_rng_state()
    with torch.enable_grad():
        assert len(gemm_seconds(torch.device("cpu"), torch.float32, 8, 3)) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_what_nvml_cannot_be_asked_is_not_made_up():
    assert energy_joules(torch.device("cpu")) is None
    if not torch.cuda.is_available():
        assert gpu_state(0) == {}

"""Where models compute: one CUDA device where there is one, else the CPU; what is faster there; how much memory is
free."""

import functools
import time

import psutil
import torch

from dpo4rec_utils.assets import cache_folder
from dpo4rec_utils.environment import environment
from dpo4rec_utils.files import StudyError, read_json, write_json
from dpo4rec_utils.keys import content_key

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def the_device() -> str:
    """'cuda' or 'cpu'. Raises `StudyError` where two GPUs are visible: a study computes on one, and runs beside
    another."""
    if not torch.cuda.is_available():
        return "cpu"
    if torch.cuda.device_count() > 1:
        raise StudyError(
            f"{torch.cuda.device_count()} GPUs are visible and a study uses one; set CUDA_VISIBLE_DEVICES=0, and run another "
            "profile beside it on another."
        )
    return "cuda"


def free_memory() -> float:
    """GiB that are free where models compute."""
    free = torch.cuda.mem_get_info()[0] if the_device() == "cuda" else psutil.virtual_memory().available
    return free / 2**30


def sampling_weights(setting: str) -> str:
    """'float32' or 'bfloat16'; of 'auto', bfloat16 where it multiplies matrices faster."""
    if setting != "auto":
        return setting
    return "bfloat16" if the_device() == "cuda" or fast_precision() == "bf16" else "float32"


def training_precision(setting: str) -> str:
    """'fp32' or 'bf16'; of 'auto', fp32 on a CPU and what `fast_precision` says on a GPU.

    On a CPU whose bf16 products take half the time, a step of DPO takes two thirds and one of supervised fine-tuning as
    long as in fp32. But the policy then differs at the first step from the reference, which is itself (a mean margin of
    -0.05 in eight pairs), and a result is of the machine.
    """
    if setting != "auto":
        return setting
    return fast_precision() if the_device() == "cuda" else "fp32"


@functools.cache
def fast_precision() -> str:
    """'bf16' or 'fp32', whichever multiplies matrices faster here by a clear margin (1.5x); timed once a kind of
    machine."""
    timing = cache_folder() / f"bf16-{content_key([environment()['device'], torch.__version__])}.json"
    if not timing.exists():
        write_json(timing, {"bf16_speedup": round(_bf16_speedup(), 2)})
    return "bf16" if read_json(timing)["bf16_speedup"] > 1.5 else "fp32"


def _bf16_speedup() -> float:
    device, seconds = the_device(), {}
    for dtype in (torch.float32, torch.bfloat16):
        # Small and few: where bf16 is emulated, a product takes a hundred times as long.
        a, b = torch.randn(512, 576, device=device).to(dtype), torch.randn(576, 576, device=device).to(dtype)
        runs = []
        for _ in range(15):
            start = time.perf_counter()
            (a @ b).sum().item()
            runs.append(time.perf_counter() - start)
        seconds[dtype] = min(runs)  # what other programs add to a run is no part of it
    return seconds[torch.float32] / seconds[torch.bfloat16]

"""The device and precision a run computes in, and one summary line block about them."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from stepwise.foundation import torchrun
from stepwise.foundation.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
# What NVIDIA's driver leaves on Linux, in WSL and on Windows where there is a GPU
NVIDIA_FILES = (
    *(("/dev", "nvidia[0-9]*"), ("/proc/driver/nvidia/gpus", "*"), ("/usr/lib/wsl/lib", "libcuda.so*")),
    (os.environ.get("SYSTEMROOT", "C:/Windows"), "System32/nvcuda.dll"),
)


@dataclass(frozen=True)
class Device:
    """Where a run computes, and the dtype of its autocast (None: float32 throughout)."""

    device: torch.device
    dtype: torch.dtype | None

    @property
    def type(self) -> str:
        return self.device.type

    @property
    def channels_last(self) -> bool:
        """Convolutions on CUDA and CPU run faster on [N, H, W, C] memory."""
        return self.device.type in ("cuda", "cpu")

    def send(self, values: Tensor) -> Tensor:
        return send(values, self.device)

    def autocast(self) -> AbstractContextManager:
        """The context for forward passes; a no-op in float32."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)

    def without_fp16(self) -> Device:
        """This device, in float32 where it would compute in fp16: where large numbers overflow or small ones vanish."""
        return replace(self, dtype=None) if self.needs_scaler else self

    @property
    def needs_scaler(self) -> bool:
        """fp16 gradients underflow without loss scaling; bf16 has float32's range."""
        return self.dtype == torch.float16


def choose(name: str, mixed_precision: bool = True) -> Device:
    """The device that `name` (auto, cuda, mps, cpu) stands for. Raises UserError if it is absent."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    idle_gpu = name in ("auto", "cuda") and not cuda and shows_nvidia_gpu()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
        if idle_gpu and torchrun.is_first():
            print(f"Note: the CPU computes. {_why_idle()}", file=sys.stderr)
    if name == "cuda" and idle_gpu:
        raise UserError(f"--device cuda: {_why_idle()}")
    if (name == "cuda" and not cuda) or (name == "mps" and not mps):
        raise UserError(f"--device {name}: this machine (or this torch build) has none.\nUse --device auto or cpu.")
    device = torch.device(name)
    if name == "cuda":
        device = torch.device(name, int(os.environ["LOCAL_RANK"]) if torchrun.several() else 0)  # one GPU a process
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = mixed_precision  # 10 bits of mantissa instead of 23
        torch.backends.cudnn.allow_tf32 = mixed_precision
    if name == "cpu":
        _keep_freed_memory()
    return Device(device, _autocast_dtype(device) if mixed_precision else None)


def shows_nvidia_gpu(files: Iterable[tuple[str, str]] = NVIDIA_FILES) -> bool:
    """Whether the machine shows an NVIDIA GPU that was not hidden on purpose, whatever torch can do with it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles"):  # the last one is Slurm's
        return False
    return any(found for folder, pattern in files for found in Path(folder).glob(pattern))


def _why_idle() -> str:
    """Why torch cannot use the NVIDIA GPU that there is, and what to do."""
    if torch.version.cuda is None:
        reason, remedy = "without CUDA", "Install a torch with CUDA: https://pytorch.org/get-started/locally"
    else:
        reason = f"for CUDA {torch.version.cuda}"
        remedy = (
            "Most likely its driver is too old for that (nvidia-smi says which CUDA it knows): update it, or install\n"
            "a torch built for an older CUDA; in a container, give it the GPU (docker run --gpus all)"
        )
    return f"There is an NVIDIA GPU, but torch {torch.__version__}, built {reason}, cannot use it.\n{remedy}."


def send(values: Tensor, device: torch.device) -> Tensor:
    """`values` on the device. A GPU goes on with what it is doing: a plain copy would wait until that is done."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def _keep_freed_memory() -> None:
    """Have glibc reuse the memory of freed tensors up to 32 MiB instead of handing it back to the system.

    Handed back, every step asks for it anew and waits for the pages: a fifth of a step of 3A
    (benchmarks/speed.md). Other C libraries are left as they are.
    """
    if _has_glibc():
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def hand_back_freed_memory() -> None:
    """Free what only refers to itself, as figures do, and hand back what glibc keeps: at a pause, as after pictures.

    Otherwise a long run grows by some MiB in each thousand steps, though what it uses stays the same.
    """
    gc.collect()
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def _has_glibc() -> bool:
    return sys.platform.startswith("linux") and platform.libc_ver()[0] == "glibc"


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and torch.backends.mkldnn.is_available() and _cpu_has_bf16():
        return torch.bfloat16
    return None


def _cpu_has_bf16() -> bool:
    """True where bf16 products are instructions; oneDNN also emulates them, slower than float32."""
    capability = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16") or capability.get("amx_tile"))


def summary(device: Device) -> str:
    """Lines for the start of a run: device, memory, CUDA, precision."""
    precision = {None: "float32", torch.bfloat16: "bfloat16 autocast", torch.float16: "float16 autocast"}[device.dtype]
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device.device)
        name = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
    elif device.type == "mps":
        name = "Apple GPU (mps)"
    else:
        name = f"CPU, {torch.get_num_threads()} threads, {platform.machine()}{_memory()}"
    return f"Device: {name} | precision: {precision} | torch {torch.__version__}"


def _memory() -> str:
    try:
        return f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (AttributeError, ValueError, OSError):
        return ""


def peak_memory_mib() -> int:
    """Peak memory so far: of the GPU where one is used, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() // 2**20
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 2**20 if sys.platform == "darwin" else peak // 2**10

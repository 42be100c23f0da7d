"""What this machine can do: memory, GPUs, numeric types, and what kind of host it is. Imports no torch."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

GIB = 2**30
Host = Literal["computer", "colab", "space"]
BF16_CAPABILITY = (8, 0)
GPU_MEMORY_SECONDS = 5


@dataclass(frozen=True)
class Gpu:
    """One CUDA device: name, memory in bytes, compute capability."""

    name: str
    memory: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Machine:
    """What a decision about fitting a model needs to know. Memory in bytes."""

    host: Host
    system: str
    cores: int
    memory: int
    memory_free: int
    gpus: tuple[Gpu, ...]

    @property
    def has_gpu(self) -> bool:
        return bool(self.gpus)

    @property
    def model_memory(self) -> int:
        """Bytes a model may fill: all GPUs together, else the RAM that is free, each less what the system needs."""
        if self.gpus:
            return int(sum(gpu.memory for gpu in self.gpus) * 0.92)
        return self.model_ram

    @property
    def model_ram(self) -> int:
        """Bytes of RAM a model may fill, GPUs or not."""
        return int(self.memory_free * 0.9)

    @property
    def summary(self) -> str:
        """One line for people, e.g. `CPU only, 2 cores, 24 GB of memory`."""
        if self.gpus:
            return ", ".join(f"{gpu.name} ({gpu.memory / GIB:.0f} GB)" for gpu in self.gpus)
        return f"CPU only, {self.cores} cores, {self.memory / GIB:.0f} GB of memory"


def machine() -> Machine:
    """This machine, now."""
    memory = psutil.virtual_memory()
    limit = _container_limit()
    total = min(memory.total, limit) if limit else memory.total
    return Machine(
        host=_host(),
        system=f"{platform.system()} {platform.machine()}",
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=total,
        memory_free=min(memory.available, total),
        gpus=_gpus(),
    )


def _host() -> Host:
    if os.environ.get("SYSTEM") == "spaces" or os.environ.get("SPACE_ID"):
        return "space"
    return "colab" if os.environ.get("COLAB_RELEASE_TAG") else "computer"


def _container_limit() -> int | None:
    """The memory limit of the container in bytes: psutil sees the whole host."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            return int(Path(name).read_text())
        except (OSError, ValueError):
            continue
    return None


@functools.cache
def _gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs, asked of the driver's own tool: importing torch for it would cost seconds."""
    if gpu_is_lent():
        return (_lent_gpu(),)
    if _torch_is_for_cpu():
        return ()
    lines = _driver_says("--query-gpu=name,memory.total,compute_cap")
    return tuple(gpu for gpu in map(_parsed_gpu, _visible(lines)) if gpu)


def gpu_is_lent() -> bool:
    """Whether this is a Space whose GPU is there only while an answer is made (ZeroGPU)."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def _lent_gpu() -> Gpu:
    """What a ZeroGPU Space lends, by the variables and defaults of Hugging Face's package `spaces` (its config.py)."""
    told = os.environ.get
    capability = int(told("ZEROGPU_CUDA_CAPABILITY_MAJOR", "9")), int(told("ZEROGPU_CUDA_CAPABILITY_MINOR", "0"))
    return Gpu(
        told("ZEROGPU_CUDA_DEVICE_NAME", "NVIDIA H200 MIG 3g.71gb"), int(told("ZEROGPU_CUDA_TOTAL_MEMORY", "74625056768")), capability
    )


def driver() -> tuple[str, list[str]]:
    """The NVIDIA driver's version, and the names of the GPUs it lets programs see, whether torch can use them or not."""
    rows = [line.rsplit(",", 1) for line in _visible(_driver_says("--query-gpu=name,driver_version"))]
    return (rows[0][-1].strip() if rows else ""), [row[0].strip() for row in rows]


def _driver_says(query: str) -> list[str]:
    """Rows of the driver's own tool, numbers without units; none where there is no driver or it fails."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    command = [tool, query, "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return []


def process_memory(process_id: int) -> int:
    """Bytes of memory that a process takes, on its GPUs too; 0 once it is gone. Asked of the driver's tool at most every
    few seconds: one call takes a tenth of a second."""
    try:
        resident = psutil.Process(process_id).memory_info().rss
    except psutil.Error:
        return 0
    return resident + (_gpu_memory(process_id, int(time.monotonic() / GPU_MEMORY_SECONDS)) if _gpus() else 0)


def peak_memory() -> int:
    """The most RAM that this process has held so far, in bytes; where the system does not count that, what it holds now."""
    with contextlib.suppress(OSError, ValueError, IndexError):  # proc_pid_status(5): since the program began, in kB
        return 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
    held = psutil.Process().memory_info()
    return getattr(held, "peak_wset", held.rss)


@functools.lru_cache(maxsize=4)
def _gpu_memory(process_id: int, moment: int) -> int:
    rows = [line.split(",") for line in _driver_says("--query-compute-apps=pid,used_memory")]
    return sum(int(used) * 2**20 for owner, used in rows if owner.strip() == str(process_id) and used.strip().isdigit())


def limit_memory(more: int) -> None:
    """Let this process take at most `more` bytes beyond what it has. Linux promises more memory than there is and kills whoever
    uses it; a limit makes the allocation fail instead, which can be answered. Other systems have no such limit or need none."""
    if sys.platform != "linux":
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[5])  # proc_pid_statm(5): data and stack, as RLIMIT_DATA counts it
    _, highest = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if highest == resource.RLIM_INFINITY else min(wanted, highest), highest))


def _torch_is_for_cpu() -> bool:
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def _visible(lines: list[str]) -> list[str]:
    """The lines of the devices that CUDA_VISIBLE_DEVICES leaves; names other than indices are counted, not matched."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return lines
    names = [name.strip() for name in chosen.split(",")]
    if all(name.isdigit() for name in names):
        return [lines[int(name)] for name in names if int(name) < len(lines)]
    return lines[: len([name for name in names if name.startswith(("GPU-", "MIG-"))])]


def _parsed_gpu(line: str) -> Gpu | None:
    try:
        name, mebibytes, capability = (part.strip() for part in line.rsplit(",", 2))
        major, _, minor = capability.partition(".")
        return Gpu(name, int(mebibytes) * 2**20, (int(major), int(minor)))
    except ValueError:
        return None


def compute_dtype(capabilities: list[tuple[int, int]]) -> Literal["bfloat16", "float16", "float32"]:
    """The numeric type to compute in, for the CUDA devices' capabilities (none: CPU).

    bf16 from capability 8.0; `torch.cuda.is_bf16_supported()` says yes on a T4 (7.5), which only emulates it.
    """
    if not capabilities:
        return "float32"
    return "bfloat16" if min(capabilities) >= BF16_CAPABILITY else "float16"


def dtype_reason(dtype: str, capabilities: list[tuple[int, int]]) -> str:
    """Why `compute_dtype` chose what it chose, for people."""
    if not capabilities:
        return "computing in float32: there is no GPU"
    major, minor = min(capabilities)
    if dtype == "float16":
        return f"computing in float16: this GPU (capability {major}.{minor}) has no bfloat16"
    return f"computing in {dtype} (GPU capability {major}.{minor})"

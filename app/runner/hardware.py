"""Which platforms this machine has: asked of the kernel and of what is installed; nothing is imported."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.vocabulary import number_of


@dataclass(frozen=True)
class Platform:
    """A platform; `description` says what was found, or what is missing."""

    name: str
    available: bool
    type: str
    description: str


@dataclass(frozen=True)
class Machine:
    """Where to look; tests look elsewhere."""

    root: Path = Path("/")
    is_installed: Callable[[str], bool] = lambda package: _is_installed(package)
    which: Callable[[str], str | None] = shutil.which
    system: str = sys.platform
    architecture: str = platform.machine()

    def exists(self, path: str) -> bool:
        try:
            return (self.root / path).exists()
        except OSError:  # it is in a folder that may not be entered
            return False

    def any(self, pattern: str) -> list[Path]:
        return sorted(self.root.glob(pattern))

    def installed(self, packages: Sequence[str]) -> str:
        """Those that are installed, as a text."""
        return ", ".join(package for package in packages if self.is_installed(package))


CUDA_LIBRARIES = ("torch", "tensorflow", "jax", "cupy", "onnxruntime", "paddle")
ROCM_LIBRARIES = ("torch", "tensorflow", "jax", "onnxruntime")
QNN_LIBRARIES = ("qai_hub", "qai_appbuilder", "onnxruntime_qnn")
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)


def detect(machine: Machine | None = None) -> list[Platform]:
    """Every platform that is known, available or not. Takes a few milliseconds."""
    machine = machine or Machine()
    return [
        Platform(name, available, kind, description)
        for name, kind, probe in PROBES
        for available, description in [probe(machine)]
    ]


Found = tuple[bool, str]


def _cpu(machine: Machine) -> Found:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = next(_values(machine.root / "proc/cpuinfo", "model name"), machine.architecture or "CPU")
    return True, f"{name}, {number_of(cores, 'core')} for this server"


def _cuda(machine: Machine) -> Found:
    if not machine.exists("proc/driver/nvidia/version") and not machine.exists("dev/nvidiactl"):
        return False, "no NVIDIA driver is loaded (/proc/driver/nvidia is absent)"
    files = machine.any("proc/driver/nvidia/gpus/*/information")
    names = [next(_values(file, "Model"), "NVIDIA GPU") for file in files]
    if not names and not machine.any("dev/nvidia[0-9]*"):
        return False, "the NVIDIA driver is loaded, but it has no GPU"
    return _with_library(machine, ", ".join(names) or "an NVIDIA GPU", CUDA_LIBRARIES)


def _rocm(machine: Machine) -> Found:
    if not machine.exists("dev/kfd"):
        return False, "no AMD GPU driver is loaded (/dev/kfd is absent)"
    nodes = machine.any("sys/class/kfd/kfd/topology/nodes/*/gpu_id")
    gpus = [file for file in nodes if _read(file).strip() not in ("", "0")]
    if not gpus:
        return False, "the AMD driver is loaded, but it has no GPU"
    return _with_library(machine, number_of(len(gpus), "AMD GPU"), ROCM_LIBRARIES)


def _mps(machine: Machine) -> Found:
    if machine.system != "darwin" or machine.architecture != "arm64":
        return False, "needs macOS on Apple silicon"
    return _with_library(machine, "Apple GPU", ("torch",))


def _openvino(machine: Machine) -> Found:
    if not machine.is_installed("openvino"):
        return False, "the package openvino is not installed"
    return True, "the package openvino is installed"


def _qnn(machine: Machine) -> Found:
    devices = [*machine.any("dev/fastrpc-*"), *machine.any("dev/adsprpc-smd*")]
    if not devices:
        return False, "no Qualcomm NPU driver is loaded (/dev/fastrpc-* is absent)"
    return _with_library(machine, "a Qualcomm NPU", QNN_LIBRARIES)


def _webnn(machine: Machine) -> Found:
    return _browser(machine)


def _webgpu(machine: Machine) -> Found:
    found, description = _browser(machine)
    if found and not machine.any("dev/dri/renderD*"):
        return False, f"{description}, but there is no GPU for it (/dev/dri/renderD* is absent)"
    return found, description


def _browser(machine: Machine) -> Found:
    path = next((path for name in BROWSERS if (path := machine.which(name))), None)
    if path is None:
        return False, "no Chromium-based browser is on the PATH"
    return True, f"the browser {Path(path).name} is installed"


def _with_library(machine: Machine, device: str, libraries: Sequence[str]) -> Found:
    installed = machine.installed(libraries)
    if not installed:
        return (
            False,
            f"{device} is there, but no library uses it: install one of {', '.join(libraries)}",
        )
    return True, f"{device}; installed: {installed}"


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _values(file: Path, name: str) -> Iterator[str]:
    """The values of the lines `name: value`."""
    for line in _read(file).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            yield value.strip()


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


PROBES: tuple[tuple[str, str, Callable[[Machine], Found]], ...] = (
    ("cpu", "cpu", _cpu),
    ("cuda", "gpu", _cuda),
    ("rocm", "gpu", _rocm),
    ("mps", "gpu", _mps),
    ("openvino", "accelerator", _openvino),
    ("qnn", "npu", _qnn),
    ("webnn", "browser", _webnn),
    ("webgpu", "browser", _webgpu),
)

"""Platforms that are there and platforms that are not, on machines that are folders."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType

import pytest

from app.runner.hardware import Machine, Platform, detect

NAMES = ["cpu", "cuda", "rocm", "mps", "openvino", "qnn", "webnn", "webgpu"]
HEAVY = ["torch", "tensorflow", "jax", "cupy", "onnxruntime", "paddle", "openvino", "numpy", "qai_hub"]

Look = Callable[..., dict[str, Platform]]


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Detects on a machine with these files, packages and programs, and nothing else."""

    def detected(
        files: dict[str, str] | None = None,
        installed: Collection[str] = (),
        programs: Collection[str] = (),
        system: str = "linux",
        architecture: str = "x86_64",
    ) -> dict[str, Platform]:
        for name, content in (files or {}).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        machine = Machine(
            root=tmp_path,
            is_installed=lambda package: package in installed,
            which=lambda program: f"/usr/bin/{program}" if program in programs else None,
            system=system,
            architecture=architecture,
        )
        return {platform.name: platform for platform in detect(machine)}

    return detected


def test_an_empty_machine_has_a_cpu_alone(look: Look) -> None:
    found = look()
    assert list(found) == NAMES
    assert [name for name in NAMES if found[name].available] == ["cpu"]
    assert all(platform.description and platform.type for platform in found.values())


def test_the_cpu_by_name_and_with_the_cores_this_process_may_use(
    look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    assert look().pop("cpu") == Platform("cpu", True, "cpu", "x86_64, 2 cores for this server")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    cpu = look({"proc/cpuinfo": "processor\t: 0\nmodel name\t: Fast CPU: 3 GHz\nmodel name\t: other\n"})[
        "cpu"
    ]
    assert cpu.description == "Fast CPU: 3 GHz, 1 core for this server"
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert look()["cpu"].description.endswith(", 1 core for this server")


NVIDIA = {"proc/driver/nvidia/version": "NVRM version: 1", "dev/nvidiactl": ""}
NVIDIA_GPUS = NVIDIA | {
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA A100\nIRQ: 1\n",
    "proc/driver/nvidia/gpus/0000:02:00.0/information": "Model: \t\t NVIDIA L4\nIRQ: 2\n",
}
AMD_CPU = {"dev/kfd": "", "sys/class/kfd/kfd/topology/nodes/0/gpu_id": "0\n"}
AMD_GPU = AMD_CPU | {"sys/class/kfd/kfd/topology/nodes/1/gpu_id": "33743\n"}
NPU = {"dev/fastrpc-cdsp": ""}
RENDER_NODE = {"dev/dri/renderD128": ""}


@pytest.mark.parametrize(
    ("name", "files", "installed", "programs", "description"),
    [
        ("cuda", NVIDIA_GPUS, ["torch", "jax"], [], "NVIDIA A100, NVIDIA L4; installed: torch, jax"),
        ("cuda", {"dev/nvidiactl": "", "dev/nvidia0": ""}, ["cupy"], [], "an NVIDIA GPU; installed: cupy"),
        ("rocm", AMD_GPU, ["torch"], [], "1 AMD GPU; installed: torch"),
        ("openvino", {}, ["openvino"], [], "the package openvino is installed"),
        ("qnn", NPU, ["qai_hub"], [], "a Qualcomm NPU; installed: qai_hub"),
        ("webnn", {}, [], ["chromium"], "the browser chromium is installed"),
        ("webgpu", RENDER_NODE, [], ["google-chrome"], "the browser google-chrome is installed"),
    ],
)
def test_what_is_available(
    look: Look, name: str, files: dict[str, str], installed: list[str], programs: list[str], description: str
) -> None:
    found = look(files, installed, programs)[name]
    assert (found.available, found.description) == (True, description)


@pytest.mark.parametrize(
    ("name", "files", "installed", "programs", "missing"),
    [
        ("cuda", {}, ["torch"], [], "no NVIDIA driver is loaded (/proc/driver/nvidia is absent)"),
        ("cuda", NVIDIA, ["torch"], [], "the NVIDIA driver is loaded, but it has no GPU"),
        ("cuda", NVIDIA_GPUS, [], [], "NVIDIA A100, NVIDIA L4 is there, but no library uses it: install one"),
        ("rocm", {}, ["torch"], [], "no AMD GPU driver is loaded (/dev/kfd is absent)"),
        ("rocm", AMD_CPU, ["torch"], [], "the AMD driver is loaded, but it has no GPU"),
        (
            "rocm",
            AMD_GPU,
            ["openvino"],
            [],
            "1 AMD GPU is there, but no library uses it: install one of torch",
        ),
        ("mps", {}, ["torch"], [], "needs macOS on Apple silicon"),
        ("openvino", {}, ["torch"], [], "the package openvino is not installed"),
        ("qnn", {}, ["qai_hub"], [], "no Qualcomm NPU driver is loaded (/dev/fastrpc-* is absent)"),
        (
            "qnn",
            NPU,
            ["torch"],
            [],
            "a Qualcomm NPU is there, but no library uses it: install one of qai_hub",
        ),
        ("webnn", {}, [], ["firefox"], "no Chromium-based browser is on the PATH"),
        ("webgpu", RENDER_NODE, [], [], "no Chromium-based browser is on the PATH"),
        ("webgpu", {}, [], ["chromium"], "there is no GPU for it (/dev/dri/renderD* is absent)"),
    ],
)
def test_what_is_missing(
    look: Look, name: str, files: dict[str, str], installed: list[str], programs: list[str], missing: str
) -> None:
    found = look(files, installed, programs)[name]
    assert not found.available
    assert missing in found.description


def test_apple_silicon(look: Look) -> None:
    apple = {"system": "darwin", "architecture": "arm64"}
    assert look(installed=["torch"], **apple)["mps"].description == "Apple GPU; installed: torch"
    assert "install one of torch" in look(**apple)["mps"].description
    assert not look(installed=["torch"], system="darwin")["mps"].available, "an Intel processor"
    assert not look(installed=["torch"], architecture="arm64")["mps"].available, "Linux on ARM"


def test_files_that_cannot_be_read_are_absent(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path, *_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refused)
    assert look()["cpu"].available
    monkeypatch.setattr(Path, "exists", refused)
    assert [name for name, found in look().items() if found.available] == ["cpu"]


def test_a_package_without_a_specification_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", ModuleType("openvino"))  # its __spec__ is None
    found = {platform.name: platform for platform in detect(Machine(root=tmp_path))}
    assert not found["openvino"].available


@pytest.mark.parametrize("error", [ImportError, ModuleNotFoundError, ValueError])
def test_a_package_that_cannot_even_be_looked_for_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refused(name: str) -> None:
        raise error(name)

    monkeypatch.setattr(importlib.util, "find_spec", refused)
    found = {platform.name: platform for platform in detect(Machine(root=tmp_path))}
    assert found["openvino"].description == "the package openvino is not installed"


def test_this_machine_has_a_cpu() -> None:
    cpu = detect()[0]
    assert (cpu.name, cpu.available, cpu.type) == ("cpu", True, "cpu")
    assert " for this server" in cpu.description


def test_this_machine_quickly_and_without_importing_anything_heavy() -> None:
    code = (
        "import sys\nfrom app.runner.hardware import detect\n"
        "print(*(platform.name for platform in detect()))\n"
        f"print(*set(sys.modules) & set({HEAVY}))"
    )
    root = Path(__file__).parent.parent.parent
    told = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == [" ".join(NAMES), ""]
    began = time.perf_counter()
    assert [platform.name for platform in detect()] == NAMES
    assert time.perf_counter() - began < 0.5, "a few milliseconds on a machine that is not busy"


def test_what_is_installed_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino.py").write_text("raise AssertionError('it was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {platform.name: platform for platform in detect(Machine(root=tmp_path))}
    assert found["openvino"].available
    assert "openvino" not in sys.modules

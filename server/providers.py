"""Execution providers: which one a model wants, why it may be missing, and the options that each is opened with."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import logging
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime as ort

from server.errors import ModelLoadError
from server.provider_options import CUDA_OPTIONS, TENSORRT_OPTIONS, Provider, Tuning, split

log = logging.getLogger(__name__)
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10")
"""What ONNX Runtime 1.31's TensorRT provider is linked with."""


@dataclass(frozen=True)
class SessionOptions:
    """How a session is opened."""

    provider: Provider
    threads: int
    """ONNX Runtime's intra-op threads."""
    gpu_memory_limit_bytes: int = 0
    """Of the CUDA arena; 0: none."""
    cuda_graphs: bool = True
    """Where the model's configuration says nothing."""
    provider_options: tuple[str, ...] = ()
    """The server's own, each KEY=VALUE; the model's configuration wins over them."""
    tuning: Tuning = field(default_factory=Tuning)
    engine_cache: Path | None = None
    """Where TensorRT keeps engines and timings; None: nowhere."""

    @property
    def captures(self) -> bool:
        """Whether batches are to be captured as CUDA graphs."""
        return self.cuda_graphs if self.tuning.cuda_graphs is None else self.tuning.cuda_graphs


def wanted(options: SessionOptions) -> str:
    """Return the provider that a session should run on."""
    if options.provider == "cpu" or (options.provider == "auto" and CUDA not in ort.get_available_providers()):
        return CPU
    return TENSORRT if options.provider == "tensorrt" or options.tuning.tensorrt else CUDA


def check_provider(setting: Provider, want: str, got: str, absence: str = "") -> bool:
    """Catch ONNX Runtime's silent fall back to the next provider.

    Args:
        setting: the server's.
        want: the provider that was asked for.
        got: the first provider of the session.
        absence: why the one that was asked for is not there, as far as is known.

    Returns:
        Whether it fell back although the setting allows it (auto; or cuda, where a configuration asks for TensorRT).

    Raises:
        ModelLoadError: the setting insists on the provider; the message names the cause.
    """
    if want in (got, CPU):
        return False
    why = absence or "the provider did not load; ONNX Runtime's lines above name the library that it misses"
    if setting == "tensorrt" or (setting == "cuda" and got == CPU):
        raise ModelLoadError(f"provider is {setting}, but the model would run on {got}: {why}")
    log.warning("%s is not used, the model runs on %s: %s", want, got, why)
    return True


def absence(provider: str) -> str:
    """Say why a provider cannot be there; empty where nothing that can be seen from here prevents it."""
    if provider == CPU:
        return ""
    return cuda_absence() or (tensorrt_absence() if provider == TENSORRT else "")


@functools.cache
def cuda_absence() -> str:
    """Say why CUDA cannot be there; empty where nothing that can be seen from here prevents it."""
    if CUDA not in ort.get_available_providers():
        return "the installed onnxruntime has no CUDA provider; install netweight[gpu] instead of netweight[cpu]"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver (libcuda.so.1); start on a machine, or in a container, that has one"
    return ""


@functools.cache
def tensorrt_absence() -> str:
    """Say why TensorRT cannot be there, having tried to load its libraries, from its wheels too."""
    if TENSORRT not in ort.get_available_providers():
        return "the installed onnxruntime has no TensorRT provider; install netweight[gpu] instead of netweight[cpu]"
    spec = importlib.util.find_spec("tensorrt_libs")
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    for name in TENSORRT_LIBRARIES:
        path = next((place / name for place in places if (place / name).is_file()), Path(name))
        try:
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        except OSError as error:
            return f"TensorRT 10 is not installed ({error}); pip install 'tensorrt-cu13<11'"
    return ""


@functools.cache
def preload_cuda() -> None:
    """Load the CUDA and cuDNN libraries that came as wheels, once, before the first session."""
    ort.preload_dlls()


def arguments(options: SessionOptions, first: str, *, captures: bool) -> list[tuple[str, dict[str, str]]]:
    """Return the providers to open a session with, in order, each with its options.

    What is said later wins: our defaults, the server's settings, the server's ``--provider-option``, the model's
    configuration.
    """
    chosen: list[tuple[str, dict[str, str]]] = [(CPU, {})]
    if first == CPU:
        return chosen
    of_server = split(options.provider_options)
    cuda = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    if options.gpu_memory_limit_bytes:
        cuda["gpu_mem_limit"] = str(options.gpu_memory_limit_bytes)
    cuda |= {name: value for name, value in of_server.items() if name in CUDA_OPTIONS}
    cuda |= options.tuning.cuda
    if captures and first == CUDA:
        cuda["enable_cuda_graph"] = "1"
    chosen.insert(0, (CUDA, cuda))
    if first == TENSORRT:
        trt = _cache_options(options.engine_cache)
        trt |= {name: value for name, value in of_server.items() if name in TENSORRT_OPTIONS}
        chosen.insert(0, (TENSORRT, trt | dict(options.tuning.trt)))
    return chosen


def engine_cache(model: Path) -> Path:
    """Return where TensorRT's engines for a model file belong: NAME/.tensorrt/VERSION/FINGERPRINT.

    TensorRT's provider names an engine after the graph's structure, not its weights: the fingerprint (names, sizes and
    times of the version's files) keeps an engine from outliving the weights it was made of.
    """
    facts = sorted((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in model.parent.iterdir())
    fingerprint = hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()
    return model.parent.parent / ".tensorrt" / model.parent.name / fingerprint


def _cache_options(directory: Path | None) -> dict[str, str]:
    if directory is None:
        return {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.warning("TensorRT's engines are not kept, each start builds them anew: %s", error)
        return {}
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(directory),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(directory),
    }

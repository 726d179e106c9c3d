"""The server's settings: one frozen record, declared once; the command line and the environment are derived from it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from server.errors import StartError
from server.provider_options import Provider, split

CudaGraphs = Literal["auto", "off"]
Way = Literal["auto", "direct", "ordinary"]
LogLevel = Literal["debug", "info", "warning", "error"]


def setting(default: Any, text: str, *, low: float | None = None, high: float | None = None) -> Any:
    """Declare one setting: its default, its one-line description, its limits (inclusive)."""
    return field(default=default, metadata={"help": text, "low": low, "high": high})


@dataclass(frozen=True)
class Settings:
    """Everything that can be set; checked when built.

    Raises:
        StartError: a value is outside its limits.
    """

    repository: Path = setting(Path("model_repository"), "The model repository: NAME/VERSION/model.onnx below it.")
    host: str = setting("127.0.0.1", "The address to listen on; 0.0.0.0 for every interface.")
    grpc_port: int = setting(8001, "The gRPC port; 0 for any free one.", low=0, high=65535)
    metrics_port: int = setting(8002, "The port of /metrics, by HTTP; 0 for any free one.", low=0, high=65535)
    provider: Provider = setting(
        "auto", "Where models run; auto takes CUDA where it is there, cuda and tensorrt insist on it."
    )
    provider_options: tuple[str, ...] = setting(
        (), "KEY=VALUE for the CUDA or TensorRT provider (repeatable), as ONNX Runtime names them."
    )
    cuda_graphs: CudaGraphs = setting("auto", "CUDA graphs: auto captures one for each batch size where it can.")
    models: tuple[str, ...] = setting(
        (), "Serve these models only (repeatable); every model of the repository if none."
    )
    threads: int = setting(
        0,
        "ONNX Runtime's intra-op threads for each batch; 0: chosen for each model, by the CPUs this process may use.",
        low=0,
        high=1024,
    )
    inline_microseconds: int = setting(
        150, "A model whose run takes at most so long runs in the thread that reads the calls; 0: none does.", low=0
    )
    max_queue_size: int = setting(512, "Requests that may wait for one model; more are refused.", low=1)
    queue_timeout_seconds: float = setting(0.0, "How long a request may wait in the queue; 0 for no limit.", low=0)
    max_message_bytes: int = setting(64 * 2**20, "The largest request or answer.", low=4096, high=2**31 - 1)
    gpu_memory_limit_bytes: int = setting(0, "ONNX Runtime's GPU arena for each model; 0 for no limit.", low=0)
    way: Way = setting(
        "auto", "Of ModelInfer through grpcio: direct on its completion queue, or a thread for each call."
    )
    frontends: int = setting(1, "Processes that take calls; from 2 on, beside the one that runs the models.", low=1)
    drain_seconds: float = setting(20.0, "How long SIGTERM waits for requests in flight.", low=0)
    log_level: LogLevel = setting("info", "How much is logged, to standard error.")

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check(entry.name, getattr(self, entry.name), entry.metadata["low"], entry.metadata["high"])
        for name, choices in (
            ("provider", get_args(Provider)),
            ("cuda_graphs", get_args(CudaGraphs)),
            ("way", get_args(Way)),
            ("log_level", get_args(LogLevel)),
        ):
            if getattr(self, name) not in choices:
                raise StartError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}")
        split(self.provider_options)


def _check(name: str, value: Any, low: float | None, high: float | None) -> None:
    if (low is not None and value < low) or (high is not None and value > high):
        limits = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
        raise StartError(f"{name} is {value}; expected {limits}")

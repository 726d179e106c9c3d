"""The server's settings: one frozen record, declared once; the command line and the environment are derived from it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from server.errors import StartError
from server.limits import Limits
from server.provider_options import Provider, split

CudaGraphs = Literal["auto", "off"]
Way = Literal["auto", "direct", "ordinary"]
ModelControl = Literal["none", "poll", "explicit"]
LogLevel = Literal["debug", "info", "warning", "error"]


def setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    environment: tuple[str, ...] = (),
) -> Any:
    """Declare one setting: its default, its one-line description, its limits (inclusive).

    Args:
        default: its value if nothing is said.
        text: the description.
        low: at least.
        high: at most.
        environment: variables of others that set it too; our own wins.
    """
    return field(default=default, metadata={"help": text, "low": low, "high": high, "environment": environment})


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
        (),
        "Serve these models only (repeatable); if none, every model. With explicit control: load these at the start.",
    )
    model_control: ModelControl = setting(
        "none", "Who decides what is loaded: none, at the start only; poll, the files; explicit, Load and Unload calls."
    )
    poll_seconds: float = setting(15.0, "How often poll looks at the repository.", low=0.1)
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
    max_image_pixels: int = setting(
        50_000_000,
        "Pixels of a JPEG or PNG file, and of all that are decoded at once; each takes about 8 bytes.",
        low=1,
    )
    max_tensors: int = setting(Limits.tensors, "Inputs of a request, and outputs that it asks for.", low=1)
    max_tensor_elements: int = setting(Limits.elements, "Elements of one tensor of a request.", low=1)
    max_listed_elements: int = setting(
        Limits.listed_elements, "Of those, as BYTES or typed contents, which cost an object each.", low=1
    )
    max_parameters: int = setting(Limits.parameters, "Parameters of a request, and of each of its tensors.", low=1)
    max_string_characters: int = setting(
        Limits.string_characters, "Characters of a name, an id, or a parameter's text in a request.", low=64
    )
    max_metadata_bytes: int = setting(16384, "The headers of a call.", low=1024, high=2**20)
    max_connection_calls: int = setting(1024, "Calls in flight on one connection; more wait there.", low=1)
    gpu_memory_limit_bytes: int = setting(0, "ONNX Runtime's GPU arena for each model; 0 for no limit.", low=0)
    shared_memory: bool = setting(False, "Take tensors from, and put them into, shared memory that callers register.")
    max_shared_memory_regions: int = setting(128, "Regions that may be registered at a time.", low=1)
    max_shared_memory_bytes: int = setting(4 * 2**30, "What the registered regions may have altogether.", low=1)
    max_streams: int = setting(
        64,
        "ModelStreamInfer calls that may be open at a time in each process that takes calls; WatchCards calls as many.",
        low=1,
        high=1024,
    )
    way: Way = setting(
        "auto", "Of ModelInfer through grpcio: direct on its completion queue, or a thread for each call."
    )
    frontends: int = setting(1, "Processes that take calls; from 2 on, beside the one that runs the models.", low=1)
    tls_certificate: str = setting("", "The server's certificate, PEM: gRPC and metrics then speak TLS only.")
    tls_key: str = setting("", "Its key, PEM, without a password.")
    tls_client_ca: str = setting("", "Callers must show a certificate that one of these, PEM, has signed.")
    tokens: str = setting("", "Callers must send a bearer token that this file lists (netweight token makes them).")
    insecure: bool = setting(
        default=False, text="Let callers whom nothing identifies change the server, even from other machines."
    )
    drain_seconds: float = setting(20.0, "How long SIGTERM waits for requests in flight.", low=0)
    trace_endpoint: str = setting(
        "",
        "Where spans go, http://HOST:PORT of an OTLP receiver by gRPC; empty: no tracing.",
        environment=("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    )
    trace_ratio: float = setting(1.0, "The share of the traces begun here that is kept.", low=0, high=1)
    log_level: LogLevel = setting("info", "How much is logged, to standard error.")

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check(entry.name, getattr(self, entry.name), entry.metadata["low"], entry.metadata["high"])
        for name, choices in (
            ("provider", get_args(Provider)),
            ("cuda_graphs", get_args(CudaGraphs)),
            ("way", get_args(Way)),
            ("model_control", get_args(ModelControl)),
            ("log_level", get_args(LogLevel)),
        ):
            if getattr(self, name) not in choices:
                raise StartError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}")
        split(self.provider_options)

    @property
    def limits(self) -> Limits:
        """Those that a ModelInfer must keep to."""
        return Limits(
            self.max_tensors,
            self.max_tensor_elements,
            self.max_listed_elements,
            self.max_parameters,
            self.max_string_characters,
        )


def _check(name: str, value: Any, low: float | None, high: float | None) -> None:
    if (low is not None and value < low) or (high is not None and value > high):
        limits = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
        raise StartError(f"{name} is {value}; expected {limits}")

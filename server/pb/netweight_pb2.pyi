from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListCardsRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: str
    def __init__(self, model: _Optional[str] = ...) -> None: ...

class ListCardsResponse(_message.Message):
    __slots__ = ("cards",)
    CARDS_FIELD_NUMBER: _ClassVar[int]
    cards: _containers.RepeatedCompositeFieldContainer[Card]
    def __init__(self, cards: _Optional[_Iterable[_Union[Card, _Mapping]]] = ...) -> None: ...

class GetCardRequest(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class GetCardResponse(_message.Message):
    __slots__ = ("card",)
    CARD_FIELD_NUMBER: _ClassVar[int]
    card: Card
    def __init__(self, card: _Optional[_Union[Card, _Mapping]] = ...) -> None: ...

class WatchCardsRequest(_message.Message):
    __slots__ = ("model", "interval_ms")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    model: str
    interval_ms: int
    def __init__(self, model: _Optional[str] = ..., interval_ms: _Optional[int] = ...) -> None: ...

class WatchCardsResponse(_message.Message):
    __slots__ = ("cards", "forgotten")
    CARDS_FIELD_NUMBER: _ClassVar[int]
    FORGOTTEN_FIELD_NUMBER: _ClassVar[int]
    cards: _containers.RepeatedCompositeFieldContainer[Card]
    forgotten: _containers.RepeatedCompositeFieldContainer[VersionName]
    def __init__(self, cards: _Optional[_Iterable[_Union[Card, _Mapping]]] = ..., forgotten: _Optional[_Iterable[_Union[VersionName, _Mapping]]] = ...) -> None: ...

class VersionName(_message.Message):
    __slots__ = ("model", "version")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Card(_message.Message):
    __slots__ = ("model", "version", "state", "reason", "facts", "load", "traffic")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FACTS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    state: str
    reason: str
    facts: Facts
    load: Load
    traffic: Traffic
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., facts: _Optional[_Union[Facts, _Mapping]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., traffic: _Optional[_Union[Traffic, _Mapping]] = ...) -> None: ...

class Facts(_message.Message):
    __slots__ = ("title", "family", "variant", "reference", "trained", "parameters", "multiply_accumulates", "onnx_bytes", "layers", "heldout_accuracy", "heldout_images", "published", "parity")
    TITLE_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    TRAINED_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ACCUMULATES_FIELD_NUMBER: _ClassVar[int]
    ONNX_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    HELDOUT_ACCURACY_FIELD_NUMBER: _ClassVar[int]
    HELDOUT_IMAGES_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    title: str
    family: str
    variant: str
    reference: str
    trained: bool
    parameters: int
    multiply_accumulates: int
    onnx_bytes: int
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    heldout_accuracy: float
    heldout_images: int
    published: _containers.RepeatedCompositeFieldContainer[PublishedAccuracy]
    parity: Parity
    def __init__(self, title: _Optional[str] = ..., family: _Optional[str] = ..., variant: _Optional[str] = ..., reference: _Optional[str] = ..., trained: _Optional[bool] = ..., parameters: _Optional[int] = ..., multiply_accumulates: _Optional[int] = ..., onnx_bytes: _Optional[int] = ..., layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., heldout_accuracy: _Optional[float] = ..., heldout_images: _Optional[int] = ..., published: _Optional[_Iterable[_Union[PublishedAccuracy, _Mapping]]] = ..., parity: _Optional[_Union[Parity, _Mapping]] = ...) -> None: ...

class Layer(_message.Message):
    __slots__ = ("name", "op", "parameters", "bytes", "multiply_accumulates")
    NAME_FIELD_NUMBER: _ClassVar[int]
    OP_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ACCUMULATES_FIELD_NUMBER: _ClassVar[int]
    name: str
    op: str
    parameters: int
    bytes: int
    multiply_accumulates: int
    def __init__(self, name: _Optional[str] = ..., op: _Optional[str] = ..., parameters: _Optional[int] = ..., bytes: _Optional[int] = ..., multiply_accumulates: _Optional[int] = ...) -> None: ...

class PublishedAccuracy(_message.Message):
    __slots__ = ("top1_percent", "top5_percent", "data", "source")
    TOP1_PERCENT_FIELD_NUMBER: _ClassVar[int]
    TOP5_PERCENT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    top1_percent: float
    top5_percent: float
    data: str
    source: str
    def __init__(self, top1_percent: _Optional[float] = ..., top5_percent: _Optional[float] = ..., data: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...

class Parity(_message.Message):
    __slots__ = ("max_absolute", "tolerance", "within_tolerance")
    MAX_ABSOLUTE_FIELD_NUMBER: _ClassVar[int]
    TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    WITHIN_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    max_absolute: float
    tolerance: float
    within_tolerance: bool
    def __init__(self, max_absolute: _Optional[float] = ..., tolerance: _Optional[float] = ..., within_tolerance: _Optional[bool] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("provider", "fell_back", "seconds", "session_seconds", "warm_up_seconds", "file_bytes", "resident_bytes", "gpu_bytes")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    FELL_BACK_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SESSION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WARM_UP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FILE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    GPU_BYTES_FIELD_NUMBER: _ClassVar[int]
    provider: str
    fell_back: bool
    seconds: float
    session_seconds: float
    warm_up_seconds: float
    file_bytes: int
    resident_bytes: int
    gpu_bytes: int
    def __init__(self, provider: _Optional[str] = ..., fell_back: _Optional[bool] = ..., seconds: _Optional[float] = ..., session_seconds: _Optional[float] = ..., warm_up_seconds: _Optional[float] = ..., file_bytes: _Optional[int] = ..., resident_bytes: _Optional[int] = ..., gpu_bytes: _Optional[int] = ...) -> None: ...

class Traffic(_message.Message):
    __slots__ = ("requests", "inferences", "executions", "mean_batch_size", "pending", "latency", "input_seconds", "queue_seconds", "compute_seconds", "output_seconds", "last_inference")
    class RequestsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    INFERENCES_FIELD_NUMBER: _ClassVar[int]
    EXECUTIONS_FIELD_NUMBER: _ClassVar[int]
    MEAN_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    INPUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    LAST_INFERENCE_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.ScalarMap[str, int]
    inferences: int
    executions: int
    mean_batch_size: float
    pending: int
    latency: Latency
    input_seconds: float
    queue_seconds: float
    compute_seconds: float
    output_seconds: float
    last_inference: float
    def __init__(self, requests: _Optional[_Mapping[str, int]] = ..., inferences: _Optional[int] = ..., executions: _Optional[int] = ..., mean_batch_size: _Optional[float] = ..., pending: _Optional[int] = ..., latency: _Optional[_Union[Latency, _Mapping]] = ..., input_seconds: _Optional[float] = ..., queue_seconds: _Optional[float] = ..., compute_seconds: _Optional[float] = ..., output_seconds: _Optional[float] = ..., last_inference: _Optional[float] = ...) -> None: ...

class Latency(_message.Message):
    __slots__ = ("p50_seconds", "p90_seconds", "p99_seconds", "sum_seconds")
    P50_SECONDS_FIELD_NUMBER: _ClassVar[int]
    P90_SECONDS_FIELD_NUMBER: _ClassVar[int]
    P99_SECONDS_FIELD_NUMBER: _ClassVar[int]
    SUM_SECONDS_FIELD_NUMBER: _ClassVar[int]
    p50_seconds: float
    p90_seconds: float
    p99_seconds: float
    sum_seconds: float
    def __init__(self, p50_seconds: _Optional[float] = ..., p90_seconds: _Optional[float] = ..., p99_seconds: _Optional[float] = ..., sum_seconds: _Optional[float] = ...) -> None: ...

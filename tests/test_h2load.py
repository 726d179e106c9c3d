"""h2load as the callers: what it is given, what its report and log say, and when it is not believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compare import h2load
from compare.h2load import Replies, Summary, check_counts, parse_log, parse_summary, steady_rate
from compare.metrics_page import Counts, parse_counts
from models.spec import NetweightError

REPORT = """\
finished in 2.50s, 4.00 req/s, 374B/s
requests: 12 total, 14 started, 10 done, 9 succeeded, 1 failed, 0 errored, 0 timeout
status codes: 9 2xx, 0 3xx, 1 4xx, 0 5xx
"""
LOG = "1000000\t200\t500000\n1100000\t200\t600000\n1500000\t404\t10\n1600000\t200\t900000\textra\n"
PAGE = """\
# TYPE netweight_requests_total counter
netweight_requests_total{code="OK",model="tiny",version="1"} 7.0
netweight_requests_total{code="OK",model="tiny",version="2"} 3.0
netweight_requests_total{code="INTERNAL",model="other",version="1"} 5.0
netweight_requests_total{code="INVALID_ARGUMENT",model="",version=""} 1.0
# TYPE netweight_inferences_total counter
netweight_inferences_total{model="tiny",version="1"} 8.0
netweight_inferences_total{model="other",version="1"} 4.0
"""
SUMMARY = Summary(started=104, done=100, succeeded=100)


def test_body() -> None:
    """A message is framed as gRPC does: not compressed, four bytes of length, itself."""
    assert h2load.body(b"abc") == b"\0\0\0\0\3abc"
    assert h2load.body(bytes(70_000))[:5] == b"\0\0\1\x11\x70"


def test_command() -> None:
    """Callers are spread evenly over a few connections, over more where several processes accept; whole milliseconds."""
    assert [h2load.connections(callers) for callers in (1, 3, 7, 8, 32, 64)] == [1, 3, 1, 4, 4, 4]
    assert [h2load.connections(callers, 2) for callers in (1, 8, 64)] == [1, 8, 16]
    words = h2load.command("127.0.0.1:8001", 32, 1.5, Path("b"), Path("l"))
    assert words[words.index("-c") + 1 : words.index("-D") + 2] == ["4", "-m", "8", "-D", "1500ms"]
    assert "--log-file=l" in words
    assert words[-1] == "http://127.0.0.1:8001/inference.GRPCInferenceService/ModelInfer"


def test_summary() -> None:
    """The report's counts are read, and anything else is refused."""
    assert parse_summary(REPORT) == Summary(started=14, done=10, succeeded=9)
    with pytest.raises(NetweightError, match="expected a line 'requests:"):
        parse_summary("could not connect")


def test_log() -> None:
    """Each line of HTTP status 200 is a reply, in seconds; others are counted apart; the warm-up can be dropped."""
    replies = parse_log(LOG)
    assert replies.refused == 1
    assert replies.latencies == pytest.approx([0.5, 0.6, 0.9])
    assert replies.ends == pytest.approx([1.5, 1.7, 2.5])
    later = replies.after(0.6)
    assert later.latencies == pytest.approx([0.6, 0.9])
    assert later.refused == 1, "a refusal counts whenever it came"
    nothing = parse_log("")
    assert nothing.after(1).ends.shape == (0,)
    with pytest.raises(NetweightError, match="h2load's log"):
        parse_log("1\t200\n")


def test_steady_rate() -> None:
    """Replies that come in batches, of whatever sizes, give the rate between batches; single ones theirs."""
    batches = np.repeat([0.0, 2.0, 3.0, 5.0], [9, 20, 10, 20]) + np.linspace(0, 0.001, 59)
    assert steady_rate(batches + 1.8e9) == pytest.approx(10, rel=1e-3)
    assert steady_rate(np.arange(500) / 100) == pytest.approx(100)


def test_steady_rate_of_too_little() -> None:
    """No reply, one, or all at once: no rate."""
    assert steady_rate(np.array([])) == steady_rate(np.array([3.0])) == steady_rate(np.array([3.0, 3.0])) == 0


def test_counts_of_a_page() -> None:
    """A model's versions are added up, calls that named no known model count for it, other models do not."""
    counts = parse_counts(PAGE, "tiny")
    assert counts == Counts({"OK": 10, "INVALID_ARGUMENT": 1}, 8)
    assert counts.since(Counts({"OK": 4}, 3)) == Counts({"OK": 6, "INVALID_ARGUMENT": 1}, 5)


@pytest.mark.parametrize("requests", [{"OK": 100}, {"OK": 102, "CANCELLED": 2}, {"OK": 104, "INTERNAL": 0}])
def test_counts_that_agree(requests: dict[str, int]) -> None:
    """As many OK answers as h2load counted, or a few more that were under way when it stopped, are believed."""
    assert check_counts(SUMMARY, 0, Counts(requests), callers=4) is None


@pytest.mark.parametrize(
    ("summary", "requests", "problem"),
    [
        (SUMMARY, {"OK": 60, "RESOURCE_EXHAUSTED": 40}, "answered 40 x RESOURCE_EXHAUSTED"),
        (SUMMARY, {"OK": 99}, "h2load counted 100 replies, the server 99"),
        (SUMMARY, {"OK": 105}, "the server 105"),
        (SUMMARY, {"OK": 100, "CANCELLED": 5}, "5 calls were cancelled"),
        (Summary(104, 100, 98), {"OK": 100}, "2 replies that were not HTTP 200"),
        (Summary(4, 0, 0), {}, "counted 0 replies"),
    ],
)
def test_counts_that_disagree(summary: Summary, requests: dict[str, int], problem: str) -> None:
    """Errors, replies too few or too many, and an empty run are refused, in words."""
    assert problem in (check_counts(summary, 0, Counts(requests), callers=4) or "")


def test_replies_are_not_one_too_many() -> None:
    """A reply that comes exactly when the warm-up ends is kept."""
    assert Replies(np.array([0.0]), np.array([1.0]), 0).after(1).ends.tolist() == [1.0]

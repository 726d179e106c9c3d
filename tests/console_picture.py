"""Take the console pages' pictures, and docs/console.png: `python -m tests.console_picture REPOSITORY` (3 minutes).

VGG-16, ResNet-50 and MobileNetV2 as exported (`make bench` leaves them in out/bench/model_repository), one netweight
server, three callers, a real Prometheus, headless Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import tritonclient.grpc as triton
from PIL import Image
from playwright.sync_api import sync_playwright

from tests.prometheus import ROOT, running_prometheus
from tests.servers import running_server

MODELS = ("mobilenet_v2", "resnet50", "vgg16")
PAUSE_SECONDS = 0.3
"""Between a caller's calls, so that the callers rather meet than queue."""


def call(address: str, model: str, until: float) -> None:
    """Ask for one class after the other."""
    given = triton.InferInput("image", (1, 224, 224, 3), "UINT8")
    given.set_data_from_numpy(np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8))
    with triton.InferenceServerClient(address) as client:
        while time.monotonic() < until:
            client.infer(model, [given])
            time.sleep(PAUSE_SECONDS)


def photograph(url: str, directory: Path, name: str) -> None:
    """Write a page's picture, light and dark."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme, viewport={"width": 1280, "height": 900})
            page.goto(url)
            page.wait_for_function("document.querySelectorAll('.graph:empty').length === 0")
            path = directory / f"{name}-{scheme}.png"
            page.screenshot(path=path, full_page=True)
            Image.open(path).convert("RGB").quantize(160).save(path, optimize=True)
        browser.close()


def main() -> None:
    """Serve, ask, look."""
    parser = argparse.ArgumentParser(description="Take the console pages' pictures.")
    parser.add_argument("repository", type=Path)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--directory", type=Path, default=ROOT / "out" / "console")
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    chosen = [word for name in MODELS for word in ("--model", name)]
    with TemporaryDirectory() as work, running_server(given.repository, Path(work), *chosen) as server:
        target = server.metrics_url.split("/")[2]
        jobs = {"netweight": {"static_configs": [{"targets": [target]}]}}
        with running_prometheus(Path(work), jobs) as prometheus:
            until = time.monotonic() + given.seconds
            callers = [threading.Thread(target=call, args=(server.address, model, until)) for model in MODELS]
            for each in callers:
                each.start()
            time.sleep(given.seconds - 15)  # the pictures are taken while they call
            for name in ("costs", "serving", "index"):
                photograph(f"{prometheus.url}/consoles/{name}.html", given.directory, name)
            shutil.copy(given.directory / "costs-light.png", ROOT / "docs" / "console.png")
            for each in callers:
                each.join()


if __name__ == "__main__":
    main()

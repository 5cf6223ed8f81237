"""What several test files share: processes of the real scripts, and the demo data set."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy_network
import pytest

from benchmarks.s3_server import S3Server
from data import digits

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Started in the background, we ignore Ctrl-C, and so would the processes that tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def run_script(tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """`run_script("train.py", "--lr=1", ...)`: the finished process; it runs in `tmp_path`."""

    def run(script: str, *arguments: object, **options: object) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        return subprocess.run(
            command, **({"cwd": tmp_path, "capture_output": True, "text": True} | options)
        )

    return run


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory) -> Path:
    """The demo data set: images, lists and dictionary; see data/digits.py."""
    folder = tmp_path_factory.mktemp("digits")
    digits.write_digits(folder)
    return folder


@pytest.fixture
def call_script(monkeypatch, tmp_path) -> Iterator[Callable[..., int | None]]:
    """`call_script("train.py", "--lr=1", ...)`: its exit code; run in this process, in `tmp_path`.

    As real as `run_script` but for the process: TensorFlow is not imported anew.
    """
    from absl import app
    from absl.testing import flagsaver

    import flags  # noqa: F401 - what is unknown when flags are saved is forgotten

    monkeypatch.chdir(tmp_path)

    def call(script: str, *arguments: object) -> int | None:
        codes: list[int | None] = []
        command = [script, *map(str, arguments)]

        def run(main: Callable, flags_parser: Callable) -> None:
            codes.append(main(flags_parser(command)))

        monkeypatch.setattr(app, "run", run)
        monkeypatch.setattr(sys, "argv", command)
        saved = flagsaver.save_flag_values()
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        finally:
            flagsaver.restore_flag_values(saved)
        return codes[0]

    yield call
    if "tensorflow" in sys.modules:  # where --deterministic would last
        from tensorflow.python.framework import config

        config.disable_op_determinism()


@pytest.fixture
def s3(tmp_path, monkeypatch) -> Iterator[S3Server]:
    """An S3 server where s3:// leads to, of the folders in `tmp_path / "s3"`; `bucket` is there."""
    import s3fs

    (tmp_path / "s3" / "bucket").mkdir(parents=True)
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()  # who has read other variables
        yield server
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def thin_checkpoint(tmp_path_factory) -> Path:
    """Folder of a checkpoint: depth 14, 4 filters in the stem, 11 classes, 64 x 64 pixels."""
    # In here: TensorFlow is imported by the tests that need it.
    from models.architecture import variable_shapes
    from models.checkpoints import checkpoint

    folder = tmp_path_factory.mktemp("thin")
    weights = numpy_network.random_weights(variable_shapes(14, 11, width=8))
    meta = {"flags": {"image_size": 64}}
    checkpoint.save(folder / "model.ckpt-7", {**weights, "global_step": 7}, meta)
    return folder


@pytest.fixture(scope="session")
def chromium():
    """Headless Chromium, as Debian has it; without one these tests run in CI only."""
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        assert "CI" not in os.environ, "CI needs chromium and chromedriver"
        pytest.skip("needs chromium and chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def open_page(chromium):
    """`open_page(path)`: the browser with this page; at the end no script may have failed."""

    def open_file(path: Path):
        chromium.get(path.absolute().as_uri())
        return chromium

    chromium.get_log("browser")
    yield open_file
    failed = [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
    assert not failed

"""Imports TensorFlow with our settings: quiet, without Keras, with oneDNN."""

import contextlib
import functools
import gc
import os
import tempfile
import typing
from collections.abc import Iterator
from unittest import mock

# TensorFlow reads these when it is imported. It leaves oneDNN off on processors without AVX-512,
# but there, too, convolutions are a third faster with it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # leaves TensorFlow's own chatter out


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back what libraries write to standard error, unless an exception is raised."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Excludes the import's objects, which are never freed, from garbage collection."""
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


# Half of the import's time goes into Keras 3, which we do not use. With TF_USE_LEGACY_KERAS,
# TensorFlow imports no Keras until it is used, as by Horovod. TensorFlow 2.21 reports that oneDNN
# is on, whatever its log level.
_no_keras = mock.patch.dict(os.environ, TF_USE_LEGACY_KERAS="1")
# TensorFlow's generated files name 94 types 18,000 times in annotations. Compiling each in `typing`
# would take a sixth of the remaining time.
_compile_once = mock.patch.object(typing, "compile", functools.cache(compile), create=True)

with _no_keras, _compile_once, _without_collections(), _quiet():
    import tensorflow  # noqa: F401

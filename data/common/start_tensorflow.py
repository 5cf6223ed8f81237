"""Imports TensorFlow with our settings: quiet, without Keras, with oneDNN."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from unittest import mock

# TensorFlow reads these when it is imported. It leaves oneDNN off on processors without AVX-512,
# where convolutions are a third faster with it, too.
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


# Half of the import's time goes into Keras 3, which we do not use. With TF_USE_LEGACY_KERAS,
# TensorFlow imports no Keras until one is used, as Horovod does. TensorFlow 2.21 reports that
# oneDNN is on, whatever the level of its log.
with mock.patch.dict(os.environ, TF_USE_LEGACY_KERAS="1"), _quiet():
    import tensorflow  # noqa: F401

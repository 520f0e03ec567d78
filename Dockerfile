# SPDX-License-Identifier: Apache-2.0
# PointDet on NVIDIA GPUs.
#
#   docker build --build-arg UID=$(id -u) -t pointdet .
#   docker run --rm --gpus all --shm-size 8g -v $PWD/DATA:/data:ro -v $PWD/runs:/pointdet/runs pointdet \
#       mpirun -n 4 python src/main.py ctdet --train-config cfg/resnet_18_coco_fp.yaml \
#       --data_dir /data -o runs/resnet_18_coco_fp
#
# The host needs NVIDIA's driver 525.60.13 or later, and the NVIDIA Container Toolkit. Each rank uses one GPU.
# --shm-size: NCCL uses shared memory between the ranks of a host. Docker's default of 64 MB is too small.
# UID: your user id, so that you own the files in runs/.

# NNabla's wheel is linked to CUDA 12 and cuDNN 8. The image has them and NCCL, so NVIDIA's wheels are left out below.
# Ubuntu 22.04 has Python 3.10.
FROM nvidia/cuda:12.0.1-cudnn8-runtime-ubuntu22.04

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        python3 python3-venv openmpi-bin libopenmpi-dev \
    && rm -rf /var/lib/apt/lists/*

# NNabla loads libmpi.so at run time: its C++ code from OMPI_HOME, its Python code through the linker.
ENV OMPI_HOME=/usr/lib/x86_64-linux-gnu/openmpi
ENV LD_LIBRARY_PATH=${OMPI_HOME}/lib:${LD_LIBRARY_PATH}
# Docker forbids the system call with which the ranks of Open MPI read each other's memory.
ENV OMPI_MCA_btl_vader_single_copy_mechanism=none

RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:${PATH}

WORKDIR /pointdet
COPY requirements.txt requirements-cuda120.txt requirements-onnx.txt ./
RUN grep -v ^nvidia- requirements-cuda120.txt > requirements-extension.txt \
    && python -m pip install --no-cache-dir --requirement requirements.txt --requirement requirements-extension.txt \
        --requirement requirements-onnx.txt

COPY setup.py pyproject.toml README.md LICENSE ./
COPY src src
COPY cfg cfg
RUN python -m pip install --no-cache-dir --no-deps --no-build-isolation --editable .

ARG UID=1000
RUN useradd --uid ${UID} --create-home pointdet && mkdir runs weights && chown pointdet runs weights
USER pointdet

CMD ["python", "src/main.py", "--help"]

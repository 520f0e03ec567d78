# SPDX-License-Identifier: Apache-2.0
# Set-up, tests and a first training run. Needs make and some python3; everything else goes into .venv.

PYTHON := .venv/bin/python
RUN := runs/quickstart
# The Open MPI of the wheel, where the set-up had to install it, or that of the system. Looked up after the set-up.
MPIRUN = $(shell test -x .venv/bin/mpirun && echo .venv/bin/mpirun || echo mpirun)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Open MPI: allow more ranks than cores (names of version 4 and of version 5), and allow root.
export OMPI_MCA_rmaps_base_oversubscribe := 1
export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe
ifeq ($(shell id -u),0)
export OMPI_ALLOW_RUN_AS_ROOT := 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
endif

.PHONY: help setup setup-cuda quickstart test check clean

help:
	@echo "make setup       Python 3.10 and every dependency, pinned, in .venv"
	@echo "make setup-cuda  the same, and NNabla's GPU extension with the CUDA libraries (2 GB); needs NVIDIA's driver only"
	@echo "make quickstart  draws a dataset, trains on it with two ranks, evaluates, detects, exports: $(RUN)"
	@echo "make test        make check and all tests; a part: make test ARGS=\"tests/data -k voc\""
	@echo "make check       linter, formatter, types"
	@echo "make clean       removes .venv and the caches; runs and weights stay"

setup: .venv/.installed

.venv/.installed: .ci/venv setup.py requirements-dev.txt requirements-mpi.txt
	sh .ci/venv .venv
	$(PYTHON) -m pip install --requirement requirements-dev.txt
	mpirun --version 2>/dev/null | grep -q "Open MPI" || \
		$(PYTHON) -m pip install --requirement requirements-mpi.txt
	$(PYTHON) -m pip install --no-deps --no-build-isolation --editable .
	@touch $@

setup-cuda: .venv/.installed-cuda

.venv/.installed-cuda: .venv/.installed requirements-cuda120.txt
	$(PYTHON) -m pip install --requirement requirements-cuda120.txt
	@touch $@

quickstart: setup
	rm -rf $(RUN)
	$(PYTHON) -m pointdet.data.shapes $(RUN)/data --size 128 --train 1000
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(MPIRUN) -n 2 $(PYTHON) src/main.py ctdet \
		--train-config cfg/quickstart.yaml --data_dir $(RUN)/data -o $(RUN) --extension_module cpu
	$(PYTHON) src/test.py ctdet --checkpoint $(RUN)/checkpoints/best --data_dir $(RUN)/data --split test \
		--save_dir $(RUN)/evaluation --extension_module cpu
	$(PYTHON) src/demo.py ctdet --checkpoint $(RUN)/checkpoints/best --demo $(RUN)/data/test --debug 1 \
		--save_dir $(RUN)/demo --extension_module cpu
	$(PYTHON) src/save_nnp.py ctdet --checkpoint $(RUN)/checkpoints/best --save_dir $(RUN)/export
	@echo
	@echo "data        $(RUN)/data"
	@echo "checkpoint  $(RUN)/checkpoints/best"
	@echo "evaluation  $(RUN)/evaluation"
	@echo "pictures    $(RUN)/demo"
	@echo "export      $(RUN)/export"

# Two tests at a time, each on one core. A part of them: make test ARGS="tests/data -k voc"
ARGS := tests
test: check
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(PYTHON) -m pytest $(ARGS) -n 2

check: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

clean:
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache src/pointdet.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

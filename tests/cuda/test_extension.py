# SPDX-License-Identifier: Apache-2.0
"""The import of NNabla's CUDA extension, with stand-ins for the driver and for the extension, or the real extension."""

import importlib.util

import pytest

# In the tests' process nnabla_ext.cudnn would stay imported, so each start is in a process of its own.
START = """
import os
from pointdet import runtime
from pointdet.programs.run import run_program
run_program(lambda: print(runtime.start("cudnn", {gpus}).describe(), os.environ["CUDA_VISIBLE_DEVICES"]))
"""
ARRAYS = "def array_classes(): return ['CpuCachedArray']"
LINES = """
import os
print("GPU compatibility could not be verified due to a problem getting the GPU list.")
print("a line of the extension")
os.write(2, b"openmpi library is not found, distribution training feature is disabled.\\n")
os.write(2, b"a warning of the extension\\n")
"""
NO_CHECK = "from pointdet.cuda import extension; extension._compute = lambda: None"


def start(gpus=None, before=""):
    return f"{before}\n{START.format(gpus=gpus)}"


def test_the_extension_is_not_installed(python, tmp_path):
    (tmp_path / "nnabla_ext").mkdir()
    (tmp_path / "nnabla_ext" / "__init__.py").touch()  # hides the one that is installed
    result = python("import pointdet.cuda.extension as e; e.require_installed()", [tmp_path])
    assert (
        "PointDetError: nnabla-ext-cuda120 is not installed; install it with make setup-cuda (or pip install -r "
        "requirements-cuda120.txt), or use the CPU with --gpus -1 or --extension_module cpu"
    ) in result.stderr


def test_without_a_driver_the_extension_is_not_imported(python, extension, no_driver):
    result = python(start(), [extension("raise SystemExit('imported')")])
    assert (result.returncode, result.stdout) == (2, "")
    assert (
        result.stderr.startswith("error: no NVIDIA driver (libcuda.so.1") and result.stderr.count("\n") == 1
    )


@pytest.mark.parametrize(
    "code, sentence",
    [
        (
            "raise ImportError('libcudnn.so.8: cannot open shared object file: No such file or directory')",
            "error: the library libcudnn.so.8 of nvidia-cudnn-cu12 is missing; install the versions of requirements",
        ),
        (
            f"{LINES}\ndef array_classes(): return []",
            "error: GPU 0 cannot be used (no CUDA-capable device is detected); see whether nvidia-smi lists it",
        ),
        (
            f"{LINES}\n{ARRAYS}",
            "error: NNabla computes on the CPU although a GPU was requested; install nnabla_ext.cudnn again",
        ),
        (
            f"{LINES}\nraise RuntimeError('first line\\n\\nreason\\n')",
            "error: GPU 0 cannot be used (reason); see whether nvidia-smi lists it, or use the CPU with --gpus -1",
        ),
    ],
    ids=["library", "device", "cpu", "exception"],
)
def test_a_failure_is_one_sentence(python, extension, driver, code, sentence):
    result = python(start(), [extension(code)], driver, STUB_CUINIT="100", STUB_CARDS="GPU-a")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(sentence) and result.stderr.count("\n") == 1


def test_lines_without_meaning_are_not_printed(python, extension, driver):
    result = python(start(before=NO_CHECK), [extension(f"{LINES}\n{ARRAYS}")], driver)
    assert result.stdout.startswith("a line of the extension\nrank 0 of 1 on GPU 0, NNabla ")
    assert (result.returncode, result.stderr) == (0, "a warning of the extension\n")


@pytest.mark.parametrize(
    "gpus, variable, card",
    [(None, None, "0"), ((1,), None, "1"), ((1,), "GPU-b,GPU-a", "GPU-a"), (None, "GPU-b,GPU-a", "GPU-b")],
)
def test_only_the_card_is_visible(python, extension, driver, gpus, variable, card):
    code = f"import os\nassert os.environ['CUDA_VISIBLE_DEVICES'] == {card!r}\n{ARRAYS}"
    variables = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    result = python(start(gpus, NO_CHECK), [extension(code)], driver, STUB_CARDS="GPU-a GPU-b", **variables)
    assert result.returncode == 0, result.stderr
    assert f"on GPU {card}, " in result.stdout and result.stdout.split()[-1] == card


def test_a_process_keeps_its_card(python, extension, driver):
    code = f"{NO_CHECK}\nfrom pointdet import runtime\nfor gpus in ([1], [1], [0]): print(runtime.start('cudnn', gpus).card)"
    result = python(code, [extension(ARRAYS)], driver, STUB_CARDS="GPU-a GPU-b")
    assert "PointDetError: this process already uses GPU 1; choose GPU 0 before" in result.stderr
    assert result.stdout == "1\n1\n"


def test_several_cards_need_several_processes(python, extension, driver):
    result = python(start((0, 1)), [extension("")], driver, STUB_CARDS="GPU-a GPU-b")
    assert result.stderr == (
        "error: --gpus names 2 GPUs, but one process uses one; start mpirun -n 2, or name one GPU\n"
    )


def test_contexts_are_those_of_nnabla_and_can_be_changed(python, extension, driver):
    """Without NVML, which `get_extension_context` starts each time."""
    code = (
        f"{NO_CHECK}\nfrom pointdet import runtime\nhere = runtime.start('cudnn')\n"
        "first = here.context()\nfirst.device_id, first.array_class = '7', 'x'\n"
        "for context in (here.context(), here.context(True), here.norm_context(True)):\n"
        "    print(context.device_id, context.array_class, *context.backend)"
    )
    half = "0 CpuCachedArray cudnn:half cudnn:float cuda:half cuda:float cpu:float"
    expected = ["0 CpuCachedArray cudnn:float cuda:float cpu:float", half, half]
    assert python(code, [extension(ARRAYS)], driver).stdout.splitlines() == expected


@pytest.fixture
def ranks_with(mpirun, tmp_path, driver):
    """ranks_with(2, code, cards, paths=()): the finished job, with the stand-ins of the driver."""

    def run(count, code, cards, paths=()):
        pytest.importorskip("mpi4py")
        script = tmp_path / "rank.py"
        # The linker knows a library that is loaded by its name.
        script.write_text(
            f"import ctypes, os, sys\nsys.path[:0] = {[str(path) for path in paths]}\n"
            f"os.environ['STUB_CARDS'] = {cards!r}\nos.environ.pop('CUDA_VISIBLE_DEVICES', None)\n"
            f"stubs = [ctypes.CDLL({str(driver)!r} + '/' + n) for n in ('libcuda.so.1', 'libnvidia-ml.so.1')]\n"
            f"{code}"
        )
        return mpirun(count, script)

    return run


def test_fewer_cards_than_ranks(ranks_with, extension):
    result = ranks_with(3, start(), "GPU-a GPU-b", [extension("raise SystemExit('imported')")])
    assert result.returncode == 2 and result.stdout == ""
    sentence = "error: this host has 3 ranks, but the driver shows 2 GPUs; start 2 ranks on each host"
    assert result.stderr.count(sentence) == 1 and "imported" not in result.stderr


# The communicator of PointDet needs a real GPU, so it is replaced by the ranks of MPI.
NO_NCCL = f"{NO_CHECK}\nfrom pointdet import runtime\nruntime.NcclRanks = lambda mpi, context: mpi\n"


def test_each_rank_has_a_card_of_its_own(ranks_with, extension):
    result = ranks_with(2, start((1, 0), NO_NCCL), "GPU-a GPU-b", [extension(ARRAYS)])
    assert result.returncode == 0, result.stderr
    lines = sorted(line.split(",")[0] + line[-2:] for line in result.stdout.splitlines())
    assert lines == ["rank 0 of 2 on GPU 1 1", "rank 1 of 2 on GPU 0 0"]


REAL = pytest.mark.skipif(
    importlib.util.find_spec("nnabla_ext.cudnn") is None,
    reason="nnabla-ext-cuda120 is not installed: make setup-cuda",
)


@REAL
def test_the_real_extension_is_imported_and_prints_nothing(python, driver, no_driver):
    code = f"{start(before=NO_CHECK)}\n"
    result = python(code, driver=driver, STUB_CARDS="GPU-a")
    assert (result.returncode, result.stderr) == (0, "") and result.stdout.startswith(
        "rank 0 of 1 on GPU 0, "
    )


@REAL
def test_the_real_extension_reaches_the_driver(python, driver, no_driver):
    result = python(start(), driver=driver)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert result.stderr.startswith(
        "error: GPU 0 cannot be used ((cudaGetDevice(&current_device)) failed with"
    )
    result = python(start(), driver=driver, STUB_CUINIT="100")
    assert result.stderr.startswith("error: GPU 0 cannot be used (no CUDA-capable device is detected); see")


@REAL
def test_the_context_of_the_real_extension(python, driver, no_driver):
    """That of `nnabla_ext.cudnn.context`, without its look at NVML."""
    code = (
        f"{NO_CHECK}\nfrom pointdet import runtime\nhere = runtime.start('cudnn')\n"
        "import nnabla_ext.cudnn as real\nreal.check_gpu = lambda device_id: None\n"
        "for half, name in ((False, 'float'), (True, 'half')):\n"
        "    assert str(here.context(half)) == str(real.context(device_id='0', type_config=name))"
    )
    assert python(code, driver=driver).returncode == 0


@REAL
def test_communicator_of_nnabla_reaches_the_driver(ranks_with, no_driver):
    """It finds MPI and NCCL. Without the link to the loaded libmpi it does not exist at all."""
    code = (
        f"{NO_NCCL}\nhere = runtime.start('cudnn')\nfrom nnabla import communicators\n"
        "communicator = communicators.MultiProcessDataParallelCommunicator(here.context())\n"
        "try: communicator.init()\nexcept Exception as error: print(str(error).strip().splitlines()[-1])\n"
    )
    result = ranks_with(2, code, "GPU-a GPU-b")
    assert result.returncode == 0 and "openmpi" not in result.stderr, result.stderr
    assert [line.split(")")[0] for line in result.stdout.splitlines()] == [
        "(cudaGetDevice(&current_device"
    ] * 2

# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for NVIDIA's libraries, compiled from C."""

import shutil
import subprocess

import pytest

# libcuda.so.1: what NNabla's extension is linked to. The environment sets its version and the result of cuInit.
CUDA = """
#include <stdlib.h>
static int number(const char *name, int otherwise) { const char *s = getenv(name); return s ? atoi(s) : otherwise; }
int cuInit(unsigned flags) { return number("STUB_CUINIT", 0); }
int cuDriverGetVersion(int *version) { *version = number("STUB_VERSION", 12020); return 0; }
int cuGetErrorName(int error, const char **name) { *name = "CUDA_ERROR_NO_DEVICE"; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "no CUDA-capable device is detected"; return 0; }
#define STUB(name) int name(void) { return 100; }
STUB(cuCtxSetCurrent) STUB(cuDevicePrimaryCtxRetain) STUB(cuMemAddressFree) STUB(cuMemAddressReserve)
STUB(cuMemCreate) STUB(cuMemGetAllocationGranularity) STUB(cuMemMap) STUB(cuMemRelease) STUB(cuMemSetAccess)
STUB(cuMemUnmap)
"""
# libnvidia-ml.so.1: cards whose UUIDs are the words of STUB_CARDS; "-" is a card that the process may not use.
NVML = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static char *word(unsigned index) {
    static char text[256];
    snprintf(text, sizeof text, "%s", getenv("STUB_CARDS") ? getenv("STUB_CARDS") : "");
    char *found = strtok(text, " ");
    while (index-- && found) found = strtok(NULL, " ");
    return found;
}
int nvmlInit_v2(void) { return getenv("STUB_CARDS") ? 0 : 9; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 0; while (word(*count)) ++*count; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (!strcmp(word(index), "-")) return 4;
    *handle = (void *)(size_t)(index + 1);
    return 0;
}
int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned size) {
    snprintf(uuid, size, "%s", word((size_t)handle - 1));
    return 0;
}
"""


def compiled(code, name, folder):
    """Compile C code to the shared library folder/name. Skips the test if there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) for the stand-ins of NVIDIA's libraries")
    command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, "-x", "c", "-"]
    subprocess.run(command, input=code, check=True, text=True)
    return folder / name

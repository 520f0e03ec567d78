// SPDX-License-Identifier: Apache-2.0
// Stand-ins for libnccl.so.2 and libcudart.so.12 on the CPU: the functions that PointDet calls, with the types of
// nccl.h and cuda_runtime_api.h. Ranks of one host sum float32 buffers in shared memory.
//
//   cc -shared -fPIC -DNCCL -Wl,-soname,libnccl.so.2 stand_in.c -o libnccl.so.2
//   cc -shared -fPIC -DCUDART -Wl,-soname,libcudart.so.12 stand_in.c -o libcudart.so.12
//
// STAND_IN_LATE=1: sums run as late as CUDA's streams allow, when the default stream waits for them; otherwise as
// early as they allow, at ncclGroupEnd. A program is right if the results are the same.
// STAND_IN_STUCK: sums never finish. STAND_IN_FAULT: NCCL reports an internal error afterwards.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef NCCL
#define CHUNK 65536
#define MAX_CALLS 4096

typedef struct { char internal[128]; } ncclUniqueId;
typedef struct { atomic_int arrived, phase; float values[8][CHUNK]; } Shared;
typedef struct { int size, rank; Shared *shared; } *ncclComm_t;
typedef struct { const float *from; float *to; size_t count; ncclComm_t comm; } Call;

static Call calls[MAX_CALLS];
static int waiting, depth, groups;

int ncclGetVersion(int *version) { *version = 21605; return 0; }
const char *ncclGetErrorString(int code) { return code == 4 ? "invalid argument" : "internal error"; }

int ncclGetUniqueId(ncclUniqueId *id) {
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/pointdet-stand-in-%d", getpid());
    return 0;
}

static void barrier(ncclComm_t comm) {
    Shared *s = comm->shared;
    int phase = atomic_load(&s->phase);
    if (atomic_fetch_add(&s->arrived, 1) == comm->size - 1) {
        atomic_store(&s->arrived, 0);
        atomic_fetch_add(&s->phase, 1);
    } else {
        while (atomic_load(&s->phase) == phase) usleep(20);
    }
}

int ncclCommInitRank(ncclComm_t *comm, int size, ncclUniqueId id, int rank) {
    if (size < 1 || size > 8 || rank < 0 || rank >= size || id.internal[0] != '/') return 4;
    int file = shm_open(id.internal, O_CREAT | O_RDWR, 0600);
    if (file < 0 || ftruncate(file, sizeof(Shared))) return 3;
    *comm = calloc(1, sizeof **comm);
    (*comm)->size = size, (*comm)->rank = rank;
    (*comm)->shared = mmap(0, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    barrier(*comm);
    shm_unlink(id.internal);
    return 0;
}

int ncclGroupStart(void) { depth++; return 0; }

int ncclAllReduce(const void *from, void *to, size_t count, int type, int operation, ncclComm_t comm, void *stream) {
    if (type != 7 || operation != 0 || !stream || !comm || depth != 1 || waiting == MAX_CALLS) return 4;
    calls[waiting++] = (Call){from, to, count, comm};
    return 0;
}

void stand_in_run(void) {
    for (int i = 0; i < waiting; i++) {
        Call c = calls[i];
        for (size_t first = 0; first < c.count; first += CHUNK) {
            size_t part = c.count - first < CHUNK ? c.count - first : CHUNK;
            memcpy(c.comm->shared->values[c.comm->rank], c.from + first, part * sizeof(float));
            barrier(c.comm);
            for (size_t k = 0; k < part; k++) {
                float sum = 0;
                for (int rank = 0; rank < c.comm->size; rank++) sum += c.comm->shared->values[rank][k];
                c.to[first + k] = sum;
            }
            barrier(c.comm);
        }
    }
    waiting = 0;
}

int ncclGroupEnd(void) {
    if (--depth) return 4;
    groups++;
    if (!getenv("STAND_IN_LATE")) stand_in_run();
    return 0;
}

int ncclCommGetAsyncError(ncclComm_t comm, int *error) {
    *error = getenv("STAND_IN_FAULT") ? 3 : 0;
    return comm ? 0 : 4;
}

int stand_in_groups(void) { return groups; }
#endif

#ifdef CUDART
// An event knows the stream on which it was recorded last; the default stream is 0.
typedef struct { void *stream; int recorded; } *cudaEvent_t;

const char *cudaGetErrorString(int code) { return "invalid argument"; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { *stream = malloc(1); return flags == 1 ? 0 : 1; }

int cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    *event = calloc(1, sizeof **event);
    return flags == 2 ? 0 : 1;
}

int cudaEventRecord(cudaEvent_t event, void *stream) {
    event->stream = stream, event->recorded = 1;
    return 0;
}

int cudaEventQuery(cudaEvent_t event) { return event->recorded && getenv("STAND_IN_STUCK") ? 600 : 0; }

int cudaStreamWaitEvent(void *stream, cudaEvent_t event, unsigned flags) {
    if (!event->recorded || flags || event->stream == stream) return 1;
    if (!stream) ((void (*)(void))dlsym(RTLD_DEFAULT, "stand_in_run"))();
    return 0;
}
#endif

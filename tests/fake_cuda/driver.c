/* A CUDA driver without a GPU, for tests of everything around the kernels.
 *
 * "Device" memory is ordinary memory, and a launched kernel does nothing. What is asked of the driver is written to
 * stderr, one line each, so that a test can see what was allocated, copied, launched, captured and replayed. Variables
 * of the environment make it fail as real drivers do: FAKE_NO_DEVICE, FAKE_VERSION, FAKE_MEMORY, FAKE_NO_GRAPHS.
 *
 * Compiled by tests/test_cuda_driver.py into libcuda.so.1; FAKE_LIBRARY is its path.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, OUT_OF_MEMORY = 2, NO_DEVICE = 100, NOT_FOUND = 500, NOT_SUPPORTED = 801 };
enum { CAPABILITY_MAJOR = 75, CAPABILITY_MINOR = 76, MULTIPROCESSORS = 16, WARP_SIZE = 10, SHARED_MEMORY = 8 };

typedef uint64_t Pointer;
typedef struct { unsigned grid[3], block[3], shared; void *stream; } Launch;

static void *capturing; /* the stream, if any */
static void *beside[8];  /* other streams that take part in its capture, since they waited for an event of it */
static int joined[8];    /* and whether a stream of the capture has waited for their end */
static int others;
static int captured;
static size_t used;
static void *current;
static char context;

#define SAY(...) (fprintf(stderr, "driver: " __VA_ARGS__), fputc('\n', stderr))

static size_t number(const char *name, size_t otherwise) {
    const char *value = getenv(name);
    return value ? strtoull(value, NULL, 10) : otherwise;
}
static size_t memory(void) { return number("FAKE_MEMORY", (size_t)16 << 30); }
static void *handle(void) { return malloc(8); }
static int copy(void *to, const void *from, size_t n, const char *kind) {
    SAY("%s %zu bytes%s", kind, n, capturing ? " while capturing" : "");
    memcpy(to, from, n);
    return SUCCESS;
}

static int in_capture(void *stream) {
    int found = stream == capturing;
    for (int i = 0; i < others; i++) found |= beside[i] == stream;
    return capturing && found;
}

/* The device and its context */
int cuInit(unsigned flags) { return getenv("FAKE_NO_DEVICE") ? NO_DEVICE : SUCCESS; }
int cuDriverGetVersion(int *v) { *v = number("FAKE_VERSION", 13000); return SUCCESS; }
int cuDeviceGetCount(int *n) { *n = 1; return SUCCESS; }
int cuDeviceGet(int *d, int n) { *d = n; return SUCCESS; }
int cuDeviceGetName(char *name, int n, int d) { strncpy(name, "Fake GPU", n); return SUCCESS; }
int cuDeviceGetUuid(char *id, int d) { memset(id, 7, 16); return SUCCESS; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = memory(); return SUCCESS; }
int cuDeviceCanAccessPeer(int *can, int a, int b) { *can = 0; return SUCCESS; }
int cuDeviceGetAttribute(int *v, int which, int d) {
    *v = which == CAPABILITY_MAJOR ? 9 : which == CAPABILITY_MINOR ? 0 : which == MULTIPROCESSORS ? 132
       : which == WARP_SIZE ? 32 : which == SHARED_MEMORY ? 49152 : 1;
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = &context; return SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int d) { return SUCCESS; }
int cuDevicePrimaryCtxGetState(int d, unsigned *flags, int *active) { *flags = 0; *active = 1; return SUCCESS; }
int cuCtxGetCurrent(void **c) { *c = current; return SUCCESS; }
int cuCtxSetCurrent(void *c) { current = c; return SUCCESS; }
int cuCtxPushCurrent_v2(void *c) { current = c; return SUCCESS; }
int cuCtxPopCurrent_v2(void **c) { *c = current; return SUCCESS; }
int cuCtxGetDevice(int *d) { *d = 0; return SUCCESS; }
int cuCtxGetApiVersion(void *c, unsigned *v) { *v = 13000; return SUCCESS; }
int cuCtxGetId(void *c, uint64_t *id) { *id = 1; return SUCCESS; }
int cuCtxSynchronize(void) { return SUCCESS; }

/* Memory */
int cuMemGetInfo_v2(size_t *free, size_t *total) { *total = memory(); *free = *total - used; return SUCCESS; }
int cuMemAlloc_v2(Pointer *p, size_t n) {
    if (used + n > memory()) return OUT_OF_MEMORY;
    used += n;
    *p = (Pointer)aligned_alloc(256, (n + 255) / 256 * 256);
    memset((void *)*p, 0xff, n); /* NaN: nothing may count on zeros */
    SAY("allocate %zu bytes%s", n, capturing ? " while capturing" : "");
    return SUCCESS;
}
int cuMemFree_v2(Pointer p) { if (capturing) SAY("free while capturing"); return SUCCESS; }
int cuMemcpyHtoD_v2(Pointer to, const void *from, size_t n) { return copy((void *)to, from, n, "upload"); }
int cuMemcpyDtoH_v2(void *to, Pointer from, size_t n) { return copy(to, (void *)from, n, "download"); }
int cuMemcpyDtoD_v2(Pointer to, Pointer from, size_t n) { return copy((void *)to, (void *)from, n, "copy"); }
int cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t n, void *s) { return copy((void *)to, from, n, "upload"); }
int cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t n, void *s) { return copy(to, (void *)from, n, "download"); }
int cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t n, void *s) { return copy((void *)to, (void *)from, n, "copy"); }
int cuMemsetD8Async(Pointer p, unsigned char value, size_t n, void *s) {
    memset((void *)p, value, n);
    return SUCCESS;
}
int cuPointerGetAttribute(void *out, int which, Pointer p) { *(void **)out = &context; return SUCCESS; }

/* Streams and graphs */
int cuStreamCreate(void **s, unsigned flags) { *s = handle(); return SUCCESS; }
int cuStreamDestroy_v2(void *s) { return SUCCESS; }
int cuStreamSynchronize(void *s) { if (in_capture(s)) SAY("wait while capturing"); return SUCCESS; }
int cuStreamWaitEvent(void *s, void *e, unsigned flags) {
    void *from = *(void **)e; /* the stream on which it was recorded */
    if (!in_capture(from)) return SUCCESS;
    if (!in_capture(s)) {
        joined[others] = 0;
        beside[others++] = s;
    }
    for (int i = 0; i < others; i++) joined[i] |= beside[i] == from;
    return SUCCESS;
}
int cuStreamGetCtx(void *s, void **c) { *c = &context; return SUCCESS; }
int cuStreamIsCapturing(void *s, int *answer) { *answer = in_capture(s); return SUCCESS; }
int cuStreamBeginCapture_v2(void *s, int mode) {
    if (getenv("FAKE_NO_GRAPHS")) return NOT_SUPPORTED;
    capturing = s;
    captured = 0;
    return SUCCESS;
}
int cuStreamEndCapture(void *s, void **graph) {
    for (int i = 0; i < others; i++)
        if (!joined[i]) SAY("a stream beside the captured one has not been joined");
    capturing = NULL;
    others = 0;
    *graph = handle();
    return SUCCESS;
}
int cuGraphInstantiateWithFlags(void **executable, void *graph, uint64_t flags) {
    *executable = handle();
    *(int *)*executable = captured;
    SAY("graph of %d launches", captured);
    return SUCCESS;
}
int cuGraphLaunch(void *executable, void *s) {
    SAY("replay %d launches", *(int *)executable);
    return SUCCESS;
}
int cuGraphDestroy(void *graph) { return SUCCESS; }
int cuGraphExecDestroy(void *executable) { return SUCCESS; }

/* Kernels */
int cuLibraryLoadData(void **l, const void *c, void *o, void *v, unsigned n, void *lo, void *lv, unsigned m) {
    *l = handle();
    return SUCCESS;
}
int cuLibraryUnload(void *l) { return SUCCESS; }
int cuLibraryGetKernel(void **k, void *l, const char *name) { *k = strdup(name); return SUCCESS; }
int cuKernelGetName(const char **name, void *k) { *name = k; return SUCCESS; }
int cuKernelGetFunction(void **f, void *k) { *f = k; return SUCCESS; }
int cuKernelGetAttribute(int *v, int which, void *k, int d) { *v = which ? 0 : 1024; return SUCCESS; }
int cuFuncGetAttribute(int *v, int which, void *k) { *v = which ? 0 : 1024; return SUCCESS; }
int cuFuncSetAttribute(void *f, int which, int v) { return SUCCESS; }
int cuLibraryGetModule(void **m, void *l) { *m = l; return SUCCESS; }
int cuModuleGetGlobal_v2(Pointer *p, size_t *n, void *m, const char *name) { return NOT_FOUND; }
int cuLaunchKernel(void *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra) {
    int recorded = in_capture(stream);
    captured += recorded;
    SAY("%s %s on %u x %u x %u blocks of %u x %u x %u%s", recorded ? "capture" : "launch", (char *)f, gx, gy, gz, bx,
        by, bz, stream ? "" : " on the default stream");
    return SUCCESS;
}
int cuLaunchKernelEx(Launch *l, void *f, void **arguments, void **extra) {
    return cuLaunchKernel(f, l->grid[0], l->grid[1], l->grid[2], l->block[0], l->block[1], l->block[2], l->shared,
                          l->stream, arguments, extra);
}

/* Events: a millisecond between any two */
int cuEventCreate(void **e, unsigned flags) { *e = handle(); return SUCCESS; }
int cuEventRecord(void *e, void *s) { *(void **)e = s; return SUCCESS; }
int cuEventSynchronize(void *e) { return SUCCESS; }
int cuEventElapsedTime(float *ms, void *a, void *b) { *ms = 1; return SUCCESS; }
int cuEventDestroy_v2(void *e) { return SUCCESS; }

/* Errors, and how cuda-bindings finds all of these */
int cuGetErrorName(int e, const char **s) {
    *s = e == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : e == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR";
    return SUCCESS;
}
int cuGetErrorString(int e, const char **s) {
    *s = e == NO_DEVICE ? "no CUDA-capable device is detected" : "error";
    return SUCCESS;
}
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    void *self = dlopen(getenv("FAKE_LIBRARY"), RTLD_NOW | RTLD_NOLOAD);
    char longer[200];
    snprintf(longer, sizeof longer, "%s_v2", name);
    *function = dlsym(self, longer);
    if (!*function) *function = dlsym(self, name);
    if (status) *status = *function ? 0 : 1;
    return SUCCESS;
}
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}

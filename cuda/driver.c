#include "config.h"

#include "cuda/driver.h"

#include <cuda_runtime_api.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MODULE "/proc/driver/nvidia/version"
#define NODE "/dev/nvidia0"

static int
no_library(const struct driver_state *s, struct err *e)
{
    if (s->module)
        return err_set(e, ERR_DEVICE, "the NVIDIA driver is only half there: "
                       "its kernel module is loaded and its library "
                       "libcuda.so.1 is not found. Install the driver's "
                       "libraries, of the version in " MODULE "; a container "
                       "must be started with the GPU");
    return err_set(e, ERR_DEVICE, "no NVIDIA driver found: neither its kernel "
                   "module (" MODULE ") nor its library libcuda.so.1 is "
                   "there. Install a driver for CUDA %d.%d or later",
                   s->runtime / 1000, s->runtime % 1000 / 10);
}

static int
no_gpu(const struct driver_state *s, struct err *e)
{
    if (s->visible)
        return err_set(e, ERR_DEVICE, "the NVIDIA driver shows no GPU: "
                       "CUDA_VISIBLE_DEVICES is '%.100s' in this process's "
                       "environment", s->visible);
    if (s->node == EACCES || s->node == EPERM)
        return err_set(e, ERR_DEVICE, "this user may not use the GPU: " NODE
                       ": %s. Give it access (a group, or DeviceAllow in the "
                       "unit)", strerror(s->node));
    return err_set(e, ERR_DEVICE, "the NVIDIA driver shows no GPU; nvidia-smi "
                   "and dmesg say why");
}

int
driver_explain(const struct driver_state *s, struct err *e)
{
    switch (s->status) {
    case cudaSuccess:
        return 0;
    case cudaErrorInsufficientDriver:
        if (s->driver == 0)
            return no_library(s, e);
        return err_set(e, ERR_DEVICE, "the NVIDIA driver is too old: it "
                       "serves CUDA %d.%d, this build needs %d.%d. Install a "
                       "newer driver", s->driver / 1000,
                       s->driver % 1000 / 10, s->runtime / 1000,
                       s->runtime % 1000 / 10);
    case cudaErrorNoDevice:
        return no_gpu(s, e);
    case cudaErrorSystemDriverMismatch:
        return err_set(e, ERR_DEVICE, "the NVIDIA driver's kernel module and "
                       "its library are of different versions, as after an "
                       "update: restart the machine");
    case cudaErrorSystemNotReady:
        return err_set(e, ERR_DEVICE, "the GPUs are not ready; on machines "
                       "with NVSwitch, nvidia-fabricmanager must run");
    default:
        return err_set(e, ERR_DEVICE, "the NVIDIA driver does not start: %s "
                       "(%s)", cudaGetErrorString((cudaError_t)s->status),
                       cudaGetErrorName((cudaError_t)s->status));
    }
}

int
driver_open(int *n, struct err *e)
{
    struct driver_state s = {.visible = getenv("CUDA_VISIBLE_DEVICES")};
    s.status = (int)cudaGetDeviceCount(n);
    if (s.status == 0 && *n == 0)
        s.status = cudaErrorNoDevice;
    if (s.status == 0)
        return 0;
    cudaDriverGetVersion(&s.driver);
    cudaRuntimeGetVersion(&s.runtime);
    s.module = access(MODULE, F_OK) == 0;
    int fd = open(NODE, O_RDWR | O_CLOEXEC);
    s.node = fd < 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return driver_explain(&s, e);
}

int
driver_check_part(int device, const char *name, int major, int minor,
                  int status, struct err *e)
{
    if (major < 8)
        return err_set(e, ERR_UNSUPPORTED, "GPU %d (%s) is of compute "
                       "capability %d.%d; 8.0 is needed", device, name,
                       major, minor);
    if (status == cudaErrorNoKernelImageForDevice
        || status == cudaErrorInvalidDeviceFunction)
        return err_set(e, ERR_UNSUPPORTED, "GPU %d (%s) is of compute "
                       "capability %d.%d; this build has code for " BUILT_FOR
                       " only. Configure with --with-cuda-arch=%d%d", device,
                       name, major, minor, major, minor);
    if (status != 0)
        return err_set(e, ERR_DEVICE, "GPU %d (%s): no kernel can be loaded: "
                       "%s", device, name,
                       cudaGetErrorString((cudaError_t)status));
    return 0;
}

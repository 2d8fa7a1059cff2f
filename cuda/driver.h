/* Whether this machine has a driver and a GPU for us, in a sysadmin's words. */
#ifndef CUDA_DRIVER_H
#define CUDA_DRIVER_H

#include <stdbool.h>

#include "base/err.h"

/* Counts the GPUs. ERR_DEVICE says what is missing. */
int driver_open(int *n, struct err *e);

/* What the first calls found. */
struct driver_state {
    int status;          /* of cudaGetDeviceCount */
    int driver, runtime; /* CUDA versions, as 13000; driver 0: no library */
    bool module;         /* the kernel module is loaded */
    int node;            /* errno of opening /dev/nvidia0 */
    const char *visible; /* CUDA_VISIBLE_DEVICES or NULL */
};
int driver_explain(const struct driver_state *s, struct err *e);

/* Whether the kernels run on a part of this compute capability; status: of
 * looking one of them up. */
int driver_check_part(int device, const char *name, int major, int minor,
                      int status, struct err *e);

#endif

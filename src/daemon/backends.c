/* The back ends of this build. Only the programs choose one. */
#include "config.h"

#include "backend/backend.h"
#include "cpu/cpu.h"
#ifdef HAVE_CUDA
#include "cuda/cuda_backend.h"
#endif

const struct backend_ops *const backend_table[] = {
    &backend_cpu,
    &backend_null,
#ifdef HAVE_CUDA
    &backend_cuda,
#endif
    NULL
};

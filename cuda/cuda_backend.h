/* The CUDA back end; spec is the device number. Rules: backend/backend.h. */
#ifndef CUDA_CUDA_BACKEND_H
#define CUDA_CUDA_BACKEND_H

#include "backend/backend.h"

extern const struct backend_ops backend_cuda;

#endif

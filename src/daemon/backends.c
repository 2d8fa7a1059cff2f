/* The back ends of this build. Only the programs choose one. */
#include "config.h"

#include "backend/backend.h"
#include "cpu/cpu.h"

const struct backend_ops *const backend_table[] = {
    &backend_cpu,
    &backend_null,
    NULL
};

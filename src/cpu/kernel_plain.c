#include "config.h"

/* Any machine: SSE2 on x86-64, NEON on aarch64, whatever the compiler has. */
#define KERNEL_NAME plain
#define WIDTH 4
#ifdef __aarch64__
#define TILE_ROWS 2
#define TILE_VECTORS 2
#define TILE_ROWS_ONE 4
#else
#define TILE_ROWS 2
#define TILE_VECTORS 1
#define TILE_ROWS_ONE 2
#endif
#include "cpu/kernel_body.h"

/*
 * Packed files: the weights of a checkpoint as the device holds them, so that
 * a restart only copies. And the repacking on the host that makes one, the
 * same as pack.cu's bit for bit.
 */
#ifndef CUDA_PACKED_H
#define CUDA_PACKED_H

#include "cuda/cuda_state.h"

#define PACKED_HEADER 65536    /* bytes before the weights */

/* Makes a packed file of m at path; needs no GPU. The file appears when it is
 * whole. */
int packed_write(struct model *m, const char *path,
                 backend_progress_fn progress, void *arg, struct err *e);

/* Whether the file at path belongs to the model of c, whose weights are
 * planned, and to this program. ERR_MISMATCH says what does not. */
int packed_check(const struct cuda *c, const char *path, struct err *e);

/* pack_host.c: as the cuda_ functions of the same names in ops.h. */
void host_pack_fp4(const void *codes, const void *blocks, int rows, int cols,
                   int step, int first, void *out);
void host_pack_rows(const void *in, int rows, uint64_t row_bytes, int step,
                    int first, void *out);
void host_unpack_bf16(enum layout stored, const void *data,
                      const void *blocks, int rows, int cols, void *out);
void host_split_kv_b(const void *kv_b, int heads, void *uk, void *uk_t,
                     void *uv);

#endif

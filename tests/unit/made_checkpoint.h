/* Checkpoint directories made for a test: files are described, then written. */
#ifndef UNIT_MADE_CHECKPOINT_H
#define UNIT_MADE_CHECKPOINT_H

#include <stddef.h>
#include <stdint.h>

#include "model/model.h"

struct made_tensor {
    char name[120];
    enum dtype dtype;
    int n_dim;
    int64_t shape[4];
    int file;           /* shard, from 0 */
    uint64_t at;        /* set by made_write: offset in the file */
    float value;        /* F32 and BF16 tensors of one element: this value */
    uint8_t fill;       /* else: every byte */
    const void *data;   /* else: all bytes, when not NULL */
    bool dropped;
    bool nameless;      /* its bytes are there, its entry is not */
};

struct made {
    char dir[64];
    struct made_tensor *tensor;
    size_t n, cap;
    int n_files;
    bool sparse;        /* only one-element tensors are written */
};

void made_init(struct made *m);      /* makes the directory */
void made_free(struct made *m);      /* removes it with its files */
struct made_tensor *made_add(struct made *m, const char *name,
                             enum dtype dtype, int n_dim, int64_t d0,
                             int64_t d1);
struct made_tensor *made_find(struct made *m, const char *name);
void made_text(const struct made *m, const char *name, const char *text);
/* Writes the weight files: STEM.safetensors, or shards with an index. */
void made_write(struct made *m, const char *stem);

/* All tensors of the native layout for p, matrices as `form` says. */
enum made_form { MADE_BF16, MADE_FP8, MADE_NVFP4 };
void made_native(struct made *m, const struct model_params *p,
                 enum made_form form);

#endif

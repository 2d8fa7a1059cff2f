/*
 * Headers of safetensors files. Only the header is read; data stays in the
 * file. One call reads one file; any thread.
 */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include "base/mem.h"
#include "model/model.h"

/* Tensors of one file in the order of their data. */
struct safetensors {
    struct tensor *tensor;  /* [n], name in the arena; file and seed are 0 */
    size_t n;
    uint64_t gap;           /* bytes before a tensor that no tensor has: one is
                               missing from the header; 0 = none */
    const struct tensor *gap_before; /* the first such */
};

/* Reads the header of a file of file_size bytes from fd (pread) and checks it
 * against the size: offsets without overlap, sizes that match dtype and shape,
 * no byte missing or left over at the end; a gap is reported in out, since only
 * who knows the model can say which tensor it was. The array and names live in a. Returns
 * 0, ERR_IO, ERR_FORMAT or ERR_NOMEM; errors start with path and name the
 * tensor where there is one. */
int safetensors_read(int fd, uint64_t file_size, const char *path,
                     struct arena *a, struct safetensors *out, struct err *e);

/* The same for header text in memory; data_size: bytes behind the header. */
int safetensors_parse(const char *header, size_t n, uint64_t data_size,
                      uint64_t data_start, const char *path, struct arena *a,
                      struct safetensors *out, struct err *e);

/* Reads exactly n bytes at `from`. Returns 0 or ERR_IO; path is for e. */
int safetensors_bytes(int fd, void *dst, size_t n, uint64_t from,
                      const char *path, struct err *e);

#endif

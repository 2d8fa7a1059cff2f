/* Byte-pair encoding of one piece of the split text. */
#ifndef TOK_BPE_H
#define TOK_BPE_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "tok/vocab.h"

/* Memory for long pieces, kept from one to the next. Zeroed is empty. */
struct bpe_scratch {
    void *mem;
    size_t size;
};
void bpe_scratch_free(struct bpe_scratch *s);

/* Appends offset + rank of each part of the piece (n > 0 bytes). 0 or
 * ERR_NOMEM. */
int bpe_encode(const struct vocab *v, const char *p, size_t n, int32_t offset,
               struct bpe_scratch *s, struct ids *out);

#endif

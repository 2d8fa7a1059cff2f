/* Vision vectors of a request's images: encoded when a step first needs them,
 * freed when their tokens are in the cache. Engine thread. */
#ifndef ENGINE_IMAGES_H
#define ENGINE_IMAGES_H

#include "engine/request.h"

/* Encodes what the next n_tok tokens of r need. Where the device has no room,
 * the share is cut before that image; so it is before one that is still being
 * encoded, for others need not wait for it: then *held is set. Returns the
 * tokens that can be computed (0: none now), or a negative code: ERR_DEVICE is
 * fatal, others end r. */
int64_t images_prepare(struct request *r, uint32_t n_tok, struct backend *b,
                       bool *held, struct err *e);

/* Number of batch_image entries that the tokens [from, from + n_tok) of r
 * need, at most out's room of r->in.n_image; `first` is the place of token
 * `from` in the batch. */
uint32_t images_batch(const struct request *r, uint32_t from, uint32_t n_tok,
                      uint32_t first, struct batch_image *out);

/* Frees the vectors of images that are in the cache by now, or all of them. */
void images_free(struct request *r, struct backend *b, bool all);

#endif

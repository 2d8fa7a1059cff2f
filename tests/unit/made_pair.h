/* A target and a draft head for tests of speculation. */
#ifndef MADE_PAIR_H
#define MADE_PAIR_H

#include <stdbool.h>

#include "model/model.h"

#define PAIR_VOCAB 64
#define PAIR_DIM 32

/* A target in which the next token is a function of the last one: nothing but
 * embedding, norm and output matters. The head sees the same, because its
 * fusion takes the embedding and leaves the hidden state out; with `wrong` it
 * takes every second lane from the neighbour. Fails the test on an error. */
void made_pair(bool wrong, struct model **target, struct model **head);

#endif

/* The formats of JSON Schema that are held to. */
#ifndef GRAMMAR_FORMAT_H
#define GRAMMAR_FORMAT_H

#include "base/str.h"
#include "grammar/rx/rx.h"

/* The texts of a format; the pool's "all" for one that is an annotation
 * only or unknown. */
rx_id format_rx(struct rx_pool *p, struct str name);

#endif

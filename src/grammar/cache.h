/* Compiled grammars by what they were compiled from. */
#ifndef GRAMMAR_CACHE_H
#define GRAMMAR_CACHE_H

struct grammar_cache;

struct grammar_cache *grammar_cache_create(void); /* NULL: out of memory */
void grammar_cache_free(struct grammar_cache *c);

#endif

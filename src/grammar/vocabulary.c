/* A vocabulary: its trees, and the grammars compiled for it. */
#include "config.h"

#include "grammar/grammar.h"

#include "grammar/cache.h"
#include "grammar/token/trie.h"

int
grammar_vocab_create(const struct tok *t, struct grammar_vocab **out,
                     struct err *e)
{
    struct grammar_vocab *v;
    int rc = trie_vocab_create(t, &v, e);

    if (rc != 0)
        return rc;
    v->cache = grammar_cache_create();
    if (v->cache == NULL) {
        trie_vocab_free(v);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    *out = v;
    return 0;
}

void
grammar_vocab_free(struct grammar_vocab *v)
{
    if (v == NULL)
        return;
    grammar_cache_free(v->cache);
    trie_vocab_free(v);
}

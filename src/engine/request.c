#include "config.h"

#include "engine/request.h"

#include "base/clock.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* From here on a request's text is mapped for itself, so that pages it has
 * touched go back to the system with it and do not stay in the heap. */
#define MAP_MIN 65536

static int check(const struct engine_options *o,
                 const struct engine_request *r);
static bool ids_ok(const int32_t *id, size_t n, uint32_t n_vocab);
static int copy_lists(struct request *r);
static int copy_words(struct request *r);
static int copy_state(struct request *r, const struct engine_options *o);
static int copy_ban(struct request *r);
static int text_alloc(struct request *r, size_t n_token, size_t n_block);
static int copy(struct arena *a, void *list, size_t n, size_t size);

int
request_create(const struct engine_options *o, const struct engine_request *in,
               struct request **out)
{
    int rc = check(o, in);
    if (rc != 0)
        return rc;
    struct arena *a = arena_create(1024, 0);
    struct request *r = a ? arena_calloc(a, 1, sizeof *r) : NULL;
    if (r == NULL) {
        arena_destroy(a);
        return ERR_NOMEM;
    }
    r->arena = a;
    r->in = *in;
    r->in.cache_salt = (struct str){0}; /* hashed by the engine */
    r->n_prompt = r->n_token = in->n_prompt;
    uint32_t room = o->max_context - in->n_prompt;
    r->limit = in->max_tokens < room ? in->max_tokens : room;
    r->slot = SLOT_NONE;
    r->inside = in->think.inside;
    r->t_submit = clock_ns();
    list_init(&r->node);
    list_init(&r->cancel_node);
    if (copy_lists(r) != 0 || copy_words(r) != 0 || copy_ban(r) != 0 ||
        copy_state(r, o) != 0) {
        request_free(r);
        return ERR_NOMEM;
    }
    *out = r;
    return 0;
}

void
request_free(struct request *r)
{
    if (r->text_bytes >= MAP_MIN)
        munmap(r->text_memory, r->text_bytes);
    else
        free(r->text_memory);
    free(r->prompt);
    arena_destroy(r->arena);
}

void
request_post(struct request *r, struct engine_event *ev)
{
    ev->user = r->in.user;
    ev->n_cached = r->n_cached;
    r->in.post(ev);
}

static int
check(const struct engine_options *o, const struct engine_request *r)
{
    const struct sampling *s = &r->sampling;
    if (r->n_prompt > o->max_context)
        return ERR_LIMIT;
    if (r->n_prompt == 0 || r->n_top > BACKEND_TOP_MAX ||
        r->prompt_top > BACKEND_TOP_MAX || s->n_bias > BACKEND_BIAS_MAX ||
        r->n_ask > BACKEND_TOP_MAX ||
        (r->n_ask > 0 && r->n_top < 0))
        return ERR_RANGE;
    const struct engine_repetition *p = &r->repetition;
    if (p->max > 0 && (p->min == 0 || p->min > p->max || p->count < 2))
        return ERR_RANGE;
    if (!ids_ok(r->prompt, r->n_prompt, o->n_vocab) ||
        !ids_ok(r->end_id, r->n_end, o->n_vocab) ||
        !ids_ok(r->stop_id, r->n_stop, o->n_vocab) ||
        !ids_ok(s->bias_id, s->n_bias, o->n_vocab) ||
        !ids_ok(s->ban, s->n_ban, o->n_vocab) ||
        !ids_ok(r->ask, r->n_ask, o->n_vocab) ||
        !ids_ok(s->bad, s->n_bad, o->n_vocab) ||
        !ids_ok(s->allowed, s->n_allowed, o->n_vocab))
        return ERR_RANGE;
    for (size_t i = 0; i < r->n_word; i++)
        if (r->word[i].n < 2 || !ids_ok(r->word[i].id, r->word[i].n,
                                        o->n_vocab))
            return ERR_RANGE;
    if (r->think.open >= 0 && (uint32_t)r->think.open >= o->n_vocab)
        return ERR_RANGE;
    if (r->think.close >= 0 && (uint32_t)r->think.close >= o->n_vocab)
        return ERR_RANGE;
    for (size_t i = 0; i < r->n_image; i++)
        if (r->image[i].n_tokens == 0 || r->image[i].pos >= r->n_prompt ||
            r->image[i].n_tokens > r->n_prompt - r->image[i].pos)
            return ERR_RANGE;
    return 0;
}

static bool
ids_ok(const int32_t *id, size_t n, uint32_t n_vocab)
{
    for (size_t i = 0; i < n; i++)
        if (id[i] < 0 || (uint32_t)id[i] >= n_vocab)
            return false;
    return true;
}

static int
copy_lists(struct request *r)
{
    struct engine_request *in = &r->in;
    struct sampling *s = &in->sampling;
    size_t id = sizeof(int32_t);
    struct arena *a = r->arena;
    return copy(a, &in->end_id, in->n_end, id) ||
           copy(a, &in->stop_id, in->n_stop, id) ||
           copy(a, &s->bias_id, s->n_bias, id) ||
           copy(a, &s->bias, s->n_bias, sizeof *s->bias) ||
           copy(a, &in->ask, in->n_ask, id) ||
           copy(a, &s->bad, s->n_bad, id) ||
           copy(a, &s->allowed, s->n_allowed, id) ||
           copy(a, &in->image, in->n_image, sizeof *in->image);
}

/* Replaces the pointer at list by a copy of its n elements. */
static int
copy(struct arena *a, void *list, size_t n, size_t size)
{
    const void *from;
    memcpy(&from, list, sizeof from);
    void *to = NULL;
    if (n > 0) {
        to = arena_alloc(a, n * size);
        if (to == NULL)
            return ERR_NOMEM;
        memcpy(to, from, n * size);
    }
    memcpy(list, &to, sizeof to);
    return 0;
}

static int
copy_words(struct request *r)
{
    struct engine_request *in = &r->in;
    struct engine_word *w =
        arena_calloc(r->arena, in->n_word + 1, sizeof *w);
    if (w == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < in->n_word; i++) {
        w[i] = in->word[i];
        if (copy(r->arena, &w[i].id, w[i].n, sizeof *w[i].id) != 0)
            return ERR_NOMEM;
    }
    in->word = w;
    return 0;
}

/* min_tokens: what would end the output is banned until then. */
static int
copy_ban(struct request *r)
{
    struct engine_request *in = &r->in;
    struct sampling *s = &in->sampling;
    if (in->min_tokens == 0)
        return copy(r->arena, &s->ban, s->n_ban, sizeof(int32_t));
    size_t n_end = in->ignore_end ? 0 : in->n_end;
    size_t n = s->n_ban + n_end + in->n_stop, k = 0;
    int32_t *ban = arena_calloc(r->arena, n + 1, sizeof *ban);
    if (ban == NULL)
        return ERR_NOMEM;
    for (size_t i = 0; i < s->n_ban; i++)
        ban[k++] = s->ban[i];
    for (size_t i = 0; i < n_end; i++)
        ban[k++] = in->end_id[i];
    for (size_t i = 0; i < in->n_stop; i++)
        ban[k++] = in->stop_id[i];
    s->ban = ban;
    s->n_ban = n;
    if (s->ban_until < in->min_tokens)
        s->ban_until = in->min_tokens;
    return 0;
}

static int
copy_state(struct request *r, const struct engine_options *o)
{
    size_t n = (size_t)r->n_prompt + r->limit;
    size_t n_block = (n + o->max_out - 1 + KV_BLOCK - 1) / KV_BLOCK;
    if (n_block > o->n_blocks)
        n_block = o->n_blocks;
    if (text_alloc(r, n + BACKEND_OUT_MAX, n_block) != 0)
        return ERR_NOMEM;
    r->image = arena_calloc(r->arena, r->in.n_image + 1, sizeof *r->image);
    bool masked = r->in.matcher != NULL || r->in.n_word > 0;
    r->mask_words = MASK_WORDS(o->n_logits);
    if (masked)
        r->mask = arena_calloc(r->arena, r->mask_words * (size_t)o->max_out,
                               sizeof *r->mask);
    if (r->image == NULL || (masked && r->mask == NULL))
        return ERR_NOMEM;
    memcpy(r->token, r->in.prompt, r->n_prompt * sizeof *r->token);
    r->in.prompt = r->token;
    r->text = (struct prefix_text){.token = r->token, .image = r->in.image,
                                   .n_image = r->in.n_image};
    return 0;
}

/* The arrays that grow with the text get room for the longest text at once:
 * steps in flight point into them, so they must not move, and pages that are
 * not written to cost nothing. */
static int
text_alloc(struct request *r, size_t n_token, size_t n_block)
{
    size_t keys = n_block * sizeof *r->path.key;
    size_t ids = n_block * sizeof(uint32_t);
    size_t size = keys + 2 * ids + n_token * sizeof *r->token;
    char *p;
    if (size >= MAP_MIN) {
        p = mmap(NULL, size, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        p = p == MAP_FAILED ? NULL : p;
    } else {
        p = malloc(size);
    }
    if (p == NULL)
        return ERR_NOMEM;
    r->text_memory = p;
    r->text_bytes = size;
    r->path.key = (uint64_t *)p;
    r->path.node = (uint32_t *)(p + keys);
    r->block = (uint32_t *)(p + keys + ids);
    r->token = (int32_t *)(p + keys + 2 * ids);
    return 0;
}

/* A caller of the engine for tests: submits, records events, and knows by
 * itself which tokens the fake device must give for a text. */
#ifndef FAKE_CLIENT_H
#define FAKE_CLIENT_H

#include "base/buf.h"
#include "engine/engine.h"
#include "tests/unit/fake_device.h"

struct client {
    struct engine_request req;
    engine_id id;
    int32_t *prompt;
    struct engine_image image[4];
    float pixel[4];
    /* what came back, under the lock of client_wait */
    struct ids out;
    enum engine_finish finish;
    unsigned n_last;         /* last events; must become 1 */
    int32_t stop_id;
    uint32_t n_cached;
    uint64_t queue_ns, prefill_ns;
    char *error;
    struct ids lp_id;        /* of the drawn tokens */
    float *lp;
    size_t n_lp;
    struct engine_logprobs *prompt_lp;
    uint64_t end_order;      /* 1 = first client to end */
};

/* A greedy request with n_prompt random ids (from seed) and no end ids. */
void client_init(struct client *c, uint32_t n_prompt, uint64_t seed,
                 uint32_t n_vocab, uint32_t max_tokens);
void client_free(struct client *c);

int client_submit(struct client *c, struct engine *en);
/* Waits for the last event of one client; fails the test after 60 s. */
void client_wait(struct client *c);
bool client_ended(struct client *c);
/* Tokens received so far. */
size_t client_n_out(struct client *c);

/* The tokens that c must get, with their finish. Any of max_out > 1, drafts,
 * batching, caching and preemption must not matter. */
enum engine_finish client_expect(const struct client *c, uint32_t n_vocab,
                                 uint32_t max_context, struct ids *out);

/* Fails the test unless c got just that. */
void client_check(struct client *c, uint32_t n_vocab, uint32_t max_context);

#endif

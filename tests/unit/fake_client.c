#include "config.h"

#include "tests/unit/fake_client.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;
static uint64_t n_ended;

static void
on_event(const struct engine_event *ev)
{
    struct client *c = ev->user;
    pthread_mutex_lock(&lock);
    ids_append(&c->out, ev->token, ev->n_tok);
    if (ev->logprobs != NULL) {
        c->lp = realloc(c->lp, (c->n_lp + ev->logprobs->n) * sizeof *c->lp);
        for (uint32_t i = 0; i < ev->logprobs->n; i++) {
            ids_push(&c->lp_id, ev->logprobs->token[i].id);
            c->lp[c->n_lp++] = ev->logprobs->token[i].logprob;
        }
        free(ev->logprobs);
    }
    if (ev->prompt != NULL)
        c->prompt_lp = ev->prompt;
    if (ev->queue_ns != 0 || ev->prefill_ns != 0) {
        c->queue_ns = ev->queue_ns;
        c->prefill_ns = ev->prefill_ns;
    }
    c->n_cached = ev->n_cached;
    if (ev->finish != ENGINE_RUNNING) {
        c->finish = ev->finish;
        c->stop_id = ev->stop_id;
        c->error = ev->error;
        c->n_last++;
        c->end_order = ++n_ended;
        pthread_cond_broadcast(&ended);
    }
    pthread_mutex_unlock(&lock);
}

void
client_init(struct client *c, uint32_t n_prompt, uint64_t seed,
            uint32_t n_vocab, uint32_t max_tokens)
{
    memset(c, 0, sizeof *c);
    c->prompt = malloc(n_prompt * sizeof *c->prompt);
    for (uint32_t i = 0; i < n_prompt; i++)
        c->prompt[i] = (int32_t)(fake_hash(seed, (int32_t)i, 0, 0) % n_vocab);
    c->req = (struct engine_request){
        .user = c, .post = on_event, .prompt = c->prompt,
        .n_prompt = n_prompt, .max_tokens = max_tokens, .n_top = -1,
        .prompt_top = -1, .think = {.open = -1, .close = -1, .budget = -1},
        .sampling = {.top_p = 1, .repetition_penalty = 1}};
}

void
client_free(struct client *c)
{
    free(c->prompt);
    free(c->error);
    free(c->lp);
    free(c->prompt_lp);
    ids_free(&c->out);
    ids_free(&c->lp_id);
}

int
client_submit(struct client *c, struct engine *en)
{
    return engine_submit(en, &c->req, &c->id);
}

void
client_wait(struct client *c)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    pthread_mutex_lock(&lock);
    int rc = 0;
    while (c->n_last == 0 && rc == 0)
        rc = pthread_cond_timedwait(&ended, &lock, &until);
    pthread_mutex_unlock(&lock);
    assert_int_equal(rc, 0);
}

bool
client_ended(struct client *c)
{
    pthread_mutex_lock(&lock);
    bool is = c->n_last > 0;
    pthread_mutex_unlock(&lock);
    return is;
}

size_t
client_n_out(struct client *c)
{
    pthread_mutex_lock(&lock);
    size_t n = c->out.n;
    pthread_mutex_unlock(&lock);
    return n;
}

/* The vector mixed in at position pos of the prompt; 0 outside images. */
static uint64_t
vector_at(const struct client *c, uint32_t pos)
{
    for (size_t i = 0; i < c->req.n_image; i++) {
        const struct engine_image *im = &c->req.image[i];
        if (pos < im->pos || pos >= im->pos + im->n_tokens ||
            c->prompt[pos] != c->prompt[im->pos])
            continue;
        uint32_t row = 0;
        for (uint32_t at = im->pos; at < pos; at++)
            row += c->prompt[at] == c->prompt[im->pos];
        return fake_image_vector(im->pixels[0], row);
    }
    return 0;
}

static bool
in_list(const int32_t *id, size_t n, int32_t t)
{
    for (size_t i = 0; i < n; i++)
        if (id[i] == t)
            return true;
    return false;
}

enum engine_finish
client_expect(const struct client *c, uint32_t n_vocab, uint32_t max_context,
              struct ids *out)
{
    const struct engine_request *r = &c->req;
    struct sampling s = r->sampling;
    struct ids ban = {0};
    if (r->min_tokens > 0) {
        if (!r->ignore_end)
            ids_append(&ban, r->end_id, r->n_end);
        ids_append(&ban, r->stop_id, r->n_stop);
        s.ban = ban.id;
        s.n_ban = ban.n;
        s.ban_until = r->min_tokens;
    }
    uint64_t hash = 0;
    uint32_t pos = 0;
    for (; pos < r->n_prompt; pos++)
        hash = fake_hash(hash, r->prompt[pos], pos, vector_at(c, pos));
    bool inside = r->think.inside;
    int64_t n_inside = 0;
    enum engine_finish why = ENGINE_LENGTH;
    while (out->n < r->max_tokens && pos < max_context) {
        int32_t t = fake_draw(hash, n_vocab, &s, (uint32_t)out->n, NULL);
        bool end = !r->ignore_end && in_list(r->end_id, r->n_end, t);
        if (inside && r->think.close >= 0 &&
            ((r->think.budget >= 0 && n_inside >= r->think.budget) ||
             (end && r->think.hold_end))) {
            t = r->think.close;
            end = !r->ignore_end && in_list(r->end_id, r->n_end, t);
        }
        ids_push(out, t);
        if (inside && t == r->think.close)
            inside = false;
        else if (inside)
            n_inside++;
        else if (r->think.open >= 0 && t == r->think.open)
            inside = true, n_inside = 0;
        if (out->n >= r->min_tokens &&
            (end || in_list(r->stop_id, r->n_stop, t))) {
            why = ENGINE_STOP;
            break;
        }
        hash = fake_hash(hash, t, pos++, 0);
    }
    ids_free(&ban);
    return why;
}

void
client_check(struct client *c, uint32_t n_vocab, uint32_t max_context)
{
    struct ids want = {0};
    enum engine_finish why = client_expect(c, n_vocab, max_context, &want);
    assert_int_equal(c->n_last, 1);
    assert_int_equal(c->finish, why);
    assert_int_equal(c->out.n, want.n);
    if (want.n > 0)
        assert_memory_equal(c->out.id, want.id, want.n * sizeof *want.id);
    if (why == ENGINE_STOP)
        assert_int_equal(c->stop_id, want.id[want.n - 1]);
    ids_free(&want);
}

#include "config.h"

#include "tests/unit/fake_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct cell {
    uint64_t hash;
    uint32_t pos;
};

/* What a slot knows of its text. */
struct slot {
    int32_t *text;
    uint32_t n, cap;
    int32_t last;
};

struct flight {
    struct batch batch;      /* as submitted */
    int32_t *token;          /* copies, to see that nothing changed */
    struct batch_seq *seq;
    uint32_t **block;
};

struct fake {
    struct backend base;
    struct backend_ops ops;
    struct fake_options o;
    struct cell *kv;
    struct slot *slot;
    struct flight flight[2];
    unsigned n_fly;
    struct seq_result *result;
    struct logprob *lp;      /* scratch, freed at the next collect */
    uint32_t *rank;
    float *image;            /* first pixel by handle; < 0: free */
    unsigned n_images, faults, waits;
    uint64_t making;         /* handle that is being made, if left > 0 */
    uint32_t left;           /* steps until it is made */
    uint64_t n_tokens, n_steps, clock;
    uint32_t largest;
};

static void make_image(struct fake *f, const struct batch *b);

static uint64_t
mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    return x ^ x >> 33;
}

uint64_t
fake_hash(uint64_t before, int32_t token, uint32_t pos, uint64_t image)
{
    return mix(mix(before + 0x9e37u) ^ mix((uint64_t)token << 32 | pos) ^
               image);
}

uint64_t
fake_image_vector(float pixel, uint32_t row)
{
    return mix((uint64_t)(pixel * 4096.0f) << 20 | (row + 1));
}

static bool
listed(const int32_t *id, size_t n, int32_t t)
{
    for (size_t i = 0; i < n; i++)
        if (id[i] == t)
            return true;
    return false;
}

int32_t
fake_draw(uint64_t hash, uint32_t n_vocab, const struct sampling *s,
          uint32_t n_drawn, const uint32_t *allowed)
{
    for (uint32_t i = 0; i < n_vocab; i++) {
        int32_t t = (int32_t)((hash + i) % n_vocab);
        if (allowed != NULL && !(allowed[t / 32] >> (t % 32) & 1))
            continue;
        if (n_drawn < s->ban_until && listed(s->ban, s->n_ban, t))
            continue;
        return t;
    }
    return 0;
}

float
fake_logprob(uint64_t hash, int32_t id)
{
    return -(float)(mix(hash + (uint64_t)id) % 1000) / 100.0f;
}

static void
fault(struct fake *f, const char *what, uint32_t slot)
{
    f->faults++;
    fprintf(stderr, "fake device: %s (slot %u)\n", what, slot);
}

static int
fake_submit(struct backend *b, const struct batch *batch, struct err *e)
{
    struct fake *f = (struct fake *)b;
    if (f->o.fail_submit && (int64_t)batch->step == f->o.fail_step)
        return err_set(e, ERR_DEVICE, "injected at submit");
    if (f->n_fly >= (unsigned)f->o.depth)
        fault(f, "too many steps in flight", 0);
    struct flight *fl = &f->flight[f->n_fly++];
    fl->batch = *batch;
    fl->token = malloc(batch->n_tok * sizeof *fl->token);
    memcpy(fl->token, batch->token, batch->n_tok * sizeof *fl->token);
    fl->seq = malloc(batch->n_seq * sizeof *fl->seq);
    memcpy(fl->seq, batch->seq, batch->n_seq * sizeof *fl->seq);
    fl->block = malloc(batch->n_seq * sizeof *fl->block);
    for (uint32_t i = 0; i < batch->n_seq; i++) {
        size_t size = batch->seq[i].n_block * sizeof **fl->block;
        fl->block[i] = malloc(size);
        memcpy(fl->block[i], batch->seq[i].block, size);
    }
    make_image(f, batch);
    f->n_tokens += batch->n_tok;
    if (batch->n_tok > f->largest)
        f->largest = batch->n_tok;
    return 0;
}

/* The batch must be what was submitted. */
static void
check_flight(struct fake *f, const struct flight *fl)
{
    const struct batch *b = &fl->batch;
    if (memcmp(b->token, fl->token, b->n_tok * sizeof *fl->token) != 0)
        fault(f, "tokens changed in flight", 0);
    if (memcmp(b->seq, fl->seq, b->n_seq * sizeof *fl->seq) != 0)
        fault(f, "sequences changed in flight", 0);
    for (uint32_t i = 0; i < b->n_seq; i++)
        if (memcmp(b->seq[i].block, fl->block[i],
                   b->seq[i].n_block * sizeof **fl->block) != 0)
            fault(f, "block table changed in flight", b->seq[i].slot);
}

static void
slot_push(struct slot *s, int32_t id)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 64;
        s->text = realloc(s->text, s->cap * sizeof *s->text);
    }
    s->text[s->n++] = id;
}

/* The slot's own record of the text must agree with the history given. */
static void
check_history(struct fake *f, const struct batch_seq *q)
{
    struct slot *s = &f->slot[q->slot];
    if (q->reset) {
        s->n = 0;
        for (uint32_t i = 0; i < q->n_history; i++)
            slot_push(s, q->history[i]);
        return;
    }
    if (q->n_history > s->n ||
        memcmp(s->text, q->history, q->n_history * sizeof *s->text) != 0)
        fault(f, "history changed without reset", q->slot);
}

static struct cell *
cell_at(struct fake *f, const struct batch_seq *q, uint32_t pos)
{
    if (pos / KV_BLOCK >= q->n_block ||
        q->block[pos / KV_BLOCK] >= f->o.n_blocks) {
        fault(f, "no block for a position", q->slot);
        return &f->kv[0];
    }
    return &f->kv[(size_t)q->block[pos / KV_BLOCK] * KV_BLOCK +
                  pos % KV_BLOCK];
}

static uint64_t
put(struct fake *f, const struct batch_seq *q, uint32_t pos, int32_t token,
    uint64_t image)
{
    uint64_t before = 0;
    if (pos > 0) {
        const struct cell *c = cell_at(f, q, pos - 1);
        if (c->pos != pos - 1)
            fault(f, "the cell before has another position", q->slot);
        before = c->hash;
    }
    struct cell *c = cell_at(f, q, pos);
    *c = (struct cell){fake_hash(before, token, pos, image), pos};
    return c->hash;
}

static uint64_t
image_of(struct fake *f, const struct batch *b, uint32_t at)
{
    for (uint32_t i = 0; i < b->n_image; i++) {
        const struct batch_image *im = &b->image[i];
        uint32_t row = im->row, left = im->n;
        for (uint32_t t = im->token; t <= at && t < b->n_tok && left; t++) {
            if (b->token[t] != b->token[im->token])
                continue;
            if (t == at && f->image[im->handle] < 0)
                fault(f, "an image was freed too early", 0);
            if (t == at)
                return fake_image_vector(f->image[im->handle], row);
            row++;
            left--;
        }
    }
    return 0;
}

static void
report(struct fake *f, const struct batch_seq *q, struct seq_result *r,
       const uint64_t *hash)
{
    size_t top = q->n_top > 0 ? (size_t)q->n_top : 0;
    struct logprob *lp = f->lp;
    r->drawn = lp;
    r->drawn_rank = f->rank;
    r->top = lp + r->n_out;
    for (uint32_t i = 0; i < r->n_out; i++) {
        f->lp[i] = (struct logprob){r->out[i],
                                    fake_logprob(hash[i], r->out[i])};
        f->rank[i] = i + 1;
        for (size_t k = 0; k < top; k++)
            lp[r->n_out + i * top + k] =
                (struct logprob){(int32_t)k,
                                 fake_logprob(hash[i], (int32_t)k)};
    }
    f->lp += r->n_out + r->n_out * top;
    f->rank += r->n_out;
}

static void
report_targets(struct fake *f, const struct batch_seq *q,
               struct seq_result *r, uint32_t i, uint64_t hash)
{
    size_t top = (size_t)q->target_top;
    if (i == 0) {
        r->target = f->lp;
        r->target_rank = f->rank;
        r->target_top = f->lp + q->n_tok;
        f->lp += q->n_tok + q->n_tok * top;
        f->rank += q->n_tok;
    }
    struct logprob *t = (struct logprob *)r->target + i;
    *t = (struct logprob){q->target[i], 0};
    if (q->target[i] >= 0)
        t->logprob = fake_logprob(hash, q->target[i]);
    ((uint32_t *)r->target_rank)[i] = 7;
    for (size_t k = 0; k < top; k++)
        ((struct logprob *)r->target_top)[i * top + k] =
            (struct logprob){(int32_t)k, fake_logprob(hash, (int32_t)k)};
}

static void
run_seq(struct fake *f, const struct batch *b, const struct batch_seq *q,
        struct seq_result *r)
{
    struct slot *s = &f->slot[q->slot];
    uint64_t hash = 0, hashes[BACKEND_OUT_MAX];
    *r = (struct seq_result){0};
    check_history(f, q);
    for (uint32_t i = 0; i < q->n_tok; i++) {
        int32_t t = b->token[q->first + i];
        if (t == TOKEN_SAMPLED)
            t = s->last;
        if (t < 0 || (uint32_t)t >= f->o.n_vocab)
            fault(f, "a token outside the vocabulary", q->slot);
        hash = put(f, q, q->n_past + i, t, image_of(f, b, q->first + i));
        if (q->target != NULL)
            report_targets(f, q, r, i, hash);
    }
    if (!q->sample)
        return;
    uint32_t pos = q->n_past + q->n_tok, want = 1;
    if (q->max_out > 1 && q->mask && q->sampling->temperature >= 1e-5f)
        fault(f, "drafts behind a mask, but no greedy draw", q->slot);
    if (q->max_out > 1)
        want = 1 + (uint32_t)(mix(hash) >> 40) % q->max_out;
    for (uint32_t k = 0; k < want; k++) {
        if (k > 0 && (pos + k - 1) / KV_BLOCK >= q->n_block)
            break;
        if (k > 0)
            hash = put(f, q, pos + k - 1, r->out[k - 1], 0);
        hashes[k] = hash;
        r->out[k] = fake_draw(hash, f->o.n_vocab, q->sampling,
                              q->n_drawn + k, k == 0 ? q->mask : NULL);
        slot_push(s, r->out[k]);
        r->n_out = k + 1;
    }
    s->last = r->out[r->n_out - 1];
    r->n_draft = q->max_out - 1;
    if (q->n_top >= 0)
        report(f, q, r, hashes);
}

static int
fake_collect(struct backend *b, struct step_result *out, struct err *e)
{
    struct fake *f = (struct fake *)b;
    static struct logprob lp[1 << 16];
    static uint32_t rank[1 << 14];
    struct flight *fl = &f->flight[0];
    f->lp = lp;
    f->rank = rank;
    if (!f->o.fail_submit && (int64_t)fl->batch.step == f->o.fail_step)
        return err_set(e, ERR_DEVICE, "injected at step %lld",
                       (long long)f->o.fail_step);
    if (f->o.step_us)
        usleep(f->o.step_us);
    check_flight(f, fl);
    for (uint32_t i = 0; i < fl->batch.n_seq; i++)
        run_seq(f, &fl->batch, &fl->batch.seq[i], &f->result[i]);
    *out = (struct step_result){.step = fl->batch.step,
                                .n_seq = fl->batch.n_seq, .seq = f->result,
                                .n_experts = fl->batch.n_tok};
    if (f->o.run_ns > 0) {
        out->begin_ns = f->clock += f->o.pause_ns;
        out->end_ns = f->clock += f->o.run_ns;
    }
    for (uint32_t i = 0; i < fl->batch.n_seq; i++)
        free(fl->block[i]);
    free(fl->block);
    free(fl->seq);
    free(fl->token);
    f->flight[0] = f->flight[1];
    f->n_fly--;
    return 0;
}

static int
fake_encode(struct backend *b, const float *pixels, int height, int width,
            uint64_t *handle, struct err *e)
{
    struct fake *f = (struct fake *)b;
    for (uint32_t i = 0; i < f->o.max_images; i++) {
        if (f->image[i] >= 0)
            continue;
        f->waits += f->left > 0;
        f->making = i;
        f->left = f->o.image_steps;
        f->image[i] = pixels[0];
        f->n_images++;
        *handle = i;
        return 0;
    }
    return err_set(e, ERR_AGAIN, "no room for an image");
}

static void
fake_free_image(struct backend *b, uint64_t handle)
{
    struct fake *f = (struct fake *)b;
    if (f->image[handle] < 0)
        fault(f, "an image was freed twice", 0);
    f->image[handle] = -1;
    f->n_images--;
    if (f->making == handle)
        f->left = 0;
}

static bool
fake_image_pending(struct backend *b, const uint64_t *handle)
{
    struct fake *f = (struct fake *)b;
    if (f->left > 0)
        f->left--;
    return f->left > 0 && (handle == NULL || *handle == f->making);
}

/* A step makes a bit of an image, or waits for the rest of its own. */
static void
make_image(struct fake *f, const struct batch *b)
{
    bool uses = false;
    for (uint32_t i = 0; i < b->n_image; i++)
        uses |= b->image[i].handle == f->making;
    if (f->left == 0)
        return;
    f->waits += uses;
    f->left = uses ? 0 : f->left - 1;
}

struct backend *
fake_create(const struct fake_options *o)
{
    struct fake *f = calloc(1, sizeof *f);
    f->o = *o;
    f->kv = calloc((size_t)o->n_blocks * KV_BLOCK, sizeof *f->kv);
    f->slot = calloc(o->max_seqs, sizeof *f->slot);
    f->result = calloc(o->max_seqs, sizeof *f->result);
    f->image = calloc(o->max_images + 1, sizeof *f->image);
    for (uint32_t i = 0; i < o->max_images; i++)
        f->image[i] = -1;
    f->ops = (struct backend_ops){.name = "fake", .depth = o->depth,
                                  .submit = fake_submit,
                                  .collect = fake_collect};
    if (o->max_images > 0) {
        f->ops.encode_image = fake_encode;
        f->ops.free_image = fake_free_image;
        f->ops.image_pending = fake_image_pending;
    }
    f->base.ops = &f->ops;
    return &f->base;
}

void
fake_destroy(struct backend *b)
{
    struct fake *f = (struct fake *)b;
    for (unsigned i = 0; i < f->n_fly; i++) {
        for (uint32_t k = 0; k < f->flight[i].batch.n_seq; k++)
            free(f->flight[i].block[k]);
        free(f->flight[i].block);
        free(f->flight[i].seq);
        free(f->flight[i].token);
    }
    for (uint32_t i = 0; i < f->o.max_seqs; i++)
        free(f->slot[i].text);
    free(f->kv);
    free(f->slot);
    free(f->result);
    free(f->image);
    free(f);
}

unsigned
fake_faults(const struct backend *b)
{
    return ((const struct fake *)b)->faults;
}

unsigned
fake_waits(const struct backend *b)
{
    return ((const struct fake *)b)->waits;
}

unsigned
fake_images(const struct backend *b)
{
    return ((const struct fake *)b)->n_images;
}

uint64_t
fake_tokens(const struct backend *b)
{
    return ((const struct fake *)b)->n_tokens;
}

uint32_t
fake_largest(const struct backend *b)
{
    return ((const struct fake *)b)->largest;
}

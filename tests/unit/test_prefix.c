/* KV blocks and the prefix tree, without an engine. */
#include "config.h"

#include "engine/prefix.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N 8

struct text {
    int32_t token[N * KV_BLOCK];
    uint64_t key[N];
    uint32_t node[N];
    uint32_t block[N];
    uint32_t n_block;
    struct prefix_text t;
    struct prefix_path p;
};

/* A text that is `a` up to block cut and `b` from there. */
static void
text_init(struct text *x, int a, int b, uint32_t cut)
{
    memset(x, 0, sizeof *x);
    for (uint32_t i = 0; i < N * KV_BLOCK; i++)
        x->token[i] = (i / KV_BLOCK < cut ? a : b) * 1000 + (int32_t)i;
    x->t.token = x->token;
    x->p.key = x->key;
    x->p.node = x->node;
}

/* Matches, locks, and adds new blocks up to n; returns the hit. */
static uint32_t
use(struct prefix *p, struct text *x, uint32_t n)
{
    uint32_t hit = prefix_match(p, &x->t, &x->p, n);
    prefix_lock(p, &x->p, hit);
    memcpy(x->block, x->node, hit * sizeof *x->block);
    for (x->n_block = hit; x->n_block < n; x->n_block++) {
        uint32_t b = kv_block_get(p->kv);
        if (b == KV_NONE) {
            assert_int_equal(prefix_evict(p), 1);
            b = kv_block_get(p->kv);
        }
        x->block[x->n_block] = b;
        prefix_insert(p, &x->t, &x->p, b);
    }
    return hit;
}

static void
release(struct prefix *p, struct text *x)
{
    for (uint32_t i = x->n_block; i-- > 0;) {
        if (x->node[i] != x->block[i])
            kv_block_unref(p->kv, x->node[i]);
        kv_block_unref(p->kv, x->block[i]);
    }
    x->n_block = x->p.n_node = 0;
}

static void
test_pool(void **state)
{
    struct kv kv;
    assert_int_equal(kv_init(&kv, 3), 0);
    uint32_t a = kv_block_get(&kv), b = kv_block_get(&kv);
    assert_int_not_equal(a, b);
    assert_int_not_equal(kv_block_get(&kv), KV_NONE);
    assert_int_equal(kv_block_get(&kv), KV_NONE);
    assert_int_equal(kv_oldest_idle(&kv), KV_NONE);
    kv_block_set_cached(&kv, a, true);
    kv_block_ref(&kv, a);
    kv_block_unref(&kv, a);
    assert_int_equal(kv.n_idle, 0);
    kv_block_unref(&kv, a);
    assert_int_equal(kv.n_idle, 1);
    assert_int_equal(kv_oldest_idle(&kv), a);
    kv_block_unref(&kv, b);
    assert_int_equal(kv.n_free, 1);
    kv_block_set_cached(&kv, a, false);
    assert_int_equal(kv.n_free, 2);
    kv_destroy(&kv);
}

static void
test_match(void **state)
{
    struct kv kv;
    struct prefix p;
    struct text a, b, c;
    assert_int_equal(kv_init(&kv, 32), 0);
    assert_int_equal(prefix_init(&p, &kv), 0);
    text_init(&a, 1, 1, N);
    text_init(&b, 1, 2, 3);
    text_init(&c, 2, 1, 1); /* equal to a but for the first block */
    assert_int_equal(use(&p, &a, N), 0);
    assert_int_equal(use(&p, &b, N), 3);
    assert_int_equal(use(&p, &c, N), 0);
    assert_memory_equal(a.block, b.block, 3 * sizeof *a.block);
    assert_int_equal(kv.n_free, 32 - N - (N - 3) - N);
    release(&p, &a);
    release(&p, &b);
    release(&p, &c);
    assert_int_equal(kv.n_idle, 32 - kv.n_free);
    assert_int_equal(use(&p, &a, N), N);
    release(&p, &a);
    while (prefix_evict(&p))
        ;
    assert_int_equal(kv.n_free, 32);
    assert_int_equal(use(&p, &a, N), 0);
    prefix_destroy(&p);
    kv_destroy(&kv);
}

/* Whoever computes the same text at the same time keeps its own blocks, and
 * what follows goes below those that came first. */
static void
test_twins(void **state)
{
    struct kv kv;
    struct prefix p;
    struct text a, b, c;
    assert_int_equal(kv_init(&kv, 32), 0);
    assert_int_equal(prefix_init(&p, &kv), 0);
    text_init(&a, 1, 1, N);
    text_init(&b, 1, 2, 4);
    assert_int_equal(prefix_match(&p, &b.t, &b.p, N), 0); /* nothing yet */
    use(&p, &a, N);
    for (uint32_t i = 0; i < N; i++) {
        b.block[b.n_block++] = kv_block_get(&kv);
        prefix_insert(&p, &b.t, &b.p, b.block[i]);
        assert_int_equal(b.node[i], i < 4 ? a.block[i] : b.block[i]);
    }
    release(&p, &a);
    assert_int_equal(kv.n_idle, 4); /* b holds the shared ones */
    for (int i = 0; i < 4; i++)
        assert_int_equal(prefix_evict(&p), 1);
    assert_int_equal(prefix_evict(&p), 0);
    release(&p, &b);
    text_init(&c, 1, 2, 4);
    assert_int_equal(use(&p, &c, N), N);
    release(&p, &c);
    prefix_destroy(&p);
    kv_destroy(&kv);
}

/* Leaves go first, least recently used first. */
static void
test_eviction_order(void **state)
{
    struct kv kv;
    struct prefix p;
    struct text a, b, c;
    assert_int_equal(kv_init(&kv, 16), 0);
    assert_int_equal(prefix_init(&p, &kv), 0);
    text_init(&a, 1, 1, N);
    text_init(&b, 2, 2, N);
    use(&p, &a, N);
    release(&p, &a);
    use(&p, &b, N);
    release(&p, &b);
    use(&p, &a, 2); /* touches the beginning of a */
    release(&p, &a);
    for (int i = 0; i < 6; i++)
        prefix_evict(&p); /* the rest of a */
    assert_int_equal(prefix_match(&p, &a.t, &a.p, N), 2);
    assert_int_equal(prefix_match(&p, &b.t, &b.p, N), N);
    for (int i = 0; i < 3; i++)
        prefix_evict(&p); /* the end of b */
    assert_int_equal(prefix_match(&p, &b.t, &b.p, N), 5);
    assert_int_equal(prefix_match(&p, &a.t, &a.p, N), 2);
    text_init(&c, 3, 3, N);
    use(&p, &c, N); /* 9 are free */
    assert_int_equal(prefix_match(&p, &b.t, &b.p, N), 5);
    release(&p, &c);
    prefix_destroy(&p);
    kv_destroy(&kv);
}

static void
test_salt_and_images(void **state)
{
    struct kv kv;
    struct prefix p;
    struct text x[6];
    struct engine_image im[6];
    assert_int_equal(kv_init(&kv, 64), 0);
    assert_int_equal(prefix_init(&p, &kv), 0);
    for (int i = 0; i < 6; i++) {
        text_init(&x[i], 1, 1, N);
        im[i] = (struct engine_image){.pos = 130, .n_tokens = 70,
                                      .hash = {7, 8}};
    }
    prefix_salt(&p, STR("one"), x[1].t.salt);
    prefix_salt(&p, STR("two"), x[2].t.salt);
    im[4].hash[1] = 9; /* another image in the same place */
    im[5].pos = 131;   /* the same one elsewhere */
    for (int i = 3; i < 6; i++) {
        x[i].t.image = &im[i];
        x[i].t.n_image = 1;
    }
    assert_int_equal(use(&p, &x[0], N), 0);
    assert_int_equal(use(&p, &x[1], N), 0);
    assert_int_equal(use(&p, &x[2], N), 0);
    assert_int_equal(use(&p, &x[3], N), 2); /* what is before the image */
    assert_int_equal(use(&p, &x[4], N), 2);
    assert_int_equal(use(&p, &x[5], N), 2);
    for (int i = 0; i < 6; i++) {
        release(&p, &x[i]);
        assert_int_equal(use(&p, &x[i], N), N);
    }
    prefix_destroy(&p);
    kv_destroy(&kv);
}

/* Keys that collide must not give a wrong hit: with all nodes forced to one
 * key only the comparison of ids, parents and salts tells them apart. */
static void
test_collisions(void **state)
{
    struct kv kv;
    struct prefix p;
    struct text a, b, c, d;
    assert_int_equal(kv_init(&kv, 32), 0);
    assert_int_equal(prefix_init(&p, &kv), 0);
    text_init(&a, 1, 1, N);
    text_init(&b, 2, 2, N);
    text_init(&c, 3, 1, 1); /* equal to a but for the first block */
    text_init(&d, 1, 1, N);
    d.t.salt[1] = 1;
    struct text *all[] = {&a, &b, &c, &d};
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < N; k++)
            all[i]->key[k] = 42;
        all[i]->p.n_key = N;
        assert_int_equal(use(&p, all[i], N), 0);
    }
    for (int i = 0; i < 4; i++)
        release(&p, all[i]);
    assert_int_equal(prefix_match(&p, &a.t, &a.p, N), N);
    assert_memory_equal(a.node, a.block, sizeof a.block);
    while (prefix_evict(&p))
        ;
    assert_int_equal(kv.n_free, 32);
    prefix_destroy(&p);
    kv_destroy(&kv);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_match),
        cmocka_unit_test(test_twins),
        cmocka_unit_test(test_eviction_order),
        cmocka_unit_test(test_salt_and_images),
        cmocka_unit_test(test_collisions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

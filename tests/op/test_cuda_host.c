/*
 * What of the CUDA back end runs on the host: what it says about a missing
 * driver, the arithmetic of shared memory, the repacking of weights against
 * the form that cuda/README gives, and packed files that are not the right
 * ones.
 */
#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <utime.h>

#include "cuda/cuda_backend.h"
#include "cuda/driver.h"
#include "cuda/load/packed.h"
#include "made_checkpoint.h"

static void
said(const struct driver_state *s, const char *a, const char *b)
{
    struct err e = {0};
    assert_int_equal(driver_explain(s, &e), ERR_DEVICE);
    if (strstr(e.text, a) == NULL || strstr(e.text, b) == NULL)
        fail_msg("%s", e.text);
}

static void
a_driver_that_is_missing_is_told(void **state)
{
    struct driver_state s = {.runtime = 13000};
    s.status = cudaErrorInsufficientDriver;
    said(&s, "no NVIDIA driver found", "CUDA 13.0");
    s.module = true;
    said(&s, "kernel module is loaded", "libcuda.so.1");
    s.driver = 12020;
    said(&s, "too old", "serves CUDA 12.2, this build needs 13.0");
    s.driver = 13000;
    s.status = cudaErrorNoDevice;
    said(&s, "shows no GPU", "nvidia-smi");
    s.node = EACCES;
    said(&s, "may not use the GPU", "/dev/nvidia0: Permission denied");
    s.visible = "";
    said(&s, "CUDA_VISIBLE_DEVICES is ''", "shows no GPU");
    s.status = cudaErrorSystemDriverMismatch;
    said(&s, "different versions", "restart");
    s.status = cudaErrorSystemNotReady;
    said(&s, "fabricmanager", "not ready");
    s.status = cudaErrorDevicesUnavailable;
    said(&s, "does not start", "cudaErrorDevicesUnavailable");
    s.status = 0;
    assert_int_equal(driver_explain(&s, NULL), 0);
}

/* AC-36 */
static void
a_part_without_kernels_is_told(void **state)
{
    struct err e = {0};
    assert_int_equal(driver_check_part(1, "Tesla", 7, 5, 0, &e),
                     ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "GPU 1 (Tesla)"));
    assert_non_null(strstr(e.text, "7.5; 8.0 is needed"));
    assert_int_equal(driver_check_part(0, "L4", 8, 9,
                                       cudaErrorNoKernelImageForDevice, &e),
                     ERR_UNSUPPORTED);
    assert_non_null(strstr(e.text, "--with-cuda-arch=89"));
    assert_int_equal(driver_check_part(0, "L4", 8, 9, 2, &e), ERR_DEVICE);
    assert_int_equal(driver_check_part(0, "L4", 8, 9, 0, &e), 0);
}

static void
shared_memory_is_what_the_kernel_calls_available(void **state)
{
    const uint64_t gib = 1ull << 30;
    /* A GPU of its own: what its driver says. */
    assert_int_equal(plan_available(false, 100 * gib, 140 * gib, 3 * gib),
                     100 * gib);
    /* Page cache counts as free, and nobody has more than there is. */
    assert_int_equal(plan_available(true, 2 * gib, 120 * gib, 110 * gib),
                     110 * gib);
    assert_int_equal(plan_available(true, 2 * gib, 120 * gib, 121 * gib),
                     120 * gib);
    assert_int_equal(plan_available(true, 2 * gib, 120 * gib, UINT64_MAX),
                     2 * gib);
    assert_int_equal(plan_reserve(false, gib), gib);
    assert_int_equal(plan_reserve(true, gib), 4 * gib);
    assert_int_equal(plan_reserve(true, 9 * gib), 9 * gib);
    /* Each loading thread has two buffers of eight megabytes. */
    assert_true(upload_host_bytes() >= 16u << 20);
    assert_true(upload_host_bytes() <= 300u << 20);
}

static uint64_t rng = 88172645463325252ull;

static uint8_t
random_byte(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint8_t)(rng >> 32);
}

/* A value of a unit, by the text of cuda/README. */
static float
unit_value(const uint8_t *packed, size_t units, int row, int col)
{
    static const int sign[4] = {15, 12, 14, 13};
    static const int high[4] = {8, 5, 11, 2};
    const uint8_t *u = packed
        + ((size_t)(row / 16) * units + (size_t)(col / 512)) * 4608;
    int g = row % 8, half = row / 8 % 2, tile = col % 512 / 64;
    int t = col % 64 / 16, s = col % 16 / 4, pair = col % 4 / 2 * 2 + half;
    int lane = 4 * g + t;
    uint32_t word;
    memcpy(&word, u + tile * 512 + lane * 16 + s * 4, 4);
    uint32_t h = col % 2 ? word >> 16 : word & 0xffff;
    uint8_t code = (uint8_t)((h >> sign[pair] & 1) << 3
                             | (h >> (high[pair] - 2) & 7));
    uint8_t scale = u[4096 + lane * 16 + 2 * tile + half];
    float f = 1 + (float)(scale & 7) / 8;
    int e = (scale >> 3) - 22;
    f = e < 0 ? f / (float)(1 << -e) : f * (float)(1 << e);
    return e2m1_to_float(code) * f;
}

/* rows of a matrix as stored, with all block scales there are. */
static void
check_units(int rows, int cols, int step)
{
    size_t n = (size_t)rows * (size_t)cols, units = ((size_t)cols + 511) / 512;
    size_t out = (size_t)rows * (size_t)(step / 8) / 16 * units * 4608;
    uint8_t *packed = calloc(1, out), *codes[2], *blocks[2];
    int parts = step / 8;
    for (int p = 0; p < parts; p++) {
        codes[p] = malloc(n / 2);
        blocks[p] = malloc(n / 16);
        for (size_t i = 0; i < n / 2; i++)
            codes[p][i] = random_byte();
        for (size_t i = 0; i < n / 16; i++)
            blocks[p][i] = (uint8_t)((i + (size_t)p) % 0x7f);
        host_pack_fp4(codes[p], blocks[p], rows, cols, step, 8 * p, packed);
    }
    for (int p = 0; p < parts; p++)
        for (int r = 0; r < rows; r++)
            for (int k = 0; k < cols; k++) {
                size_t at = (size_t)r * (size_t)cols + (size_t)k;
                uint8_t code = (uint8_t)(codes[p][at / 2] >> at % 2 * 4 & 15);
                float want = e2m1_to_float(code)
                             * e4m3_to_float(blocks[p][at / 16]);
                int to = r / 8 * step + 8 * p + r % 8;
                float got = unit_value(packed, units, to, k);
                if (got != want)
                    fail_msg("row %d column %d: %g, expected %g", r, k,
                             (double)got, (double)want);
            }
    /* Columns that fill up a unit are zero. */
    for (size_t k = (size_t)cols; k < units * 512; k++)
        assert_true(unit_value(packed, units, 0, (int)k) == 0);
    for (int p = 0; p < parts; p++) {
        free(codes[p]);
        free(blocks[p]);
    }
    free(packed);
}

static void
units_hold_every_value(void **state)
{
    check_units(16, 512, 8);
    check_units(48, 1024, 8);
    check_units(32, 192, 8);
    check_units(16, 512, 16);
    check_units(64, 576, 16);
}

static void
rows_of_gate_and_up_alternate_in_eights(void **state)
{
    char in[16][16], out[32][16];
    for (int r = 0; r < 16; r++)
        memset(in[r], r, 16);
    host_pack_rows(in, 16, 16, 16, 0, out);
    for (int r = 0; r < 16; r++)
        memset(in[r], 100 + r, 16);
    host_pack_rows(in, 16, 16, 16, 8, out);
    for (int r = 0; r < 32; r++)
        assert_int_equal(out[r][15], (r / 8 % 2 ? 100 : 0) + r / 16 * 8
                         + r % 8);
}

static void
keys_are_turned_and_values_kept(void **state)
{
    enum { HEADS = 3, PER = MLA_NOPE + MLA_V };
    uint8_t *stored = malloc(HEADS * PER * MLA_RANK);
    uint16_t *w = malloc(HEADS * PER * MLA_RANK * 2);
    uint16_t *uk = malloc(HEADS * MLA_NOPE * MLA_RANK * 2);
    uint16_t *uk_t = malloc(HEADS * MLA_NOPE * MLA_RANK * 2);
    uint16_t *uv = malloc(HEADS * MLA_V * MLA_RANK * 2);
    for (int i = 0; i < HEADS * PER * MLA_RANK; i++)
        stored[i] = (uint8_t)(random_byte() % 0x7f);
    host_unpack_bf16(LAYOUT_FP8, stored, NULL, HEADS * PER, MLA_RANK, w);
    host_split_kv_b(w, HEADS, uk, uk_t, uv);
    for (int h = 0; h < HEADS; h++)
        for (int r = 0; r < PER; r++)
            for (int c = 0; c < MLA_RANK; c++) {
                uint16_t x = w[(h * PER + r) * MLA_RANK + c];
                assert_true(bf16_to_float(x)
                            == e4m3_to_float(stored[(h * PER + r) * MLA_RANK
                                                    + c]));
                if (r < MLA_NOPE) {
                    assert_int_equal(uk[(h * MLA_NOPE + r) * MLA_RANK + c],
                                     x);
                    assert_int_equal(uk_t[(h * MLA_RANK + c) * MLA_NOPE + r],
                                     x);
                } else {
                    assert_int_equal(uv[(h * MLA_V + r - MLA_NOPE) * MLA_RANK
                                        + c], x);
                }
            }
    free(stored);
    free(w);
    free(uk);
    free(uk_t);
    free(uv);
}

/* A small model that the back end takes. */
static const struct model_params small = {
    .text = {.dim = 64, .n_layers = 2, .n_heads = 2, .vocab = 64,
             .q_rank = 64, .kv_rank = 256, .nope = 64, .rope = 64,
             .v_head = 128, .n_experts = 4, .top_k = 2, .n_shared = 1,
             .expert_hidden = 64},
};
static const char small_params[] =
    "{\"dim\":64,\"n_layers\":2,\"n_heads\":2,\"vocab_size\":64,"
    "\"q_lora_rank\":64,\"kv_lora_rank\":256,\"qk_nope_head_dim\":64,"
    "\"qk_rope_head_dim\":64,\"v_head_dim\":128,\"norm_eps\":1e-6,"
    "\"rope_theta\":10000,\"max_position_embeddings\":128,\"moe\":{"
    "\"num_experts\":4,\"num_experts_per_tok\":2,\"num_shared_experts\":1,"
    "\"expert_hidden_dim\":64}}";

static struct made made;
static struct model *model;
static char path[200];
static struct cuda c;

static int
pack_small(void **state)
{
    struct err e = {0};
    made_init(&made);
    made_text(&made, "params.json", small_params);
    made_native(&made, &small, MADE_NVFP4);
    /* No two tensors alike. */
    for (size_t i = 0; i < made.n; i++)
        if (made.tensor[i].n_dim == 2)
            made.tensor[i].fill = (uint8_t)(i * 37 % 0x7f);
    made_write(&made, "consolidated");
    snprintf(path, sizeof path, "%s.packed", made.dir);
    memset(&c, 0, sizeof c);
    int r = model_open(made.dir, NULL, &model, &e);
    if (r == 0)
        r = packed_write(model, path, NULL, NULL, &e);
    if (r == 0)
        r = plan_model(&c, model, &e);
    if (r != 0)
        fail_msg("%s", e.text);
    plan_weights(&c, NULL);
    return 0;
}

static int
drop_small(void **state)
{
    plan_free(&c);
    model_close(model);
    unlink(path);
    made_free(&made);
    return 0;
}

/* Row `to` of the packed matrix at `packed` is row r of w. */
static void
same_row(const void *packed, const struct weight *w, int r, int to)
{
    float row[512];
    struct err e = {0};
    const void *data = model_data(model, w->data, &e);
    const void *block = w->block ? model_data(model, w->block, &e) : NULL;
    assert_non_null(data);
    assert_true(w->cols <= 512);
    weight_row(w, data, block, r, row);
    for (int k = 0; k < (int)w->cols; k++) {
        float got;
        if (w->format == WEIGHT_NVFP4)
            got = unit_value(packed, 1, to, k) * w->scale;
        else
            got = bf16_to_float(((const uint16_t *)packed)[to * w->cols + k]);
        if (got != row[k])
            fail_msg("%s row %d column %d: %g, expected %g", w->data->name,
                     r, k, (double)got, (double)row[k]);
    }
}

static void
a_packed_file_has_every_matrix_at_its_place(void **state)
{
    FILE *f = fopen(path, "r");
    size_t n = PACKED_HEADER + c.weight_bytes;
    char *map = mmap(NULL, n, PROT_READ, MAP_SHARED, fileno(f), 0);
    assert_true(map != MAP_FAILED);
    plan_weights(&c, map + PACKED_HEADER);
    for (int i = 0; i < small.text.n_layers; i++) {
        const struct layer_weights *l = &model_text(model)->layer[i];
        const struct cuda_layer *d = &c.layer[i];
        for (int e = 0; e <= small.text.n_experts; e++) {
            const struct mlp_weights *m =
                e < small.text.n_experts ? &l->expert[e] : &l->shared;
            const char *w13 = (char *)d->w13 + (size_t)e * d->stride13;
            const char *w2 = (char *)d->w2 + (size_t)e * d->stride2;
            for (int r = 0; r < 64; r++) {
                same_row(w13, &m->w1, r, r / 8 * 16 + r % 8);
                same_row(w13, &m->w3, r, r / 8 * 16 + 8 + r % 8);
                same_row(w2, &m->w2, r, r);
            }
            assert_true(d->scale13[2 * e] == 128 * m->w1.scale);
            assert_true(d->scale13[2 * e + 1] == 128 * m->w3.scale);
            assert_true(d->scale2[e] == 128 * m->w2.scale);
        }
        same_row(d->gate.data, &l->gate, 3, 3);
        same_row(d->wq_a.data, &l->wq_a, 63, 63);
        same_row(d->wkv_a.data, &l->wkv_a, 319, 319);
        same_row(d->wo.data, &l->wo, 10, 10);
        same_row(d->kv_b.data, &l->wkv_b, 200, 200);
    }
    same_row(c.embeddings.data, &model_text(model)->embeddings, 7, 7);
    same_row(c.output.data, &model_text(model)->output, 63, 63);
    munmap(map, n);
    fclose(f);
}

static void
refused(int code, const char *a, const char *b)
{
    struct err e = {0};
    int r = packed_check(&c, path, &e);
    if (r != code || strstr(e.text, a) == NULL || strstr(e.text, b) == NULL)
        fail_msg("code %d, text: %s", r, e.text);
}

static void
a_packed_file_belongs_to_its_checkpoint(void **state)
{
    const char *file = model_file_path(model, 0);
    struct utimbuf then = {time(NULL) - 1000, time(NULL) - 1000};
    struct err e = {0};
    assert_int_equal(packed_check(&c, path, &e), 0);
    assert_int_equal(utime(file, &then), 0);
    refused(ERR_MISMATCH, "another checkpoint", "consolidated.safetensors");
    refused(ERR_MISMATCH, made.dir, "siroccoctl pack");
}

static void
a_packed_file_belongs_to_its_layout(void **state)
{
    c.weight_layout++;
    refused(ERR_MISMATCH, "another version", "layout");
    c.weight_layout--;
    /* Another scale is another checkpoint, whatever its files' times say. */
    struct weight *w = (struct weight *)(uintptr_t)
        &model_text(model)->layer[1].expert[3].w2;
    w->scale *= 2;
    refused(ERR_MISMATCH, "another checkpoint", "scales");
    w->scale /= 2;
    assert_int_equal(packed_check(&c, path, NULL), 0);
}

static void
a_damaged_packed_file_is_refused(void **state)
{
    assert_int_equal(truncate(path, 70000), 0);
    refused(ERR_FORMAT, "70000 bytes", path);
    assert_int_equal(truncate(path, 30), 0);
    refused(ERR_MISMATCH, path, "siroccoctl pack");
    assert_int_equal(truncate(path, 0), 0);
    refused(ERR_FORMAT, "not a file of packed weights", path);
    unlink(path);
    refused(ERR_NOENT, path, "No such file");
}

static void
a_file_cut_while_it_is_read_stops_the_load(void **state)
{
    struct err e = {0};
    const char *file = model_file_path(model, 0);
    assert_int_equal(truncate(file, 20000), 0);
    unlink(path);
    assert_int_equal(packed_write(model, path, NULL, NULL, &e), ERR_IO);
    assert_non_null(strstr(e.text, file));
    assert_non_null(strstr(e.text, "truncated"));
    /* Nothing half done stays. */
    strncat(path, ".part", sizeof path - strlen(path) - 1);
    assert_int_not_equal(access(path, F_OK), 0);
}

static void
no_room_is_told(void **state)
{
    struct err e = {0};
    assert_int_equal(packed_write(model, "/none/such", NULL, NULL, &e),
                     ERR_IO);
    assert_non_null(strstr(e.text, "/none/such"));
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_driver_that_is_missing_is_told),
        cmocka_unit_test(a_part_without_kernels_is_told),
        cmocka_unit_test(shared_memory_is_what_the_kernel_calls_available),
        cmocka_unit_test(units_hold_every_value),
        cmocka_unit_test(rows_of_gate_and_up_alternate_in_eights),
        cmocka_unit_test(keys_are_turned_and_values_kept),
#define SMALL(f) cmocka_unit_test_setup_teardown(f, pack_small, drop_small)
        SMALL(a_packed_file_has_every_matrix_at_its_place),
        SMALL(a_packed_file_belongs_to_its_checkpoint),
        SMALL(a_packed_file_belongs_to_its_layout),
        SMALL(a_damaged_packed_file_is_refused),
        SMALL(a_file_cut_while_it_is_read_stops_the_load),
        SMALL(no_room_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

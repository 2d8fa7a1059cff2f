/*
 * Writes a checkpoint of the native layout with random weights: names, forms,
 * shards and index as the release has them. The parameters are those of
 * DIR/params.json, or the release's own, which are then written there: NVFP4,
 * 56,313 tensors in 13 files of 66 GiB, or with -8 FP8, 42,741 tensors of 113.
 *
 * Usage: make_release [-n] [-8] DIR [THREADS [MORE]]      -n: only counts
 *
 * Files that DIR has no room for go to the folder MORE, on another disk, and
 * DIR gets links to them.
 *
 * The values are those of a dummy load with seed 1, so a model opened with
 * --dummy has the same weights without the files.
 */
#include "config.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "model/model.h"

#define SHARDS 13

static const char release_params[] =
    "{\"dim\": 4096, \"n_layers\": 36, \"head_dim\": 128, "
    "\"hidden_dim\": 12288, \"n_heads\": 32, \"n_kv_heads\": 32, "
    "\"rope_theta\": 10000.0, \"norm_eps\": 1e-06, \"vocab_size\": 131072, "
    "\"tied_embeddings\": false, \"max_position_embeddings\": 1048576, "
    "\"llama_4_scaling\": {\"original_max_position_embeddings\": 8192, "
    "\"beta\": 0.1}, \"q_lora_rank\": 1024, \"qk_rope_head_dim\": 64, "
    "\"qk_nope_head_dim\": 64, \"kv_lora_rank\": 256, \"v_head_dim\": 128, "
    "\"yarn\": {\"original_max_position_embeddings\": 8192, "
    "\"factor\": 128, \"apply_scale\": false, \"beta\": 32, \"alpha\": 1}, "
    "\"moe\": {\"expert_parallel\": 1, \"expert_model_parallel\": 1, "
    "\"route_every_n\": 1, \"first_k_dense_replace\": 0, "
    "\"num_experts\": 128, \"num_experts_per_tok\": 4, "
    "\"num_expert_groups\": 1, \"num_expert_groups_per_tok\": 1, "
    "\"routed_scale\": 1.0, \"expert_hidden_dim\": 2048, "
    "\"num_shared_experts\": 1}, \"vision_encoder\": {"
    "\"hidden_size\": 1024, \"num_hidden_layers\": 24, "
    "\"num_attention_heads\": 16, \"intermediate_size\": 4096, "
    "\"patch_size\": 14, \"num_channels\": 3, \"image_size\": 1540, "
    "\"max_image_size\": 1540, \"rope_theta\": 10000.0, "
    "\"spatial_merge_size\": 2, \"mm_projector_id\": \"patch_merge\", "
    "\"add_pre_mm_projector_layer_norm\": true, \"adapter_bias\": false, "
    "\"image_token_id\": 10, \"image_break_token_id\": 12, "
    "\"image_end_token_id\": 13}, ";
static const char nvfp4_params[] =
    "\"quantization_config\": {\"quant_method\": \"compressed-tensors\", "
    "\"format\": \"nvfp4-pack-quantized\"}}\n";
static const char fp8_params[] =
    "\"quantization\": {\"qformat_weight\": \"fp8_e4m3\", "
    "\"qscheme_act\": \"TENSOR\"}}\n";

/* A tensor of the files: one of the model, or a scale. */
struct entry {
    const struct tensor *t;  /* NULL: a scale */
    char name[200];
    const char *dtype;
    char shape[80];
    uint64_t size, offset;
    int shard;
    float value;
};

static struct entry *entry;
static size_t n_entry, cap_entry;
static struct model *model;
static char *map[SHARDS];
static uint64_t map_size[SHARDS], start[SHARDS];
static double room[2], placed[2]; /* bytes in DIR and MORE */
static atomic_size_t next;

static struct entry *
add(const char *name, const char *dtype, uint64_t size)
{
    if (n_entry == cap_entry) {
        cap_entry = cap_entry ? 2 * cap_entry : 4096;
        entry = realloc(entry, cap_entry * sizeof *entry);
        if (entry == NULL)
            exit(1);
    }
    struct entry *x = &entry[n_entry++];
    memset(x, 0, sizeof *x);
    snprintf(x->name, sizeof x->name, "%s", name);
    x->dtype = dtype;
    x->size = size;
    return x;
}

static void
add_tensor(const struct tensor *t)
{
    if (t == NULL)
        return;
    struct entry *x = add(t->name, dtype_name(t->dtype), t->size);
    const struct model_vision_params *v = &model_params(model)->vision;
    int at = 0;
    x->t = t;
    if (strcmp(t->name, "vision_encoder.patch_conv.weight") == 0) {
        snprintf(x->shape, sizeof x->shape, "%d, %d, %d, %d", v->dim,
                 v->channels, v->patch, v->patch);
        return;
    }
    for (int i = 0; i < t->n_dim; i++)
        at += snprintf(x->shape + at, sizeof x->shape - (size_t)at,
                       "%s%" PRId64, i ? ", " : "", t->shape[i]);
}

/* STEM.suffix, one value; shared: its act scale is stored in bf16. */
static void
add_scale(const struct weight *w, const char *suffix, float value, bool bf16,
          bool last)
{
    char name[200];
    const char *dot = strrchr(w->data->name, '.');
    snprintf(name, sizeof name, "%.*s.%s", (int)(dot - w->data->name),
             w->data->name, suffix);
    struct entry *x = add(name, bf16 ? "BF16" : "F32", bf16 ? 2 : 4);
    x->value = value;
    x->shard = last ? SHARDS - 1 : -1;
    if (w->format == WEIGHT_NVFP4)
        snprintf(x->shape, sizeof x->shape, "1");
}

static void
add_weight(const struct weight *w, bool shared)
{
    if (w->data == NULL)
        return;
    add_tensor(w->data);
    if (w->format == WEIGHT_NVFP4) {
        add_tensor(w->block);
        add_scale(w, "weight_global_scale", w->global, false, false);
        add_scale(w, "input_global_scale", w->act_scale, shared, true);
    } else if (w->format == WEIGHT_FP8) {
        add_scale(w, "qscale_weight", w->scale, false, false);
        add_scale(w, "qscale_act", w->act_scale, false, true);
    }
}

static void
add_mlp(const struct mlp_weights *m, bool shared)
{
    add_weight(&m->w1, shared);
    add_weight(&m->w2, shared);
    add_weight(&m->w3, shared);
}

static void
add_text(void)
{
    const struct text_weights *t = model_text(model);
    const struct model_text_params *p = &model_params(model)->text;
    add_weight(&t->embeddings, false);
    if (!p->tied)
        add_weight(&t->output, false);
    add_tensor(t->norm);
    for (int i = 0; i < p->n_layers; i++) {
        const struct layer_weights *l = &t->layer[i];
        const struct weight *w[] = {&l->wq_a, &l->wq_b, &l->wkv_a, &l->wkv_b,
                                    &l->wo};
        for (size_t k = 0; k < sizeof w / sizeof *w; k++)
            add_weight(w[k], false);
        add_tensor(l->attention_norm);
        add_tensor(l->ffn_norm);
        add_tensor(l->q_a_norm);
        add_tensor(l->kv_a_norm);
        add_mlp(&l->dense, false);
        add_weight(&l->gate, false);
        add_mlp(&l->shared, true);
        for (int k = 0; l->is_moe && k < p->n_experts; k++)
            add_mlp(&l->expert[k], false);
    }
}

static void
add_vision(void)
{
    const struct vision_weights *v = model_vision(model);
    if (v == NULL)
        return;
    add_weight(&v->patch_conv, false);
    add_tensor(v->ln_pre);
    for (int i = 0; i < model_params(model)->vision.n_layers; i++) {
        const struct vision_layer_weights *l = &v->layer[i];
        const struct weight *w[] = {&l->wq, &l->wk, &l->wv, &l->wo, &l->w1,
                                    &l->w2, &l->w3};
        for (size_t k = 0; k < sizeof w / sizeof *w; k++)
            add_weight(w[k], false);
        add_tensor(l->attention_norm);
        add_tensor(l->ffn_norm);
    }
    add_tensor(v->pre_projector_norm);
    add_weight(&v->merge, false);
    add_weight(&v->w_in, false);
    add_weight(&v->w_out, false);
}

/* Tensors to shards, by size; all but the last shard hold the weights. */
static uint64_t
place(void)
{
    uint64_t total = 0, at = 0;
    for (size_t i = 0; i < n_entry; i++)
        total += entry[i].size;
    for (size_t i = 0; i < n_entry; i++) {
        struct entry *x = &entry[i];
        if (x->t != NULL || x->shard < 0)
            x->shard = (int)(at * (SHARDS - 1) / (total + 1));
        at += x->size;
        x->offset = map_size[x->shard];
        map_size[x->shard] += x->size;
    }
    return total;
}

static void
must(bool ok, const char *what)
{
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static void
shard_name(int i, char *out, size_t n)
{
    snprintf(out, n, "consolidated-%05d-of-%05d.safetensors", i + 1, SHARDS);
}

/* Room of the file system, less 1 % for its own tables. */
static double
room_of(const char *dir)
{
    struct statvfs fs;
    must(statvfs(dir, &fs) == 0, dir);
    return (double)fs.f_bavail * (double)fs.f_frsize * .99;
}

/* A new file of shard i: in dir while there is room, else in `more` (NULL:
 * none), an absolute path, with a link to it. */
static int
open_shard(const char *dir, const char *more, int i)
{
    char name[80], path[4200], link[4200];
    const double size = (double)map_size[i];
    shard_name(i, name, sizeof name);
    snprintf(path, sizeof path, "%s/%s", dir, name);
    unlink(path);
    if (more != NULL && placed[0] + size > room[0]) {
        snprintf(link, sizeof link, "%s", path);
        snprintf(path, sizeof path, "%s/%s", more, name);
        unlink(path);
        must(symlink(path, link) == 0, link);
        placed[1] += size;
    } else {
        placed[0] += size;
    }
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    must(fd >= 0 && ftruncate(fd, (off_t)map_size[i]) == 0, path);
    return fd;
}

/* The header of shard i, padded to 8 bytes; maps the file. */
static void
begin_shard(const char *dir, const char *more, int i)
{
    struct buf b = {0};
    buf_puts(&b, "{\"__metadata__\": {\"format\": \"pt\"}");
    for (size_t k = 0; k < n_entry; k++) {
        const struct entry *x = &entry[k];
        if (x->shard == i)
            buf_printf(&b, ", \"%s\": {\"dtype\": \"%s\", \"shape\": [%s], "
                       "\"data_offsets\": [%" PRIu64 ", %" PRIu64 "]}",
                       x->name, x->dtype, x->shape, x->offset,
                       x->offset + x->size);
    }
    buf_putc(&b, '}');
    while (b.len % 8 != 0)
        buf_putc(&b, ' ');
    uint64_t n = b.len;
    start[i] = 8 + n;
    map_size[i] += start[i];
    int fd = open_shard(dir, more, i);
    map[i] = mmap(NULL, map_size[i], PROT_READ | PROT_WRITE, MAP_SHARED, fd,
                  0);
    must(map[i] != MAP_FAILED, "mapping a file");
    close(fd);
    for (int k = 0; k < 8; k++)
        map[i][k] = (char)(n >> 8 * k);
    memcpy(map[i] + 8, b.data, n);
    buf_free(&b);
}

static void
write_index(const char *dir, uint64_t total)
{
    char path[4200], name[80];
    snprintf(path, sizeof path, "%s/consolidated.safetensors.index.json",
             dir);
    FILE *f = fopen(path, "w");
    must(f != NULL, path);
    fprintf(f, "{\"metadata\": {\"total_size\": %" PRIu64 "}, "
            "\"weight_map\": {", total);
    for (size_t i = 0; i < n_entry; i++) {
        shard_name(entry[i].shard, name, sizeof name);
        fprintf(f, "%s\"%s\": \"%s\"", i ? ", " : "", entry[i].name, name);
    }
    fprintf(f, "}}\n");
    must(fclose(f) == 0, path);
}

static void *
work(void *arg)
{
    for (;;) {
        size_t i = atomic_fetch_add(&next, 1);
        if (i >= n_entry)
            return NULL;
        const struct entry *x = &entry[i];
        char *to = map[x->shard] + start[x->shard] + x->offset;
        uint16_t h = float_to_bf16(x->value);
        if (x->t != NULL)
            model_read(model, x->t, 0, to, x->size, NULL);
        else
            memcpy(to, x->size == 4 ? (const void *)&x->value : &h, x->size);
    }
}

static void
fill(int threads)
{
    pthread_t id[64];
    int n = 0;
    while (n < threads && pthread_create(&id[n], NULL, work, NULL) == 0)
        n++;
    if (n == 0)
        work(NULL);
    for (int i = 0; i < n; i++)
        pthread_join(id[i], NULL);
}

static void
write_params(const char *dir, bool fp8)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/params.json", dir);
    if (access(path, F_OK) == 0)
        return;
    FILE *f = fopen(path, "w");
    must(f != NULL && fputs(release_params, f) >= 0
         && fputs(fp8 ? fp8_params : nvfp4_params, f) >= 0 && fclose(f) == 0,
         path);
}

static int
refuse(const char *what)
{
    fprintf(stderr, "make_release: %s\n", what);
    return 1;
}

/* Writes all files, whose sizes are known. */
static int
write_files(const char *dir, int threads, const char *more, uint64_t total)
{
    double need = (double)total;
    room[0] = room_of(dir);
    room[1] = more ? room_of(more) : 0;
    /* A file that no longer fits leaves its size free at most. */
    if (more == NULL ? room[0] < need
                     : room[0] + room[1] < need * (1 + 1. / (SHARDS - 1)))
        return refuse("there is no room for the files");
    for (int i = 0; i < SHARDS; i++)
        begin_shard(dir, more, i);
    fill(threads);
    write_index(dir, total);
    for (int i = 0; i < SHARDS; i++)
        munmap(map[i], map_size[i]);
    return 0;
}

int
main(int argc, char **argv)
{
    const struct model_options mo = {.dummy = true, .seed = 1};
    struct err e = {0};
    bool count = argc > 1 && strcmp(argv[1], "-n") == 0;
    argc -= count;
    argv += count;
    bool fp8 = argc > 1 && strcmp(argv[1], "-8") == 0;
    argc -= fp8;
    argv += fp8;
    int threads = argc > 2 ? atoi(argv[2])
                           : (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (argc < 2 || argc > 4 || threads < 1 || threads > 64) {
        fprintf(stderr, "usage: make_release [-n] [-8] DIR [THREADS "
                "[MORE]]\n");
        return 2;
    }
    /* Links to its files are read from DIR, so the path must be whole. */
    char *more = argc > 3 ? realpath(argv[3], NULL) : NULL;
    must(argc <= 3 || more != NULL, argv[3]);
    write_params(argv[1], fp8);
    if (model_open(argv[1], &mo, &model, &e) != 0)
        return refuse(e.text);
    uint64_t begin = clock_ns();
    add_text();
    add_vision();
    uint64_t total = place();
    if (count) {
        printf("%zu tensors, %" PRIu64 " bytes\n", n_entry, total);
        return 0;
    }
    if (write_files(argv[1], threads, more, total) != 0)
        return 1;
    printf("%zu tensors, %" PRIu64 " bytes in %.1f s, %.1f GB of them "
           "elsewhere\n", n_entry, total, (double)(clock_ns() - begin) * 1e-9,
           placed[1] * 1e-9);
    free(entry);
    free(more);
    model_close(model);
    return 0;
}

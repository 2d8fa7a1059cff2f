#include "config.h"

#include "made_checkpoint.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/mem.h"

void
made_init(struct made *m)
{
    memset(m, 0, sizeof *m);
    snprintf(m->dir, sizeof m->dir, "/tmp/made-checkpoint-XXXXXX");
    if (mkdtemp(m->dir) == NULL)
        abort();
    m->n_files = 1;
}

void
made_free(struct made *m)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", m->dir);
    if (system(command) != 0)
        abort();
    free(m->tensor);
}

struct made_tensor *
made_add(struct made *m, const char *name, enum dtype dtype, int n_dim,
         int64_t d0, int64_t d1)
{
    if (m->n == m->cap) {
        m->cap = m->cap ? 2 * m->cap : 256;
        m->tensor = mem_xrealloc(m->tensor, m->cap * sizeof *m->tensor);
    }
    struct made_tensor *t = &m->tensor[m->n++];
    *t = (struct made_tensor){.dtype = dtype, .n_dim = n_dim, .value = 1,
                              .fill = 0x20, .shape = {d0, d1}};
    snprintf(t->name, sizeof t->name, "%s", name);
    return t;
}

struct made_tensor *
made_find(struct made *m, const char *name)
{
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->tensor[i].name, name) == 0)
            return &m->tensor[i];
    abort();
}

void
made_text(const struct made *m, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", m->dir, name);
    FILE *f = fopen(path, "w");
    if (f == NULL || fputs(text, f) < 0 || fclose(f) != 0)
        abort();
}

static uint64_t
bytes_of(const struct made_tensor *t)
{
    uint64_t n = dtype_size(t->dtype);
    for (int i = 0; i < t->n_dim; i++)
        n *= (uint64_t)t->shape[i];
    return n;
}

static void
write_at(int fd, const void *p, size_t n, uint64_t at)
{
    if (pwrite(fd, p, n, (off_t)at) != (ssize_t)n)
        abort();
}

static void
write_data(const struct made *m, const struct made_tensor *t, int fd)
{
    uint64_t n = bytes_of(t);
    if (n == 4 && t->dtype == DTYPE_F32) {
        write_at(fd, &t->value, 4, t->at);
    } else if (n == 2 && t->dtype == DTYPE_BF16) {
        uint16_t h = float_to_bf16(t->value);
        write_at(fd, &h, 2, t->at);
    } else if (t->data != NULL) {
        write_at(fd, t->data, n, t->at);
    } else if (!m->sparse) {
        char *p = mem_xmalloc(n);
        memset(p, t->fill, n);
        write_at(fd, p, n, t->at);
        free(p);
    }
}

static void
write_file(struct made *m, int file, const char *path)
{
    struct buf b = {0};
    uint64_t at = 0;
    buf_puts(&b, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < m->n; i++) {
        struct made_tensor *t = &m->tensor[i];
        if (t->file != file || t->dropped)
            continue;
        t->at = at;
        at += bytes_of(t);
        if (t->nameless)
            continue;
        buf_printf(&b, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name,
                   dtype_name(t->dtype));
        for (int k = 0; k < t->n_dim; k++)
            buf_printf(&b, "%s%" PRId64, k ? "," : "", t->shape[k]);
        buf_printf(&b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
                   t->at, at);
    }
    buf_puts(&b, "}");
    while (b.len % 8 != 0)
        buf_puts(&b, " ");
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    uint64_t n = b.len;
    if (fd < 0 || ftruncate(fd, (off_t)(8 + n + at)) != 0)
        abort();
    write_at(fd, &n, 8, 0);
    write_at(fd, b.data, b.len, 8);
    for (size_t i = 0; i < m->n; i++) {
        struct made_tensor *t = &m->tensor[i];
        if (t->file != file || t->dropped)
            continue;
        t->at += 8 + n;
        write_data(m, t, fd);
    }
    close(fd);
    buf_free(&b);
}

void
made_write(struct made *m, const char *stem)
{
    char path[256], shard[128];
    if (m->n_files == 1) {
        snprintf(path, sizeof path, "%s/%s.safetensors", m->dir, stem);
        write_file(m, 0, path);
        return;
    }
    struct buf index = {0};
    buf_puts(&index, "{\"metadata\":{},\"weight_map\":{");
    for (size_t i = 0; i < m->n; i++) {
        snprintf(shard, sizeof shard, "%s-%05d-of-%05d.safetensors", stem,
                 m->tensor[i].file + 1, m->n_files);
        buf_printf(&index, "%s\"%s\":\"%s\"", i ? "," : "",
                   m->tensor[i].name, shard);
    }
    buf_puts(&index, "}}");
    snprintf(shard, sizeof shard, "%s.safetensors.index.json", stem);
    made_text(m, shard, buf_cstr(&index));
    buf_free(&index);
    for (int f = 0; f < m->n_files; f++) {
        snprintf(path, sizeof path, "%s/%s-%05d-of-%05d.safetensors", m->dir,
                 stem, f + 1, m->n_files);
        write_file(m, f, path);
    }
}

static void
add_matrix(struct made *m, enum made_form form, const char *stem,
           int64_t rows, int64_t cols)
{
    char name[160];
    if (form == MADE_NVFP4) {
        snprintf(name, sizeof name, "%s.weight_packed", stem);
        made_add(m, name, DTYPE_U8, 2, rows, cols / 2);
        snprintf(name, sizeof name, "%s.weight_scale", stem);
        made_add(m, name, DTYPE_F8_E4M3, 2, rows, cols / 16)->fill = 0x38;
        snprintf(name, sizeof name, "%s.weight_global_scale", stem);
        made_add(m, name, DTYPE_F32, 1, 1, 0)->value = 4;
        snprintf(name, sizeof name, "%s.input_global_scale", stem);
        made_add(m, name, strstr(stem, "shared") ? DTYPE_BF16 : DTYPE_F32,
                 1, 1, 0)->value = 8;
        return;
    }
    snprintf(name, sizeof name, "%s.weight", stem);
    made_add(m, name, form == MADE_FP8 ? DTYPE_F8_E4M3 : DTYPE_BF16, 2, rows,
             cols);
    if (form == MADE_FP8) {
        snprintf(name, sizeof name, "%s.qscale_weight", stem);
        made_add(m, name, DTYPE_BF16, 0, 1, 0)->value = 0.5f;
        snprintf(name, sizeof name, "%s.qscale_act", stem);
        made_add(m, name, DTYPE_F32, 1, 1, 0)->value = 2;
    }
}

static void
add_mlp(struct made *m, enum made_form form, const char *stem, int64_t hidden,
        int64_t dim)
{
    char name[128];
    snprintf(name, sizeof name, "%s.w1", stem);
    add_matrix(m, form, name, hidden, dim);
    snprintf(name, sizeof name, "%s.w2", stem);
    add_matrix(m, form, name, dim, hidden);
    snprintf(name, sizeof name, "%s.w3", stem);
    add_matrix(m, form, name, hidden, dim);
}

static void
add_layer(struct made *m, const struct model_text_params *p,
          enum made_form form, int i)
{
    enum made_form attention = form == MADE_FP8 ? MADE_FP8 : MADE_BF16;
    char name[120];
#define NAME(suffix) \
    (snprintf(name, sizeof name, "layers.%d." suffix, i), name)
    made_add(m, NAME("attention_norm.weight"), DTYPE_BF16, 1, p->dim, 0);
    made_add(m, NAME("ffn_norm.weight"), DTYPE_BF16, 1, p->dim, 0);
    made_add(m, NAME("attention.q_a_norm.weight"), DTYPE_BF16, 1, p->q_rank,
             0);
    made_add(m, NAME("attention.kv_a_norm.weight"), DTYPE_BF16, 1,
             p->kv_rank, 0);
    add_matrix(m, attention, NAME("attention.wq_a"), p->q_rank, p->dim);
    add_matrix(m, attention, NAME("attention.wq_b"),
               p->n_heads * (p->nope + p->rope), p->q_rank);
    add_matrix(m, attention, NAME("attention.wkv_a_with_mqa"),
               p->kv_rank + p->rope, p->dim);
    add_matrix(m, attention, NAME("attention.wkv_b"),
               p->n_heads * (p->nope + p->v_head), p->kv_rank);
    add_matrix(m, attention, NAME("attention.wo"), p->dim,
               p->n_heads * p->v_head);
    if (i < p->n_dense || p->n_experts == 0) {
        add_mlp(m, form, NAME("feed_forward"), p->hidden, p->dim);
        return;
    }
    add_matrix(m, MADE_BF16, NAME("gate"), p->n_experts, p->dim);
    add_mlp(m, form, NAME("shared_experts"), p->n_shared * p->expert_hidden,
            p->dim);
    for (int k = 0; k < p->n_experts; k++) {
        snprintf(name, sizeof name, "layers.%d.experts.%d", i, k);
        add_mlp(m, form, name, p->expert_hidden, p->dim);
    }
#undef NAME
}

static void
add_vision(struct made *m, const struct model_vision_params *v, int text)
{
    char name[120];
    struct made_tensor *t =
        made_add(m, "vision_encoder.patch_conv.weight", DTYPE_BF16, 4,
                 v->dim, v->channels);
    t->shape[2] = t->shape[3] = v->patch;
    made_add(m, "vision_encoder.ln_pre.weight", DTYPE_BF16, 1, v->dim, 0);
    for (int i = 0; i < v->n_layers; i++) {
        static const struct { const char *name; int kind; } part[] = {
            {"attention.wq", 0}, {"attention.wk", 0}, {"attention.wv", 0},
            {"attention.wo", 0}, {"feed_forward.w1", 1},
            {"feed_forward.w3", 1}, {"feed_forward.w2", 2},
            {"attention_norm", 3}, {"ffn_norm", 3},
        };
        for (size_t k = 0; k < sizeof part / sizeof *part; k++) {
            int kind = part[k].kind;
            snprintf(name, sizeof name,
                     "vision_encoder.transformer.layers.%d.%s.weight", i,
                     part[k].name);
            made_add(m, name, DTYPE_BF16, kind == 3 ? 1 : 2,
                     kind == 1 ? v->hidden : v->dim,
                     kind == 2 ? v->hidden : v->dim);
        }
    }
    made_add(m, "pre_mm_projector_norm.weight", DTYPE_BF16, 1, v->dim, 0);
    made_add(m, "patch_merger.merging_layer.weight", DTYPE_BF16, 2, v->dim,
             v->dim * v->merge * v->merge);
    made_add(m, "vision_language_adapter.w_in.weight", DTYPE_BF16, 2, text,
             v->dim);
    made_add(m, "vision_language_adapter.w_out.weight", DTYPE_BF16, 2, text,
             text);
}

void
made_native(struct made *m, const struct model_params *p,
            enum made_form form)
{
    const struct model_text_params *t = &p->text;
    made_add(m, "tok_embeddings.weight", DTYPE_BF16, 2, t->vocab, t->dim);
    made_add(m, "output.weight", DTYPE_BF16, 2, t->vocab, t->dim);
    made_add(m, "norm.weight", DTYPE_BF16, 1, t->dim, 0);
    for (int i = 0; i < t->n_layers; i++)
        add_layer(m, t, form, i);
    if (p->has_vision)
        add_vision(m, &p->vision, t->dim);
}

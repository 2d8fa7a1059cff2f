/*
 * Packed files: a header of text in PACKED_HEADER bytes, then the weights as
 * plan_weights lays them out, byte for byte.
 *
 * DESIGN. The header says what the file was made from: the layout, the scales
 * that are not among the weights, and size and time of each file of the
 * checkpoint. To check a file is to write down what it ought to say and to
 * compare the lines. Nothing is parsed, so nothing damaged can be believed.
 * The places of the weights do not depend on the part, so one file serves all.
 */
#include "config.h"

#include "cuda/load/packed.h"

#include "base/buf.h"
#include "base/map.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* To be raised with every change of the forms that pack.cu makes. */
#define PACKED_VERSION 1

static uint64_t
mix(uint64_t sum, const struct weight *w)
{
    float f[2] = {product_scale(w), (float)w->format};
    return map_hash((const char *)f, sizeof f, sum);
}

/* Of all scales that are kept apart from the weights. */
static uint64_t
scales_sum(const struct cuda *c)
{
    const struct text_weights *t = model_text(c->model);
    uint64_t sum = 1;
    for (int i = 0; i < c->p.n_layers; i++) {
        const struct layer_weights *l = &t->layer[i];
        const struct weight *w[] = {&l->wq_a, &l->wq_b, &l->wkv_a, &l->wkv_b,
                                    &l->wo, &l->shared.w1, &l->shared.w2,
                                    &l->shared.w3};
        for (size_t k = 0; k < sizeof w / sizeof *w; k++)
            sum = mix(sum, w[k]);
        for (int k = 0; k < c->p.n_experts; k++) {
            sum = mix(sum, &l->expert[k].w1);
            sum = mix(sum, &l->expert[k].w2);
            sum = mix(sum, &l->expert[k].w3);
        }
    }
    return sum;
}

/* What a packed file of this model says. */
static int
header_make(const struct cuda *c, struct buf *out, struct err *e)
{
    const struct model *m = c->model;
    int r = buf_printf(out, "sirocco packed weights\nlayout %d %016" PRIx64
                       " %" PRIu64 "\nscales %016" PRIx64 "\n",
                       PACKED_VERSION, c->weight_layout, c->weight_bytes,
                       scales_sum(c));
    if (r == 0 && model_is_dummy(m))
        r = buf_puts(out, "random weights\n");
    for (int i = 0; r == 0 && i < model_n_files(m); i++) {
        const char *path = model_file_path(m, i);
        struct stat st;
        if (stat(path, &st) != 0)
            return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
        r = buf_printf(out, "file %lld %lld %s\n", (long long)st.st_size,
                       (long long)st.st_mtime, strrchr(path, '/') + 1);
    }
    if (r == 0 && out->len >= PACKED_HEADER)
        return err_set(e, ERR_LIMIT, "%s: has too many files to be packed",
                       model_dir(m));
    return r ? err_set(e, r, "no memory for the header") : 0;
}

/* Names the first line that differs. */
static int
complain(const struct cuda *c, const char *path, char *has, char *want,
         struct err *e)
{
    char *h, *w, *a = strtok_r(has, "\n", &h), *b = strtok_r(want, "\n", &w);
    if (a == NULL || strcmp(a, b) != 0)
        return err_set(e, ERR_FORMAT, "%s: is not a file of packed weights",
                       path);
    while (a && b && strcmp(a, b) == 0) {
        a = strtok_r(NULL, "\n", &h);
        b = strtok_r(NULL, "\n", &w);
    }
    if (a == NULL || b == NULL || strncmp(b, "layout", 6) != 0)
        return err_set(e, ERR_MISMATCH, "%s: was packed from another "
                       "checkpoint than %s, or that was changed since (the "
                       "file says '%s', the checkpoint '%s'); make it again "
                       "with siroccoctl pack", path, model_dir(c->model),
                       a ? a : "no more", b ? b : "no more");
    return err_set(e, ERR_MISMATCH, "%s: was packed by another version of "
                   "Sirocco or for a model of another shape ('%s', here "
                   "'%s'); make it again with siroccoctl pack", path, a, b);
}

static int
read_header(const char *path, char *text, uint64_t *size, struct err *e)
{
    struct stat st;
    ssize_t n = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &st) == 0)
        n = pread(fd, text, PACKED_HEADER, 0);
    int bad = errno;
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return err_set(e, bad == ENOENT ? ERR_NOENT : ERR_IO, "%s: %s", path,
                       strerror(bad));
    text[n] = '\0';
    *size = (uint64_t)st.st_size;
    return 0;
}

int
packed_check(const struct cuda *c, const char *path, struct err *e)
{
    struct buf want = {0};
    uint64_t size = 0, whole = PACKED_HEADER + c->weight_bytes;
    char *has = malloc(PACKED_HEADER + 1);
    int r = has ? read_header(path, has, &size, e)
                : err_set(e, ERR_NOMEM, "no memory for the header");
    if (r == 0)
        r = header_make(c, &want, e);
    if (r == 0 && strcmp(has, buf_cstr(&want)) != 0)
        r = complain(c, path, has, (char *)(uintptr_t)buf_cstr(&want), e);
    else if (r == 0 && size != whole)
        r = err_set(e, ERR_FORMAT, "%s: has %" PRIu64 " bytes, expected %"
                    PRIu64 "; make it again with siroccoctl pack", path,
                    size, whole);
    buf_free(&want);
    free(has);
    return r;
}

/* Lays the weights out in the file and fills it; the header comes last. */
static int
fill(struct cuda *c, int fd, const char *path, backend_progress_fn progress,
     void *arg, struct err *e)
{
    struct buf header = {0};
    plan_weights(c, NULL);
    size_t size = PACKED_HEADER + c->weight_bytes;
    int r = header_make(c, &header, e);
    /* All room is taken now: a full disk is an error here and a signal when
     * the mapping is written. */
    int bad = r == 0 ? posix_fallocate(fd, 0, (off_t)size) : 0;
    if (bad != 0)
        r = err_set(e, ERR_IO, "%s: no room for %.1f GB: %s", path,
                    (double)size * 1e-9, strerror(bad));
    char *map = r == 0 ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED,
                              fd, 0) : MAP_FAILED;
    if (r == 0 && map == MAP_FAILED)
        r = err_set(e, ERR_IO, "%s: cannot be mapped: %s", path,
                    strerror(errno));
    if (r == 0) {
        plan_weights(c, map + PACKED_HEADER);
        r = upload_to_host(c, progress, arg, e);
    }
    if (r == 0)
        memcpy(map, header.data, header.len);
    if (map != MAP_FAILED)
        munmap(map, size);
    if (r == 0 && fsync(fd) != 0)
        r = err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    buf_free(&header);
    return r;
}

static int
write_file(struct cuda *c, const char *path, backend_progress_fn progress,
           void *arg, struct err *e)
{
    char part[4096];
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part)
        return err_set(e, ERR_LIMIT, "%s: the name is too long", path);
    int fd = open(part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_set(e, ERR_IO, "%s: %s", part, strerror(errno));
    int r = fill(c, fd, path, progress, arg, e);
    close(fd);
    if (r == 0 && rename(part, path) != 0)
        r = err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    if (r != 0)
        unlink(part);
    return r;
}

int
packed_write(struct model *m, const char *path, backend_progress_fn progress,
             void *arg, struct err *e)
{
    struct cuda *c = calloc(1, sizeof *c);
    if (c == NULL)
        return err_set(e, ERR_NOMEM, "no memory for the back end");
    int r = plan_model(c, m, e);
    if (r == 0)
        r = write_file(c, path, progress, arg, e);
    plan_free(c);
    free(c);
    return r;
}

#include "config.h"

#include "api/api.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/http_call.h"
#include "base/clock.h"
#include "base/log.h"

#define NAMES_MAX                                                          \
    ((int)(sizeof((struct served *)0)->name / sizeof(struct str)))

/* Text of the served names; the directory's name when none is configured. */
static char *
names_text(const struct conf *c)
{
    const char *text = c->served_name;

    if (text == NULL) {
        const char *dir = c->model ? c->model : "sirocco";
        size_t n = strlen(dir);
        while (n > 1 && dir[n - 1] == '/')
            n--;
        size_t from = n;
        while (from > 0 && dir[from - 1] != '/')
            from--;
        return strndup(dir + from, n - from);
    }
    return strdup(text);
}

/* Puts the names of c in force. On failure the old ones stay. */
static int
set_names(struct api *a, const struct conf *c, struct err *e)
{
    struct served *s = calloc(1, sizeof *s);

    if (s == NULL || (s->text = names_text(c)) == NULL) {
        free(s);
        return err_set(e, ERR_NOMEM, "out of memory");
    }
    for (char *p = s->text; *p && s->n < NAMES_MAX;) {
        size_t n = strcspn(p, ",");
        struct str name = str_trim((struct str){p, n});
        if (name.n > 0)
            s->name[s->n++] = name;
        p += n + (p[n] == ',');
    }
    if (s->n == 0) {
        free(s->text);
        free(s);
        return err_set(e, ERR_RANGE, "served_name: no name in it");
    }
    s->older = atomic_load(&a->served);
    atomic_store(&a->served, s);
    return 0;
}

/* Bytes of the longest ordinary token. */
static size_t
longest_token(const struct tok *t)
{
    const struct tok_info *info = tok_info(t);
    size_t most = 1;

    for (int id = info->n_special; id < info->n_vocab; id++)
        if (tok_bytes(t, id).n > most)
            most = tok_bytes(t, id).n;
    return most;
}

/* Differs where the same request may get another reply: another program, back
 * end or model. A hash (FNV-1a), since names of files are nobody's business. */
static void
make_fingerprint(struct api *a, const struct conf *c)
{
    const char *const part[] = {c->backend, c->model, c->tokenizer};
    uint32_t hash = 2166136261u;

    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        for (const char *p = part[i] ? part[i] : ""; ; p++) {
            hash = (hash ^ (unsigned char)*p) * 16777619u;
            if (*p == 0)
                break;
        }
    snprintf(a->fingerprint, sizeof a->fingerprint, "sirocco-%.20s-%08" PRIx32,
             a->parts.version, hash);
}

int
api_create(const struct api_parts *p, struct api **out, struct err *e)
{
    struct api *a = calloc(1, sizeof *a);

    if (a == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    a->parts = *p;
    pthread_mutex_init(&a->lock, NULL);
    list_init(&a->replies);
    a->created = clock_unix();
    a->end_id = tok_special(p->tok, "</s>");
    a->longest_token = longest_token(p->tok);
    make_fingerprint(a, p->conf);
    atomic_init(&a->conf, p->conf);
    int rc = set_names(a, p->conf, e);
    if (rc != 0) {
        api_free(a);
        return rc;
    }
    *out = a;
    return 0;
}

void
api_free(struct api *a)
{
    struct served *s = atomic_load(&a->served);
    while (s != NULL) {
        struct served *older = s->older;
        free(s->text);
        free(s);
        s = older;
    }
    pthread_mutex_destroy(&a->lock);
    free(a);
}

void
api_reconfigure(struct api *a, const struct conf *c)
{
    struct err e = {0};

    if (set_names(a, c, &e) != 0)
        log_error("%s; the old names stay", e.text);
    atomic_store(&a->conf, c);
}

/* The method as text that stays. */
static const char *
method_name(struct str method)
{
    static const char *const names[] = {"GET", "POST", "HEAD", "OPTIONS",
                                        "PUT", "PATCH", "DELETE"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (str_eq(method, str_from(names[i])))
            return names[i];
    return "other";
}

static struct api_call
call_of(struct api *a, struct fcgi_request *r)
{
    struct str method = fcgi_param(r, "REQUEST_METHOD");

    return (struct api_call){
        .api = a,
        .conf = atomic_load(&a->conf),
        .fcgi = r,
        .arena = fcgi_arena(r),
        .method = method,
        .path = fcgi_param(r, "DOCUMENT_URI"),
        .tag = {"none", method_name(method), clock_ns()},
    };
}

void
api_handle(void *arg, struct fcgi_request *r)
{
    struct api_call c = call_of(arg, r);

    route_call(&c);
}

void
api_handle_admin(void *arg, struct fcgi_request *r)
{
    struct api_call c = call_of(arg, r);

    route_admin(&c);
}

#include "config.h"

#include "api/api.h"

#include <stdlib.h>
#include <string.h>

#include "api/http_call.h"
#include "base/clock.h"

#define NAMES_MAX ((int)(sizeof((struct api *)0)->names / sizeof(struct str)))

/* Splits the served names; the directory's name when none is configured. */
static int
set_names(struct api *a, const struct conf *c, struct err *e)
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
        a->names_text = strndup(dir + from, n - from);
    } else {
        a->names_text = strdup(text);
    }
    if (a->names_text == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    for (char *p = a->names_text; *p && a->n_names < NAMES_MAX;) {
        size_t n = strcspn(p, ",");
        struct str name = str_trim((struct str){p, n});
        if (name.n > 0)
            a->names[a->n_names++] = name;
        p += n + (p[n] == ',');
    }
    if (a->n_names == 0)
        return err_set(e, ERR_RANGE, "served_name: no name in it");
    return 0;
}

int
api_create(const struct api_parts *p, struct api **out, struct err *e)
{
    struct api *a = calloc(1, sizeof *a);

    if (a == NULL)
        return err_set(e, ERR_NOMEM, "out of memory");
    a->parts = *p;
    a->created = clock_unix();
    a->end_id = tok_special(p->tok, "</s>");
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
    free(a->names_text);
    free(a);
}

void
api_reconfigure(struct api *a, const struct conf *c)
{
    atomic_store(&a->conf, c);
}

void
api_handle(void *arg, struct fcgi_request *r)
{
    struct api *a = arg;
    struct str uri = fcgi_param(r, "DOCUMENT_URI");
    struct api_call c = {
        .api = a,
        .conf = atomic_load(&a->conf),
        .fcgi = r,
        .arena = fcgi_arena(r),
        .method = fcgi_param(r, "REQUEST_METHOD"),
        .path = uri,
    };

    route_call(&c);
}

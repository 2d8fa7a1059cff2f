/* The endpoints: one row each. */
#include "config.h"

#include <string.h>

#include "api/http_call.h"

struct route {
    const char *method;   /* "*" = GET and POST */
    const char *path;     /* a trailing "/" stands for any rest */
    void (*handler)(struct api_call *c);
};

static const struct route routes[] = {
    {"POST", "/v1/chat/completions", chat_completions_post},
    {"POST", "/invocations", chat_completions_post},
    {"POST", "/v1/completions", completions_post},
    {"POST", "/v1/fim/completions", fim_post},
    {"POST", "/v1/chat/completions/render", render_chat_post},
    {"POST", "/v1/completions/render", render_text_post},
    {"POST", "/v1/responses", responses_post},
    {"POST", "/v1/messages", messages_post},
    {"POST", "/v1/messages/count_tokens", count_tokens_post},
    {"GET", "/v1/models", models_list},
    {"GET", "/v1/models/", models_get},
    {"POST", "/tokenize", tokenize_post},
    {"POST", "/v1/tokenize", tokenize_post},
    {"POST", "/detokenize", detokenize_post},
    {"POST", "/v1/detokenize", detokenize_post},
    {"GET", "/health", info_health},
    {"*", "/ping", info_health},
    {"GET", "/health_generate", health_generate},
    {"GET", "/version", info_version},
    {"GET", "/metrics", info_metrics},
    {"GET", "/load", info_load},
    {"GET", "/get_load", info_loads},
    {"GET", "/v1/loads", info_loads},
    {"GET", "/model_info", info_model},
    {"GET", "/get_model_info", info_model},
    {"GET", "/server_info", info_server},
    {"GET", "/get_server_info", info_server},
};

/* Bytes of an unknown path that come back. */
#define PATH_SHOWN 200

/* On the admin socket, which nginx does not serve. */
static const struct route admin_routes[] = {
    {"POST", "/abort_request", admin_abort},
    {"POST", "/reset_prefix_cache", admin_cache_reset},
    {"*", "/flush_cache", admin_cache_flush},
    {"GET", "/health", info_health},
    {"GET", "/metrics", info_metrics},
    {"GET", "/load", info_load},
};

/* Whether path is the row's; *rest is what a trailing "/" left. */
static bool
matches(const char *row, struct str path, struct str *rest)
{
    size_t n = strlen(row);
    bool open = n > 1 && row[n - 1] == '/';

    if (!open)
        return str_eq(path, (struct str){row, n});
    if (path.n <= n || memcmp(path.p, row, n) != 0)
        return false;
    *rest = (struct str){path.p + n, path.n - n};
    return true;
}

static bool
allows(const char *row, struct str method)
{
    if (row[0] == '*')
        return str_eq(method, STR("GET")) || str_eq(method, STR("POST"));
    /* Wherever GET is fine, HEAD is: nginx drops the body. */
    if (str_eq(method, STR("HEAD")))
        method = STR("GET");
    return str_eq(method, str_from(row));
}

/* A slash behind a path changes nothing. */
static void
route_in(const struct route *table, size_t n, struct api_call *c)
{
    bool known = false;

    if (c->path.n > 1 && c->path.p[c->path.n - 1] == '/')
        c->path.n--;
    for (size_t i = 0; i < n; i++) {
        if (!matches(table[i].path, c->path, &c->rest))
            continue;
        c->tag.handler = table[i].path;
        if (allows(table[i].method, c->method)) {
            table[i].handler(c);
            return;
        }
        known = true;
    }
    if (known)
        call_fail(c, 405, NULL, "%.*s is not allowed here",
                  (int)c->method.n, c->method.p);
    else
        call_fail(c, 404, NULL, "there is nothing at %.*s",
                  c->path.n < PATH_SHOWN ? (int)c->path.n : PATH_SHOWN,
                  c->path.p);
}

void
route_call(struct api_call *c)
{
    route_in(routes, sizeof routes / sizeof *routes, c);
}

void
route_admin(struct api_call *c)
{
    route_in(admin_routes, sizeof admin_routes / sizeof *admin_routes, c);
}

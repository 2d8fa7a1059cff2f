#include "config.h"

#include "api/http_call.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/clock.h"
#include "json/json.h"
#include "metrics/http.h"
#include "metrics/metrics.h"

#define BODY_CUT 200    /* bytes of a client's value that an error repeats */

const char *
error_type(int status)
{
    switch (status) {
    case STATUS_SCHEMA: return "Bad Request";
    case 400: return "BadRequestError";
    case 401: return "AuthenticationError";
    case 404: return "NotFoundError";
    case 405: return "MethodNotAllowedError";
    case 413: return "RequestTooLargeError";
    case 422: return "UnprocessableEntityError";
    case 429: return "rate_limit_exceeded";
    case 501: return "NotImplementedError";
    case 503: return "ServiceUnavailableError";
    default: return "InternalServerError";
    }
}

/* A path as the schema check of vLLM names it, or a field's name. */
static int
put_param(struct buf *out, const char *from, const char *param)
{
    struct buf path = {0};

    if (param == NULL)
        return buf_puts(out, "null");
    int rc = buf_puts(&path, from);
    rc = rc ? rc : buf_puts(&path, param);
    rc = rc ? rc : json_put_string(out, path.data, path.len);
    buf_free(&path);
    return rc;
}

int
error_put(struct buf *out, int status, const char *param, const char *text)
{
    int rc = buf_puts(out, "{\"error\":{\"message\":");
    if (rc == 0)
        rc = json_put_string(out, text, strlen(text));
    if (rc == 0)
        rc = buf_printf(out, ",\"type\":\"%s\",\"param\":",
                        error_type(status));
    if (rc == 0)
        rc = put_param(out, status == STATUS_SCHEMA ? "body." : "", param);
    return rc ? rc : buf_printf(out, ",\"code\":%d}}", status % 1000);
}

void
call_count(const struct call_tag *t, int status)
{
    http_count(t->handler, t->method, status,
               (double)(clock_ns() - t->began) * 1e-9);
    metrics_add(status < 400   ? METRIC_HTTP_2XX
                : status < 500 ? METRIC_HTTP_4XX
                               : METRIC_HTTP_5XX, 1);
}

/* The pair of the field that text begins with, NULL when it has none. */
static const char *const *
renamed(const struct api_call *c, const char *text)
{
    for (int i = 0; c->names && c->names[i][0]; i++) {
        size_t n = strlen(c->names[i][0]);
        if (strncmp(text, c->names[i][0], n) == 0
            && (text[n] == '\0' || strchr(" .:", text[n])))
            return c->names[i];
    }
    return NULL;
}

int
call_fail(struct api_call *c, int status, const char *param, const char *fmt,
          ...)
{
    char text[ERR_TEXT_MAX], theirs[ERR_TEXT_MAX + 32];
    struct buf body = {0};
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    const char *const *name = renamed(c, text);
    snprintf(theirs, sizeof theirs, "%s%s", name ? name[1] : "",
             text + (name ? strlen(name[0]) : 0));
    /* Indices of what was made of the client's field would mislead. */
    if (param && (name = renamed(c, param)))
        param = name[1];
    const char *headers = status == 429   ? "Retry-After: 1\r\n"
                          : status == 503 ? "Retry-After: 5\r\n"
                                          : NULL;
    if ((c->error_put ? c->error_put : error_put)(&body, status, param, theirs))
        body.len = 0;
    status %= 1000;
    call_count(&c->tag, status);
    fcgi_answer(c->fcgi, status, "application/json", headers,
                (struct str){body.data, body.len});
    buf_free(&body);
    return -1;
}

void
call_answer_type(struct api_call *c, const char *type, const struct buf *body)
{
    call_count(&c->tag, 200);
    fcgi_answer(c->fcgi, 200, type, NULL,
                (struct str){body->data, body->len});
}

void
call_answer(struct api_call *c, const struct buf *json)
{
    call_answer_type(c, "application/json", json);
}

void
call_finish(struct api_call *c, struct buf *out, int rc)
{
    if (rc == 0)
        call_answer(c, out);
    else
        call_fail(c, 503, NULL, "out of memory");
    buf_free(out);
}

static bool
is_json_type(struct str type)
{
    static const char want[] = "application/json";

    if (type.n < sizeof want - 1
        || strncasecmp(type.p, want, sizeof want - 1) != 0)
        return false;
    return type.n == sizeof want - 1 || type.p[sizeof want - 1] == ';'
           || type.p[sizeof want - 1] == ' ';
}

static void
put_body(void *arg)
{
    json_object_put(arg);
}

int
call_body(struct api_call *c)
{
    struct err e = {0};
    struct json_object *body;
    struct str text = fcgi_body(c->fcgi);

    if (!is_json_type(fcgi_param(c->fcgi, "CONTENT_TYPE")))
        return call_fail(c, 400, NULL, "only application/json is allowed as "
                         "Content-Type");
    struct str coding = fcgi_param(c->fcgi, "HTTP_CONTENT_ENCODING");
    if (coding.n > 0 && !str_eq(coding, STR("identity")))
        return call_fail(c, 400, NULL, "a body with a Content-Encoding is "
                         "not taken; send it as it is");
    int rc = json_parse(text.p, text.n, (int)c->conf->json_depth,
                        JSON_BOUNDED, &body, &e);
    if (rc == ERR_NOMEM)
        return call_fail(c, 503, NULL, "out of memory");
    if (rc == ERR_LIMIT)
        return call_fail(c, STATUS_SCHEMA, NULL, "the body is more than this "
                         "server takes: %s", e.text);
    if (rc != 0)
        return call_fail(c, STATUS_SCHEMA, NULL, "the body is not valid JSON: "
                         "%s", e.text);
    if (arena_cleanup(c->arena, put_body, body) != 0) {
        json_object_put(body);
        return call_fail(c, 503, NULL, "out of memory");
    }
    if (!json_object_is_type(body, json_type_object))
        return call_fail(c, STATUS_SCHEMA, NULL, "the body must be a JSON "
                         "object");
    c->body = body;
    return 0;
}

int
call_body_text(struct api_call *c, struct str text)
{
    struct json_object *body = NULL;

    if (json_parse(text.p, text.n, 8, 0, &body, NULL) != 0)
        return ERR_NOMEM;
    if (arena_cleanup(c->arena, put_body, body) != 0) {
        json_object_put(body);
        return ERR_NOMEM;
    }
    c->body = body;
    return 0;
}

int
call_check_model(struct api_call *c)
{
    struct json_object *o = json_get(c->body, "model");
    struct str name = json_str(o);

    if (o && !json_object_is_type(o, json_type_string))
        return call_fail(c, STATUS_SCHEMA, "model", "model must be a "
                         "string");
    if (name.n == 0)
        return 0;
    const struct served *served = atomic_load(&c->api->served);
    for (int i = 0; i < served->n; i++)
        if (str_eq(name, served->name[i]))
            return 0;
    int cut = name.n > BODY_CUT ? BODY_CUT : (int)name.n;
    return call_fail(c, 404, "model", "The model `%.*s` does not exist; this "
                     "server serves `%.*s`.", cut, name.p,
                     (int)served->name[0].n, served->name[0].p);
}

#include "config.h"

#include "filter/call.h"

#include <string.h>

#define NAME_MAX_BYTES 256

void
call_open(struct call *c, filter_fn fn, void *arg)
{
    *c = (struct call){.state = CALL_AFTER, .fn = fn, .arg = arg};
}

void
call_close(struct call *c)
{
    buf_free(&c->name);
    buf_free(&c->list.key);
    buf_free(&c->list.name);
    buf_free(&c->list.args);
}

int
call_send(struct call *c, enum filter_event_type type, const char *p, size_t n)
{
    struct filter_event ev = {type, {p, n}, c->n - 1};
    if (n == 0 && type == FILTER_ARGS)
        return 0;
    return c->fn(c->arg, &ev);
}

int
call_announce(struct call *c, struct str name)
{
    c->n++;
    return call_send(c, FILTER_CALL, name.p, name.n);
}

void
call_marker(struct call *c)
{
    c->state = CALL_NAME;
    c->name.len = 0;
}

void
call_id_marker(struct call *c)
{
    if (c->state == CALL_NAME)
        c->state = CALL_ID;
}

/* The name is complete. */
static int
start_args(struct call *c)
{
    struct str name = str_trim((struct str){c->name.data, c->name.len});

    c->begun = false;
    json_scan_init(&c->scan);
    if (name.n == 0) {
        c->state = CALL_AFTER;
        return 0;
    }
    c->state = CALL_ARGS;
    return call_announce(c, name);
}

int
call_args_marker(struct call *c)
{
    if (c->state == CALL_NAME || c->state == CALL_ID)
        return start_args(c);
    return 0;
}

static size_t
skip_space(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && strchr(" \t\r\n", p[i]) && p[i] != '\0')
        i++;
    return i;
}

static int
args_text(struct call *c, const char *p, size_t n)
{
    size_t used = c->begun ? 0 : skip_space(p, n);

    p += used;
    n -= used;
    if (n == 0)
        return 0;
    c->begun = true;
    enum json_scan_result r = json_scan_feed(&c->scan, p, n, &used);
    if (r == JSON_SCAN_BAD) {
        c->state = CALL_RAW;
        used = n;
    }
    int rc = call_send(c, FILTER_ARGS, p, used);
    if (rc == 0 && r == JSON_SCAN_DONE) {
        c->state = CALL_AFTER;
        rc = call_send(c, FILTER_CALL_END, NULL, 0);
    }
    return rc;
}

/* Collects the name; a `{` begins arguments without a marker, and a name
 * that begins with a bracket is a list of calls. */
static int
name_text(struct call *c, const char *p, size_t n)
{
    if (c->name.len == 0) {
        size_t blank = skip_space(p, n);
        p += blank;
        n -= blank;
    }
    if (n == 0)
        return 0;
    if (c->name.len == 0 && (*p == '[' || *p == '{')) {
        c->state = CALL_LIST;
        call_list_start(c);
        return call_list_text(c, p, n);
    }
    const char *brace = memchr(p, '{', n);
    size_t len = brace ? (size_t)(brace - p) : n;
    if (c->name.len + len > NAME_MAX_BYTES) {
        c->state = CALL_AFTER;
        return 0;
    }
    if (buf_append(&c->name, p, len) != 0)
        return ERR_NOMEM;
    if (brace == NULL)
        return 0;
    int rc = start_args(c);
    return rc ? rc : call_text(c, brace, n - len);
}

static int
id_text(struct call *c, const char *p, size_t n)
{
    const char *brace = memchr(p, '{', n);
    if (brace == NULL)
        return 0;
    int rc = start_args(c);
    return rc ? rc : call_text(c, brace, n - (size_t)(brace - p));
}

int
call_text(struct call *c, const char *p, size_t n)
{
    if (n == 0)
        return 0;
    switch (c->state) {
    case CALL_NAME: return name_text(c, p, n);
    case CALL_ID:   return id_text(c, p, n);
    case CALL_ARGS: return args_text(c, p, n);
    case CALL_RAW:  return call_send(c, FILTER_ARGS, p, n);
    case CALL_LIST: return call_list_text(c, p, n);
    case CALL_AFTER: break;
    }
    return 0;
}

int
call_end(struct call *c, bool cut)
{
    enum call_state was = c->state;
    int rc = 0;

    c->state = CALL_AFTER;
    if (was != CALL_ARGS || (cut && !c->begun))
        return 0;
    if (!c->begun)
        rc = call_send(c, FILTER_ARGS, "{}", 2);
    else if (json_scan_end(&c->scan) != JSON_SCAN_DONE)
        return 0;
    return rc ? rc : call_send(c, FILTER_CALL_END, NULL, 0);
}

/*
 * Calls as JSON: [{"name": "f", "arguments": {...}}, ...] or one such object.
 *
 * DESIGN. Arguments are passed on as they arrive, in the model's own spelling,
 * once the name is known; a model that writes them before the name has them
 * held until then. Arguments that are a JSON string hold JSON in it, as in the
 * API, and are unpacked when complete. What is not of this form ends the list.
 */
#include "config.h"

#include "filter/call.h"

#include <string.h>

#include "json/json.h"

enum { L_OPEN, L_ITEM, L_KEY, L_KEY_TEXT, L_COLON, L_VALUE_FIRST, L_VALUE };
enum { VALUE_OTHER, VALUE_NAME, VALUE_ARGS };

static void
next_object(struct call_list *l)
{
    l->state = L_KEY;
    l->started = l->args_seen = l->args_done = l->args_string = false;
    l->name.len = l->args.len = 0;
}

void
call_list_start(struct call *c)
{
    c->list.state = L_OPEN;
}

/* The text of a JSON string in b, put back into b. ERR_FORMAT, and b as it
 * was, when b holds no such string. */
static int
unpack(struct buf *b)
{
    struct json_object *o = NULL;
    int rc = json_parse(b->data, b->len, 1, 0, &o, NULL);

    if (rc == 0 && !json_object_is_type(o, json_type_string))
        rc = ERR_FORMAT;
    if (rc == 0) {
        struct str s = json_str(o);
        b->len = 0; /* the text is never longer than its JSON */
        rc = buf_append(b, s.p, s.n);
    }
    json_object_put(o);
    return rc == ERR_LIMIT ? ERR_FORMAT : rc;
}

/* Sends arguments that came as a string: the value in it, or all of it when it
 * is none. */
static int
send_unpacked(struct call *c)
{
    struct call_list *l = &c->list;
    struct json_scan scan;
    size_t used = 0;

    int rc = unpack(&l->args);
    if (rc != 0 && rc != ERR_FORMAT)
        return rc;
    struct str text = str_trim((struct str){l->args.data, l->args.len});
    if (text.n == 0)
        text = STR("{}");
    json_scan_init(&scan);
    enum json_scan_result r = json_scan_feed(&scan, text.p, text.n, &used);
    if (r == JSON_SCAN_MORE)
        r = json_scan_end(&scan);
    rc = call_send(c, FILTER_ARGS, text.p, r == JSON_SCAN_DONE ? used : text.n);
    if (rc == 0 && r == JSON_SCAN_DONE)
        rc = call_send(c, FILTER_CALL_END, NULL, 0);
    return rc;
}

/* Sends held arguments, now that the name is known. */
static int
send_held(struct call *c)
{
    struct call_list *l = &c->list;
    int rc = 0;

    if (l->args_string && !l->args_done)
        return 0;
    if (l->args_string)
        rc = send_unpacked(c);
    else
        rc = call_send(c, FILTER_ARGS, l->args.data, l->args.len);
    l->args.len = 0;
    if (rc == 0 && l->args_done && !l->args_string)
        rc = call_send(c, FILTER_CALL_END, NULL, 0);
    return rc;
}

static int
name_done(struct call *c)
{
    struct call_list *l = &c->list;

    int rc = unpack(&l->name);
    struct str name = str_trim((struct str){l->name.data, l->name.len});
    if (rc == ERR_FORMAT || (rc == 0 && name.n == 0)) {
        c->state = CALL_AFTER;
        return 0;
    }
    if (rc == 0)
        rc = call_announce(c, name);
    l->started = true;
    return rc == 0 && l->args_seen ? send_held(c) : rc;
}

static int
value_part(struct call *c, const char *p, size_t n)
{
    struct call_list *l = &c->list;

    if (l->value == VALUE_NAME)
        return buf_append(&l->name, p, n);
    if (l->value != VALUE_ARGS)
        return 0;
    if (l->started && !l->args_string)
        return call_send(c, FILTER_ARGS, p, n);
    return buf_append(&l->args, p, n);
}

static int
value_done(struct call *c)
{
    struct call_list *l = &c->list;

    l->state = L_KEY;
    if (l->value == VALUE_NAME)
        return name_done(c);
    if (l->value != VALUE_ARGS)
        return 0;
    l->args_done = true;
    return l->started ? send_held(c) : 0;
}

static int
value_text(struct call *c, const char *p, size_t n, size_t *used)
{
    enum json_scan_result r = json_scan_feed(&c->scan, p, n, used);

    int rc = value_part(c, p, *used);
    if (rc == 0 && r == JSON_SCAN_BAD)
        c->state = CALL_AFTER;
    if (rc == 0 && r == JSON_SCAN_DONE)
        rc = value_done(c);
    return rc;
}

/* The closing brace of a call's object. */
static int
object_done(struct call *c)
{
    struct call_list *l = &c->list;
    int rc = 0;

    if (l->started && !l->args_seen) {
        rc = call_send(c, FILTER_ARGS, "{}", 2);
        if (rc == 0)
            rc = call_send(c, FILTER_CALL_END, NULL, 0);
    }
    if (l->array)
        l->state = L_ITEM;
    else
        c->state = CALL_AFTER;
    return rc;
}

static void
key_done(struct call_list *l)
{
    struct str key = {l->key.data, l->key.len};

    l->state = L_COLON;
    l->value = VALUE_OTHER;
    if (str_eq(key, STR("name")) && !l->started)
        l->value = VALUE_NAME;
    else if ((str_eq(key, STR("arguments")) || str_eq(key, STR("parameters")))
             && !l->args_seen)
        l->value = VALUE_ARGS;
}

static void
value_first(struct call *c, char first)
{
    struct call_list *l = &c->list;

    json_scan_init(&c->scan);
    l->state = L_VALUE;
    if (l->value == VALUE_ARGS) {
        l->args_seen = true;
        l->args_string = first == '"';
    }
}

/* One byte between or in keys; *took: it is done with. */
static int
list_byte(struct call *c, char ch)
{
    struct call_list *l = &c->list;

    if (l->state == L_KEY_TEXT) {
        if (ch != '"')
            return buf_putc(&l->key, ch);
        key_done(l);
    } else if (strchr(" \t\r\n", ch)) {
        return 0;
    } else if ((l->state == L_OPEN || l->state == L_ITEM) && ch == '{') {
        l->array = l->state == L_ITEM;
        next_object(l);
    } else if (l->state == L_OPEN && ch == '[') {
        l->state = L_ITEM;
    } else if ((l->state == L_ITEM || l->state == L_KEY) && ch == ',') {
        return 0;
    } else if (l->state == L_KEY && ch == '"') {
        l->key.len = 0;
        l->state = L_KEY_TEXT;
    } else if (l->state == L_KEY && ch == '}') {
        return object_done(c);
    } else if (l->state == L_COLON && ch == ':') {
        l->state = L_VALUE_FIRST;
    } else {
        c->state = CALL_AFTER;
    }
    return 0;
}

int
call_list_text(struct call *c, const char *p, size_t n)
{
    struct call_list *l = &c->list;
    int rc = 0;

    while (rc == 0 && n > 0 && c->state == CALL_LIST) {
        size_t used = 1;
        if (l->state == L_VALUE_FIRST && !strchr(" \t\r\n", *p))
            value_first(c, *p);
        if (l->state == L_VALUE)
            rc = value_text(c, p, n, &used);
        else
            rc = list_byte(c, *p);
        p += used;
        n -= used;
    }
    return rc;
}

/* Tool calls: text behind a call marker to names and arguments. */
#ifndef FILTER_CALL_H
#define FILTER_CALL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "filter/filter.h"
#include "filter/json_scan.h"

enum call_state {
    CALL_NAME,  /* collecting the name */
    CALL_ID,    /* skipping the id */
    CALL_ARGS,  /* arguments, followed by json_scan */
    CALL_RAW,   /* arguments that are no JSON: all of it */
    CALL_LIST,  /* calls as JSON objects, see call_list.c */
    CALL_AFTER  /* nothing more counts */
};

struct call_list {
    int state;
    int value;            /* which member is being read */
    bool array;           /* there may be further objects */
    bool started;         /* this object's call has been announced */
    bool args_seen, args_done, args_string;
    struct buf key, name, args; /* JSON text; args as far as not yet sent */
};

struct call {
    enum call_state state;
    struct buf name;
    struct json_scan scan;
    struct call_list list;
    bool begun;           /* arguments have begun */
    int n;                /* calls announced */
    filter_fn fn;
    void *arg;
};

void call_open(struct call *c, filter_fn fn, void *arg);
void call_close(struct call *c);

void call_marker(struct call *c);   /* a call marker: the name follows */
void call_id_marker(struct call *c);
int call_args_marker(struct call *c);
int call_text(struct call *c, const char *p, size_t n);
/* Something else follows, or the output ends; cut as in filter_finish. */
int call_end(struct call *c, bool cut);

/* For call_list.c: sends an event of the newest call. */
int call_send(struct call *c, enum filter_event_type type, const char *p,
              size_t n);
/* Announces a call. */
int call_announce(struct call *c, struct str name);
void call_list_start(struct call *c);
int call_list_text(struct call *c, const char *p, size_t n);

#endif

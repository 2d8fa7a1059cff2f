/* Endpoints of the admin socket. */
#include "config.h"

#include "api/reply.h"

#include "json/json.h"

/* POST /abort_request {"rid": "..."} or {"abort_all": true} */
void
admin_abort(struct api_call *c)
{
    struct str rid = {NULL, 0};
    bool all = false;
    struct buf out = {0};

    if (call_body(c) != 0 || field_str(c, c->body, "rid", &rid) != 0
        || field_bool(c, c->body, "abort_all", &all) != 0)
        return;
    if (rid.n == 0 && !all) {
        call_fail(c, 400, "rid", "give rid or abort_all");
        return;
    }
    int n = reply_abort(c->api, all ? (struct str){NULL, 0} : rid);
    int rc = buf_printf(&out, "{\"aborted\":%d}", n);
    call_finish(c, &out, rc);
}

void
admin_cache_reset(struct api_call *c)
{
    struct buf out = {0};
    unsigned n = engine_cache_reset(c->api->parts.engine);

    int rc = buf_printf(&out, "{\"blocks_freed\":%u}", n);
    call_finish(c, &out, rc);
}

/* As SGLang: only an idle server's cache is flushed. */
void
admin_cache_flush(struct api_call *c)
{
    struct engine_stats s;

    engine_stats(c->api->parts.engine, &s);
    if (s.running + s.waiting > 0)
        call_fail(c, 400, NULL, "%u requests are running and %u waiting",
                  (unsigned)s.running, (unsigned)s.waiting);
    else
        admin_cache_reset(c);
}

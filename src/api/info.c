/* What is asked about the server itself: health, version, metrics, load, and
 * what SGLang's clients ask of it. Paths of files are never told. */
#include "config.h"

#include <inttypes.h>

#include "api/http_call.h"
#include "base/clock.h"
#include "json/json.h"
#include "metrics/metrics.h"

/* Running requests without a finished step for so long: the device hangs. */
#define STALL_NS (120 * 1000000000ull)

void
info_health(struct api_call *c)
{
    struct engine_stats s;

    engine_stats(c->api->parts.engine, &s);
    if (!s.alive)
        call_fail(c, 503, NULL, "the engine is dead");
    else if (s.running > 0 && s.last_step_ns + STALL_NS < clock_ns())
        call_fail(c, 503, NULL, "no step has finished for two minutes");
    else
        call_answer_type(c, "text/plain", &(struct buf){0});
}

void
info_version(struct api_call *c)
{
    struct buf out = {0};

    int rc = buf_printf(&out, "{\"version\":\"%s\"}", c->api->parts.version);
    call_finish(c, &out, rc);
}

void
info_metrics(struct api_call *c)
{
    struct buf out = {0};

    if (metrics_text(&out, c->conf->vllm_metrics) == 0)
        call_answer_type(c, "text/plain; version=0.0.4; charset=utf-8",
                         &out);
    else
        call_fail(c, 503, NULL, "out of memory");
    buf_free(&out);
}

void
info_load(struct api_call *c)
{
    struct engine_stats s;
    struct buf out = {0};

    engine_stats(c->api->parts.engine, &s);
    int rc = buf_printf(&out, "{\"server_load\":%" PRIu32
                        ",\"running\":%" PRIu32 ",\"waiting\":%" PRIu32
                        ",\"blocks_used\":%" PRIu32 ",\"blocks_cached\":%"
                        PRIu32 ",\"blocks_total\":%" PRIu32 "}",
                        s.running + s.waiting, s.running, s.waiting,
                        s.blocks_used, s.blocks_cached, s.blocks_total);
    call_finish(c, &out, rc);
}

/* SGLang's: one entry, since there is one engine. */
static int
put_loads(struct buf *out, const struct engine_stats *s)
{
    return buf_printf(out, "[{\"dp_rank\":0,\"num_reqs\":%" PRIu32
                      ",\"num_running_reqs\":%" PRIu32
                      ",\"num_waiting_reqs\":%" PRIu32
                      ",\"num_total_reqs\":%" PRIu32
                      ",\"num_tokens\":%" PRIu64 "}]",
                      s->running + s->waiting, s->running, s->waiting,
                      s->running + s->waiting,
                      (uint64_t)s->blocks_used * KV_BLOCK);
}

/* /get_load: the entries; /v1/loads: within an object. */
void
info_loads(struct api_call *c)
{
    bool bare = str_eq(c->path, STR("/get_load"));
    struct engine_stats s;
    struct buf out = {0};

    engine_stats(c->api->parts.engine, &s);
    int rc = bare ? 0 : buf_puts(&out, "{\"loads\":");
    rc = rc ? rc : put_loads(&out, &s);
    call_finish(c, &out, rc ? rc : bare ? 0 : buf_putc(&out, '}'));
}

static int
put_name(struct buf *out, const char *key, struct str name)
{
    int rc = buf_printf(out, "\"%s\":", key);
    rc = rc ? rc : json_put_string(out, name.p, name.n);
    return rc ? rc : buf_putc(out, ',');
}

void
info_model(struct api_call *c)
{
    struct buf out = {0};
    struct str name = atomic_load(&c->api->served)->name[0];

    int rc = buf_putc(&out, '{');
    rc = rc ? rc : put_name(&out, "model_path", name);
    rc = rc ? rc : put_name(&out, "tokenizer_path", name);
    rc = rc ? rc : buf_printf(
        &out, "\"is_generation\":true,\"preferred_sampling_params\":null,"
        "\"has_image_understanding\":%s,\"has_audio_understanding\":false,"
        "\"max_model_len\":%" PRIu32 "}",
        c->api->parts.has_vision ? "true" : "false",
        c->api->parts.max_context);
    call_finish(c, &out, rc);
}

void
info_server(struct api_call *c)
{
    struct engine_stats s;
    struct buf out = {0};
    struct str name = atomic_load(&c->api->served)->name[0];

    engine_stats(c->api->parts.engine, &s);
    int rc = buf_putc(&out, '{');
    rc = rc ? rc : put_name(&out, "version", str_from(c->api->parts.version));
    rc = rc ? rc : put_name(&out, "model_path", name);
    rc = rc ? rc : put_name(&out, "served_model_name", name);
    rc = rc ? rc : buf_printf(
        &out, "\"status\":\"%s\",\"context_length\":%" PRIu32
        ",\"max_total_num_tokens\":%" PRIu64
        ",\"max_running_requests\":%" PRIu64 ",\"internal_states\":",
        s.alive ? "ready" : "dead", c->api->parts.max_context,
        (uint64_t)s.blocks_total * KV_BLOCK, (uint64_t)c->conf->max_running);
    rc = rc ? rc : put_loads(&out, &s);
    call_finish(c, &out, rc ? rc : buf_putc(&out, '}'));
}

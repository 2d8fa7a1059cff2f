/* What is asked about the server itself: health, version, metrics, load. */
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

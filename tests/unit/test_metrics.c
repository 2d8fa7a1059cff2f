#include "config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "metrics/metrics.h"

static const char *
text(struct buf *b, bool vllm)
{
    b->len = 0;
    assert_int_equal(0, metrics_text(b, vllm));
    return buf_cstr(b);
}

static void
test_counters_and_gauges(void **state)
{
    struct buf b = {0};
    metrics_set_model("a \"quoted\\name\"");
    metrics_add(METRIC_GENERATED_TOKENS, 3);
    metrics_add(METRIC_GENERATED_TOKENS, 4);
    metrics_set(METRIC_KV_USAGE, 0.25);
    metrics_add(METRIC_OPEN_STREAMS, 5);
    metrics_add(METRIC_OPEN_STREAMS, -2);
    const char *t = text(&b, false);
    assert_non_null(strstr(t, "sirocco_generation_tokens_total{model_name="
                              "\"a \\\"quoted\\\\name\\\"\"} 7\n"));
    assert_non_null(strstr(t, "sirocco_kv_cache_usage_ratio{"));
    assert_non_null(strstr(t, "} 0.25\n"));
    assert_non_null(strstr(t, "sirocco_open_streams{"));
    assert_null(strstr(t, "vllm:"));
    buf_free(&b);
}

static void
test_histogram_is_cumulative(void **state)
{
    struct buf b = {0};
    metrics_set_model("m");
    metrics_observe(METRIC_TTFT, 0.001); /* on a bound: inside it */
    metrics_observe(METRIC_TTFT, 0.03);
    metrics_observe(METRIC_TTFT, 1e9);
    metrics_observe(METRIC_TTFT, 0.0 / 0.0);
    const char *t = text(&b, true);
#define LINE(le, n) "vllm:time_to_first_token_seconds_bucket{model_name=" \
    "\"m\",engine=\"0\",le=\"" le "\"} " n "\n"
    assert_non_null(strstr(t, LINE("0.001", "1")));
    assert_non_null(strstr(t, LINE("0.02", "1")));
    assert_non_null(strstr(t, LINE("0.04", "2")));
    assert_non_null(strstr(t, LINE("2560", "2")));
    assert_non_null(strstr(t, LINE("+Inf", "3")));
    assert_non_null(strstr(t, "seconds_count{model_name=\"m\",engine=\"0\"} "
                              "3\n"));
    buf_free(&b);
}

/* Dashboards made for older servers find what they ask for. */
static void
test_old_names(void **state)
{
    struct buf b = {0};
    metrics_set_model("m");
    metrics_set(METRIC_KV_USAGE, 0.5);
    metrics_observe(METRIC_ITL, 0.004);
    const char *t = text(&b, true);
    assert_non_null(strstr(t, "# TYPE vllm:gpu_cache_usage_perc gauge\n"));
    assert_non_null(strstr(t, "vllm:gpu_cache_usage_perc{model_name=\"m\","
                              "engine=\"0\"} 0.5\n"));
    assert_non_null(strstr(t, "vllm:time_per_output_token_seconds_count{"
                              "model_name=\"m\",engine=\"0\"} 1\n"));
    b.len = 0;
    assert_null(strstr(text(&b, false), "gpu_cache"));
    buf_free(&b);
}

/* A family has one HELP and TYPE line, before its first sample. */
static void
test_one_head_a_family(void **state)
{
    struct buf b = {0};
    const char *t = text(&b, true);
    const char *first = strstr(t, "# TYPE sirocco_requests_total counter\n");
    assert_non_null(first);
    assert_null(strstr(first + 1, "# TYPE sirocco_requests_total"));
    assert_non_null(strstr(first, "reason=\"abort\"} 0\n"));
    for (int i = 0; i < METRIC_N; i++) {
        assert_non_null(metrics_tab[i].name);
        assert_true(metrics_tab[i].n_bucket <= METRIC_BUCKETS_MAX);
    }
    buf_free(&b);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counters_and_gauges),
        cmocka_unit_test(test_histogram_is_cumulative),
        cmocka_unit_test(test_old_names),
        cmocka_unit_test(test_one_head_a_family),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include "config.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

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

/* A name with several samples has one head; places in drafts that no draft
 * has reached are left out. */
static void
test_further_families(void **state)
{
    struct buf b = {0};
    metrics_set_model("m");
    metrics_set(METRIC_WAITING, 3);
    metrics_add(METRIC_COMPUTED_TOKENS, 5);
    metrics_add(METRIC_CACHED_TOKENS, 2);
    metrics_add(METRIC_ACCEPTED_AT + 1, 4);
    const char *t = text(&b, true);
#define ONE(name, label, n) "vllm:" name "{model_name=\"m\",engine=\"0\"," \
    label "} " n "\n"
    assert_non_null(strstr(t, ONE("num_requests_waiting_by_reason",
                                  "reason=\"capacity\"", "3")));
    assert_non_null(strstr(t, "# TYPE vllm:prompt_tokens_by_source_total "
                              "counter\n"
                              ONE("prompt_tokens_by_source_total",
                                  "source=\"local_compute\"", "5")
                              ONE("prompt_tokens_by_source_total",
                                  "source=\"local_cache_hit\"", "2")));
#define AT "spec_decode_num_accepted_tokens_per_pos_total"
    assert_non_null(strstr(t, ONE(AT, "position=\"0\"", "0")
                              ONE(AT, "position=\"1\"", "4")));
    assert_null(strstr(t, "position=\"2\""));
    buf_free(&b);
}

static void
test_cache_info(void **state)
{
    struct buf b = {0};
    metrics_set_model("m");
    assert_null(strstr(text(&b, true), "cache_config_info"));
    metrics_set_cache(64, 1000, true);
    const char *t = text(&b, true);
    assert_non_null(strstr(t, "vllm:cache_config_info{model_name=\"m\","
                              "engine=\"0\",block_size=\"64\",num_gpu_blocks="
                              "\"1000\",enable_prefix_caching=\"True\"} 1\n"));
    assert_non_null(strstr(t, "sirocco_cache_info{model_name=\"m\","
                              "block_size=\"64\",blocks=\"1000\","
                              "prefix_cache=\"on\"} 1\n"));
    metrics_set_cache(64, 1000, false);
    t = text(&b, false);
    assert_non_null(strstr(t, "prefix_cache=\"off\"} 1\n"));
    assert_null(strstr(t, "vllm:"));
    buf_free(&b);
}

static double
number(struct buf *b, const char *name)
{
    double x = -1;
    char line[64];
    snprintf(line, sizeof line, "\n%s ", name);
    const char *p = strstr(text(b, false), line);
    assert_non_null(p);
    assert_int_equal(1, sscanf(p + strlen(line), "%lf", &x));
    return x;
}

/* A file more is one more; a new page used is more memory; work is more time.
 */
static void
test_process(void **state)
{
    struct buf b = {0};
    struct rlimit l;
    double files = number(&b, "process_open_fds");
    double memory = number(&b, "process_resident_memory_bytes");
    double cpu = number(&b, "process_cpu_seconds_total");
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_true(number(&b, "process_open_fds") == files + 1);
    close(fd);
    size_t n = 64 << 20;
    char *p = malloc(n);
    assert_non_null(p);
    memset(p, 1, n);
    assert_true(number(&b, "process_resident_memory_bytes")
                >= memory + (double)n / 2);
    assert_true(number(&b, "process_virtual_memory_bytes")
                >= memory + (double)n / 2);
    for (int i = 0; number(&b, "process_cpu_seconds_total") <= cpu; i++)
        memset(p, i, n);
    free(p);
    double start = number(&b, "process_start_time_seconds");
    assert_true(start <= (double)time(NULL) + 2);
    assert_true(start > (double)time(NULL) - 3600);
    assert_int_equal(0, getrlimit(RLIMIT_NOFILE, &l));
    if (l.rlim_cur != RLIM_INFINITY)
        assert_true(number(&b, "process_max_fds") == (double)l.rlim_cur);
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
        cmocka_unit_test(test_further_families),
        cmocka_unit_test(test_cache_info),
        cmocka_unit_test(test_process),
        cmocka_unit_test(test_one_head_a_family),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

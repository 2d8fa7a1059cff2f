#include "config.h"

#include "metrics/metrics_tab.h"

#define BUCKETS(array) array, sizeof(array) / sizeof *(array)
#define GAUGE(name, vllm, help)                                            \
    {METRIC_GAUGE, name, NULL, vllm, NULL, NULL, 0, help, false}
#define COUNTER(name, vllm, help)                                          \
    {METRIC_COUNTER, name, NULL, vllm, NULL, NULL, 0, help, false}
#define LABELLED(name, label, vllm, vllm_label, help)                      \
    {METRIC_COUNTER, name, label, vllm, vllm_label, NULL, 0, help, false}
#define HISTOGRAM(name, vllm, buckets, help)                               \
    {METRIC_HISTOGRAM, name, NULL, vllm, NULL, BUCKETS(buckets), help, false}
#define ACCEPTED_AT(place, quiet)                                          \
    [METRIC_ACCEPTED_AT + place] = {METRIC_COUNTER, "accepted_tokens_at",  \
        "position=\"" #place "\"",                                         \
        "spec_decode_num_accepted_tokens_per_pos",                         \
        "position=\"" #place "\"", NULL, 0,                                \
        "Draft tokens accepted, by their place in the draft.", quiet}

static const double first_token[] = {
    .001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5,
    10, 20, 40, 80, 160, 640, 2560
};
/* Finer than usual below 10 ms, where this server lives. */
static const double token_gap[] = {
    .001, .0015, .002, .003, .004, .005, .0075, .01, .025, .05, .075, .1, .15,
    .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80
};
static const double whole_request[] = {
    .05, .1, .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120,
    240, 480, 960, 1920, 7680
};
static const double step_time[] = {
    .0005, .001, .0015, .002, .003, .005, .0075, .01, .02, .03, .05, .1, .2,
    .5, 1, 2, 5
};
static const double pause_time[] = {
    1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 3e-5, 5e-5, 1e-4, 2e-4, 5e-4, .001, .002,
    .005, .01, .1, 1
};
static const double token_count[] = {
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000,
    100000, 200000, 500000
};

const struct metric_row metrics_tab[METRIC_N] = {
    [METRIC_RUNNING] = GAUGE("requests_running", "num_requests_running",
        "Requests that generate."),
    [METRIC_WAITING] = GAUGE("requests_waiting", "num_requests_waiting",
        "Requests that wait for a place or for blocks."),
    [METRIC_KV_USAGE] = GAUGE("kv_cache_usage_ratio", "kv_cache_usage_perc",
        "Share of the KV blocks in use by requests, 0 to 1."),
    [METRIC_OPEN_STREAMS] = GAUGE("open_streams", NULL,
        "Connections with a reply under way."),
    [METRIC_PROMPT_TOKENS] = COUNTER("prompt_tokens", "prompt_tokens",
        "Prompt tokens of requests that started."),
    [METRIC_CACHED_TOKENS] = COUNTER("prompt_tokens_cached",
        "prompt_tokens_cached", "Prompt tokens taken from the prefix cache."),
    [METRIC_COMPUTED_TOKENS] = COUNTER("prompt_tokens_computed", NULL,
        "Prompt tokens that were not in the prefix cache."),
    [METRIC_GENERATED_TOKENS] = COUNTER("generation_tokens",
        "generation_tokens", "Tokens generated."),
    [METRIC_PREFIX_QUERIES] = COUNTER("prefix_cache_queries",
        "prefix_cache_queries", "Tokens looked up in the prefix cache."),
    [METRIC_PREFIX_HITS] = COUNTER("prefix_cache_hits", "prefix_cache_hits",
        "Tokens found in the prefix cache."),
    [METRIC_PREEMPTIONS] = COUNTER("preemptions", "num_preemptions",
        "Requests put back for want of KV blocks."),
    [METRIC_REFUSED] = COUNTER("requests_refused", "admission_rejections",
        "Requests refused because the queue was full."),
    [METRIC_DONE_STOP] = LABELLED("requests", "reason=\"stop\"",
        "request_success", "finished_reason=\"stop\"",
        "Requests that ended, by reason."),
    [METRIC_DONE_LENGTH] = LABELLED("requests", "reason=\"length\"",
        "request_success", "finished_reason=\"length\"",
        "Requests that ended, by reason."),
    [METRIC_DONE_ABORT] = LABELLED("requests", "reason=\"abort\"",
        "request_success", "finished_reason=\"abort\"",
        "Requests that ended, by reason."),
    [METRIC_DONE_ERROR] = LABELLED("requests", "reason=\"error\"",
        "request_success", "finished_reason=\"error\"",
        "Requests that ended, by reason."),
    [METRIC_DRAFTS] = COUNTER("drafts", "spec_decode_num_drafts",
        "Drafts proposed by the draft head."),
    [METRIC_DRAFT_TOKENS] = COUNTER("draft_tokens",
        "spec_decode_num_draft_tokens", "Tokens in drafts."),
    [METRIC_ACCEPTED_TOKENS] = COUNTER("accepted_tokens",
        "spec_decode_num_accepted_tokens", "Draft tokens accepted."),
    ACCEPTED_AT(0, false),
    ACCEPTED_AT(1, true),
    ACCEPTED_AT(2, true),
    ACCEPTED_AT(3, true),
    ACCEPTED_AT(4, true),
    ACCEPTED_AT(5, true),
    ACCEPTED_AT(6, true),
    [METRIC_HTTP_2XX] = LABELLED("http_responses", "class=\"2xx\"", NULL,
        NULL, "Replies by class of status."),
    [METRIC_HTTP_4XX] = LABELLED("http_responses", "class=\"4xx\"", NULL,
        NULL, "Replies by class of status."),
    [METRIC_HTTP_5XX] = LABELLED("http_responses", "class=\"5xx\"", NULL,
        NULL, "Replies by class of status."),
    [METRIC_TTFT] = HISTOGRAM("time_to_first_token_seconds",
        "time_to_first_token_seconds", first_token,
        "From arrival to the first token."),
    [METRIC_ITL] = HISTOGRAM("inter_token_latency_seconds",
        "inter_token_latency_seconds", token_gap,
        "Between two tokens of a request."),
    [METRIC_E2E] = HISTOGRAM("request_seconds", "e2e_request_latency_seconds",
        whole_request, "From arrival to the last token."),
    [METRIC_QUEUE_TIME] = HISTOGRAM("request_queue_seconds",
        "request_queue_time_seconds", whole_request,
        "From arrival to the first step."),
    [METRIC_PREFILL_TIME] = HISTOGRAM("request_prefill_seconds",
        "request_prefill_time_seconds", whole_request,
        "From the first step to the first token."),
    [METRIC_DECODE_TIME] = HISTOGRAM("request_decode_seconds",
        "request_decode_time_seconds", whole_request,
        "From the first token to the last."),
    [METRIC_INFERENCE_TIME] = HISTOGRAM("request_inference_seconds",
        "request_inference_time_seconds", whole_request,
        "From the first step to the last token."),
    [METRIC_TOKEN_TIME] = HISTOGRAM("request_token_seconds",
        "request_time_per_output_token_seconds", token_gap,
        "Time a token in the mean of a request, behind its first."),
    [METRIC_STEP_TIME] = HISTOGRAM("step_seconds", NULL, step_time,
        "Time of a step on the device."),
    [METRIC_DEVICE_PAUSE] = HISTOGRAM("device_pause_seconds", NULL, pause_time,
        "Pause of the device before a step, while there were requests."),
    [METRIC_REQUEST_PROMPT] = HISTOGRAM("request_prompt_tokens",
        "request_prompt_tokens", token_count, "Prompt tokens a request."),
    [METRIC_REQUEST_GENERATED] = HISTOGRAM("request_generation_tokens",
        "request_generation_tokens", token_count,
        "Generated tokens a request."),
    [METRIC_REQUEST_LONGEST] = HISTOGRAM("request_longest_tokens",
        "request_max_num_generation_tokens", token_count,
        "Generated tokens of a request's longest choice."),
    [METRIC_STEP_TOKENS] = HISTOGRAM("step_tokens", "iteration_tokens_total",
        token_count, "Tokens a step."),
    [METRIC_REQUEST_COMPUTED] = HISTOGRAM("request_computed_tokens",
        "request_prefill_kv_computed_tokens", token_count,
        "Prompt tokens a request that were not in the cache."),
    [METRIC_REQUEST_LIMIT] = HISTOGRAM("request_limit_tokens",
        "request_params_max_tokens", token_count,
        "Most tokens a request may generate."),
    [METRIC_REQUEST_CHOICES] = HISTOGRAM("request_choices",
        "request_params_n", token_count, "Choices a request asks for."),
};

const struct metric_alias metrics_aliases[] = {
    {METRIC_KV_USAGE, "gpu_cache_usage_perc", NULL},
    {METRIC_ITL, "time_per_output_token_seconds", NULL},
    {METRIC_WAITING, "num_requests_waiting_by_reason",
     "reason=\"capacity\""},
    {METRIC_COMPUTED_TOKENS, "prompt_tokens_by_source",
     "source=\"local_compute\""},
    {METRIC_CACHED_TOKENS, "prompt_tokens_by_source",
     "source=\"local_cache_hit\""},
    {METRIC_N, NULL, NULL},
};

#include "config.h"

#include "conf/conf_tab.h"

#define AT(member) offsetof(struct conf, member)
#define STRING(name, member, initial, choices, reload, text)               \
    {name, CONF_STRING, AT(member), initial, 0, 0, choices, reload, text}
#define FLAG(name, member, initial, reload, text)                          \
    {name, CONF_BOOL, AT(member), initial, 0, 1, NULL, reload, text}
#define VALUE(name, type, member, initial, min, max, reload, text)         \
    {name, type, AT(member), initial, min, max, NULL, reload, text}

#define TIB (1024.0 * 1024 * 1024 * 1024)
#define DAY_MS (24.0 * 3600 * 1000)

const struct conf_key conf_tab[] = {
    /* model */
    STRING("model", model, NULL, NULL, false,
           "checkpoint directory: params.json, consolidated*.safetensors and "
           "tekken.json, or the HF layout"),
    STRING("served_name", served_name, NULL, NULL, true,
           "names clients may use for the model, separated by commas; the "
           "first one is reported (default: the directory's name)"),
    STRING("tokenizer", tokenizer, NULL, NULL, false,
           "tokenizer file (default: tekken.json in the model directory)"),
    STRING("backend", backend, "cpu", NULL, false,
           "what runs the model: cpu, cuda (cuda:1 for another GPU than the "
           "first), or null for tests"),
    FLAG("dummy", dummy, "off", false,
         "random weights from the parameters alone, to measure speed"),
    STRING("packed", packed, NULL, NULL, false,
           "file that siroccoctl pack made of the model, to load from (cuda; "
           "default: the model's own files)"),
    STRING("draft", draft, NULL, NULL, false,
           "directory of an EAGLE draft head for this model (default: no "
           "speculation)"),
    VALUE("drafts", CONF_COUNT, n_drafts, "3", 1, 7, false,
          "tokens the draft head guesses a step"),
    /* memory and scheduling */
    VALUE("threads", CONF_INT, threads, "0", 0, 1024, false,
          "threads of the cpu back end; 0 = one a core"),
    VALUE("devices", CONF_INT, n_devices, "1", 1, 16, false,
          "accelerators to use"),
    VALUE("kv_cache", CONF_SIZE, kv_bytes, "0", 0, 64 * TIB, false,
          "bytes of KV cache; 0 = cuda: all that is left, cpu: a quarter of "
          "the free memory, at most what max_running needs"),
    VALUE("reserve", CONF_SIZE, reserve_bytes, "1G", 0, TIB, false,
          "memory of the device kept free for others; at least 4G where the "
          "GPU shares the machine's memory"),
    VALUE("max_context", CONF_COUNT, max_context, "0", 0, 1 << 24, false,
          "longest prompt plus answer in tokens; 0 = what the model allows, "
          "at most 262144"),
    VALUE("max_running", CONF_COUNT, max_running, "128", 1, 65536, false,
          "requests that generate at once"),
    VALUE("max_queue", CONF_COUNT, max_queue, "1024", 0, 1 << 20, false,
          "requests that may wait; more are answered 429"),
    VALUE("step_tokens", CONF_COUNT, step_tokens, "0", 0, 1 << 20, false,
          "token budget of a step; 0 = 8192 on cuda, 512 on cpu"),
    VALUE("prefill_chunk", CONF_COUNT, prefill_chunk, "0", 0, 1 << 20, false,
          "most tokens of one prompt a step, so that a long one leaves room "
          "for others; 0 = the whole budget"),
    FLAG("prefix_cache", prefix_cache, "on", false,
         "keep the KV cache of finished prompts and reuse common prefixes"),
    FLAG("overlap", overlap, "on", false,
         "prepare the next step while one runs; off for debugging"),
    /* listening */
    STRING("socket", socket, RUNSTATEDIR "/sirocco/fcgi.sock", NULL, false,
           "UNIX socket for nginx, or fd:N for an inherited one"),
    VALUE("socket_mode", CONF_OCTAL, socket_mode, "0660", 0, 0777, false,
          "permissions of the socket"),
    STRING("socket_group", socket_group, NULL, NULL, false,
           "group of the socket, usually nginx's (default: the daemon's)"),
    VALUE("acceptors", CONF_INT, acceptors, "4", 1, 64, false,
          "threads that accept, parse and encode requests"),
    VALUE("reply_threads", CONF_INT, reply_threads, "1", 1, 64, false,
          "threads that write replies; one serves some thousand streams"),
    VALUE("backlog", CONF_INT, backlog, "1024", 1, 65535, false,
          "connections that may wait to be accepted"),
    VALUE("max_body", CONF_SIZE, max_body_bytes, "32M", 1024, 1U << 31, false,
          "longest request body; keep nginx's client_max_body_size equal"),
    VALUE("stream_buffer", CONF_SIZE, out_limit_bytes, "1M", 16384, 1 << 30,
          false,
          "bytes kept for a client that does not read before it is dropped"),
    VALUE("drain_timeout", CONF_TIME, drain_ms, "300s", 0, DAY_MS, true,
          "time running requests get to finish after SIGTERM"),
    VALUE("ping", CONF_TIME, ping_ms, "0", 0, DAY_MS, true,
          "send a comment line on a stream silent for so long; 0 = never"),
    STRING("admin_socket", admin_socket, NULL, NULL, false,
           "UNIX socket of the admin endpoints (default: none)"),
    /* API */
    STRING("reasoning_field", reasoning_field, "both",
           "both reasoning reasoning_content", true,
           "name of the thought in replies: both, reasoning or "
           "reasoning_content"),
    FLAG("strict_reasoning_effort", strict_effort, "off", true,
         "refuse levels of reasoning_effort other than none and high instead "
         "of mapping them"),
    VALUE("think_budget_low", CONF_COUNT, think_low, "1024", 1, 1 << 24, true,
          "thinking tokens at reasoning_effort low"),
    VALUE("think_budget_medium", CONF_COUNT, think_medium, "8192", 1, 1 << 24,
          true, "thinking tokens at reasoning_effort medium"),
    FLAG("hold_end_in_thought", hold_end_in_thought, "on", true,
         "an end of sequence inside a thought ends the thought first, so that "
         "no reply is empty"),
    FLAG("stop_in_thought", stop_in_thought, "off", true,
         "match stop strings inside thoughts too"),
    FLAG("tool_grammar", tool_grammar, "on", true,
         "hold the output of requests with tools to the model's format even "
         "where no call is forced"),
    VALUE("max_logprobs", CONF_COUNT, max_logprobs, "20", 0, 128, true,
          "most alternatives a client may ask for at a token"),
    VALUE("max_n", CONF_COUNT, max_n, "128", 1, 1024, true,
          "most choices a request"),
    VALUE("max_stop", CONF_COUNT, max_stop, "16", 1, 256, true,
          "most stop strings a request"),
    VALUE("max_messages", CONF_COUNT, max_messages, "10000", 1, 1 << 20, true,
          "most messages a chat"),
    VALUE("max_tools", CONF_COUNT, max_tools, "512", 1, 65536, true,
          "most tools a request"),
    VALUE("json_depth", CONF_COUNT, json_depth, "64", 8, 1024, true,
          "deepest nesting of a request body"),
    VALUE("temperature", CONF_NUMBER, temperature, "1.0", 0, 2, true,
          "temperature of requests that name none"),
    VALUE("top_p", CONF_NUMBER, top_p, "1.0", 0.000001, 1, true,
          "top_p of requests that name none"),
    VALUE("top_k", CONF_SIGNED, top_k, "0", 0, 1 << 20, true,
          "top_k of requests that name none; 0 = off"),
    VALUE("min_p", CONF_NUMBER, min_p, "0", 0, 1, true,
          "min_p of requests that name none"),
    STRING("filters", filters, NULL, NULL, false,
           "file that overrides the patterns of the output filters"),
    FLAG("vllm_metrics", vllm_metrics, "on", true,
         "export metrics under the vllm: names too"),
    /* images */
    STRING("image_hosts", image_hosts, NULL, NULL, true,
           "hosts images may be fetched from, separated by commas (default: "
           "none, only data: URLs)"),
    VALUE("max_image", CONF_SIZE, max_image_bytes, "20M", 1024, 1U << 30, true,
          "bytes of one encoded image"),
    VALUE("max_images", CONF_COUNT, max_images, "32", 0, 1024, true,
          "images a request"),
    VALUE("image_memory", CONF_SIZE, image_memory, "1G", 1 << 20, 1ULL << 40,
          true, "pixels of all requests under way; a request alone may take "
          "more"),
    VALUE("image_timeout", CONF_TIME, image_timeout_ms, "10s", 100, DAY_MS,
          true, "time to fetch an image"),
    /* log */
    STRING("log_level", log_level, "info", "error warn info debug", true,
           "error, warn, info or debug"),
};

const size_t conf_tab_n = sizeof conf_tab / sizeof *conf_tab;

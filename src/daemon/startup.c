/*
 * DESIGN: each step either succeeds whole or leaves what it opened in the
 * struct service, where startup_stop finds it; so no step needs an unwinding
 * of its own. Nothing is tuned or compiled here: the time between start and
 * the first reply is the time to read the weights.
 */
#include "config.h"

#include "daemon/startup.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/str.h"
#include "metrics/metrics.h"

#define CONTEXT_DEFAULT 262144   /* what the model card serves */
#define STEP_TOKENS_CPU 512
#define STEP_TOKENS_DEVICE 8192
#define PROBE_TIMEOUT_S 120
#define HOST_CACHE_SHARE 4

const char *
startup_model_name(const struct conf *c)
{
    static char name[256];
    const char *from = c->served_name, *end;

    if (from == NULL) {
        from = c->model ? c->model : "sirocco";
        size_t n = strlen(from);
        while (n > 1 && from[n - 1] == '/')
            n--;
        end = from + n;
        while (end > from && end[-1] != '/')
            end--;
        snprintf(name, sizeof name, "%.*s", (int)(from + n - end), end);
        return name;
    }
    struct str s = {from, strcspn(from, ",")};
    s = str_trim(s);
    snprintf(name, sizeof name, "%.*s", (int)s.n, s.p);
    return name;
}

void
startup_tokenizer(const struct conf *c, char *out, size_t n)
{
    if (c->tokenizer)
        snprintf(out, n, "%s", c->tokenizer);
    else
        snprintf(out, n, "%s/tekken.json", c->model ? c->model : ".");
}

/* Whether the back end works in the machine's own memory. */
static bool
is_host(const struct service *s)
{
    return strcmp(s->backend->ops->name, "cuda") != 0;
}

/* An input without its own setting takes the model's or the device's. */
static void
set_limits(struct service *s)
{
    const struct conf *c = s->conf;
    uint64_t context = c->max_context ? c->max_context : CONTEXT_DEFAULT;

    if (s->model) {
        int most = model_params(s->model)->text.max_positions;
        if (most > 0 && context > (uint64_t)most)
            context = (uint64_t)most;
    }
    uint64_t step = c->step_tokens;
    if (step == 0)
        step = is_host(s) ? STEP_TOKENS_CPU : STEP_TOKENS_DEVICE;
    if (step < c->max_running) /* a token each must fit */
        step = c->max_running;
    s->limits = (struct backend_limits){
        .max_seqs = (uint32_t)c->max_running,
        .max_step = (uint32_t)step,
        .max_context = (uint32_t)context,
        .kv_bytes = c->kv_bytes,
        .reserve_bytes = c->reserve_bytes,
        .threads = c->threads,
        .packed = c->packed,
        .draft = s->draft,
        .n_drafts = s->draft ? (uint32_t)c->n_drafts : 0,
        .n_devices = c->n_devices,
        .n_vocab = (uint32_t)tok_info(s->tok)->n_vocab,
        .n_special = (uint32_t)tok_info(s->tok)->n_special,
    };
}

static int
open_backend(struct service *s, struct err *e)
{
    const char *spec;
    const struct backend_ops *ops =
        backend_find(backend_table, s->conf->backend, &spec);

    if (ops == NULL)
        return err_set(e, ERR_NOENT,
                       "this build has no back end '%s'; siroccod -v lists "
                       "those it has", s->conf->backend);
    if (s->conf->packed && ops->pack == NULL)
        return err_set(e, ERR_UNSUPPORTED, "packed: the back end '%s' does "
                       "not load packed weights", ops->name);
    if (ops->needs_model && s->conf->model == NULL)
        return err_set(e, ERR_NOENT, "model: not set; name the checkpoint "
                       "directory");
    if (ops->needs_model) {
        struct model_options mo = {.dummy = s->conf->dummy, .seed = 1};
        struct model_options head = {.draft = true};
        int rc = model_open(s->conf->model, &mo, &s->model, e);
        if (rc == 0 && s->conf->draft)
            rc = model_open(s->conf->draft, &head, &s->draft, e);
        if (rc != 0)
            return rc;
    }
    return ops->open(spec, &s->backend, e);
}

/* The tokenizer and the model must speak of the same ids. */
static int
check_vocabulary(const struct service *s, struct err *e)
{
    if (s->model == NULL)
        return 0;
    int model = model_params(s->model)->text.vocab;
    int tok = tok_info(s->tok)->n_vocab;
    if (tok > model)
        return err_set(e, ERR_MISMATCH, "the tokenizer has %d ids, the model "
                       "only %d: they do not belong together", tok, model);
    return 0;
}

static int
plan(struct service *s, struct err *e)
{
    return s->backend->ops->plan(s->backend, s->model, &s->limits, &s->plan,
                                 e);
}

/* Host memory is shared with everything else on the machine, so a cache whose
 * size nobody set takes a quarter of what is free, and never more than all
 * places filled to the brim could use. */
static int
bound_host_cache(struct service *s, struct err *e)
{
    s->limits.kv_bytes = 1; /* the smallest: what does a block cost? */
    int rc = plan(s, e);
    uint64_t blocks = (uint64_t)s->limits.max_seqs
                      * (s->limits.max_context / KV_BLOCK + 1);
    uint64_t most = blocks * s->plan.bytes_per_block;
    uint64_t share = s->plan.available / HOST_CACHE_SHARE;
    s->limits.kv_bytes = most > 0 && most < share ? most : share;
    return rc;
}

/* No request can use more than the whole cache, and clients are to be told
 * what they can use. */
static void
bound_context(struct service *s)
{
    uint64_t pool = (uint64_t)s->plan.n_blocks * KV_BLOCK;

    s->context_wanted = s->limits.max_context;
    if (pool > 0 && s->limits.max_context > pool)
        s->limits.max_context = (uint32_t)pool;
}

int
startup_plan(struct service *s, const struct conf *c, struct err *e)
{
    char path[4096];

    memset(s, 0, sizeof *s);
    s->conf = c;
    startup_tokenizer(c, path, sizeof path);
    int rc = open_backend(s, e);
    if (rc == 0)
        rc = tok_load(path, &s->tok, e);
    if (rc == 0)
        rc = check_vocabulary(s, e);
    if (rc == 0)
        rc = chat_create(s->tok, CHAT_LENIENT, &s->chat, e);
    if (rc != 0)
        return rc;
    set_limits(s);
    if (c->kv_bytes == 0 && is_host(s))
        rc = bound_host_cache(s, e);
    rc = rc ? rc : plan(s, e);
    if (rc == 0)
        bound_context(s);
    return rc;
}

int
startup_plan_text(const struct service *s, struct buf *out)
{
    const struct backend_plan *p = &s->plan;
    const double gib = 1 << 30;
    int rc = 0;

    for (int i = 0; rc == 0 && i < p->n_row; i++)
        rc = buf_printf(out, "  %-34s %10.3f GiB\n", p->row[i].what,
                        (double)p->row[i].bytes / gib);
    if (rc == 0)
        rc = buf_printf(out, "  %-34s %10.3f GiB\n  %-34s %10.3f GiB\n",
                        "in all", (double)p->total / gib, "free here",
                        (double)p->available / gib);
    if (rc == 0 && p->bytes_per_block > 0)
        rc = buf_printf(out, "  the KV cache holds %llu tokens; one request "
                        "may use %u",
                        (unsigned long long)p->n_blocks * KV_BLOCK,
                        s->limits.max_context);
    if (rc == 0 && s->context_wanted > s->limits.max_context)
        rc = buf_printf(out, ", not %u: kv_cache is too small for that",
                        s->context_wanted);
    if (rc == 0 && p->bytes_per_block > 0)
        rc = buf_putc(out, '\n');
    return rc;
}

struct progress {
    uint64_t started, last;
};

static void
show_progress(void *arg, uint64_t done, uint64_t total)
{
    struct progress *p = arg;
    uint64_t now = clock_ns();

    if (done < total && now - p->last < 2000000000u)
        return;
    p->last = now;
    double s = (double)(now - p->started) / 1e9;
    double rate = s > 0 ? (double)done / s : 0;
    log_info("loading: %.1f of %.1f GB, %.2f GB/s, %.0f s left",
             (double)done / 1e9, (double)total / 1e9, rate / 1e9,
             rate > 0 ? (double)(total - done) / rate : 0.0);
}

/* One generated token, waited for: proof that the engine runs. */
struct probe {
    pthread_mutex_t lock;
    pthread_cond_t done;
    enum engine_finish finish;
    char error[256];
};

static void
probe_post(const struct engine_event *ev)
{
    struct probe *p = ev->user;

    if (ev->finish == ENGINE_RUNNING)
        return;
    pthread_mutex_lock(&p->lock);
    p->finish = ev->finish;
    snprintf(p->error, sizeof p->error, "%s", ev->error ? ev->error : "");
    pthread_cond_signal(&p->done);
    pthread_mutex_unlock(&p->lock);
    free(ev->error);
}

static int
probe_engine(struct service *s, struct err *e)
{
    int bos = tok_special(s->tok, "<s>");
    int32_t prompt = bos >= 0 ? bos : 0;
    struct probe p = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER,
                      ENGINE_RUNNING, ""};
    struct engine_request r = {
        .user = &p, .post = probe_post, .prompt = &prompt, .n_prompt = 1,
        .max_tokens = 1, .n_top = -1, .prompt_top = -1,
        .sampling = {.top_p = 1, .repetition_penalty = 1},
        .think = {.open = -1, .close = -1, .budget = -1},
    };
    engine_id id;
    struct timespec until;
    int waited = 0;

    int rc = engine_submit(s->engine, &r, &id);
    if (rc != 0)
        return err_set(e, rc, "the first request was refused: %s",
                       err_str(rc));
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PROBE_TIMEOUT_S;
    pthread_mutex_lock(&p.lock);
    while (p.finish == ENGINE_RUNNING && waited == 0)
        waited = pthread_cond_timedwait(&p.done, &p.lock, &until);
    enum engine_finish finish = p.finish;
    pthread_mutex_unlock(&p.lock);
    if (finish == ENGINE_RUNNING) {
        /* The engine still holds our stack: it must not outlive this. */
        engine_destroy(s->engine);
        s->engine = NULL;
        return err_set(e, ERR_DEVICE, "no token within %d s",
                       PROBE_TIMEOUT_S);
    }
    if (finish != ENGINE_LENGTH && finish != ENGINE_STOP)
        return err_set(e, ERR_DEVICE, "the first token failed: %s", p.error);
    return 0;
}

static int
filter_token(void *arg, const char *name)
{
    return tok_special(arg, name);
}

static int
start_engine(struct service *s, struct err *e)
{
    const struct conf *c = s->conf;
    struct engine_options o = {
        .max_running = s->limits.max_seqs,
        .max_queue = (uint32_t)c->max_queue,
        .step_tokens = s->limits.max_step,
        .prefill_chunk = (uint32_t)c->prefill_chunk,
        .max_context = s->limits.max_context,
        .n_blocks = s->plan.n_blocks,
        .prefix_cache = c->prefix_cache,
        .overlap = c->overlap,
        .n_vocab = (uint32_t)tok_info(s->tok)->n_vocab,
        .n_logits = s->model ? (uint32_t)model_params(s->model)->text.vocab
                             : 0,
        .max_out = 1 + s->limits.n_drafts,
    };

    int rc = engine_create(&o, s->backend, &s->engine, e);
    return rc ? rc : probe_engine(s, e);
}

int
startup_load(struct service *s, struct err *e)
{
    struct progress p = {clock_ns(), clock_ns()};

    if (!s->plan.fits)
        return err_set(e, ERR_LIMIT, "the plan needs %.2f GiB and %.2f are "
                       "free; lower kv_cache, max_context or max_running, or "
                       "stop other users of this memory",
                       (double)s->plan.total / (1 << 30),
                       (double)s->plan.available / (1 << 30));
    int rc = s->backend->ops->load(s->backend, show_progress, &p, e);
    if (rc == 0)
        rc = filter_set_create(tok_info(s->tok)->version, filter_token,
                               s->tok, s->conf->filters, &s->filters, e);
    if (rc == 0)
        rc = grammar_vocab_create(s->tok, &s->vocab, e);
    if (rc == 0)
        rc = start_engine(s, e);
    if (rc != 0)
        return rc;
    metrics_set_model(startup_model_name(s->conf));
    metrics_set_cache(KV_BLOCK, s->plan.n_blocks, s->conf->prefix_cache);
    struct api_parts parts = {
        .conf = s->conf, .tok = s->tok, .chat = s->chat,
        .filters = s->filters, .vocab = s->vocab, .engine = s->engine,
        .version = PACKAGE_VERSION, .max_context = s->limits.max_context,
        .has_vision = s->model && model_params(s->model)->has_vision
                      && s->backend->ops->encode_image,
    };
    return api_create(&parts, &s->api, e);
}

/* A socket that systemd opened for this process (sd_listen_fds(3)) goes
 * before the configured one: clients wait in it during a restart. */
static const char *
socket_name(const struct conf *c)
{
    const char *pid = getenv("LISTEN_PID"), *n = getenv("LISTEN_FDS");

    if (pid && n && atol(pid) == (long)getpid() && atol(n) >= 1)
        return "fd:3";
    return c->socket;
}

/* The admin endpoints, for whoever may open their socket. */
static struct fcgi_options
admin_options(const struct service *s)
{
    const struct conf *c = s->conf;

    return (struct fcgi_options){
        .socket = c->admin_socket,
        .mode = 0600,
        .backlog = 16,
        .acceptors = 1,
        .reply_threads = 1,
        .max_body = 64 * 1024,
        .max_params = 64 * 1024,
        .out_limit = c->out_limit_bytes,
        .handler = api_handle_admin,
        .arg = s->api,
    };
}

static struct fcgi_options
listen_options(const struct service *s)
{
    const struct conf *c = s->conf;
    return (struct fcgi_options){
        .socket = socket_name(c),
        .mode = (unsigned)c->socket_mode,
        .group = c->socket_group,
        .backlog = c->backlog,
        .acceptors = c->acceptors,
        .reply_threads = c->reply_threads,
        .max_body = c->max_body_bytes,
        .max_params = 64 * 1024,
        .out_limit = c->out_limit_bytes,
        .handler = api_handle,
        .arg = s->api,
    };
}

/* The directory that systemd or its tmpfiles make. */
#define RUN_DIRECTORY RUNSTATEDIR "/sirocco"

static bool
has_directory(const char *path)
{
    char dir[4096];
    struct stat st;
    const char *slash = strrchr(path, '/');

    if (slash == NULL)
        return true;
    snprintf(dir, sizeof dir, "%.*s", (int)(slash - path) + (slash == path),
             path);
    return strcmp(dir, RUN_DIRECTORY) == 0
           || (stat(dir, &st) == 0 && S_ISDIR(st.st_mode));
}

int
startup_check_conf(const struct conf *c, FILE *errors)
{
    const char *spec, *const sockets[] = {c->socket, c->admin_socket};
    const struct backend_ops *ops = backend_find(backend_table, c->backend,
                                                 &spec);
    struct backend *b = NULL;
    struct err e = {0};
    int rc = 0;

    if (ops == NULL)
        rc = err_set(&e, ERR_NOENT, "this build has no back end '%s'; "
                     "siroccod -v lists those it has", c->backend);
    /* A GPU is not opened: the daemon may be using all of it. */
    else if (strcmp(ops->name, "cuda") != 0)
        rc = ops->open(spec, &b, &e);
    if (rc != 0)
        fprintf(errors, "backend: %s\n", e.text);
    if (b)
        ops->close(b);
    for (int i = 0; i < 2; i++)
        if (sockets[i] && !has_directory(sockets[i])) {
            fprintf(errors, "%s: no such directory: %s\n",
                    i ? "admin_socket" : "socket", sockets[i]);
            rc = ERR_NOENT;
        }
    return rc;
}

int
startup_check_socket(const struct service *s, struct err *e)
{
    struct fcgi_options o = listen_options(s), admin = admin_options(s);
    int rc = fcgi_check(&o, e);
    return rc != 0 || admin.socket == NULL ? rc : fcgi_check(&admin, e);
}

int
startup_listen(struct service *s, struct err *e)
{
    struct fcgi_options o = listen_options(s), admin = admin_options(s);
    int rc = fcgi_start(&o, &s->server, e);
    return rc != 0 || admin.socket == NULL ? rc
                                           : fcgi_start(&admin, &s->admin, e);
}

void
startup_stop(struct service *s)
{
    /* The engine posts to streams, so it goes before their threads. */
    if (s->admin)
        fcgi_destroy(s->admin);
    if (s->server)
        fcgi_stop_accepting(s->server);
    if (s->engine)
        engine_destroy(s->engine);
    if (s->server)
        fcgi_destroy(s->server);
    if (s->api)
        api_free(s->api);
    if (s->vocab)
        grammar_vocab_free(s->vocab);
    if (s->filters)
        filter_set_free(s->filters);
    if (s->chat)
        chat_free(s->chat);
    if (s->backend)
        s->backend->ops->close(s->backend);
    if (s->draft)
        model_close(s->draft);
    if (s->model)
        model_close(s->model);
    if (s->tok)
        tok_free(s->tok);
    memset(s, 0, sizeof *s);
}

/*
 * siroccod: options, start-up, signals, reload, drain.
 *
 * DESIGN: the main thread brings the service up and then only waits for
 * signals, which are blocked in every other thread (libfcgi does not survive
 * an interrupted read). SIGTERM and SIGINT drain: no new connections, running
 * requests finish within drain_timeout, the rest get an error event; a second
 * signal ends the drain. SIGHUP rereads the configuration; a file with errors
 * changes nothing.
 */
#include "config.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#ifdef HAVE_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "daemon/startup.h"

#define CONF_DEFAULT SYSCONFDIR "/sirocco/sirocco.conf"
#define OPTIONS_MAX 64
#define CLOSE_GRACE_MS 2000     /* for the last bytes after an abort */

enum { EXIT_BAD_CONF = 2, EXIT_NO_START = 3, EXIT_ENGINE = 4 };

struct options {
    const char *path;
    const char *set[OPTIONS_MAX];   /* key=value of -o */
    int n_set;
    bool test, print;
};

static void
usage(FILE *out)
{
    fputs("usage: siroccod [-c FILE] [-o KEY=VALUE]... [-t] [-T] [-v] [-h]\n"
          "  -c FILE       configuration (" CONF_DEFAULT ")\n"
          "  -o KEY=VALUE  sets a key over the file\n"
          "  -t            checks the configuration and ends\n"
          "  -T            prints every key with its value and ends\n"
          "  -v            prints version and back ends and ends\n", out);
}

static void
version(void)
{
    puts(PACKAGE_STRING);
    for (const struct backend_ops *const *b = backend_table; *b; b++)
        printf("  %-5s %s\n", (*b)->name, (*b)->about);
}

/* Returns -1 to go on, or an exit status. */
static int
parse_options(int argc, char **argv, struct options *o)
{
    int c;

    while ((c = getopt(argc, argv, "c:o:tTvh")) != -1) {
        switch (c) {
        case 'c':
            o->path = optarg;
            break;
        case 'o':
            if (o->n_set == OPTIONS_MAX) {
                fprintf(stderr, "siroccod: more than %d -o\n", OPTIONS_MAX);
                return EXIT_BAD_CONF;
            }
            o->set[o->n_set++] = optarg;
            break;
        case 't':
            o->test = true;
            break;
        case 'T':
            o->print = true;
            break;
        case 'v':
            version();
            return 0;
        case 'h':
            usage(stdout);
            return 0;
        default:
            usage(stderr);
            return EXIT_BAD_CONF;
        }
    }
    if (optind < argc) {
        usage(stderr);
        return EXIT_BAD_CONF;
    }
    return -1;
}

/* Sets one "key=value" of the command line. */
static int
set_option(struct conf *c, const char *option)
{
    char key[64];
    struct err e = {0};
    const char *eq = strchr(option, '=');

    if (eq == NULL || (size_t)(eq - option) >= sizeof key) {
        fprintf(stderr, "siroccod: -o %s: expected KEY=VALUE\n", option);
        return ERR_FORMAT;
    }
    memcpy(key, option, (size_t)(eq - option));
    key[eq - option] = 0;
    int rc = conf_set(c, key, eq + 1, &e);
    if (rc != 0)
        fprintf(stderr, "siroccod: -o %s\n", e.text);
    return rc;
}

/* File, then command line, then what spans keys, then what the keys name.
 * Complains about everything that is wrong before it gives up. */
static int
load_conf(const struct options *o, struct conf *c)
{
    struct err e = {0};

    conf_init(c);
    int rc = 0;
    /* Without -c the standard file may be missing if -o says enough. */
    if (o->path || o->n_set == 0 || access(CONF_DEFAULT, F_OK) == 0)
        rc = conf_load(c, o->path ? o->path : CONF_DEFAULT, stderr, &e);
    if (rc != 0)
        fprintf(stderr, "siroccod: %s\n", e.text);
    for (int i = 0; i < o->n_set; i++)
        if (set_option(c, o->set[i]) != 0)
            rc = ERR_FORMAT;
    if (conf_check(c, stderr) != 0)
        rc = ERR_RANGE;
    /* A start finds these by itself. */
    if (o->test && c->backend && startup_check_conf(c, stderr) != 0)
        rc = ERR_RANGE;
    return rc;
}

static void
notify(const char *state)
{
#ifdef HAVE_SYSTEMD
    sd_notify(0, state);
#else
    (void)state;
#endif
}

/* Blocks what main waits for, in this thread and all it will make. */
static void
block_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    sigaddset(set, SIGUSR1); /* libfcgi would take it */
    sigaddset(set, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, set, NULL);
}

/* Next signal, or 0 after ms milliseconds. */
static int
wait_signal(const sigset_t *set, uint64_t ms)
{
    struct timespec t = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    int sig = sigtimedwait(set, NULL, &t);
    return sig < 0 ? 0 : sig;
}

/* Configurations since the start: requests under way may still read an old
 * one, so they stay until the end. */
struct generation {
    struct conf conf;
    struct generation *older;
};

static void
free_generations(struct generation *g)
{
    while (g) {
        struct generation *older = g->older;
        conf_free(&g->conf);
        free(g);
        g = older;
    }
}

static void
reload(struct service *s, const struct options *o, struct generation **newest)
{
    struct generation *next = mem_xmalloc(sizeof *next);

    log_info("SIGHUP: reading the configuration again");
    next->older = *newest;
    if (load_conf(o, &next->conf) != 0) {
        log_error("the configuration has errors; nothing is changed");
        conf_free(&next->conf);
        free(next);
        return;
    }
    conf_reload(s->conf, &next->conf);
    log_set_level((enum log_level)log_level_parse(next->conf.log_level));
    api_reconfigure(s->api, &next->conf);
    s->conf = &next->conf;
    *newest = next;
}

/* Runs until the open streams are gone, a further signal, or ms. */
static void
wait_streams(struct service *s, const sigset_t *set, uint64_t ms)
{
    uint64_t until = clock_ns() + ms * 1000000;

    while (fcgi_open_streams(s->server) > 0 && clock_ns() < until) {
        int sig = wait_signal(set, 20);
        if (sig == SIGTERM || sig == SIGINT)
            return;
    }
}

static void
drain(struct service *s, const sigset_t *set)
{
    log_info("draining: %zu streams open, up to %llu s",
             fcgi_open_streams(s->server),
             (unsigned long long)(s->conf->drain_ms / 1000));
    notify("STOPPING=1");
    fcgi_stop_accepting(s->server);
    wait_streams(s, set, s->conf->drain_ms);
    size_t left = fcgi_open_streams(s->server);
    if (left > 0)
        log_warn("ending %zu streams that did not finish", left);
    engine_destroy(s->engine);
    s->engine = NULL;
    wait_streams(s, set, CLOSE_GRACE_MS);
}

/* Serves until told to end; returns the exit status. */
static int
serve(struct service *s, const struct options *o, const sigset_t *set,
      struct generation **newest)
{
    for (;;) {
        struct engine_stats stats;
        int sig = wait_signal(set, 500);
        if (sig == SIGTERM || sig == SIGINT) {
            drain(s, set);
            return EXIT_SUCCESS;
        }
        if (sig == SIGHUP)
            reload(s, o, newest);
        engine_stats(s->engine, &stats);
        if (!stats.alive) {
            log_error("the engine died; ending so that it is restarted");
            fcgi_stop_accepting(s->server);
            wait_streams(s, set, CLOSE_GRACE_MS);
            return EXIT_ENGINE;
        }
        notify("WATCHDOG=1");
    }
}

static void
log_plan(const struct service *s, enum log_level level)
{
    struct buf text = {0};

    if (startup_plan_text(s, &text) == 0) {
        for (char *line = (char *)buf_cstr(&text), *nl; line && *line;
             line = nl + 1) {
            nl = strchr(line, '\n');
            *nl = 0;
            log_line(level, "%s", line);
        }
    }
    buf_free(&text);
}

static int
run(const struct options *o, struct generation **newest)
{
    const struct conf *c = &(*newest)->conf;
    struct service s;
    struct err e = {0};
    sigset_t set;
    uint64_t started = clock_ns();
    int status = EXIT_NO_START;

    block_signals(&set);
    log_info("%s: model %s, back end %s", PACKAGE_STRING,
             c->model ? c->model : "none", c->backend);
    int rc = startup_plan(&s, c, &e);
    if (rc == 0)
        log_plan(&s, s.plan.fits ? LOG_INFO : LOG_ERROR);
    if (rc == 0)
        rc = startup_check_socket(&s, &e);
    if (rc == 0)
        rc = startup_load(&s, &e);
    if (rc == 0)
        rc = startup_listen(&s, &e);
    if (rc == 0) {
        log_info("ready after %.2f s, serving %s on %s",
                 (double)(clock_ns() - started) / 1e9,
                 startup_model_name(c), c->socket);
        notify("READY=1");
        status = serve(&s, o, &set, newest);
    } else {
        log_error("%s", *e.text ? e.text : err_str(rc));
    }
    startup_stop(&s);
    log_info("ended");
    return status;
}

/* Large blocks (pixels of images, long bodies) go back to the system when they
 * are freed. Left alone, glibc learns to keep blocks of up to 32 MiB in the
 * heap of every thread that freed one. */
static void
return_large_blocks(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}

int
main(int argc, char **argv)
{
    struct options o = {0};

    return_large_blocks();
    int status = parse_options(argc, argv, &o);
    if (status >= 0)
        return status;
    struct generation *newest = mem_xcalloc(1, sizeof *newest);
    int rc = load_conf(&o, &newest->conf);
    if (o.print)
        conf_print(&newest->conf, stdout);
    if (rc != 0) {
        status = EXIT_BAD_CONF;
    } else if (o.test) {
        fputs("the configuration is in order\n", stderr);
        status = EXIT_SUCCESS;
    } else if (o.print) {
        status = EXIT_SUCCESS;
    } else {
        log_set_level(
            (enum log_level)log_level_parse(newest->conf.log_level));
        log_set_journal(getenv("JOURNAL_STREAM") != NULL);
        status = run(&o, &newest);
    }
    free_generations(newest);
    return status;
}

/*
 * siroccoctl check: the machine, the model and the memory plan of a
 * configuration, before anything is loaded. Fails when the daemon would
 * refuse to start.
 */
#include "config.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/meminfo.h"
#include "ctl/command.h"
#include "daemon/startup.h"

#define CONF_DEFAULT SYSCONFDIR "/sirocco/sirocco.conf"

static double
meminfo_gib(const char *key)
{
    uint64_t kib = meminfo_number("/proc/meminfo", key);
    return kib == UINT64_MAX ? 0 : (double)kib / (1 << 20);
}

static void
show_machine(const struct service *s)
{
    struct utsname u;
    char device[1024] = "";

    uname(&u);
    printf("machine\n  %s %s %s, %ld cores\n", u.sysname, u.release,
           u.machine, sysconf(_SC_NPROCESSORS_ONLN));
    printf("  memory %.1f GiB, %.1f available\n",
           meminfo_gib("MemTotal:"), meminfo_gib("MemAvailable:"));
    if (s->backend && s->backend->ops->describe) {
        s->backend->ops->describe(s->backend, device, sizeof device);
        printf("  %s: %s\n", s->backend->ops->name, device);
    }
}

static void
show_model(const struct service *s)
{
    if (s->model == NULL)
        return;
    const struct model_text_params *t = &model_params(s->model)->text;
    printf("model\n  %s\n", model_dir(s->model));
    printf("  %d layers of width %d, %d heads, vocabulary %d\n", t->n_layers,
           t->dim, t->n_heads, t->vocab);
    if (t->n_experts)
        printf("  %d experts, %d a token, %d shared\n", t->n_experts,
               t->top_k, t->n_shared);
    printf("  %.2f GB in %d files%s\n",
           (double)model_bytes(s->model) / 1e9, model_n_files(s->model),
           model_params(s->model)->has_vision ? ", with vision" : "");
    if (s->tok)
        printf("  tokenizer %s, %d ids\n", tok_info(s->tok)->version,
               tok_info(s->tok)->n_vocab);
}

static int
show(struct service *s, const struct conf *c)
{
    struct err e = {0};
    struct buf text = {0};

    int rc = startup_plan(s, c, &e);
    show_machine(s);
    show_model(s);
    if (rc != 0)
        return command_fail("check", "%s", *e.text ? e.text : err_str(rc));
    if (startup_plan_text(s, &text) == 0)
        printf("memory\n%s", buf_cstr(&text));
    buf_free(&text);
    puts(s->plan.fits ? "everything fits"
                      : "this does not fit: lower kv_cache, max_context or "
                        "max_running");
    return s->plan.fits ? EXIT_OK : EXIT_FAILED;
}

int
check_command(int argc, char **argv)
{
    const char *path = NULL, *model = NULL, *backend = NULL;
    const struct option_row rows[] = {
        {"config", &path, NULL}, {"model", &model, NULL},
        {"backend", &backend, NULL}, {NULL}
    };
    struct service s = {0};
    struct conf c;
    struct err e = {0};

    int rc = command_options(argc, argv, rows);
    if (rc != EXIT_OK)
        return rc;
    conf_init(&c);
    /* --model alone asks about a directory, not about the installation. */
    if (path || model == NULL)
        rc = conf_load(&c, path ? path : CONF_DEFAULT, stderr, &e);
    if (rc == 0 && model)
        rc = conf_set(&c, "model", model, &e);
    if (rc == 0 && backend)
        rc = conf_set(&c, "backend", backend, &e);
    if (rc != 0)
        rc = command_fail(argv[0], "%s", e.text);
    else if (conf_check(&c, stderr) != 0)
        rc = EXIT_FAILED;
    else
        rc = show(&s, &c);
    startup_stop(&s);
    conf_free(&c);
    return rc;
}

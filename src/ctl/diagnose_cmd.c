/*
 * siroccoctl diagnose: why an installation does not serve. Goes from the
 * configuration to the web server, says of each part whether it is in order,
 * and of what is not, how to mend it.
 *
 * DESIGN. A part is looked at by what the daemon itself does there (the same
 * functions), so the two cannot disagree. What hangs on rights is tried as the
 * user it is for, in a child process; that needs root, and without it is tried
 * as whoever runs the command. Nothing is loaded and nothing is changed.
 */
#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netdb.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/command.h"
#include "ctl/http_reply.h"
#include "daemon/startup.h"

#define CONF_DEFAULT SYSCONFDIR "/sirocco/sirocco.conf"
#define WEB_TIMEOUT_S 5

struct diagnosis {
    const char *path;            /* configuration */
    const char *user, *web_user; /* NULL: whoever runs this */
    const char *url;             /* of the web server; NULL: not asked */
    struct conf conf;
    const struct backend_ops *ops;
    const char *spec;
    struct model *model;
    bool device, listening;      /* the back end opens; a server listens */
    int n_wrong;
};

static void
say(const char *mark, const char *what, const char *fmt, va_list ap)
{
    printf("%-6s %-14s ", mark, what);
    vprintf(fmt, ap);
    putchar('\n');
}

static void __attribute__((format(printf, 2, 3)))
good(const char *what, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("ok", what, fmt, ap);
    va_end(ap);
}

static void __attribute__((format(printf, 2, 3)))
unknown(const char *what, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("-", what, fmt, ap);
    va_end(ap);
}

/* mend may be NULL where the text says it all. */
static void __attribute__((format(printf, 4, 5)))
wrong(struct diagnosis *d, const char *what, const char *mend,
      const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    say("WRONG", what, fmt, ap);
    va_end(ap);
    if (mend)
        printf("%21s -> %s\n", "", mend);
    d->n_wrong++;
}

/* --- configuration, model, device, memory -------------------------------------- */

static bool
check_conf(struct diagnosis *d)
{
    char *text = NULL, *at = NULL;
    size_t n = 0;
    struct err e = {0};
    FILE *f = open_memstream(&text, &n);

    if (f == NULL)
        return false;
    int rc = conf_load(&d->conf, d->path, f, &e);
    if (rc == 0 || rc == ERR_FORMAT) {
        conf_check(&d->conf, f);
        if (d->conf.backend)
            startup_check_conf(&d->conf, f);
    }
    fclose(f);
    if (rc != 0 && n == 0)
        wrong(d, "configuration", "--config names another file", "%s",
              e.text);
    for (char *line = strtok_r(text, "\n", &at); line;
         line = strtok_r(NULL, "\n", &at))
        wrong(d, "configuration", "sirocco.conf(5) has every key", "%s",
              line);
    free(text);
    if (d->conf.backend)
        d->ops = backend_find(backend_table, d->conf.backend, &d->spec);
    if (d->n_wrong > 0)
        return false;
    good("configuration", "%s", d->path);
    return true;
}

static void
check_model(struct diagnosis *d)
{
    const struct model_options mo = {.dummy = d->conf.dummy, .seed = 1};
    char path[4200];
    struct tok *tok = NULL;
    struct err e = {0};

    if (d->ops->needs_model) {
        if (model_open(d->conf.model, &mo, &d->model, &e) != 0)
            wrong(d, "model", "fetch the files that are missing or differ "
                  "once more", "%s", e.text);
        else
            good("model", "%s: %.1f GB in %d files", d->conf.model,
                 (double)model_bytes(d->model) * 1e-9,
                 model_n_files(d->model));
    }
    startup_tokenizer(&d->conf, path, sizeof path);
    if (tok_load(path, &tok, &e) != 0) {
        wrong(d, "tokenizer", "it is the tekken.json of the model", "%s",
              e.text);
        return;
    }
    good("tokenizer", "%s: %d ids", path, tok_info(tok)->n_vocab);
    tok_free(tok);
}

static void
check_device(struct diagnosis *d)
{
    struct backend *b = NULL;
    char text[1024] = "";
    struct err e = {0};

    if (d->ops->open(d->spec, &b, &e) != 0) {
        wrong(d, "back end", NULL, "%s: %s", d->ops->name, e.text);
        return;
    }
    if (d->ops->describe)
        d->ops->describe(b, text, sizeof text);
    good("back end", "%s: %s", d->ops->name,
         *text ? text : d->ops->about);
    d->ops->close(b);
    d->device = true;
}

static void
check_memory(struct diagnosis *d)
{
    const double gib = 1 << 30;
    struct service s = {0};
    struct err e = {0};

    if (d->listening) {
        unknown("memory", "not planned: a server runs and holds its own");
        return;
    }
    if (!d->device || (d->ops->needs_model && d->model == NULL)) {
        unknown("memory", "cannot be planned before the rest is mended");
        return;
    }
    int rc = startup_plan(&s, &d->conf, &e);
    if (rc != 0)
        wrong(d, "memory", NULL, "%s", *e.text ? e.text : err_str(rc));
    else if (!s.plan.fits)
        wrong(d, "memory", "lower kv_cache, max_context or max_running, or "
              "stop other users of this memory; siroccoctl check has the "
              "table", "%.2f GiB are needed, %.2f are free",
              (double)s.plan.total / gib, (double)s.plan.available / gib);
    else
        good("memory", "%.2f GiB are needed, %.2f are free",
             (double)s.plan.total / gib, (double)s.plan.available / gib);
    startup_stop(&s);
}

/* --- rights --------------------------------------------------------------------- */

/* Runs f in a child that has become user; true when f could be run there. What
 * f prints to out comes back in text. */
static bool
as_user(const char *user, void (*f)(struct diagnosis *d, FILE *out),
        struct diagnosis *d, char *text, size_t size)
{
    const struct passwd *p = user ? getpwnam(user) : NULL;
    int fds[2], status = -1;
    size_t n = 0;
    ssize_t k;

    if ((user && p == NULL) || pipe(fds) != 0)
        return false;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        FILE *out = fdopen(fds[1], "w");
        close(fds[0]);
        if (out == NULL
            || (p && (initgroups(user, p->pw_gid) != 0
                      || setgid(p->pw_gid) != 0 || setuid(p->pw_uid) != 0)))
            _exit(1);
        f(d, out);
        fclose(out);
        _exit(0);
    }
    close(fds[1]);
    while (pid > 0 && n + 1 < size
           && (k = read(fds[0], text + n, size - n - 1)) > 0)
        n += (size_t)k;
    text[n] = '\0';
    close(fds[0]);
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static void
try_read(const char *path, FILE *out)
{
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (path && fd < 0)
        fprintf(out, "%s: %s\n", path, strerror(errno));
    if (fd >= 0)
        close(fd);
}

/* Everything the daemon opens. */
static void
try_files(struct diagnosis *d, FILE *out)
{
    const struct conf *c = &d->conf;
    char path[4200], *slash;

    try_read(d->path, out);
    for (int i = 0; d->model && i < model_n_files(d->model); i++)
        try_read(model_file_path(d->model, i), out);
    startup_tokenizer(c, path, sizeof path);
    try_read(path, out);
    try_read(c->packed, out);
    try_read(c->filters, out);
    if (strcmp(d->ops->name, "cuda") == 0
        && access("/dev/nvidia0", F_OK) == 0)
        try_read("/dev/nvidia0", out);
    if (strncmp(c->socket, "fd:", 3) == 0)
        return;
    snprintf(path, sizeof path, "%s", c->socket);
    slash = strrchr(path, '/');
    if (slash && slash > path)
        *slash = '\0';
    if (slash && access(path, W_OK | X_OK) != 0)
        fprintf(out, "%s: cannot make a socket there: %s\n", path,
                strerror(errno));
}

static void
check_rights(struct diagnosis *d)
{
    static char text[65536];
    const char *who = d->user ? d->user : "this user";
    char *at;

    if (!as_user(d->user, try_files, d, text, sizeof text)) {
        wrong(d, "rights", "--user names the daemon's", "cannot become user "
              "%s", who);
        return;
    }
    if (*text == '\0')
        good("rights", "%s may read the files and make the socket", who);
    for (char *line = strtok_r(text, "\n", &at); line;
         line = strtok_r(NULL, "\n", &at)) {
        if (d->user)
            wrong(d, "rights", "the directories above count too (namei -l)",
                  "%s may not: %s", who, line);
        else
            unknown("rights", "%s may not: %s", who, line);
    }
}

/* 0, or the errno of connecting to the socket. */
static int
reach_socket(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int bad = connect(fd, (struct sockaddr *)&a, sizeof a) ? errno : 0;
    close(fd);
    return bad;
}

static void
try_socket(struct diagnosis *d, FILE *out)
{
    int bad = reach_socket(d->conf.socket);
    if (bad != 0)
        fputs(strerror(bad), out);
}

static void
check_socket(struct diagnosis *d)
{
    const char *path = d->conf.socket;
    char text[256];

    if (strncmp(path, "fd:", 3) == 0) {
        unknown("socket", "%s is handed down by whoever starts the daemon",
                path);
        return;
    }
    int bad = reach_socket(path);
    d->listening = bad == 0;
    if (bad != 0) {
        wrong(d, "socket", bad == ENOENT || bad == ECONNREFUSED
              ? "the daemon is not running, or still loads: systemctl status "
                "siroccod, journalctl -u siroccod" : NULL,
              "%s: %s", path, strerror(bad));
        return;
    }
    good("socket", "a server listens on %s", path);
    if (d->web_user == NULL)
        return;
    if (!as_user(d->web_user, try_socket, d, text, sizeof text))
        unknown("socket", "cannot become the web server's user %s",
                d->web_user);
    else if (*text)
        wrong(d, "socket", "add that user to the socket's group (usermod "
              "-aG) or set socket_group, look at the directory's rights, and "
              "restart the web server", "the web server's user %s cannot "
              "open it: %s", d->web_user, text);
    else
        good("socket", "the web server's user %s can open it", d->web_user);
}

/* --- web server ------------------------------------------------------------------ */

/* Connects to http[s]://host[:port]; -1 with the reason in e. */
static int
connect_url(const char *url, char *host, size_t size, bool *tls,
            struct err *e)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    const struct timeval limit = {.tv_sec = WEB_TIMEOUT_S};
    char port[8] = "";
    int fd = -1;

    *tls = strncmp(url, "https://", 8) == 0;
    if (!*tls && strncmp(url, "http://", 7) != 0) {
        err_set(e, ERR_FORMAT, "%s: expected http://host[:port]", url);
        return -1;
    }
    snprintf(host, size, "%s", url + (*tls ? 8 : 7));
    host[strcspn(host, "/")] = '\0';
    char *colon = strrchr(host, ':');
    snprintf(port, sizeof port, "%s", colon ? colon + 1 : *tls ? "443" : "80");
    if (colon)
        *colon = '\0';
    int bad = getaddrinfo(host, port, &hints, &list);
    if (bad != 0)
        err_set(e, ERR_NOENT, "%s: %s", host, gai_strerror(bad));
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0) {
            setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
            setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        }
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) == 0)
            continue;
        err_set(e, ERR_IO, "%s port %s: %s", host, port, strerror(errno));
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    if (list)
        freeaddrinfo(list);
    return fd;
}

/* Status of GET /health, 0 when there is no HTTP reply. */
static int
ask_health(int fd, const char *host)
{
    struct http_reply r = {0};
    char out[400], in[4096];
    ssize_t n = snprintf(out, sizeof out, "GET /health HTTP/1.1\r\nHost: "
                         "%.200s\r\nConnection: close\r\n\r\n", host);
    int status = 0;

    http_reply_reset(&r, NULL, NULL);
    if (send(fd, out, (size_t)n, MSG_NOSIGNAL) == n)
        while (r.status == 0 && (n = recv(fd, in, sizeof in, 0)) > 0
               && http_reply_feed(&r, in, (size_t)n) == 0)
            ;
    status = r.status;
    http_reply_free(&r);
    return status;
}

static void
judge_health(struct diagnosis *d, int status)
{
    const char *mend = NULL;

    if (status == 200) {
        good("web server", "%s/health answers 200", d->url);
        return;
    }
    if (status == 0)
        mend = "what listens there speaks no HTTP";
    else if (status == 403)
        mend = "/health is for the local machine; ask from there";
    else if (status == 404)
        mend = "the site does not include sirocco-locations.conf, or another "
               "site answers to this name";
    else if (status >= 500 && d->listening)
        mend = "nginx does not reach the socket: its error log says why; "
               "fastcgi_pass must name the socket of the configuration, and "
               "a new group counts from nginx's next start on";
    else if (status >= 500)
        mend = "nginx is in order and waits for siroccod";
    wrong(d, "web server", mend, "%s/health answers %d", d->url, status);
}

static void
check_web(struct diagnosis *d)
{
    char host[300];
    bool tls = false;
    struct err e = {0};

    if (d->url == NULL) {
        unknown("web server", "not asked; --url http://127.0.0.1 does");
        return;
    }
    int fd = connect_url(d->url, host, sizeof host, &tls, &e);
    if (fd < 0) {
        wrong(d, "web server", "is it running, and does it listen there? "
              "nginx -t, systemctl status nginx", "%s", e.text);
        return;
    }
    if (tls)
        unknown("web server", "%s accepts connections; with https no more is "
                "asked", d->url);
    else
        judge_health(d, ask_health(fd, host));
    close(fd);
}

/* The first of these users that there is. */
static const char *
find_user(const char *const *name)
{
    for (; *name; name++)
        if (getpwnam(*name))
            return *name;
    return NULL;
}

int
diagnose_command(int argc, char **argv)
{
    static const char *const daemons[] = {"sirocco", NULL};
    static const char *const webs[] = {"www-data", "nginx", "http", NULL};
    struct diagnosis d = {.path = CONF_DEFAULT};
    const struct option_row rows[] = {
        {"config", &d.path, NULL}, {"url", &d.url, NULL},
        {"user", &d.user, NULL}, {"web-user", &d.web_user, NULL}, {NULL}
    };

    int rc = command_options(argc, argv, rows);
    if (rc != EXIT_OK)
        return rc;
    if (geteuid() == 0 && d.user == NULL)
        d.user = find_user(daemons);
    if (geteuid() == 0 && d.web_user == NULL)
        d.web_user = find_user(webs);
    conf_init(&d.conf);
    if (check_conf(&d)) {
        check_model(&d);
        check_rights(&d);
        check_device(&d);
        check_socket(&d);
        check_memory(&d);
    }
    check_web(&d);
    if (d.n_wrong)
        printf("wrong: %d\n", d.n_wrong);
    else
        puts("nothing is wrong");
    if (d.model)
        model_close(d.model);
    conf_free(&d.conf);
    return d.n_wrong ? EXIT_FAILED : EXIT_OK;
}

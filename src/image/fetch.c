/*
 * DESIGN. A client that may name URLs can make a server ask for anything it
 * can reach: metadata services, printers, the admin socket of a neighbour. So
 *
 * 1. the scheme is http or https and the host is on the operator's list;
 * 2. the name is resolved once, here, and if one of its addresses is not
 *    public the fetch is refused;
 * 3. curl gets the address from us (CURLOPT_RESOLVE), never resolves itself,
 *    and every socket it opens is checked again; no proxy is used;
 * 4. a redirect is a new URL and starts over at 1;
 * 5. time and size are bounded over all of it.
 */
#include "config.h"

#include "image/fetch.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

#define REDIRECTS_MAX 3

/* --- which hosts --------------------------------------------------------- */

static bool
matches(const char *entry, size_t n, const char *host)
{
    size_t len = strlen(host);

    if (n == 1 && entry[0] == '*')
        return true;
    if (n > 1 && entry[0] == '*' && entry[1] == '.') {
        entry++;
        n--;
    }
    if (entry[0] == '.')
        return len > n && strncasecmp(host + len - n, entry, n) == 0;
    return len == n && strncasecmp(host, entry, n) == 0;
}

bool
fetch_host_allowed(const char *hosts, const char *host)
{
    while (hosts != NULL && *hosts != '\0') {
        size_t n = strcspn(hosts, ", \t");
        if (n > 0 && matches(hosts, n, host))
            return true;
        hosts += n + (hosts[n] != '\0');
    }
    return false;
}

/* --- which addresses ----------------------------------------------------- */

static bool
public_v4(uint32_t a)
{
    static const struct {
        uint32_t net;
        int bits;
    } closed[] = {
        {0x00000000, 8},   /* this network */
        {0x0a000000, 8},   /* private */
        {0x64400000, 10},  /* carrier NAT */
        {0x7f000000, 8},   /* loopback */
        {0xa9fe0000, 16},  /* link-local */
        {0xac100000, 12},  /* private */
        {0xc0000000, 24},  /* protocol assignments */
        {0xc0000200, 24},  /* documentation */
        {0xc0586300, 24},  /* 6to4 relays */
        {0xc0a80000, 16},  /* private */
        {0xc6120000, 15},  /* benchmarks */
        {0xc6336400, 24},  /* documentation */
        {0xcb007100, 24},  /* documentation */
        {0xe0000000, 3},   /* multicast, reserved, broadcast */
    };
    for (size_t i = 0; i < sizeof(closed) / sizeof(closed[0]); i++)
        if ((a ^ closed[i].net) >> (32 - closed[i].bits) == 0)
            return false;
    return true;
}

static uint32_t
read_be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8
           | p[3];
}

/* Global unicast (2000::/3) without the documentation and tunnel ranges; an
 * IPv4 address inside must be public itself. */
static bool
public_v6(const uint8_t *p)
{
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255};
    static const uint8_t nat64[12] = {0, 0x64, 0xff, 0x9b};

    if (memcmp(p, mapped, 12) == 0 || memcmp(p, nat64, 12) == 0)
        return public_v4(read_be32(p + 12));
    if ((p[0] & 0xe0) != 0x20)
        return false;
    if (p[0] == 0x20 && p[1] == 0x02) /* 6to4 */
        return public_v4(read_be32(p + 2));
    uint32_t head = read_be32(p);
    return head >> 9 != 0x20010000u >> 9   /* 2001::/23: Teredo and others */
           && head != 0x20010db8u          /* documentation */
           && head >> 12 != 0x3fff0000u >> 12;
}

bool
fetch_is_public(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof(in));
        return public_v4(ntohl(in.sin_addr.s_addr));
    }
    if (sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in;
        memcpy(&in, sa, sizeof(in));
        return public_v6(in.sin6_addr.s6_addr);
    }
    return false;
}

#ifdef HAVE_CURL

#include <curl/curl.h>
#include <pthread.h>

/* One hop: a URL that passed the checks and where it leads. */
struct hop {
    const struct fetch_options *o;
    struct buf *out;
    struct err *e;
    uint64_t deadline;       /* clock_ns */
    bool too_large, refused;
    char *host, *port;       /* curl_free */
    char *next;              /* redirect, malloc */
};

static bool
may_connect(const struct fetch_options *o, const struct sockaddr *sa)
{
    return o->may_connect ? o->may_connect(sa) : fetch_is_public(sa);
}

static size_t
on_body(char *p, size_t size, size_t n, void *arg)
{
    struct hop *h = arg;
    if (size * n > h->o->max_bytes - h->out->len) {
        h->too_large = true;
        return 0;
    }
    return buf_append(h->out, p, size * n) == 0 ? size * n : 0;
}

static curl_socket_t
on_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
    struct hop *h = arg;
    if (purpose != CURLSOCKTYPE_IPCXN || !may_connect(h->o, &a->addr)) {
        h->refused = true;
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

/* Splits and checks the URL; sets host and port. */
static int
check_url(struct hop *h, const char *url)
{
    CURLU *u = curl_url();
    char *scheme = NULL;
    int rc = ERR_FORMAT;

    if (u == NULL)
        return ERR_NOMEM;
    if (curl_url_set(u, CURLUPART_URL, url, CURLU_DISALLOW_USER) != CURLUE_OK
        || curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK)
        err_set(h->e, rc, "the image URL is not a good URL");
    else if (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0)
        err_set(h->e, rc, "the image URL must be http or https");
    else if (curl_url_get(u, CURLUPART_HOST, &h->host, 0) != CURLUE_OK
             || curl_url_get(u, CURLUPART_PORT, &h->port, CURLU_DEFAULT_PORT)
                    != CURLUE_OK)
        err_set(h->e, rc, "the image URL is not a good URL");
    else if (!fetch_host_allowed(h->o->hosts, h->host))
        rc = err_set(h->e, ERR_RANGE, "images may not be fetched from the "
                     "host %.200s", h->host);
    else
        rc = 0;
    curl_free(scheme);
    curl_url_cleanup(u);
    return rc;
}

/* "host:port:address" of the first address; all must pass. */
static int
resolve(struct hop *h, char *entry, size_t size)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    char name[256], address[INET6_ADDRSTRLEN];
    size_t n = strlen(h->host);
    bool literal = h->host[0] == '[';

    if (n >= sizeof(name))
        return err_set(h->e, ERR_FORMAT, "the image URL's host is too long");
    memcpy(name, h->host + literal, n + 1 - literal);
    if (literal)
        name[n - 2] = '\0';
    if (getaddrinfo(name, h->port, &hints, &list) != 0)
        return err_set(h->e, ERR_IO, "the host of the image URL cannot be "
                       "resolved");
    int rc = 0;
    for (struct addrinfo *a = list; a != NULL && rc == 0; a = a->ai_next)
        if (!may_connect(h->o, a->ai_addr))
            rc = err_set(h->e, ERR_RANGE, "the host of the image URL is not "
                         "on the public internet");
    if (rc == 0
        && getnameinfo(list->ai_addr, list->ai_addrlen, address,
                       sizeof(address), NULL, 0, NI_NUMERICHOST) != 0)
        rc = err_set(h->e, ERR_IO, "the host of the image URL cannot be "
                     "resolved");
    if (rc == 0)
        snprintf(entry, size, "%s:%s:%s%s%s", h->host, h->port,
                 list->ai_family == AF_INET6 ? "[" : "", address,
                 list->ai_family == AF_INET6 ? "]" : "");
    freeaddrinfo(list);
    return rc;
}

static void
set_options(CURL *c, struct hop *h, const char *url,
            struct curl_slist *addresses, long left_ms)
{
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_RESOLVE, addresses);
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, left_ms);
    curl_easy_setopt(c, CURLOPT_USERAGENT, PACKAGE_NAME "/" PACKAGE_VERSION);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, h);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, on_socket);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, h);
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(c, CURLOPT_PROTOCOLS,
                     (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

/* What a finished transfer means; *again says that next is to be fetched. */
static int
judge(CURL *c, struct hop *h, CURLcode code, bool *again)
{
    long status = 0;
    char *next = NULL;

    if (h->refused)
        return err_set(h->e, ERR_RANGE, "the host of the image URL is not on "
                       "the public internet");
    if (h->too_large)
        return err_set(h->e, ERR_LIMIT, "the image is larger than %zu bytes",
                       h->o->max_bytes);
    if (code == CURLE_OPERATION_TIMEDOUT)
        return err_set(h->e, ERR_IO, "fetching the image took longer than "
                       "%u ms", h->o->timeout_ms);
    if (code != CURLE_OK)
        return err_set(h->e, ERR_IO, "the image cannot be fetched: %s",
                       curl_easy_strerror(code));
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(c, CURLINFO_REDIRECT_URL, &next);
    if (next != NULL) {
        h->next = strdup(next);
        *again = true;
        return h->next ? 0 : ERR_NOMEM;
    }
    if (status != 200)
        return err_set(h->e, ERR_IO, "the image's server answered with "
                       "status %ld", status);
    return 0;
}

static int
transfer(struct hop *h, const char *url, const char *address, bool *again)
{
    uint64_t now = clock_ns();
    struct curl_slist *addresses = curl_slist_append(NULL, address);
    CURL *c = curl_easy_init();
    int rc = ERR_NOMEM;

    if (now >= h->deadline) {
        rc = err_set(h->e, ERR_IO, "fetching the image took longer than %u "
                     "ms", h->o->timeout_ms);
    } else if (c != NULL && addresses != NULL) {
        set_options(c, h, url, addresses,
                    (long)((h->deadline - now) / 1000000 + 1));
        rc = judge(c, h, curl_easy_perform(c), again);
    }
    curl_easy_cleanup(c);
    curl_slist_free_all(addresses);
    return rc;
}

static pthread_once_t started = PTHREAD_ONCE_INIT;

static void
start_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

/* Fetches url, which it frees, and sets *next when it leads elsewhere. */
static int
fetch_hop(const struct fetch_options *o, char *url, uint64_t deadline,
          struct buf *out, char **next, struct err *e)
{
    struct hop h = {.o = o, .out = out, .e = e, .deadline = deadline};
    char address[512];
    bool again = false;

    out->len = 0;
    int rc = check_url(&h, url);
    if (rc == 0)
        rc = resolve(&h, address, sizeof(address));
    if (rc == 0)
        rc = transfer(&h, url, address, &again);
    *next = again && rc == 0 ? h.next : NULL;
    curl_free(h.host);
    curl_free(h.port);
    free(url);
    return rc;
}

int
fetch_get(const struct fetch_options *o, struct str url, struct buf *out,
          struct err *e)
{
    uint64_t deadline = clock_ns() + o->timeout_ms * (uint64_t)1000000;
    struct buf body = {0};
    char *next;
    int rc = 0;

    if (o->hosts == NULL || o->hosts[0] == '\0')
        return err_set(e, ERR_UNSUPPORTED, "this server fetches no images; "
                       "send a data: URL");
    if (memchr(url.p, '\0', url.n) != NULL || url.n > 8192)
        return err_set(e, ERR_FORMAT, "the image URL is not a good URL");
    pthread_once(&started, start_curl);
    next = strndup(url.p, url.n);
    if (next == NULL)
        return ERR_NOMEM;
    for (int i = 0; next != NULL && rc == 0; i++) {
        if (i > REDIRECTS_MAX) {
            free(next);
            rc = err_set(e, ERR_IO, "the image URL redirects too often");
            break;
        }
        rc = fetch_hop(o, next, deadline, &body, &next, e);
    }
    if (rc == 0)
        rc = buf_append(out, body.data, body.len);
    buf_free(&body);
    return rc;
}

#else

int
fetch_get(const struct fetch_options *o, struct str url, struct buf *out,
          struct err *e)
{
    (void)o;
    (void)url;
    (void)out;
    return err_set(e, ERR_UNSUPPORTED, "this build fetches no images; send a "
                   "data: URL");
}

#endif

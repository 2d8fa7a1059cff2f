/* siroccoctl bench serve: a run against a server, what its streams ask for and
 * what is said about it. */
#ifndef CTL_BENCH_SERVE_H
#define CTL_BENCH_SERVE_H

#include <stdbool.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/loop.h"
#include "base/str.h"
#include "ctl/bench.h"
#include "ctl/http_reply.h"

#define READ_SIZE 65536

struct url {
    char host[256], port[8], prefix[256];
    struct sockaddr_storage addr;
    socklen_t addr_len;
};

/* One run. Those of a command begin as copies of its options. */
struct bench {
    struct url url;
    struct loop *loop;
    /* options */
    long long n_runs, n_streams, n_requests, n_tokens, prompt_words;
    long long slack_ms, pid;
    long long prompt_ids, vocab; /* prompts of ids instead; 0 = words */
    double rate, ramp_s;
    bool stream, json;
    char *model;
    const char *key;         /* list; requests take turns */
    size_t n_keys;
    /* progress */
    struct stream *streams;
    long long n_sent, n_done, n_failed, n_behind, n_started, n_spoke;
    uint64_t t_begin, t_first, t_last;
    uint64_t n_events, tokens, prompt_tokens;
    uint64_t full_from, full_to; /* all streams generate; 0 = not yet */
    bool full_over;
    double full_tokens;
    struct samples ttft, gap, total, late;
    double seconds;          /* from the beginning to the end of all */
    struct process_use before, after;
    char error[256];         /* the first failure's text */
    char read[READ_SIZE];
};

struct stream {
    struct bench *b;
    struct loop_watch watch;
    struct http_reply reply;
    struct buf out;          /* request not sent yet */
    bool open, connected, done, reused, spoke;
    uint64_t t_send, t_first, t_last;
    double max_gap;
    uint64_t events, full_events, tokens, prompt_tokens;
};

/* What the runs of a command gave, a sample a run. */
struct bench_runs {
    struct samples rate, full, ttft, gap; /* tokens/s; medians in ms */
    long long requests, failed;
};

/* bench_request.c: puts the head of a request, for a body of so many bytes;
 * the stream's next request. 0 or ERR_NOMEM. */
int bench_put_head(struct bench *b, struct buf *out, const char *method,
                   const char *path, struct str key, size_t n_body);
int bench_put_request(struct stream *s);
/* Key of the i-th request: they take turns. */
struct str bench_key(const struct bench *b, long long i);

/* bench_report.c: prints a run that is over, and adds it to the others (0 or
 * ERR_NOMEM); prints what several gave. */
int bench_report(struct bench *b, struct bench_runs *runs);
void bench_report_runs(const struct bench *b, struct bench_runs *runs);
void bench_runs_free(struct bench_runs *runs);

#endif

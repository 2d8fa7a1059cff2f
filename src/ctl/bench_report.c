/* What siroccoctl bench serve says of a run, and of several. */
#include "config.h"

#include "ctl/bench_serve.h"

#include <stdio.h>

static void
put_row(const struct bench *b, const char *name, const char *unit,
        struct samples *s)
{
    if (s->n == 0 && !b->json)
        return;
    double p[5] = {samples_percentile(s, 0), samples_percentile(s, 50),
                   samples_percentile(s, 90), samples_percentile(s, 99),
                   samples_percentile(s, 100)};
    if (b->json)
        printf(", \"%s_%s\": {\"min\": %.3f, \"p50\": %.3f, \"p90\": %.3f, "
               "\"p99\": %.3f, \"max\": %.3f}", name, unit, p[0], p[1], p[2],
               p[3], p[4]);
    else
        printf("%-22s min %.1f  p50 %.1f  p90 %.1f  p99 %.1f  max %.1f %s\n",
               name, p[0], p[1], p[2], p[3], p[4], unit);
}

static int
add_run(struct bench *b, double rate, double full, struct bench_runs *runs)
{
    int rc = samples_add(&runs->rate, rate);
    runs->requests += b->n_done - b->n_failed;
    runs->failed += b->n_failed;
    if (rc == 0 && full > 0)
        rc = samples_add(&runs->full, full);
    if (rc == 0 && b->ttft.n > 0)
        rc = samples_add(&runs->ttft, samples_percentile(&b->ttft, 50));
    if (rc == 0 && b->gap.n > 0)
        rc = samples_add(&runs->gap, samples_percentile(&b->gap, 50));
    return rc;
}

int
bench_report(struct bench *b, struct bench_runs *runs)
{
    long long ok = b->n_done - b->n_failed;
    double all_s = b->seconds;
    double s = b->t_last > b->t_first
        ? (double)(b->t_last - b->t_first) * 1e-9 : all_s;
    double cpu_us = (double)(b->after.cpu_ns - b->before.cpu_ns) * 1e-3;
    double a_token = b->tokens ? cpu_us / (double)b->tokens : 0;
    double full_s = (double)(b->full_to - b->full_from) * 1e-9;
    double full = full_s > 0 ? b->full_tokens / full_s : 0;
    double prompt = ok > 0 ? (double)b->prompt_tokens / (double)ok : 0;
    if (b->json)
        printf("{\"requests\": %lld, \"failed\": %lld, \"behind\": %lld, "
               "\"seconds\": %.3f, \"requests_s\": %.2f, \"tokens\": %llu, "
               "\"events\": %llu, \"tokens_s\": %.1f, "
               "\"full_tokens_s\": %.1f, \"prompt_tokens\": %.1f", ok,
               b->n_failed, b->n_behind, all_s, (double)ok / all_s,
               (unsigned long long)b->tokens,
               (unsigned long long)b->n_events, (double)b->tokens / s, full,
               prompt);
    else
        printf("%-22s %lld on %lld streams in %.1f s, %.1f a second\n"
               "%-22s %lld\n%-22s %llu in %llu events, %.0f a second\n"
               "%-22s %.0f tokens a second\n%-22s %.1f tokens\n",
               "requests", ok, b->n_streams, all_s, (double)ok / all_s,
               "failed", b->n_failed, "tokens",
               (unsigned long long)b->tokens,
               (unsigned long long)b->n_events, (double)b->tokens / s,
               "while all generate", full, "mean prompt", prompt);
    put_row(b, b->json ? "ttft" : "first token", "ms", &b->ttft);
    put_row(b, b->json ? "gap" : "between tokens", "ms", &b->gap);
    put_row(b, b->json ? "reply" : "whole reply", "ms", &b->total);
    if (b->rate > 0) {
        put_row(b, b->json ? "late" : "late at the end", "ms", &b->late);
        if (!b->json)
            printf("%-22s %lld of %lld by more than %lld ms at %g tokens/s\n",
                   "streams behind", b->n_behind, ok, b->slack_ms, b->rate);
    }
    if (b->pid && b->json)
        printf(", \"daemon_cpu_us_token\": %.3f, \"daemon_rss\": %llu, "
               "\"daemon_peak\": %llu", a_token,
               (unsigned long long)b->after.rss,
               (unsigned long long)b->after.peak);
    else if (b->pid)
        printf("%-22s %.2f us of CPU a token, %.1f MB, peak %.1f MB\n",
               "daemon", a_token, (double)b->after.rss * 1e-6,
               (double)b->after.peak * 1e-6);
    if (b->json)
        printf("}\n");
    fflush(stdout);
    if (b->n_failed > 0)
        fprintf(stderr, "siroccoctl bench: the first failure: %s\n",
                b->error);
    return add_run(b, (double)b->tokens / s, full, runs);
}

static void
put_spread(const struct bench *b, const char *name, const char *unit,
           struct samples *s)
{
    const struct samples_range r = samples_range(s);
    if (s->n == 0)
        return;
    if (b->json)
        printf(", \"%s\": {\"median\": %.3f, \"lowest\": %.3f, "
               "\"highest\": %.3f, \"spread\": %.4f}", name, r.mid, r.low,
               r.high, r.spread);
    else
        printf("%-22s median %.1f  lowest %.1f  highest %.1f %s, spread "
               "%.1f %%\n", name, r.mid, r.low, r.high, unit, 100 * r.spread);
}

void
bench_report_runs(const struct bench *b, struct bench_runs *r)
{
    if (b->json)
        printf("{\"runs\": %lld, \"streams\": %lld, \"requests\": %lld, "
               "\"failed\": %lld", b->n_runs, b->n_streams, r->requests,
               r->failed);
    else
        printf("%-22s %lld on %lld streams: %lld requests, %lld failed\n",
               "runs", b->n_runs, b->n_streams, r->requests, r->failed);
    put_spread(b, b->json ? "tokens_s" : "tokens", "a second", &r->rate);
    put_spread(b, b->json ? "full_tokens_s" : "while all generate",
               "a second", &r->full);
    put_spread(b, b->json ? "ttft_ms" : "first token, p50", "ms", &r->ttft);
    put_spread(b, b->json ? "gap_ms" : "between tokens, p50", "ms", &r->gap);
    if (b->json)
        printf("}\n");
    fflush(stdout);
}

void
bench_runs_free(struct bench_runs *r)
{
    samples_free(&r->rate);
    samples_free(&r->full);
    samples_free(&r->ttft);
    samples_free(&r->gap);
}

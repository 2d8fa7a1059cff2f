/*
 * A model on the CPU and the CUDA back end at once, for the tests that compare
 * them: texts (ids, maybe with pictures) that the CPU back end has scored, and
 * steps of the CUDA back end over the same texts.
 */
#ifndef OP_WHOLE_H
#define OP_WHOLE_H

#include "backend/backend.h"

#define WHOLE_IMG 10      /* the id that pictures stand at */

struct whole_limits {
    uint32_t max_seqs, max_step, max_context, n_blocks;
};

struct whole {
    struct model *model;
    struct backend *cpu, *cuda;
    struct whole_limits l;
    uint32_t n_vocab;
};

/* dummy: random weights for the params.json in dir. */
int whole_open(struct whole *w, const char *dir, bool dummy,
               const struct whole_limits *l, struct err *e);
void whole_close(struct whole *w);

/* Pixels in a text; its vectors stand at the WHOLE_IMG ids from pos on. */
struct picture {
    float *pixels;        /* [3, height, width] */
    int height, width;
    uint32_t pos, n_tokens;
};

/* n ids and what the CPU back end says: next[i] is the log-probability of
 * id[i + 1] after id[i], best[i] that of the likeliest id there. */
struct text {
    int32_t *id;
    uint32_t n;
    float *next, *best;
    struct picture *image;
    uint32_t n_image;
};
/* n random ids that no picture uses. */
int text_random(struct text *t, uint32_t n, uint32_t n_vocab, uint64_t seed);
void text_free(struct text *t);
/* Fills next and best, by the CPU back end. */
int whole_score(struct whole *w, struct text *t, struct err *e);

/* Differences to the reference, and how they are judged: by the half of them
 * that is smallest, by all but one in twenty, and by the worst, each relative
 * to the spread of the log-probabilities themselves. */
struct diff {
    float *x;             /* [n] absolute */
    size_t n, cap;
    double sum, sum2;     /* of the reference and its squares */
    double worst;
    uint32_t text, at;    /* place of the worst */
};
struct diff_bound {
    double half, most, worst;
};
/* BOUNDS. The CPU back end computes in fp32; the CUDA back end keeps sums and
 * the residual in fp32 and rounds what products read and write to bf16: some
 * ten numbers in a row in a layer, each by 2^-9 at most and by 2^-9 / sqrt(3)
 * on average. Errors of L layers add like random numbers to sqrt(10 L) * 1.1e-3
 * of a layer's output, that is 0.5 to 0.8 % for 2 to 5 layers, and
 * log-probabilities inherit it relative to their spread. Half of the errors of
 * a normal law are under 0.7 times the mean, 19 in 20 under 2, all of 16,000
 * under 4.5 times.
 *
 * Where a token's last chosen and first unchosen expert are within rounding of
 * each other, the other one may be taken, and then the error is that of another
 * expert's output: one token in fifty, or fewer. Models with a choice are
 * judged by the half and by 19 in 20; the worst is bounded loosely. (The CPU
 * back end with nothing but its norms rounded to bf16 shows the same: 0.35 % on
 * average without a choice, 1.5 to 2 % and up to 1.2 nats with one.) */
extern const struct diff_bound bound_fixed, bound_choice;
void diff_add(struct diff *d, double got, double want, uint32_t text,
              uint32_t at);
/* Prints a line; 0, or 1 for a bound that was missed. */
int diff_judge(struct diff *d, const struct diff_bound *b, const char *what,
               const char *how);
void diff_free(struct diff *d);

/* Texts on their way through the CUDA back end; text i is in slot i. */
struct run {
    struct whole *w;
    struct text *text;
    uint32_t n_text;
    uint32_t *done;       /* tokens computed, of each text */
    uint32_t *block;      /* [n_text][l.n_blocks / n_text] scattered */
    uint64_t *handle;     /* of the pictures, text by text; 0: not encoded */
    struct diff *diff;
    uint64_t step;
};
struct share {
    uint32_t text, n;     /* n tokens more */
};
int run_open(struct run *r, struct whole *w, struct text *t, uint32_t n,
             struct diff *d);
void run_close(struct run *r);
/* One step of these shares; each next id is looked up. */
int run_step(struct run *r, const struct share *s, uint32_t n,
             struct err *e);
/* A token more of each text in [from, from + n), `steps` times, two steps in
 * flight. What is drawn is forced to be the text's next id, so such steps take
 * no targets and replay graphs. */
int run_decode(struct run *r, uint32_t from, uint32_t n, uint32_t steps,
               struct err *e);

#endif

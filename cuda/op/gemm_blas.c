/*
 * bf16 products by cuBLASLt, for batches that are bound by arithmetic.
 *
 * DESIGN. One plan (algorithm) is looked up a shape and kept; the workspace is
 * ours, so nothing is allocated in a step and launches can be captured. The
 * library is opened with the device, not linked: mapping it alone costs 140 MB
 * of memory, which programs on other back ends need not pay, and without it
 * our own kernels do the same products, slower.
 */
#include "config.h"

#include "cuda/ops.h"

#include <stddef.h>

#ifdef HAVE_CUBLAS

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/log.h"

#define PLANS 512

struct blas_plan {
    int rows, cols, n, ldw, ldx, ldo;
    enum gemm_out form;
    cublasLtMatmulDesc_t op;
    cublasLtMatrixLayout_t w, x, out;
    cublasLtMatmulAlgo_t algo;
};

struct cuda_blas {
    cublasLtHandle_t handle;
    void *space;
    uint64_t size;
    int n, next;
    struct blas_plan plan[PLANS];
};

#define CALLS(X) \
    X(cublasLtCreate) \
    X(cublasLtDestroy) \
    X(cublasLtMatmul) \
    X(cublasLtMatmulAlgoGetHeuristic) \
    X(cublasLtMatmulDescCreate) \
    X(cublasLtMatmulDescDestroy) \
    X(cublasLtMatmulDescSetAttribute) \
    X(cublasLtMatmulPreferenceCreate) \
    X(cublasLtMatmulPreferenceDestroy) \
    X(cublasLtMatmulPreferenceSetAttribute) \
    X(cublasLtMatrixLayoutCreate) \
    X(cublasLtMatrixLayoutDestroy)

#define MEMBER(name) __typeof__(name) *name;
static struct {
    void *library;
    CALLS(MEMBER)
} lt;

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define LIBRARY "libcublasLt.so." TEXT(CUBLAS_VER_MAJOR)

/* Opens the library of the version that we were built for, where the loader
 * finds it or where it was at build time. 0 or -1. */
static int
load_library(void)
{
    bool whole = true;

    if (lt.library)
        return 0;
    lt.library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (lt.library == NULL)
        lt.library = dlopen(CUDA_LIBDIR "/" LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (lt.library == NULL)
        return -1;
#define FIND(name) \
    *(void **)&lt.name = dlsym(lt.library, #name); \
    whole = whole && lt.name;
    CALLS(FIND)
    if (whole)
        return 0;
    dlclose(lt.library);
    lt.library = NULL;
    return -1;
}

struct cuda_blas *
cuda_blas_open(void *workspace, uint64_t size)
{
    if (load_library() != 0) {
        log_warn("no " LIBRARY ": large BF16 products run slower");
        return NULL;
    }
    struct cuda_blas *b = calloc(1, sizeof *b);
    if (b == NULL || lt.cublasLtCreate(&b->handle) != CUBLAS_STATUS_SUCCESS) {
        free(b);
        return NULL;
    }
    b->space = workspace;
    b->size = size;
    return b;
}

static void
plan_free(struct blas_plan *p)
{
    lt.cublasLtMatmulDescDestroy(p->op);
    lt.cublasLtMatrixLayoutDestroy(p->w);
    lt.cublasLtMatrixLayoutDestroy(p->x);
    lt.cublasLtMatrixLayoutDestroy(p->out);
}

void
cuda_blas_close(struct cuda_blas *b)
{
    if (b == NULL)
        return;
    for (int i = 0; i < b->n; i++)
        plan_free(&b->plan[i]);
    lt.cublasLtDestroy(b->handle);
    free(b);
}

static int
plan_init(struct cuda_blas *b, struct blas_plan *p, const struct gemm *g)
{
    cublasOperation_t t = CUBLAS_OP_T;
    cudaDataType_t type = g->form == GEMM_BF16 ? CUDA_R_16BF : CUDA_R_32F;
    cublasLtMatmulPreference_t pref;
    cublasLtMatmulHeuristicResult_t best;
    int found = 0;
    p->rows = g->w.rows;
    p->cols = g->w.cols;
    p->n = g->n;
    p->ldw = g->ldw ? g->ldw : g->w.cols;
    p->ldx = g->ldx;
    p->ldo = g->ldo;
    p->form = g->form;
    lt.cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    lt.cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &t,
                                   sizeof t);
    /* Column-major: out [rows, n] = w [cols, rows]^T x [cols, n]. */
    lt.cublasLtMatrixLayoutCreate(&p->w, CUDA_R_16BF, (uint64_t)p->cols,
                               (uint64_t)p->rows, p->ldw);
    lt.cublasLtMatrixLayoutCreate(&p->x, CUDA_R_16BF, (uint64_t)p->cols,
                               (uint64_t)p->n, p->ldx);
    lt.cublasLtMatrixLayoutCreate(&p->out, type, (uint64_t)p->rows,
                               (uint64_t)p->n, p->ldo);
    lt.cublasLtMatmulPreferenceCreate(&pref);
    size_t size = b->size;
    lt.cublasLtMatmulPreferenceSetAttribute(
        pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &size, sizeof size);
    cublasStatus_t st = lt.cublasLtMatmulAlgoGetHeuristic(
        b->handle, p->op, p->w, p->x, p->out, p->out, pref, 1, &best, &found);
    lt.cublasLtMatmulPreferenceDestroy(pref);
    if (st != CUBLAS_STATUS_SUCCESS || found == 0) {
        plan_free(p);
        return -1;
    }
    p->algo = best.algo;
    return 0;
}

static struct blas_plan *
plan_find(struct cuda_blas *b, const struct gemm *g)
{
    for (int i = 0; i < b->n; i++) {
        struct blas_plan *p = &b->plan[i];
        if (p->rows == g->w.rows && p->cols == g->w.cols && p->n == g->n
            && p->ldw == (g->ldw ? g->ldw : g->w.cols)
            && p->ldx == g->ldx && p->ldo == g->ldo && p->form == g->form)
            return p;
    }
    struct blas_plan *p = &b->plan[b->next];
    if (b->n == PLANS)
        plan_free(p);
    if (plan_init(b, p, g) != 0)
        return NULL;
    b->next = (b->next + 1) % PLANS;
    if (b->n < PLANS)
        b->n++;
    return p;
}

int
cuda_blas_gemm(struct cuda_blas *b, const struct gemm *g, cudaStream_t s)
{
    struct blas_plan *p = plan_find(b, g);
    if (p == NULL)
        return -1;
    float alpha = g->w.scale, beta = g->form == GEMM_ADD ? 1 : 0;
    cublasStatus_t st = lt.cublasLtMatmul(
        b->handle, p->op, &alpha, g->w.data, p->w, g->x, p->x, &beta, g->out,
        p->out, g->out, p->out, &p->algo, b->space, b->size, s);
    return st == CUBLAS_STATUS_SUCCESS ? 0 : -1;
}

#else

struct cuda_blas *
cuda_blas_open(void *workspace, uint64_t size)
{
    (void)workspace;
    (void)size;
    return NULL;
}

void
cuda_blas_close(struct cuda_blas *b)
{
    (void)b;
}

int
cuda_blas_gemm(struct cuda_blas *b, const struct gemm *g, cudaStream_t s)
{
    (void)b;
    (void)g;
    (void)s;
    return -1;
}

#endif

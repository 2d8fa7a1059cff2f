/*
 * bf16 products by cuBLASLt, for batches that are bound by arithmetic.
 *
 * DESIGN. One plan (algorithm) is looked up a shape and kept; the workspace is
 * ours, so nothing is allocated in a step and launches can be captured.
 */
#include "config.h"

#include "cuda/ops.h"

#include <stddef.h>

#ifdef HAVE_CUBLAS

#include <cublasLt.h>
#include <stdlib.h>

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

struct cuda_blas *
cuda_blas_open(void *workspace, uint64_t size)
{
    struct cuda_blas *b = calloc(1, sizeof *b);
    if (b == NULL || cublasLtCreate(&b->handle) != CUBLAS_STATUS_SUCCESS) {
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
    cublasLtMatmulDescDestroy(p->op);
    cublasLtMatrixLayoutDestroy(p->w);
    cublasLtMatrixLayoutDestroy(p->x);
    cublasLtMatrixLayoutDestroy(p->out);
}

void
cuda_blas_close(struct cuda_blas *b)
{
    if (b == NULL)
        return;
    for (int i = 0; i < b->n; i++)
        plan_free(&b->plan[i]);
    cublasLtDestroy(b->handle);
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
    cublasLtMatmulDescCreate(&p->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(p->op, CUBLASLT_MATMUL_DESC_TRANSA, &t,
                                   sizeof t);
    /* Column-major: out [rows, n] = w [cols, rows]^T x [cols, n]. */
    cublasLtMatrixLayoutCreate(&p->w, CUDA_R_16BF, (uint64_t)p->cols,
                               (uint64_t)p->rows, p->ldw);
    cublasLtMatrixLayoutCreate(&p->x, CUDA_R_16BF, (uint64_t)p->cols,
                               (uint64_t)p->n, p->ldx);
    cublasLtMatrixLayoutCreate(&p->out, type, (uint64_t)p->rows,
                               (uint64_t)p->n, p->ldo);
    cublasLtMatmulPreferenceCreate(&pref);
    size_t size = b->size;
    cublasLtMatmulPreferenceSetAttribute(
        pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &size, sizeof size);
    cublasStatus_t st = cublasLtMatmulAlgoGetHeuristic(
        b->handle, p->op, p->w, p->x, p->out, p->out, pref, 1, &best, &found);
    cublasLtMatmulPreferenceDestroy(pref);
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
    cublasStatus_t st = cublasLtMatmul(
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

/*
 * The files of a checkpoint directory: which layout it has, whether it is
 * whole, and the index of all its tensors by name.
 */
#ifndef MODEL_CHECKPOINT_H
#define MODEL_CHECKPOINT_H

#include "base/map.h"
#include "base/mem.h"
#include "model/dummy.h"
#include "model/model.h"

/* A tensor and what the room keeps beside it. Pointers to `t` are handed out;
 * tensor_slot() finds the way back. */
struct tensor_slot {
    struct tensor t;
    struct dummy_form form; /* dummy load */
    void *copy;             /* kept bytes: generated, or realigned */
    bool bound;             /* some slot of the architecture uses it */
    struct tensor_slot *next; /* dummy load: made before this one */
};

static inline struct tensor_slot *
tensor_slot(const struct tensor *t)
{
    return (struct tensor_slot *)(uintptr_t)t;
}

struct model_file {
    char *path;
    int fd;
    uint64_t size;
    void *map;      /* NULL until asked for */
    uint64_t gap;   /* bytes that belong to no tensor */
    const char *gap_before; /* the tensor behind them */
};

enum layout { LAYOUT_NATIVE, LAYOUT_HF };

struct checkpoint {
    enum layout layout;
    char *params_path;         /* params.json or config.json */
    struct model_file *file;
    int n_file;
    struct tensor_slot *tensor;
    size_t n_tensor;
    struct map *by_name;       /* name -> index in tensor */
    struct tensor_slot *made;  /* dummy load: all tensors, last one first */
    const char *source;        /* what a missing tensor is missing from */
};

/* Finds the layout and the parameter file. With params_only the weights need
 * not be there (dummy load). A directory that holds no whole checkpoint gets
 * one error listing what is there and what is missing. Strings live in a. */
int checkpoint_find(const char *dir, bool params_only, struct arena *a,
                    struct checkpoint *c, struct err *e);

/* Opens the files that checkpoint_find listed and reads their headers.
 * checkpoint_close may be called after a failure. */
int checkpoint_read(struct checkpoint *c, struct arena *a, struct err *e);
void checkpoint_close(struct checkpoint *c);

/* Adds to the outcome r of binding the tensors what bytes of the files belong
 * to none: ERR_FORMAT if that is all that is wrong. */
int checkpoint_gaps(const struct checkpoint *c, int r, struct err *e);

/* NULL when there is no such tensor. */
struct tensor_slot *checkpoint_tensor(const struct checkpoint *c,
                                      const char *name);

#endif

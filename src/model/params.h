/*
 * Readers of the two parameter files: params.json (native) and config.json
 * (HF). Both end in struct model_params; what the forward pass cannot honour
 * is an error, never ignored.
 */
#ifndef MODEL_PARAMS_H
#define MODEL_PARAMS_H

#include "json/json.h"
#include "model/model.h"

/* How a file says its linear layers are stored. A load from files takes the
 * form of each tensor as it is; only a dummy load asks the parameters. */
enum quant_recipe { QUANT_NONE, QUANT_FP8, QUANT_NVFP4 };

struct params_file {
    struct model_params params;
    enum quant_recipe quant;
    bool hf;               /* config.json */
    bool hf_text_only;     /* config.json without the vision wrapper */
};

/* Read a parameter file. draft: keys that only a target has may be absent.
 * Return 0, ERR_NOENT, ERR_IO, ERR_FORMAT, ERR_RANGE (a value that makes no
 * model) or ERR_UNSUPPORTED; errors start with the path. */
int params_read_native(const char *path, bool draft, struct params_file *out,
                       struct err *e);
int params_read_hf(const char *path, struct params_file *out, struct err *e);

/* Parts shared by the two readers. `path` and `where` ("moe.", "") go into the
 * errors. A getter leaves *out alone when the key is absent and not needed. */
struct params_src {
    struct json_object *o;  /* object the keys are looked up in; may be NULL */
    const char *path, *where;
};
int params_int(const struct params_src *s, const char *key, bool needed,
               int low, int high, int *out, struct err *e);
int params_double(const struct params_src *s, const char *key, bool needed,
                  double low, double high, double *out, struct err *e);
int params_bool(const struct params_src *s, const char *key, bool *out,
                struct err *e);
/* Parses a whole file into *out (json_object_put it). */
int params_load_json(const char *path, struct json_object **out,
                     struct err *e);
/* Reads the name of the weight format out of a quantisation section. */
int params_quant(struct json_object *root, const char *path,
                 enum quant_recipe *out, struct err *e);
/* Checks relations that hold for every model (even rope, top_k <= experts). */
int params_check(const struct model_params *p, const char *path,
                 struct err *e);

#endif

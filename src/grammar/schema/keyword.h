/* The schema compiler, inside the room: nodes, keywords, references, rules. */
#ifndef GRAMMAR_KEYWORD_H
#define GRAMMAR_KEYWORD_H

#include "base/err.h"
#include "grammar/schema/alt.h"
#include "grammar/schema/schema.h"

enum atom_kind { ATOM_SCHEMA, ATOM_CONST, ATOM_NOT };

/* One thing that must hold: a schema, being a constant, not being a node. */
struct atom {
    uint8_t kind, state;       /* state: 0 new, 1 being expanded, 2 done */
    struct json_object *json;
    uint32_t node;             /* ATOM_NOT */
    const char *path;          /* JSON pointer, for errors */
    struct alts alts;
};

struct node {
    uint8_t state;
    struct alts alts;
};

struct alt_maker {
    struct alt_pool pool;
    struct automaton *a;
    struct err *e;
    int rc;
    struct json_object *root;
    bool compact, legacy_ref;  /* $ref hides what stands beside it */
    struct atom *atom;
    size_t n_atoms, cap_atoms;
    struct words by_json;      /* schema or constant to atom */
    struct seqs sets;          /* node: its atoms */
    struct node *node;
    size_t cap_nodes;
    struct words rules;        /* node to rule */
    struct list32 todo;        /* nodes whose rules are still empty */
    int depth;
    uint32_t whole_digits, part_digits; /* the longest numbers of the schema */
    rx_id gap;
};

/* Records the first error; always returns false. */
bool schema_fail(struct alt_maker *m, int code, const char *path,
                 const char *keyword, const char *what);

/* Node of one schema (json may not be NULL) or constant (NULL: null). */
uint32_t schema_node(struct alt_maker *m, struct json_object *json,
                     const char *path);
uint32_t schema_const_node(struct alt_maker *m, struct json_object *json,
                           const char *path);
/* path/key, or path/key/name; lives as long as m. */
const char *schema_path(struct alt_maker *m, const char *path,
                        const char *key, const char *name);

/* Alternatives of a node. False on errors, with *cycle set (and no error)
 * when it is being expanded already. */
bool node_alts(struct alt_maker *m, uint32_t node, struct alts *out,
               bool *cycle);
/* True when no value satisfies both, for certain. */
bool alts_disjoint(struct alt_maker *m, struct alts x, struct alts y);

/* One schema object being read. */
struct keywords {
    struct alt_maker *m;
    struct json_object *o;
    const char *path;
    struct alts all;          /* what is allowed so far */
};

bool keywords_fail(struct keywords *k, int code, const char *keyword,
                   const char *what);
bool keywords_refuse(struct keywords *k, const char *keyword,
                     const char *what);
/* True when the schema has the keyword; null counts. */
bool keywords_has(struct keywords *k, const char *key,
                  struct json_object **value);
/* True when the keyword's value is true. */
bool keywords_true(struct keywords *k, const char *key);
/* The alternatives of a node named by keyword. */
bool keywords_expand(struct keywords *k, uint32_t node, const char *keyword,
                     struct alts *out);
/* Leaves only what x allows too. */
void keywords_narrow(struct keywords *k, struct alts x);
/* The node of the schema json at key (and name below it). */
uint32_t keywords_node(struct keywords *k, struct json_object *json,
                       const char *key, const char *name);
bool keywords_pattern(struct keywords *k, const char *key, struct str text,
                      rx_id *out);
/* constant.c, combine.c */
bool keywords_constants(struct keywords *k);
bool keywords_combined(struct keywords *k);
bool keywords_reference(struct keywords *k, const char *key);

/* keyword.c: what one schema object allows. */
bool keyword_alts(struct alt_maker *m, struct json_object *json,
                  const char *path, struct alts *out);
bool constant_alts(struct alt_maker *m, struct json_object *json,
                   const char *path, struct alts *out);

/* reference.c: what $ref (or a like keyword) names; NULL after an error. */
struct json_object *reference_find(struct alt_maker *m, const char *keyword,
                                   struct str text, const char *path,
                                   const char **target);

/* shape.c: the rule of a node, filled when the list todo is worked off. */
uint32_t shape_rule(struct alt_maker *m, uint32_t node);
bool shape_all(struct alt_maker *m);

#endif

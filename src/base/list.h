/* Intrusive doubly linked list; the head is a node of its own. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *prev, *next;
};

#define list_entry(node, type, member) \
    ((type *)((char *)(node) - offsetof(type, member)))
#define list_for_each(it, head) \
    for (struct list *it = (head)->next; it != (head); it = it->next)
#define list_for_each_safe(it, head)                                       \
    for (struct list *it = (head)->next, *it##_next = it->next;            \
         it != (head); it = it##_next, it##_next = it->next)

static inline void
list_init(struct list *l)
{
    l->prev = l->next = l;
}

static inline bool
list_empty(const struct list *l)
{
    return l->next == l;
}

/* Puts n in front of pos; with pos the head, at the end of the list. */
static inline void
list_insert(struct list *pos, struct list *n)
{
    n->prev = pos->prev;
    n->next = pos;
    pos->prev->next = n;
    pos->prev = n;
}

static inline void
list_append(struct list *head, struct list *n)
{
    list_insert(head, n);
}

static inline void
list_prepend(struct list *head, struct list *n)
{
    list_insert(head->next, n);
}

static inline void
list_remove(struct list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    list_init(n);
}

#endif

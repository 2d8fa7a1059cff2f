/* What memory the machine has left, as the kernel tells it. Any thread. */
#ifndef BASE_MEMINFO_H
#define BASE_MEMINFO_H

#include <stdint.h>

/* The number behind key in a file of "Key:  123 kB" lines, or the whole file's
 * number with key NULL; UINT64_MAX when it is not there. */
uint64_t meminfo_number(const char *path, const char *key);

/* Bytes this process may still take: what the kernel calls available, within
 * its control group. Page cache that can be dropped counts as free in both;
 * swap does not count. root: "" or a directory that stands for "/", in tests.
 * UINT64_MAX when the kernel does not tell. */
uint64_t meminfo_available(const char *root);

#endif

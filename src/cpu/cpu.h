/*
 * The CPU back end: plain, exact, the oracle for every other one. fp32
 * arithmetic on weights as stored; any dimensions; a token's result does not
 * depend on what else is in the batch, bit for bit.
 */
#ifndef CPU_CPU_H
#define CPU_CPU_H

#include "backend/backend.h"

extern const struct backend_ops backend_cpu;

#endif

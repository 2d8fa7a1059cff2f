/* Monotonic and wall clocks. Any thread. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_ns(void);   /* monotonic */
int64_t clock_unix(void);  /* seconds since 1970 */

#endif

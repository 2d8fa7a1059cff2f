/* Images of a chat: loading, and their place in the engine's request. */
#ifndef API_JOB_IMAGES_H
#define API_JOB_IMAGES_H

#include "api/generate.h"

/* Loads all images of j->req, between parse and encode. 0, or -1 after
 * answering. */
int job_images_load(struct api_call *c, struct chat_job *j);
/* Gives req the images of the encoded prompt; arrays from the arena, pixels
 * live with it. 0, or -1 after answering. */
int job_images_fill(struct api_call *c, const struct chat_job *j,
                struct engine_request *req);

#endif

/* DPDK's log, a line at a time, for a callback. */
#define _GNU_SOURCE
#include "shim.h"

#include <stdio.h>
#include <rte_log.h>

static throng_log_fn *sink;

static ssize_t line(void *cookie, const char *text, size_t len)
{
	(void)cookie;
	sink((uint32_t)rte_log_cur_msg_loglevel(), text, len);
	return (ssize_t)len;
}

int throng_log_to(throng_log_fn *fn)
{
	static const cookie_io_functions_t functions = {.write = line};
	FILE *stream = fopencookie(NULL, "w", functions);

	if (stream == NULL)
		return -1;
	sink = fn;
	return rte_openlog_stream(stream);
}

/* SPDX-License-Identifier: MIT */
/*
 * Preloaded by the tests: makes one call that pam_textgate.so makes fail. PAM_FAIL="name:n" picks the n-th call of that
 * function; calls from elsewhere are let through and not counted. Says "injected" on stderr when it has struck.
 * PAM_WATCH="text": says "unwiped" when it gives memory back that still begins with this.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <security/pam_modules.h>

extern void *__libc_calloc(size_t count, size_t size);
extern void __libc_free(void *memory);

static int is_ours(void *caller)
{
    Dl_info info;

    return dladdr(caller, &info) != 0 && strstr(info.dli_fname, "pam_textgate") != NULL;
}

static int strikes(const char *name, void *caller)
{
    static int seen;
    const char *wanted = getenv("PAM_FAIL");
    size_t length = strlen(name);

    if (wanted == NULL || strncmp(wanted, name, length) != 0 || wanted[length] != ':')
        return 0;
    if (!is_ours(caller))
        return 0;
    if (++seen != atoi(wanted + length + 1))
        return 0;
    return write(STDERR_FILENO, "injected\n", 9) == 9;
}

#define CALLER __builtin_return_address(0)
/* ISO C has no cast from an object pointer to a function pointer; POSIX wants dlsym used this way. */
#define NEXT(variable, name) *(void **)&(variable) = dlsym(RTLD_NEXT, name)

int pam_get_item(const pam_handle_t *pamh, int type, const void **item)
{
    int (*next)(const pam_handle_t *, int, const void **);

    NEXT(next, "pam_get_item");
    return strikes("pam_get_item", CALLER) ? PAM_BUF_ERR : next(pamh, type, item);
}

int pam_set_item(pam_handle_t *pamh, int type, const void *item)
{
    int (*next)(pam_handle_t *, int, const void *);

    NEXT(next, "pam_set_item");
    return strikes("pam_set_item", CALLER) ? PAM_BUF_ERR : next(pamh, type, item);
}

int pam_get_data(const pam_handle_t *pamh, const char *name, const void **data)
{
    int (*next)(const pam_handle_t *, const char *, const void **);

    NEXT(next, "pam_get_data");
    return strikes("pam_get_data", CALLER) ? PAM_SYSTEM_ERR : next(pamh, name, data);
}

int pam_set_data(pam_handle_t *pamh, const char *name, void *data, void (*cleanup)(pam_handle_t *, void *, int))
{
    int (*next)(pam_handle_t *, const char *, void *, void (*)(pam_handle_t *, void *, int));

    NEXT(next, "pam_set_data");
    return strikes("pam_set_data", CALLER) ? PAM_BUF_ERR : next(pamh, name, data, cleanup);
}

int pam_putenv(pam_handle_t *pamh, const char *setting)
{
    int (*next)(pam_handle_t *, const char *);

    NEXT(next, "pam_putenv");
    return strikes("pam_putenv", CALLER) ? PAM_BUF_ERR : next(pamh, setting);
}

ssize_t getrandom(void *buffer, size_t length, unsigned int flags)
{
    ssize_t (*next)(void *, size_t, unsigned int);

    NEXT(next, "getrandom");
    return strikes("getrandom", CALLER) ? (ssize_t)length - 1 : next(buffer, length, flags);
}

char *strdup(const char *text)
{
    char *(*next)(const char *);

    NEXT(next, "strdup");
    return strikes("strdup", CALLER) ? NULL : next(text);
}

void *calloc(size_t count, size_t size)
{
    return strikes("calloc", CALLER) ? NULL : __libc_calloc(count, size);
}

void free(void *memory)
{
    const char *watched = getenv("PAM_WATCH");

    if (memory != NULL && watched != NULL && malloc_usable_size(memory) >= strlen(watched)
        && memcmp(memory, watched, strlen(watched)) == 0 && is_ours(CALLER)
        && write(STDERR_FILENO, "unwiped\n", 8) != 8)
        abort();
    __libc_free(memory);
}

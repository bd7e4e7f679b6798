/* SPDX-License-Identifier: MIT */
/* A PAM module that answers what its line says: `pam_stub.so 7` answers PAM_AUTH_ERR (7). */
#include <stdlib.h>

#include <security/pam_modules.h>

int pam_sm_authenticate(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
    (void)pamh;
    (void)flags;
    return argc == 1 ? atoi(argv[0]) : PAM_ABORT;
}

int pam_sm_setcred(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
    return pam_sm_authenticate(pamh, flags, argc, argv);
}

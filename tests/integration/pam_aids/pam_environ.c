/* SPDX-License-Identifier: MIT
 *
 * A PAM module that puts its arguments, NAME=VALUE each, into the PAM environment when somebody authenticates.
 * It stands for whatever module lets people choose a part of that environment before textgate's block runs.
 */

#include <security/pam_modules.h>

int pam_sm_authenticate(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
	(void)flags;
	for (int i = 0; i < argc; i++)
		if (pam_putenv(pamh, argv[i]) != PAM_SUCCESS)
			return PAM_SYSTEM_ERR;
	return PAM_SUCCESS;
}

int pam_sm_setcred(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
	(void)pamh;
	(void)flags;
	(void)argc;
	(void)argv;
	return PAM_SUCCESS;
}

/* SPDX-License-Identifier: MIT */
/*
 * pam_textgate.so: what pam_exec cannot do for textgate, and nothing else. README.md shows the lines.
 *
 *   ask [prompt=TEXT] [echo|noecho]   ask for the code, leave the answer in PAM_AUTHTOK   PAM_IGNORE
 *   restore                           put the former PAM_AUTHTOK back                     PAM_IGNORE
 *   deny [text=SENTENCE]              refuse, with one honest sentence                    PAM_AUTH_ERR
 *   first-factor [service=NAME]...    PAM_SUCCESS where sshd accepted a public key, else  PAM_IGNORE
 *
 * Rules of this file:
 * - Nothing here decides that a code was right. libpam is told PAM_SUCCESS in one place, in first_factor().
 * - PAM_IGNORE from ask and restore means "done, go on". Everything that goes wrong is an error, so that
 *   `default=die` ends the stack; the conversation's own return value is never handed on, as it could be PAM_IGNORE.
 * - Each way out of the block (restore, deny, a failed ask) gives back and wipes what was kept: sudo runs the
 *   block again on the same handle, and an old password must not come back then.
 * - Nothing typed by the person is ever logged. Memory that held it is wiped.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>

#include <security/pam_ext.h>
#include <security/pam_modules.h>

#define EXPORT __attribute__((visibility("default")))
#define KEPT_NAME "textgate_former_authtok"
#define DEFAULT_PROMPT "Code: "
#define DEFAULT_REFUSAL "Access denied: no valid code was given."
#define DEFAULT_SERVICE "sshd"
#define ANSWER_BYTES_MAX 512 /* PAM_MAX_RESP_SIZE: pam_exec hands on no more than this */

/* What PAM_AUTHTOK was before the first ask. authtok is NULL where there was none. */
struct kept {
    char *authtok;
};

static void wipe_and_free(char *secret)
{
    if (secret != NULL) {
        explicit_bzero(secret, strlen(secret));
        free(secret);
    }
}

/* libpam calls this when the data is replaced and in pam_end. */
static void free_kept(pam_handle_t *pamh, void *data, int status)
{
    struct kept *kept = data;

    (void)pamh;
    (void)status;
    if (kept != NULL) {
        wipe_and_free(kept->authtok);
        free(kept);
    }
}

/* The value of "name=value", or NULL if argument is not called name. */
static const char *option_value(const char *argument, const char *name)
{
    size_t length = strlen(name);

    return strncmp(argument, name, length) == 0 && argument[length] == '=' ? argument + length + 1 : NULL;
}

static int unknown_option(pam_handle_t *pamh, const char *verb)
{
    pam_syslog(pamh, LOG_ERR, "unknown option for the verb %s in the PAM line", verb);
    return PAM_SERVICE_ERR;
}

/* Points found at what is kept, or NULL where nothing is: before the first ask, and after give_back_authtok. */
static int find_kept(pam_handle_t *pamh, const struct kept **found)
{
    const void *data = NULL;
    int status = pam_get_data(pamh, KEPT_NAME, &data);

    *found = data;
    return status == PAM_SUCCESS || status == PAM_NO_MODULE_DATA ? PAM_SUCCESS : PAM_SYSTEM_ERR;
}

/* Keeps PAM_AUTHTOK as it was before the first ask; later asks find it kept and leave it alone. */
static int keep_authtok(pam_handle_t *pamh)
{
    const struct kept *found;
    const void *authtok = NULL;
    struct kept *kept;

    if (find_kept(pamh, &found) != PAM_SUCCESS)
        return PAM_SYSTEM_ERR;
    if (found != NULL)
        return PAM_SUCCESS;
    if (pam_get_item(pamh, PAM_AUTHTOK, &authtok) != PAM_SUCCESS)
        return PAM_SYSTEM_ERR;
    kept = calloc(1, sizeof *kept);
    if (kept == NULL)
        return PAM_BUF_ERR;
    if (authtok != NULL)
        kept->authtok = strdup(authtok);
    if ((authtok != NULL && kept->authtok == NULL)
        || pam_set_data(pamh, KEPT_NAME, kept, free_kept) != PAM_SUCCESS) {
        free_kept(pamh, kept, 0);
        return PAM_BUF_ERR;
    }
    return PAM_SUCCESS;
}

/* Puts the kept PAM_AUTHTOK back (unsets it where there was none) and forgets it. Nothing kept: nothing to do. */
static int give_back_authtok(pam_handle_t *pamh)
{
    const struct kept *kept;

    if (find_kept(pamh, &kept) != PAM_SUCCESS)
        return PAM_SYSTEM_ERR;
    if (kept == NULL)
        return PAM_SUCCESS;
    if (pam_set_item(pamh, PAM_AUTHTOK, kept->authtok) != PAM_SUCCESS)
        return PAM_SYSTEM_ERR;
    return pam_set_data(pamh, KEPT_NAME, NULL, NULL) == PAM_SUCCESS ? PAM_SUCCESS : PAM_SYSTEM_ERR;
}

/* Asks, checks the answer's form, and stores it. "" (just Enter) is an answer: the daemon then sends a new text. */
static int put_answer(pam_handle_t *pamh, int style, const char *prompt)
{
    char *answer = NULL;
    int status = PAM_CONV_ERR;

    /* Ctrl-C, Ctrl-D, a lost client, no conversation function: an error or a NULL answer. Both end the login. */
    if (pam_prompt(pamh, style, &answer, "%s", prompt) == PAM_SUCCESS && answer != NULL) {
        if (strlen(answer) > ANSWER_BYTES_MAX)
            status = PAM_AUTH_ERR;
        else
            status = keep_authtok(pamh);
        if (status == PAM_SUCCESS && pam_set_item(pamh, PAM_AUTHTOK, answer) != PAM_SUCCESS)
            status = PAM_BUF_ERR;
    }
    wipe_and_free(answer);
    return status;
}

static int ask(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
    const char *prompt = DEFAULT_PROMPT;
    int style = PAM_PROMPT_ECHO_OFF;
    int status;

    (void)flags;
    for (int i = 1; i < argc; i++) {
        if (option_value(argv[i], "prompt") != NULL)
            prompt = option_value(argv[i], "prompt");
        else if (strcmp(argv[i], "echo") == 0)
            style = PAM_PROMPT_ECHO_ON;
        else if (strcmp(argv[i], "noecho") == 0)
            style = PAM_PROMPT_ECHO_OFF;
        else
            return unknown_option(pamh, argv[0]);
    }
    status = put_answer(pamh, style, prompt);
    if (status == PAM_SUCCESS)
        return PAM_IGNORE;
    (void)give_back_authtok(pamh); /* the login ends here, whatever this says */
    return status;
}

static int restore(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
    (void)flags;
    if (argc > 1)
        return unknown_option(pamh, argv[0]);
    return give_back_authtok(pamh) == PAM_SUCCESS ? PAM_IGNORE : PAM_SYSTEM_ERR;
}

/*
 * Says its sentence under PAM_SILENT too, which sudo always sets: where Python is missing it is the only one that the
 * person gets, and what the helper prints is shown there as well.
 */
static int deny(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
    const char *refusal = DEFAULT_REFUSAL;

    (void)flags;
    for (int i = 1; i < argc; i++) {
        refusal = option_value(argv[i], "text");
        if (refusal == NULL)
            return unknown_option(pamh, argv[0]);
    }
    (void)give_back_authtok(pamh);
    (void)pam_error(pamh, "%s", refusal); /* the answer is no, heard or not */
    return PAM_AUTH_ERR;
}

/* True where the PAM item is set and equal to text. */
static bool item_is(pam_handle_t *pamh, int item, const char *text)
{
    const void *value = NULL;

    return pam_get_item(pamh, item, &value) == PAM_SUCCESS && value != NULL && strcmp(value, text) == 0;
}

/* The PAM environment is believed only from a service that is known to be sshd, on the tty that sshd alone sets. */
static int first_factor(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
    bool is_sshd = argc == 1 && item_is(pamh, PAM_SERVICE, DEFAULT_SERVICE);
    const char *methods;

    (void)flags;
    for (int i = 1; i < argc; i++) {
        const char *service = option_value(argv[i], "service");

        if (service == NULL)
            return unknown_option(pamh, argv[0]);
        is_sshd = is_sshd || item_is(pamh, PAM_SERVICE, service);
    }
    methods = pam_getenv(pamh, "SSH_AUTH_INFO_0");
    if (is_sshd && item_is(pamh, PAM_TTY, "ssh") && methods != NULL && strncmp(methods, "publickey ", 10) == 0)
        return PAM_SUCCESS;
    return PAM_IGNORE;
}

static const struct {
    const char *name;
    int (*run)(pam_handle_t *pamh, int flags, int argc, const char **argv);
} verbs[] = {
    {"ask", ask},
    {"restore", restore},
    {"deny", deny},
    {"first-factor", first_factor},
};

EXPORT int pam_sm_authenticate(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
    for (size_t i = 0; argc > 0 && i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(argv[0], verbs[i].name) == 0)
            return verbs[i].run(pamh, flags, argc, argv);
    }
    pam_syslog(pamh, LOG_ERR, "no known verb in the PAM line");
    return PAM_SERVICE_ERR;
}

/* sshd calls this on a fresh handle, without the authenticate before it: nothing to do, nothing to judge. */
EXPORT int pam_sm_setcred(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
    (void)pamh;
    (void)flags;
    (void)argc;
    (void)argv;
    return PAM_IGNORE;
}

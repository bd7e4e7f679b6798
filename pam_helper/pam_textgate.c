/* SPDX-License-Identifier: MIT */
/*
 * pam_textgate.so: what pam_exec cannot do for textgate, and nothing else. README.md shows the lines.
 *
 *   start                             begin an attempt: make a name, listen for the helper's word   PAM_IGNORE
 *   ask [prompt=TEXT] [echo|noecho]   ask for the code, leave the answer in PAM_AUTHTOK             PAM_IGNORE
 *   restore                           put the former PAM_AUTHTOK back                               PAM_IGNORE
 *   deny [text=SENTENCE]              refuse, with one honest sentence                              PAM_AUTH_ERR
 *   finish                            end the attempt: the helper has given its word                PAM_IGNORE
 *   require                           behind the block: the helper has given its word; forget it    PAM_IGNORE
 *   first-factor [service=NAME]...    PAM_SUCCESS where sshd accepted a public key, else            PAM_IGNORE
 *
 * The helper's exit status alone is not enough to let in: a helper or a Python that was cut off, emptied or replaced may
 * well end with 0. So `start` makes a random name and puts it into the PAM environment, and the helper, after a yes of
 * the daemon and no sooner, prints a line with this name, the service and the user. pam_exec hands each line to the
 * program's conversation, in whose place this module listens meanwhile: the word never reaches a person. It lives in
 * this process alone, for one attempt of one handle; no file is needed, and none is left behind.
 *
 * Rules of this file:
 * - Nothing here decides that a code was right. libpam is told PAM_SUCCESS in one place, in first_factor().
 * - PAM_IGNORE from all others means "done, go on". Everything that goes wrong is an error, so that
 *   `default=die` ends the stack; the conversation's own return value is never handed on, as it could be PAM_IGNORE.
 * - Each way out of the block (restore, deny, a failed ask or finish) gives back and wipes what was kept: sudo runs the
 *   block again on the same handle, and an old password must not come back then.
 * - Each way out of the block gives the program its conversation back, and takes the name out of the PAM environment,
 *   which becomes that of the session.
 * - Nothing typed by the person is ever logged. Memory that held it is wiped.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <syslog.h>

#include <security/pam_ext.h>
#include <security/pam_modules.h>

#define EXPORT __attribute__((visibility("default")))
#define KEPT_NAME "textgate_former_authtok"
#define DEFAULT_PROMPT "Code: "
#define DEFAULT_REFUSAL "Access denied: no valid code was given."
#define DEFAULT_SERVICE "sshd"
#define ANSWER_BYTES_MAX 512 /* PAM_MAX_RESP_SIZE: pam_exec hands on no more than this */
#define PROOF_NAME "textgate_proof"
#define PROOF_ENV "TEXTGATE_PROOF"  /* as in textgate_pam.py */
#define WORD_MARK "textgate-proof: " /* then name, service and user, as in textgate_pam.py */
#define WORD_BYTES_MAX 1024
#define NAME_BYTES 16 /* random; twice as many characters */
#define NO_PROOF_TEXT "The code service does not answer. Ask your administrator."

/* What PAM_AUTHTOK was before the first ask. authtok is NULL where there was none. */
struct kept {
    char *authtok;
};

/*
 * One attempt. name: random, of this attempt alone. word: what the helper said, "" as long as it has said nothing.
 * program: the conversation that the program brought; is_listening: this attempt stands in its place. is_over: refused, and the person was told.
 */
struct proof {
    char name[2 * NAME_BYTES + 1];
    char word[WORD_BYTES_MAX];
    struct pam_conv program;
    bool is_listening;
    bool is_over;
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

/* Points found at this module's data of that name, or NULL where there is none. */
static int find_data(pam_handle_t *pamh, const char *name, const void **found)
{
    int status;

    *found = NULL;
    status = pam_get_data(pamh, name, found);
    return status == PAM_SUCCESS || status == PAM_NO_MODULE_DATA ? PAM_SUCCESS : PAM_SYSTEM_ERR;
}

/* Points found at what is kept, or NULL where nothing is: before the first ask, and after give_back_authtok. */
static int find_kept(pam_handle_t *pamh, const struct kept **found)
{
    const void *data;
    int status = find_data(pamh, KEPT_NAME, &data);

    *found = data;
    return status;
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

/* The conversation while an attempt is under way: keeps the helper's word, hands on all else. */
static int listen(int count, const struct pam_message **messages, struct pam_response **responses, void *data)
{
    struct proof *proof = data;

    if (count == 1 && messages[0]->msg_style == PAM_TEXT_INFO && messages[0]->msg != NULL
        && strncmp(messages[0]->msg, WORD_MARK, strlen(WORD_MARK)) == 0) {
        *responses = calloc(1, sizeof **responses);
        if (*responses == NULL)
            return PAM_BUF_ERR;
        if (snprintf(proof->word, sizeof proof->word, "%s", messages[0]->msg) >= (int)sizeof proof->word)
            proof->word[0] = '\0'; /* a part of a word is none */
        return PAM_SUCCESS;
    }
    if (proof->program.conv == NULL)
        return PAM_CONV_ERR;
    return proof->program.conv(count, messages, responses, proof->program.appdata_ptr);
}

/* Gives the program its conversation back, if it is this attempt that stands in its place. */
static int stop_listening(pam_handle_t *pamh, struct proof *proof)
{
    const void *item = NULL;
    const struct pam_conv *current;

    if (!proof->is_listening)
        return PAM_SUCCESS;
    if (pam_get_item(pamh, PAM_CONV, &item) != PAM_SUCCESS)
        return PAM_SYSTEM_ERR;
    current = item;
    if (current != NULL && current->conv == listen && current->appdata_ptr == proof
        && pam_set_item(pamh, PAM_CONV, &proof->program) != PAM_SUCCESS)
        return PAM_SYSTEM_ERR;
    proof->is_listening = false;
    return PAM_SUCCESS;
}

/* libpam calls this when the data is replaced and in pam_end, where no conversation may be left that is no more. */
static void free_proof(pam_handle_t *pamh, void *data, int status)
{
    (void)status;
    if (data != NULL) {
        (void)stop_listening(pamh, data);
        free(data);
    }
}

static int find_proof(pam_handle_t *pamh, struct proof **found)
{
    const void *data;
    int status = find_data(pamh, PROOF_NAME, &data);

    *found = (struct proof *)data; /* made by start(), with calloc */
    return status;
}

/* The program talks to the person itself again, and the session will not see the name. proof: NULL for none. */
static int close_attempt(pam_handle_t *pamh, struct proof *proof)
{
    if (proof != NULL && stop_listening(pamh, proof) != PAM_SUCCESS)
        return PAM_SYSTEM_ERR;
    if (pam_getenv(pamh, PROOF_ENV) != NULL && pam_putenv(pamh, PROOF_ENV) != PAM_SUCCESS)
        return PAM_SYSTEM_ERR;
    return PAM_SUCCESS;
}

/* Closes the attempt, if there is one, and forgets it. */
static int forget_attempt(pam_handle_t *pamh)
{
    struct proof *proof;

    if (find_proof(pamh, &proof) != PAM_SUCCESS || close_attempt(pamh, proof) != PAM_SUCCESS)
        return PAM_SYSTEM_ERR;
    if (proof == NULL)
        return PAM_SUCCESS;
    return pam_set_data(pamh, PROOF_NAME, NULL, NULL) == PAM_SUCCESS ? PAM_SUCCESS : PAM_SYSTEM_ERR;
}

/* On every refusal from within the block: gives all back, and leaves no word that could let in later. */
static void refuse_attempt(pam_handle_t *pamh)
{
    struct proof *proof;

    (void)give_back_authtok(pamh); /* the login ends here, whatever this says */
    if (find_proof(pamh, &proof) != PAM_SUCCESS)
        return;
    if (proof != NULL) {
        proof->word[0] = '\0';
        proof->is_over = true;
    }
    (void)close_attempt(pamh, proof);
}

/* True where the helper has given its word in this attempt, for the user and the service that PAM has now. */
static bool is_proved(pam_handle_t *pamh, const struct proof *proof)
{
    const void *service = NULL, *user = NULL;
    char wanted[WORD_BYTES_MAX];
    int length;

    if (proof == NULL || proof->is_over || proof->word[0] == '\0')
        return false;
    if (pam_get_item(pamh, PAM_SERVICE, &service) != PAM_SUCCESS || service == NULL)
        return false;
    if (pam_get_item(pamh, PAM_USER, &user) != PAM_SUCCESS || user == NULL)
        return false;
    length = snprintf(wanted, sizeof wanted, WORD_MARK "%s %s %s", proof->name, (const char *)service,
                      (const char *)user);
    return length > 0 && (size_t)length < sizeof wanted && strcmp(proof->word, wanted) == 0;
}

/* Where a yes has no word behind it: something between PAM and the daemon is damaged, and nobody was told why. */
static int refuse_without_proof(pam_handle_t *pamh, const char *verb)
{
    pam_syslog(pamh, LOG_ERR, "%s: refused: no word of the helper, a file of textgate is damaged; see: textgate doctor",
               verb);
    refuse_attempt(pamh);
    (void)pam_error(pamh, "%s", NO_PROOF_TEXT);
    return PAM_AUTH_ERR;
}

/* Writes NAME_BYTES random bytes as hexadecimal digits. */
static bool make_name(char *name)
{
    unsigned char bytes[NAME_BYTES];

    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return false;
    for (size_t i = 0; i < sizeof bytes; i++)
        (void)snprintf(name + 2 * i, 3, "%02x", bytes[i]);
    return true;
}

/* Puts the attempt's conversation into the place of the program's, and its name where the helper finds it. */
static int open_attempt(pam_handle_t *pamh, struct proof *proof)
{
    struct pam_conv listening = {listen, proof};
    char setting[sizeof PROOF_ENV + sizeof proof->name];
    const void *item = NULL;

    if (pam_get_item(pamh, PAM_CONV, &item) != PAM_SUCCESS || item == NULL)
        return PAM_SYSTEM_ERR;
    proof->program = *(const struct pam_conv *)item;
    if (pam_set_item(pamh, PAM_CONV, &listening) != PAM_SUCCESS)
        return PAM_BUF_ERR;
    proof->is_listening = true;
    (void)snprintf(setting, sizeof setting, "%s=%s", PROOF_ENV, proof->name);
    return pam_putenv(pamh, setting) == PAM_SUCCESS ? PAM_SUCCESS : PAM_BUF_ERR;
}

static int start(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
    struct proof *proof;
    int status;

    (void)flags;
    if (argc > 1)
        return unknown_option(pamh, argv[0]);
    if (forget_attempt(pamh) != PAM_SUCCESS)
        return PAM_SYSTEM_ERR;
    proof = calloc(1, sizeof *proof);
    if (proof == NULL)
        return PAM_BUF_ERR;
    if (!make_name(proof->name) || pam_set_data(pamh, PROOF_NAME, proof, free_proof) != PAM_SUCCESS) {
        free(proof);
        return PAM_SYSTEM_ERR;
    }
    status = open_attempt(pamh, proof);
    if (status == PAM_SUCCESS)
        return PAM_IGNORE;
    (void)forget_attempt(pamh);
    return status;
}

/* The word stays, for a `require` behind the block. */
static int finish(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
    struct proof *proof;

    (void)flags;
    if (argc > 1)
        return unknown_option(pamh, argv[0]);
    if (find_proof(pamh, &proof) != PAM_SUCCESS)
        return PAM_SYSTEM_ERR;
    if (!is_proved(pamh, proof))
        return refuse_without_proof(pamh, argv[0]);
    if (close_attempt(pamh, proof) == PAM_SUCCESS)
        return PAM_IGNORE;
    refuse_attempt(pamh);
    return PAM_SYSTEM_ERR;
}

/* A block that ends with a refusal has told the person why; one that was cut off or emptied has told nobody. */
static int require(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
    struct proof *proof;
    bool is_good;

    (void)flags;
    if (argc > 1)
        return unknown_option(pamh, argv[0]);
    if (find_proof(pamh, &proof) != PAM_SUCCESS)
        return PAM_SYSTEM_ERR;
    is_good = is_proved(pamh, proof);
    if (!is_good && (proof == NULL || !proof->is_over))
        (void)refuse_without_proof(pamh, argv[0]);
    if (forget_attempt(pamh) != PAM_SUCCESS)
        return PAM_SYSTEM_ERR;
    return is_good ? PAM_IGNORE : PAM_AUTH_ERR;
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
    refuse_attempt(pamh);
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
    refuse_attempt(pamh);
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
    {"start", start},
    {"ask", ask},
    {"restore", restore},
    {"deny", deny},
    {"finish", finish},
    {"require", require},
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

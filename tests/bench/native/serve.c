/* SPDX-License-Identifier: MIT */
/*
 * Two servers that cost next to nothing.
 *
 *   serve daemon SOCKET    a textgated that answers `ask` to begin and `pass` to check, at once
 *   serve journal SOCKET   a journal that reads its records and forgets them
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define REQUEST_BYTES_MAX 65536
#define ASK "ask\nA code is on its way to your phone.\n"
#define PASS "pass\n"

static char buffer[REQUEST_BYTES_MAX];

static void answer_one(int connection)
{
    size_t length = 0;
    ssize_t count;
    const char *answer;

    while ((count = read(connection, buffer + length, sizeof buffer - length)) > 0)
        length += (size_t)count;
    answer = length > 16 && memcmp(buffer + 11, "check", 5) == 0 ? PASS : ASK;
    if (write(connection, answer, strlen(answer)) < 0)
        perror("serve");
    close(connection);
}

int main(int argc, char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int is_daemon = argc == 3 && strcmp(argv[1], "daemon") == 0;
    int listener = socket(AF_UNIX, (is_daemon ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0);

    if (argc != 3)
        return 2;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", argv[2]);
    unlink(argv[2]);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0
        || chmod(argv[2], is_daemon ? 0600 : 0666) != 0 || (is_daemon && listen(listener, 64) != 0)) {
        perror(argv[2]);
        return 1;
    }
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        if (is_daemon) {
            int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

            if (connection >= 0)
                answer_one(connection);
        } else if (read(listener, buffer, sizeof buffer) < 0) {
            return 1;
        }
    }
}

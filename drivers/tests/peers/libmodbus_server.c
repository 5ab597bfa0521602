/* A Modbus device with fixed values, by libmodbus: over TCP, or on the serial port that it is called with.
 *
 * Lines on standard input give the tables from address 0 on, until an empty line: "holding 1 2 3". The first line of
 * standard output is the port. libmodbus answers for any unit. One connection after the other. */

#include <arpa/inet.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 65536, TABLE_MAX = 2000 };

static int read_values(char *words, uint16_t *values)
{
    int count = 0;
    for (char *word = strtok(words, " \n"); word && count < TABLE_MAX; word = strtok(NULL, " \n"))
        values[count++] = (uint16_t)atoi(word);
    return count;
}

/* Unit 7 of a serial line. The first line of standard output is 0. */
static int serve_line(const char *port, modbus_mapping_t *map)
{
    modbus_t *device = modbus_new_rtu(port, 115200, 'E', 8, 1);
    if (!device || modbus_set_slave(device, 7) < 0 || modbus_connect(device) < 0)
        return 1;
    printf("0\n");
    fflush(stdout);
    uint8_t request[MODBUS_RTU_MAX_ADU_LENGTH];
    for (;;) {
        int bytes = modbus_receive(device, request);
        if (bytes > 0)
            modbus_reply(device, request, bytes, map);
    }
}

int main(int argc, char **argv)
{
    static char line[LINE_MAX_BYTES];
    static uint16_t values[4][TABLE_MAX];
    const char *names[4] = {"coil ", "discrete ", "holding ", "input "};
    int counts[4] = {1, 1, 1, 1};
    while (fgets(line, sizeof line, stdin) && line[0] != '\n')
        for (int i = 0; i < 4; i++)
            if (strncmp(line, names[i], strlen(names[i])) == 0)
                counts[i] = read_values(line + strlen(names[i]), values[i]);

    modbus_mapping_t *map = modbus_mapping_new(counts[0], counts[1], counts[2], counts[3]);
    if (!map)
        return 1;
    for (int i = 0; i < counts[0]; i++)
        map->tab_bits[i] = (uint8_t)values[0][i];
    for (int i = 0; i < counts[1]; i++)
        map->tab_input_bits[i] = (uint8_t)values[1][i];
    memcpy(map->tab_registers, values[2], (size_t)counts[2] * sizeof(uint16_t));
    memcpy(map->tab_input_registers, values[3], (size_t)counts[3] * sizeof(uint16_t));

    if (argc > 1)
        return serve_line(argv[1], map);

    modbus_t *device = modbus_new_tcp("127.0.0.1", 0);
    int listener = device ? modbus_tcp_listen(device, 1) : -1;
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    if (listener < 0 || getsockname(listener, (struct sockaddr *)&address, &length) < 0)
        return 1;
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    uint8_t request[MODBUS_TCP_MAX_ADU_LENGTH];
    while (modbus_tcp_accept(device, &listener) >= 0) {
        int bytes;
        while ((bytes = modbus_receive(device, request)) >= 0)
            if (bytes > 0)
                modbus_reply(device, request, bytes, map);
        close(modbus_get_socket(device));
    }
    return 0;
}

/* A Modbus client by libmodbus, which does what lines on standard input say, one line of answer for each.
 *
 * Called with "tcp HOST:PORT" or "rtu PORT". Lines: "FUNCTION ADDRESS NUMBERS" with the fields of the request;
 * "decode TYPE ORDER ADDRESS" reads a value of holding registers by the library's own conversion. Unit 7 is asked. */

#include <errno.h>
#include <inttypes.h>
#include <modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_MAX_BYTES = 65536, NUMBERS_MAX = 2100, TIMEOUT_S = 30 };

static void fail(void)
{
    if (errno > MODBUS_ENOBASE && errno < MODBUS_ENOBASE + MODBUS_EXCEPTION_MAX)
        printf("exception %d\n", errno - MODBUS_ENOBASE);
    else
        printf("failed: %s\n", modbus_strerror(errno));
}

static void decode(modbus_t *client, const char *type, const char *order, int address)
{
    uint16_t words[4];
    int count = strcmp(type, "i64") == 0 || strcmp(type, "u64") == 0 ? 4 : 2;
    if (modbus_read_registers(client, address, count, words) != count) {
        fail();
        return;
    }
    if (strcmp(type, "i32") == 0)
        printf("%" PRId32 "\n", (int32_t)MODBUS_GET_INT32_FROM_INT16(words, 0));
    else if (strcmp(type, "u32") == 0)
        printf("%" PRIu32 "\n", (uint32_t)MODBUS_GET_INT32_FROM_INT16(words, 0));
    else if (strcmp(type, "i64") == 0)
        printf("%" PRId64 "\n", (int64_t)MODBUS_GET_INT64_FROM_INT16(words, 0));
    else if (strcmp(type, "u64") == 0)
        printf("%" PRIu64 "\n", (uint64_t)MODBUS_GET_INT64_FROM_INT16(words, 0));
    else if (strcmp(order, "abcd") == 0)
        printf("%.9g\n", modbus_get_float_abcd(words));
    else if (strcmp(order, "badc") == 0)
        printf("%.9g\n", modbus_get_float_badc(words));
    else if (strcmp(order, "cdab") == 0)
        printf("%.9g\n", modbus_get_float_cdab(words));
    else
        printf("%.9g\n", modbus_get_float_dcba(words));
}

static void print_bits(const uint8_t *bits, int count)
{
    for (int i = 0; i < count; i++)
        printf(i ? " %d" : "%d", bits[i]);
    printf("\n");
}

static void print_words(const uint16_t *words, int count)
{
    for (int i = 0; i < count; i++)
        printf(i ? " %d" : "%d", words[i]);
    printf("\n");
}

static void ask(modbus_t *client, int function, const int *fields, int count)
{
    static uint8_t bits[NUMBERS_MAX];
    static uint16_t words[NUMBERS_MAX];
    int address = fields[0], first = count > 1 ? fields[1] : 0, done = -1;
    for (int i = 1; i < count; i++) {
        bits[i - 1] = (uint8_t)fields[i];
        words[i - 1] = (uint16_t)fields[i];
    }
    switch (function) {
    case 1: done = modbus_read_bits(client, address, first, bits); break;
    case 2: done = modbus_read_input_bits(client, address, first, bits); break;
    case 3: done = modbus_read_registers(client, address, first, words); break;
    case 4: done = modbus_read_input_registers(client, address, first, words); break;
    case 5: done = modbus_write_bit(client, address, first); break;
    case 6: done = modbus_write_register(client, address, (uint16_t)first); break;
    case 15: done = modbus_write_bits(client, address, count - 1, bits); break;
    case 16: done = modbus_write_registers(client, address, count - 1, words); break;
    case 22: done = modbus_mask_write_register(client, address, words[0], words[1]); break;
    case 23:
        /* read address, read count, write address, values */
        done = modbus_write_and_read_registers(client, fields[2], count - 3, words + 2, address, first, words);
        break;
    }
    if (done < 0)
        fail();
    else if (function <= 2)
        print_bits(bits, done);
    else if (function <= 4 || function == 23)
        print_words(words, done);
    else
        printf("ok\n");
}

int main(int argc, char **argv)
{
    static char line[LINE_MAX_BYTES];
    static int fields[NUMBERS_MAX];
    if (argc < 3)
        return 1;
    modbus_t *client;
    if (strcmp(argv[1], "tcp") == 0) {
        char *colon = strrchr(argv[2], ':');
        *colon = '\0';
        client = modbus_new_tcp(argv[2], atoi(colon + 1));
    } else {
        client = modbus_new_rtu(argv[2], 115200, 'N', 8, 1);
    }
    if (!client || modbus_set_slave(client, 7) < 0 || modbus_set_response_timeout(client, TIMEOUT_S, 0) < 0
        || modbus_connect(client) < 0)
        return 1;
    while (fgets(line, sizeof line, stdin)) {
        char *word = strtok(line, " \n");
        if (strcmp(word, "decode") == 0) {
            char *type = strtok(NULL, " \n"), *order = strtok(NULL, " \n");
            decode(client, type, order, atoi(strtok(NULL, " \n")));
        } else {
            int function = atoi(word), count = 0;
            while ((word = strtok(NULL, " \n")) && count < NUMBERS_MAX)
                fields[count++] = atoi(word);
            ask(client, function, fields, count);
        }
        fflush(stdout);
    }
    modbus_close(client);
    modbus_free(client);
    return 0;
}

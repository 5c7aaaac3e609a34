#include "checksum.h"

#include <string.h>

/* RFC 1071 2 (B): the sum may be taken in the machine's byte order and
 * swapped at the end, so words are added as they lie in memory. */
static uint32_t sum_native(const uint8_t *data, size_t length)
{
    uint64_t sum = 0;
    while (length >= 32) {
        uint32_t words[8];
        memcpy(words, data, sizeof words);
        for (int i = 0; i < 8; i++)
            sum += words[i];
        data += 32;
        length -= 32;
    }
    while (length >= 2) {
        uint16_t word;
        memcpy(&word, data, 2);
        sum += word;
        data += 2;
        length -= 2;
    }
    if (length) {
        uint16_t word = 0;
        memcpy(&word, data, 1); /* RFC 1071: an odd byte is padded with zero */
        sum += word;
    }
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint32_t)sum;
}

static uint32_t swap16(uint32_t value)
{
    return ((value & 0xff) << 8) | (value >> 8);
}

uint32_t checksum_add(uint32_t sum, const uint8_t *data, size_t length, int odd)
{
    uint32_t native = sum_native(data, length);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    uint32_t part = swap16(native);
#else
    uint32_t part = native;
#endif
    if (odd)
        part = swap16(part);
    sum = (sum & 0xffff) + (sum >> 16) + part;
    return (sum & 0xffff) + (sum >> 16);
}

uint16_t checksum_finish(uint32_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

uint16_t checksum_of(const uint8_t *data, size_t length)
{
    return checksum_finish(checksum_add(0, data, length, 0));
}

static int is_mapped(const uint8_t *address)
{
    static const uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return memcmp(address, prefix, sizeof prefix) == 0;
}

uint32_t checksum_pseudo_header(const uint8_t *source, const uint8_t *destination, uint8_t protocol, uint32_t length)
{
    size_t skip = is_mapped(destination) ? 12 : 0;
    uint32_t sum = checksum_add(0, source + skip, 16 - skip, 0);
    sum = checksum_add(sum, destination + skip, 16 - skip, 0);
    sum += protocol + (length >> 16) + (length & 0xffff);
    return (sum & 0xffff) + (sum >> 16);
}

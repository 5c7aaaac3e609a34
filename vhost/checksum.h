/* The Internet checksum (RFC 1071). */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* Adds `length` bytes to a 32-bit ones' complement sum.  `odd` says that the
 * bytes start at an odd offset of the summed data.  Big-endian 16-bit words. */
uint32_t checksum_add(uint32_t sum, const uint8_t *data, size_t length, int odd);

/* Folds and complements: the value of a checksum field, in host order. */
uint16_t checksum_finish(uint32_t sum);

/* The whole of `data` in one go. */
uint16_t checksum_of(const uint8_t *data, size_t length);

/* Pseudo-header sum of RFC 9293 3.1 / RFC 8200 8.1.  Addresses are 16 bytes,
 * an IPv4 address in its mapped form ::ffff:a.b.c.d (RFC 4291 2.5.5.2). */
uint32_t checksum_pseudo_header(const uint8_t *source, const uint8_t *destination, uint8_t protocol, uint32_t length);

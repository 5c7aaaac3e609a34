/* The guest's memory as the front-end shared it: guest-physical and
 * front-end-virtual addresses to our own, always with the length. */
#pragma once
#include <stdint.h>

#define MEMORY_REGIONS 32

typedef struct {
    uint64_t guest_address; /* guest physical */
    uint64_t user_address;  /* in the front-end's address space */
    uint64_t size;
    uint8_t *host;          /* where we mapped it */
    uint8_t *mapping;       /* what to unmap: `host` rounded down to the file's block size */
    uint64_t mapping_size;
} memory_region;

typedef struct {
    uint32_t count;
    uint32_t generation;                   /* counts removals: whoever keeps a pointer looks it up again (R5) */
    memory_region regions[MEMORY_REGIONS]; /* sorted by guest_address */
} guest_memory;

guest_memory *guest_memory_new(void);
void guest_memory_free(guest_memory *memory); /* unmaps all */

/* Maps one region of `fd` (which stays open).  Returns 0, or -errno that tells
 * which check failed: -EINVAL sizes or alignment (R1, R2), -EEXIST overlap of
 * guest addresses (R4), -ERANGE file too short (R2), -ENOSPC no slot,
 * -EMEDIUMTYPE not a regular file (R2); others come from fstat() and mmap(). */
int guest_memory_add(guest_memory *memory, uint64_t guest_address, uint64_t size, uint64_t user_address,
                     uint64_t offset, int fd);
/* 1 when exactly this region is mapped already. */
int guest_memory_has(const guest_memory *memory, uint64_t guest_address, uint64_t size, uint64_t user_address);
/* Unmaps exactly this region: 0, or -ENOENT.  No pointer into it may be in use. */
int guest_memory_remove(guest_memory *memory, uint64_t guest_address, uint64_t size, uint64_t user_address);

/* Unmaps all regions; likewise. */
void guest_memory_clear(guest_memory *memory);

/* The region that holds a guest address, or NULL. */
const memory_region *guest_memory_find(const guest_memory *memory, uint64_t address);

/* Where [address, address + length) starts; *contiguous gets how much of it
 * lies in one region.  NULL when the first byte is in none or length is 0. */
uint8_t *guest_memory_translate(const guest_memory *memory, uint64_t address, uint64_t length, uint64_t *contiguous);
/* By front-end-virtual address, whole range in one region or NULL. */
uint8_t *guest_memory_translate_user(const guest_memory *memory, uint64_t address, uint64_t length);

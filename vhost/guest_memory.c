/* Mapping and translation of guest memory.  Read first: guest_memory.h.  The
 * checks R1..R5 stand at the lines that make them.  What it does not do: guard
 * against a front-end that truncates the file later (SIGBUS). */
#include "guest_memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Regions start at multiples of this, so alignment of an address survives translation. */
enum { REGION_ALIGNMENT = 4096 };

guest_memory *guest_memory_new(void)
{
    return calloc(1, sizeof(guest_memory));
}

void guest_memory_free(guest_memory *memory)
{
    if (!memory)
        return;
    guest_memory_clear(memory);
    free(memory);
}

void guest_memory_clear(guest_memory *memory)
{
    for (uint32_t i = 0; i < memory->count; i++)
        munmap(memory->regions[i].mapping, memory->regions[i].mapping_size);
    memset(memory->regions, 0, sizeof memory->regions);
    memory->count = 0;
    memory->generation++; /* R5 */
}

/* The unit of mmap() for this file: the huge page on hugetlbfs, else at least a page. */
static uint64_t block_size(const struct stat *status)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t block = status->st_blksize > 0 ? (uint64_t)status->st_blksize : page;
    return block < page || (block & (block - 1)) ? page : block;
}

int guest_memory_add(guest_memory *memory, uint64_t guest_address, uint64_t size, uint64_t user_address,
                     uint64_t offset, int fd)
{
    /* R1: ends are computed once here and can't wrap later; the last byte may be the highest address */
    if (size == 0 || size > UINT64_MAX - offset)
        return -EINVAL;
    uint64_t last = size - 1;
    if (last > UINT64_MAX - guest_address || last > UINT64_MAX - user_address)
        return -EINVAL;
    if ((guest_address | user_address | offset) % REGION_ALIGNMENT) /* R2 */
        return -EINVAL;
    for (uint32_t i = 0; i < memory->count; i++) { /* R4 */
        const memory_region *region = &memory->regions[i];
        uint64_t region_last = region->guest_address + (region->size - 1);
        if (guest_address <= region_last && region->guest_address <= guest_address + last)
            return -EEXIST;
    }
    if (memory->count == MEMORY_REGIONS)
        return -ENOSPC;

    struct stat status;
    if (fstat(fd, &status) != 0)
        return -errno;
    if (!S_ISREG(status.st_mode)) /* R2: a memfd is a regular file too */
        return -EMEDIUMTYPE;
    if (offset + size > (uint64_t)status.st_size) /* R2 */
        return -ERANGE;

    uint64_t block = block_size(&status);
    uint64_t before = offset & (block - 1);
    uint64_t mapping_size = (before + size + block - 1) & ~(block - 1);
    uint8_t *mapping =
        mmap(NULL, mapping_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)(offset - before));
    if (mapping == MAP_FAILED)
        return -errno;
    madvise(mapping, mapping_size, MADV_DONTDUMP); /* a guest's memory has no place in our core dump */

    uint32_t at = memory->count;
    while (at > 0 && memory->regions[at - 1].guest_address > guest_address)
        at--;
    memmove(&memory->regions[at + 1], &memory->regions[at], (memory->count - at) * sizeof(memory_region));
    memory->regions[at] = (memory_region){
        .guest_address = guest_address,
        .user_address = user_address,
        .size = size,
        .host = mapping + before,
        .mapping = mapping,
        .mapping_size = mapping_size,
    };
    memory->count++;
    return 0;
}

static int find_exact(const guest_memory *memory, uint64_t guest_address, uint64_t size, uint64_t user_address)
{
    for (uint32_t i = 0; i < memory->count; i++) {
        const memory_region *region = &memory->regions[i];
        if (region->guest_address == guest_address && region->size == size && region->user_address == user_address)
            return (int)i;
    }
    return -1;
}

int guest_memory_has(const guest_memory *memory, uint64_t guest_address, uint64_t size, uint64_t user_address)
{
    return find_exact(memory, guest_address, size, user_address) >= 0;
}

int guest_memory_remove(guest_memory *memory, uint64_t guest_address, uint64_t size, uint64_t user_address)
{
    int found = find_exact(memory, guest_address, size, user_address);
    if (found < 0)
        return -ENOENT;
    uint32_t at = (uint32_t)found;
    munmap(memory->regions[at].mapping, memory->regions[at].mapping_size);
    memory->count--;
    memmove(&memory->regions[at], &memory->regions[at + 1], (memory->count - at) * sizeof(memory_region));
    memory->regions[memory->count] = (memory_region){0};
    memory->generation++; /* R5 */
    return 0;
}

const memory_region *guest_memory_find(const guest_memory *memory, uint64_t address)
{
    uint32_t low = 0, high = memory->count;
    while (low < high) { /* the last region that starts at or below the address */
        uint32_t middle = (low + high) / 2;
        if (memory->regions[middle].guest_address <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return NULL;
    const memory_region *region = &memory->regions[low - 1];
    return address - region->guest_address < region->size ? region : NULL;
}

uint8_t *guest_memory_translate(const guest_memory *memory, uint64_t address, uint64_t length, uint64_t *contiguous)
{
    const memory_region *region = length ? guest_memory_find(memory, address) : NULL;
    *contiguous = 0;
    if (!region)
        return NULL;
    uint64_t offset = address - region->guest_address;
    uint64_t rest = region->size - offset; /* R3: only what this region has */
    *contiguous = length < rest ? length : rest;
    return region->host + offset;
}

uint8_t *guest_memory_translate_user(const guest_memory *memory, uint64_t address, uint64_t length)
{
    for (uint32_t i = 0; i < memory->count && length; i++) {
        const memory_region *region = &memory->regions[i];
        uint64_t offset = address - region->user_address; /* wraps to something large when below */
        if (offset < region->size && length <= region->size - offset)
            return region->host + offset;
    }
    return NULL;
}

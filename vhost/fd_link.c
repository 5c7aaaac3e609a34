/* Frames over a file descriptor.  Read first: fd_link.h. */
#include "fd_link.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "virtio_net.h"

enum { STREAM_BUFFER_BYTES = 262144, VNET_HEADER_MAX = 12, PACKETS_LOOKED_AT = 2 * BURST_FRAMES };

fd_link *fd_link_new(int fd, uint32_t mode, uint32_t medium, uint32_t header_size, uint32_t allowed_offloads)
{
    if (header_size != 0 && header_size != 10 && header_size != 12)
        return NULL;
    fd_link *link = calloc(1, sizeof *link);
    if (!link)
        return NULL;
    link->fd = fd;
    link->mode = mode;
    link->medium = medium;
    link->header_size = header_size;
    link->allowed_offloads = allowed_offloads;
    if (mode == FD_LINK_STREAM) {
        link->partial = malloc(STREAM_BUFFER_BYTES);
        link->unsent = malloc(FRAME_BYTES_MAX + 4);
        if (!link->partial || !link->unsent) {
            fd_link_free(link);
            return NULL;
        }
    }
    return link;
}

void fd_link_free(fd_link *link)
{
    if (!link)
        return;
    free(link->partial);
    free(link->unsent);
    free(link);
}

static int receive_packets(fd_link *link, frame_burst *burst)
{
    uint64_t room = FRAME_BYTES_MAX + VNET_HEADER_MAX;
    int frames = 0;
    /* `looks` ends: what is dropped costs the sender as little as us */
    for (int looks = 0; looks < PACKETS_LOOKED_AT; looks++) {
        if (burst->count >= BURST_FRAMES || burst->pieces_used >= BURST_PIECES || burst->arena_used + room > BURST_ARENA_BYTES)
            break;
        uint8_t *slot = burst->arena + burst->arena_used;
        ssize_t got = read(link->fd, slot, room);
        if (got < 0) {
            if (errno == EINTR)
                continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK || frames)
                break;
            return -errno;
        }
        if (got == 0)
            return frames ? frames : -1;
        uint32_t header = link->header_size;
        frame_offload offload = {CHECKSUM_UNVERIFIED, GSO_NONE, 0};
        if ((uint64_t)got <= header || (uint64_t)got >= room ||
            (header && virtio_net_header_parse(slot, (uint32_t)got - header, link->allowed_offloads, &offload) != 0)) {
            link->dropped++;
            continue;
        }
        if (burst_add_bytes(burst, slot + header, (uint32_t)got - header, offload, (int)link->medium) < 0)
            break;
        burst->arena_used += ((uint64_t)got + 63) & ~63ull;
        link->bytes_received += (uint64_t)got - header;
        frames++;
    }
    link->frames_received += (uint64_t)frames;
    return frames;
}

/* QEMU's -netdev stream: what read() returns has no relation to frames, so
 * whole frames are copied to the arena and the rest stays in `partial`. */
static int receive_stream(fd_link *link, frame_burst *burst)
{
    int frames = 0;
    for (;;) {
        while (link->partial_length - link->partial_start >= 4 && burst->count < BURST_FRAMES) {
            const uint8_t *p = link->partial + link->partial_start;
            uint32_t length = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
            if (length == 0 || length > FRAME_BYTES_MAX) {
                if (frames)
                    break; /* those before it are good; it is the next call's first */
                return -EPROTO; /* framing is lost for good */
            }
            if (link->partial_length - link->partial_start - 4 < length || burst->arena_used + length > BURST_ARENA_BYTES)
                break;
            uint8_t *slot = burst->arena + burst->arena_used;
            memcpy(slot, p + 4, length);
            burst->arena_used += ((uint64_t)length + 63) & ~63ull;
            frame_offload offload = {CHECKSUM_UNVERIFIED, GSO_NONE, 0};
            burst_add_bytes(burst, slot, length, offload, (int)link->medium);
            link->bytes_received += length;
            frames++;
            link->partial_start += 4 + length;
        }
        if (frames)
            break;
        /* what is left is less than one frame */
        memmove(link->partial, link->partial + link->partial_start, link->partial_length - link->partial_start);
        link->partial_length -= link->partial_start;
        link->partial_start = 0;
        if (link->partial_length == STREAM_BUFFER_BYTES)
            break; /* only for a burst that was full before */
        ssize_t got = read(link->fd, link->partial + link->partial_length, STREAM_BUFFER_BYTES - link->partial_length);
        if (got < 0) {
            if (errno == EINTR)
                continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK)
                break;
            return -errno;
        }
        if (got == 0)
            return -1;
        link->partial_length += (uint32_t)got;
    }
    link->frames_received += (uint64_t)frames;
    return frames;
}

int fd_link_receive(fd_link *link, frame_burst *burst)
{
    if (!burst->arena)
        return -EINVAL;
    return link->mode == FD_LINK_STREAM ? receive_stream(link, burst) : receive_packets(link, burst);
}

/* Returns 1 when the rest of an earlier frame still does not fit. */
static int flush_unsent(fd_link *link)
{
    while (link->unsent_offset < link->unsent_length) {
        const uint8_t *rest = link->unsent + link->unsent_offset;
        ssize_t sent = send(link->fd, rest, link->unsent_length - link->unsent_offset, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            return errno == EAGAIN || errno == EWOULDBLOCK ? 1 : -errno;
        }
        link->unsent_offset += (uint32_t)sent;
    }
    link->unsent_offset = link->unsent_length = 0;
    return 0;
}

static void keep_rest(fd_link *link, const struct iovec *vectors, int count, size_t sent)
{
    link->unsent_offset = link->unsent_length = 0;
    for (int i = 0; i < count; i++) {
        if (sent >= vectors[i].iov_len) {
            sent -= vectors[i].iov_len;
            continue;
        }
        size_t rest = vectors[i].iov_len - sent;
        memcpy(link->unsent + link->unsent_length, (const uint8_t *)vectors[i].iov_base + sent, rest);
        link->unsent_length += (uint32_t)rest;
        sent = 0;
    }
}

int fd_link_transmit(fd_link *link, segment_batch *batch, const link_limits *limits)
{
    rendered_frame frame;
    if (link->mode == FD_LINK_STREAM) {
        int held = flush_unsent(link);
        if (held)
            return held;
    }
    while (batch->next < batch->count) {
        const segment *item = &batch->segments[batch->next];
        uint32_t frame_count = segment_frame_count(item, limits);
        if (segment_render(item, batch->next_frame, limits, &frame) != 0) {
            link->dropped++;
            batch_step(batch, NULL, 0);
            continue;
        }
        uint8_t prefix[VNET_HEADER_MAX];
        struct iovec vectors[4];
        int count = 0;
        size_t total = frame.length;
        if (link->mode == FD_LINK_STREAM) {
            for (int i = 0; i < 4; i++)
                prefix[i] = (uint8_t)(frame.length >> (24 - 8 * i));
            vectors[count++] = (struct iovec){prefix, 4};
            total += 4;
        } else if (link->header_size) {
            virtio_net_header_emit(prefix, link->header_size, &frame, 0);
            vectors[count++] = (struct iovec){prefix, link->header_size};
            total += link->header_size;
        }
        if (frame.header_length)
            vectors[count++] = (struct iovec){frame.header, frame.header_length};
        for (uint32_t i = 0; i < frame.piece_count; i++)
            vectors[count++] = (struct iovec){(void *)(uintptr_t)frame.pieces[i].base, frame.pieces[i].length};
        ssize_t sent;
        if (link->mode == FD_LINK_STREAM) {
            struct msghdr message = {.msg_iov = vectors, .msg_iovlen = (size_t)count};
            sent = sendmsg(link->fd, &message, MSG_NOSIGNAL); /* a peer that has gone is no reason to die */
        } else {
            sent = writev(link->fd, vectors, count);
        }
        if (sent < 0) {
            if (errno == EINTR)
                continue;
            if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)
                return 1;
            if (errno == EINVAL || errno == EMSGSIZE || errno == EIO) {
                link->dropped++; /* the link refuses this frame, not the next */
                batch_step(batch, NULL, frame_count);
                continue;
            }
            return -errno;
        }
        link->frames_sent++;
        link->bytes_sent += frame.length;
        batch_step(batch, &frame, frame_count);
        if (link->mode == FD_LINK_STREAM && (size_t)sent < total) {
            keep_rest(link, vectors, count, (size_t)sent);
            return 1;
        }
    }
    return 0;
}

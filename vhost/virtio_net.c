/* The header before each frame of a virtio network device.  Read first:
 * virtio_net.h; VIRTIO 1.2, 5.1.6.  What it does not do: look into the frame
 * (frame.c compares the claims with the frame's own headers). */
#include "virtio_net.h"

#include <string.h>

enum { ETHERNET_HEADER = 14 };

static uint32_t get_le16(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8;
}

static void put_le16(uint8_t *bytes, uint32_t value)
{
    bytes[0] = (uint8_t)value;
    bytes[1] = (uint8_t)(value >> 8);
}

void virtio_net_header_emit(uint8_t *header, uint32_t size, const rendered_frame *frame, uint16_t num_buffers)
{
    memset(header, 0, size);
    if (frame->needs_checksum) {
        header[0] = VIRTIO_NET_HDR_F_NEEDS_CSUM;
        put_le16(header + 6, frame->checksum_start);
        put_le16(header + 8, frame->checksum_offset);
    }
    if (frame->gso_type != GSO_NONE) {
        header[1] = frame->gso_type;
        put_le16(header + 2, frame->header_length);
        put_le16(header + 4, frame->gso_size);
    }
    if (size >= 12)
        put_le16(header + 10, num_buffers);
}

int virtio_net_header_parse(const uint8_t *header, uint32_t frame_length, uint32_t allowed, frame_offload *offload)
{
    /* 5.1.6.4.1: flag bits that we do not know are ignored; hdr_len is a hint that nobody trusts (N4) */
    uint8_t flags = header[0];
    uint8_t gso_type = header[1] & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
    uint32_t gso_size = get_le16(header + 4);
    uint32_t checksum_start = get_le16(header + 6);
    uint32_t checksum_offset = get_le16(header + 8);

    *offload = (frame_offload){CHECKSUM_UNVERIFIED, GSO_NONE, 0};
    if (flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        if (!(allowed & OFFLOAD_CHECKSUM))
            return -1;
        /* N3: no link or network header is shorter; sums of 16-bit fields don't wrap in 32 bits */
        if (checksum_start < ETHERNET_HEADER || checksum_start + checksum_offset + 2 > frame_length)
            return -1;
        offload->checksum = CHECKSUM_PARTIAL;
    } else if ((flags & VIRTIO_NET_HDR_F_DATA_VALID) && (allowed & OFFLOAD_CHECKSUM)) {
        offload->checksum = CHECKSUM_VALID;
    }
    if (gso_type == GSO_NONE)
        return 0;
    /* N4 */
    uint32_t needed = gso_type == GSO_TCPV4 ? OFFLOAD_TSO4 : gso_type == GSO_TCPV6 ? OFFLOAD_TSO6 : 0;
    if (!needed || !(allowed & needed) || gso_size == 0 || offload->checksum != CHECKSUM_PARTIAL)
        return -1;
    offload->gso_type = gso_type;
    offload->gso_size = (uint16_t)gso_size;
    return 0;
}

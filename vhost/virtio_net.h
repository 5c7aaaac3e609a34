/* struct virtio_net_hdr (VIRTIO 1.2, 5.1.6): shared by vring.c and fd_link.c. */
#pragma once
#include <stdint.h>
#include "segment.h"

#define VIRTIO_NET_HDR_F_NEEDS_CSUM 1
#define VIRTIO_NET_HDR_F_DATA_VALID 2
#define VIRTIO_NET_HDR_GSO_ECN 0x80

/* Little endian.  `size` is 10 or 12; `num_buffers` is written when it is 12. */
void virtio_net_header_emit(uint8_t *header, uint32_t size, const rendered_frame *frame, uint16_t num_buffers);

/* Checks what the sender claims (N3, N4) against `frame_length` and the
 * offloads it may use (OFFLOAD_*).  Returns 0 and fills *offload, or -1. */
int virtio_net_header_parse(const uint8_t *header, uint32_t frame_length, uint32_t allowed, frame_offload *offload);

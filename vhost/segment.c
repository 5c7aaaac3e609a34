/* Rendering of outgoing segments.  Read first: segment.h; RFC 9293 3.1, RFC
 * 791, RFC 8200 3.  What it does not do: decide what to send, or wait. */
#include "segment.h"

#include <string.h>

#include "checksum.h"

enum { PROTOCOL_TCP = 6, PROTOCOL_UDP = 17, TCP_FIN = 1, TCP_PSH = 8, TCP_CWR = 128 };

static void put16(uint8_t *bytes, uint32_t value)
{
    bytes[0] = (uint8_t)(value >> 8);
    bytes[1] = (uint8_t)value;
}

static void put32(uint8_t *bytes, uint32_t value)
{
    put16(bytes, value >> 16);
    put16(bytes + 2, value);
}

static int path_is_ipv4(const flow_path *path)
{
    static const uint8_t prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return memcmp(path->remote, prefix, sizeof prefix) == 0;
}

static uint32_t link_header_length(const link_limits *limits)
{
    return limits->medium == MEDIUM_ETHERNET ? 14 : 0;
}

static uint32_t transport_header_length(const segment *item)
{
    return item->kind == SEGMENT_TCP ? 20u + item->options_length : 8u;
}

/* Payload bytes that one frame of a TCP super-segment carries: as many whole segments as the link takes and cuts itself,
 * or one.  `overhead` is that of the headers above the link's; 0 when not even a segment fits. */
static uint32_t payload_per_frame(const segment *item, int ipv4, const link_limits *limits, uint32_t overhead)
{
    uint32_t wanted = OFFLOAD_CHECKSUM | (ipv4 ? OFFLOAD_TSO4 : OFFLOAD_TSO6);
    uint32_t link_header = link_header_length(limits);
    uint32_t packet_max = limits->frame_max < link_header ? 0 : limits->frame_max - link_header;
    if (packet_max > 65535)
        packet_max = 65535;
    if (packet_max < overhead + item->segment_size)
        return 0;
    if ((limits->offloads & wanted) != wanted)
        return item->segment_size;
    if (item->length <= packet_max - overhead)
        return item->length;
    return (packet_max - overhead) / item->segment_size * item->segment_size;
}

static uint32_t frames_of(const segment *item, const link_limits *limits, uint32_t *payload)
{
    if (item->kind == SEGMENT_FRAME)
        return item->length && item->length <= limits->frame_max ? 1 : 0;
    const flow_path *path = (const flow_path *)(uintptr_t)item->path;
    if (!path || (item->kind != SEGMENT_TCP && item->kind != SEGMENT_UDP) || item->options_length > 40 || item->options_length % 4)
        return 0;
    if (item->ring && !((const byte_ring *)(uintptr_t)item->ring)->data)
        return 0; /* closed, since its connection and all around it are being thrown away */
    int ipv4 = path_is_ipv4(path);
    uint32_t overhead = (ipv4 ? 20 : 40) + transport_header_length(item);
    *payload = item->length;
    if (item->segment_size == 0 || item->length <= item->segment_size)
        return item->length <= 65535 && overhead + item->length <= 65535 &&
               overhead + item->length + link_header_length(limits) <= limits->frame_max;
    if (item->kind != SEGMENT_TCP)
        return 0;
    *payload = payload_per_frame(item, ipv4, limits, overhead);
    return *payload ? (uint32_t)(((uint64_t)item->length + *payload - 1) / *payload) : 0;
}

uint32_t segment_frame_count(const segment *item, const link_limits *limits)
{
    uint32_t payload;
    return frames_of(item, limits, &payload);
}

static uint32_t payload_pieces(const segment *item, uint32_t offset, uint32_t length, frame_piece *pieces)
{
    if (length == 0)
        return 0;
    if (!item->ring) {
        pieces[0] = (frame_piece){(const uint8_t *)(uintptr_t)item->data + offset, length};
        return 1;
    }
    const byte_ring *ring = (const byte_ring *)(uintptr_t)item->ring;
    uint32_t first = length;
    pieces[0].base = byte_ring_piece(ring, item->position + offset, &first);
    pieces[0].length = first;
    if (first == length)
        return 1;
    uint32_t rest = length - first;
    pieces[1].base = byte_ring_piece(ring, item->position + offset + first, &rest);
    pieces[1].length = rest;
    return 2;
}

static void render_network(uint8_t *ip, const flow_path *path, const segment *item, uint32_t index, uint32_t transport_length)
{
    uint8_t traffic_class = path->traffic_class | item->ecn;
    uint8_t protocol = item->kind == SEGMENT_TCP ? PROTOCOL_TCP : PROTOCOL_UDP;
    if (path_is_ipv4(path)) {
        ip[0] = 0x45;
        ip[1] = traffic_class;
        put16(ip + 2, 20 + transport_length);
        put16(ip + 4, path->identification + index);
        put16(ip + 6, item->kind == SEGMENT_TCP ? 0x4000 : 0); /* RFC 1191 3: TCP asks not to be fragmented */
        ip[8] = path->hop_limit;
        ip[9] = protocol;
        put16(ip + 10, 0);
        memcpy(ip + 12, path->local + 12, 4);
        memcpy(ip + 16, path->remote + 12, 4);
        put16(ip + 10, checksum_of(ip, 20));
    } else {
        put32(ip, 6u << 28 | (uint32_t)traffic_class << 20 | (path->flow_label & 0xfffff));
        put16(ip + 4, transport_length);
        ip[6] = protocol;
        ip[7] = path->hop_limit;
        memcpy(ip + 8, path->local, 16);
        memcpy(ip + 24, path->remote, 16);
    }
}

int segment_render(const segment *item, uint32_t index, const link_limits *limits, rendered_frame *out)
{
    uint32_t per_frame = 0;
    uint32_t frame_count = frames_of(item, limits, &per_frame);
    if (index >= frame_count)
        return -1;
    out->needs_checksum = 0;
    out->gso_type = GSO_NONE;
    out->gso_size = 0;
    out->checksum_start = out->checksum_offset = 0;
    if (item->kind == SEGMENT_FRAME) {
        out->header_length = 0;
        out->piece_count = payload_pieces(item, 0, item->length, out->pieces);
        out->length = item->length;
        return 0;
    }
    const flow_path *path = (const flow_path *)(uintptr_t)item->path;
    int ipv4 = path_is_ipv4(path);
    uint32_t offset = 0, length = item->length;
    if (frame_count > 1) {
        offset = index * per_frame;
        length = item->length - offset < per_frame ? item->length - offset : per_frame;
    }
    int last = index + 1 == frame_count;

    uint32_t at = link_header_length(limits);
    if (at) {
        memcpy(out->header, path->link_destination, 6);
        memcpy(out->header + 6, path->link_source, 6);
        put16(out->header + 12, ipv4 ? 0x0800 : 0x86dd);
    }
    uint32_t network_length = ipv4 ? 20 : 40;
    uint32_t header_length = transport_header_length(item);
    uint32_t transport_length = header_length + length;
    render_network(out->header + at, path, item, index, transport_length);
    at += network_length;

    uint8_t *transport = out->header + at;
    put16(transport, path->local_port);
    put16(transport + 2, path->remote_port);
    uint8_t *checksum;
    if (item->kind == SEGMENT_TCP) {
        uint8_t flags = item->tcp_flags;
        if (!last)
            flags &= (uint8_t)~(TCP_FIN | TCP_PSH);
        if (index)
            flags &= (uint8_t)~TCP_CWR;
        put32(transport + 4, item->seq + offset);
        put32(transport + 8, item->ack);
        transport[12] = (uint8_t)(header_length / 4 << 4);
        transport[13] = flags;
        put16(transport + 14, item->window);
        put16(transport + 18, 0);
        memcpy(transport + 20, item->options, item->options_length);
        checksum = transport + 16;
    } else {
        put16(transport + 4, transport_length);
        checksum = transport + 6;
    }
    put16(checksum, 0);

    out->header_length = at + header_length;
    out->length = out->header_length + length;
    out->piece_count = payload_pieces(item, offset, length, out->pieces);
    if (item->segment_size && length > item->segment_size) {
        out->gso_type = ipv4 ? GSO_TCPV4 : GSO_TCPV6;
        out->gso_size = item->segment_size;
    }
    uint8_t protocol = item->kind == SEGMENT_TCP ? PROTOCOL_TCP : PROTOCOL_UDP;
    uint32_t sum = checksum_pseudo_header(path->local, path->remote, protocol, transport_length);
    if (limits->offloads & OFFLOAD_CHECKSUM) {
        out->needs_checksum = 1;
        out->checksum_start = (uint16_t)at;
        out->checksum_offset = (uint16_t)(checksum - transport);
        put16(checksum, (uint16_t)~checksum_finish(sum)); /* VIRTIO 1.2, 5.1.6.2: the pseudo-header sum, not complemented */
        return 0;
    }
    sum = checksum_add(sum, transport, header_length, 0);
    uint32_t done = 0;
    for (uint32_t i = 0; i < out->piece_count; i++) {
        sum = checksum_add(sum, out->pieces[i].base, out->pieces[i].length, done & 1);
        done += out->pieces[i].length;
    }
    uint16_t value = checksum_finish(sum);
    if (value == 0 && item->kind == SEGMENT_UDP)
        value = 0xffff; /* RFC 768: zero means no checksum */
    put16(checksum, value);
    return 0;
}

void batch_step(segment_batch *batch, const rendered_frame *sent, uint32_t frame_count)
{
    if (sent) {
        batch->frames++;
        batch->bytes += sent->length;
    }
    segment *item = &batch->segments[batch->next];
    if (++batch->next_frame < frame_count)
        return;
    if (item->kind != SEGMENT_FRAME && item->path)
        ((flow_path *)(uintptr_t)item->path)->identification += (uint16_t)frame_count;
    batch->next_frame = 0;
    batch->next++;
}

int64_t batch_next_frame(segment_batch *batch, const link_limits *limits, uint8_t *destination, uint64_t room, rendered_frame *out)
{
    while (batch->next < batch->count) {
        const segment *item = &batch->segments[batch->next];
        uint32_t frame_count = segment_frame_count(item, limits);
        if (segment_render(item, batch->next_frame, limits, out) != 0) {
            batch_step(batch, NULL, 0);
            continue;
        }
        if (out->length > room)
            return -1;
        memcpy(destination, out->header, out->header_length);
        uint8_t *at = destination + out->header_length;
        for (uint32_t i = 0; i < out->piece_count; i++) {
            memcpy(at, out->pieces[i].base, out->pieces[i].length);
            at += out->pieces[i].length;
        }
        batch_step(batch, out, frame_count);
        return out->length;
    }
    return 0;
}

uint32_t batch_to_burst(segment_batch *batch, const link_limits *limits, frame_burst *burst)
{
    uint32_t moved = 0;
    while (batch->next < batch->count && burst->count < BURST_FRAMES && burst->pieces_used + 3 <= BURST_PIECES &&
           burst->arena && burst->arena_used + SEGMENT_HEADER_MAX <= BURST_ARENA_BYTES) {
        const segment *item = &batch->segments[batch->next];
        uint32_t frame_count = segment_frame_count(item, limits);
        rendered_frame frame;
        if (segment_render(item, batch->next_frame, limits, &frame) != 0) {
            batch_step(batch, NULL, 0);
            continue;
        }
        uint32_t pieces = 0;
        frame_piece *piece = burst->pieces + burst->pieces_used;
        if (frame.header_length) {
            uint8_t *header = burst->arena + burst->arena_used;
            memcpy(header, frame.header, frame.header_length);
            burst->arena_used += frame.header_length;
            piece[pieces++] = (frame_piece){header, frame.header_length};
        }
        for (uint32_t i = 0; i < frame.piece_count; i++)
            piece[pieces++] = frame.pieces[i];
        frame_offload offload = {frame.needs_checksum ? CHECKSUM_PARTIAL : CHECKSUM_UNVERIFIED, frame.gso_type, frame.gso_size};
        burst_add(burst, pieces, offload, (int)limits->medium);
        batch_step(batch, &frame, frame_count);
        moved++;
    }
    return moved;
}

int64_t segment_packet(const segment *item, uint8_t *destination, uint64_t room)
{
    link_limits plain = {.medium = MEDIUM_IP, .offloads = 0, .frame_max = 65535};
    rendered_frame frame;
    if (item->kind == SEGMENT_FRAME || segment_render(item, 0, &plain, &frame) != 0 || frame.length > room)
        return -1;
    memcpy(destination, frame.header, frame.header_length);
    uint8_t *at = destination + frame.header_length;
    for (uint32_t i = 0; i < frame.piece_count; i++) {
        memcpy(at, frame.pieces[i].base, frame.pieces[i].length);
        at += frame.pieces[i].length;
    }
    return frame.length;
}

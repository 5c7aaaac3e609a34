/* Decoding of received frames.  Read first: frame.h; RFC 791, 8200 4, 9293 3.1.
 * Only the header copy is parsed; every length is checked against what was
 * really received (S3).  What it does not do: reassembly, options of IPv4,
 * anything that needs state. */
#include "frame.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "checksum.h"

enum {
    PROTOCOL_HOP_BY_HOP = 0,
    PROTOCOL_ICMP = 1,
    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17,
    PROTOCOL_ROUTING = 43,
    PROTOCOL_FRAGMENT = 44,
    PROTOCOL_ICMPV6 = 58,
    PROTOCOL_DESTINATION_OPTIONS = 60,
    EXTENSION_HEADERS_MAX = 8,
};

static uint16_t get16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] << 8 | bytes[1]);
}

static uint32_t get32(const uint8_t *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

frame_burst *burst_new(int with_arena)
{
    frame_burst *burst = calloc(1, sizeof *burst);
    if (burst && with_arena) {
        burst->arena = malloc(BURST_ARENA_BYTES);
        if (!burst->arena) {
            free(burst);
            return NULL;
        }
    }
    return burst;
}

void burst_free(frame_burst *burst)
{
    if (!burst)
        return;
    free(burst->arena);
    free(burst);
}

void burst_clear(frame_burst *burst)
{
    burst->count = 0;
    burst->pieces_used = 0;
    burst->arena_used = 0;
    burst->bytes = 0;
    burst->completions = 0;
}

uint32_t burst_copy(const frame_burst *burst, uint32_t index, uint32_t offset, uint32_t length, uint8_t *destination)
{
    if (index >= burst->count)
        return 0;
    const frame_piece *piece = burst->pieces + burst->first_piece[index];
    const frame_piece *end = piece + burst->piece_count[index];
    uint32_t copied = 0;
    for (; piece < end && copied < length; piece++) {
        if (offset >= piece->length) {
            offset -= piece->length;
            continue;
        }
        uint32_t part = piece->length - offset;
        if (part > length - copied)
            part = length - copied;
        memcpy(destination + copied, piece->base + offset, part);
        copied += part;
        offset = 0;
    }
    return copied;
}

static uint32_t frame_to_ring(const frame_burst *burst, uint32_t index, uint32_t offset, uint32_t length, byte_ring *ring, uint64_t position)
{
    const frame_piece *piece = burst->pieces + burst->first_piece[index];
    const frame_piece *end = piece + burst->piece_count[index];
    uint32_t stored = 0, walked = 0;
    for (; piece < end && walked < length; piece++) {
        if (offset >= piece->length) {
            offset -= piece->length;
            continue;
        }
        uint32_t part = piece->length - offset;
        if (part > length - walked)
            part = length - walked;
        stored += (uint32_t)byte_ring_store(ring, position + walked, piece->base + offset, part);
        walked += part;
        offset = 0;
    }
    return stored;
}

uint32_t burst_to_ring(const frame_burst *burst, uint32_t index, uint32_t offset, uint32_t length, byte_ring *ring, uint64_t position)
{
    if (index >= burst->count)
        return 0;
    uint32_t last = index + burst->records[index].run;
    uint32_t stored = 0, walked = 0;
    for (; index <= last && index < burst->count && walked < length; index++) {
        const frame_record *r = &burst->records[index];
        if (offset >= r->frame_length) {
            /* nothing of this one: on in the next one's payload */
            offset -= r->frame_length;
        } else {
            uint32_t part = r->frame_length - offset;
            if (part > length - walked)
                part = length - walked;
            stored += frame_to_ring(burst, index, offset, part, ring, position + walked);
            walked += part;
            offset = 0;
        }
        if (index < last && index + 1 < burst->count)
            offset += burst->records[index + 1].payload_offset;
    }
    return stored;
}

uint32_t burst_append_to_ring(const frame_burst *burst, uint32_t index, uint32_t offset, uint32_t length, byte_ring *ring)
{
    uint64_t room = ring->capacity - (ring->tail - ring->head);
    if (length > room)
        length = (uint32_t)room;
    uint32_t stored = burst_to_ring(burst, index, offset, length, ring, ring->tail);
    byte_ring_advance(ring, stored);
    return stored;
}

/* Ones' complement sum over the pieces, from `offset` of the frame. */
static uint32_t sum_pieces(const frame_burst *burst, uint32_t index, uint32_t offset, uint32_t length)
{
    const frame_piece *piece = burst->pieces + burst->first_piece[index];
    const frame_piece *end = piece + burst->piece_count[index];
    uint32_t sum = 0, done = 0;
    for (; piece < end && done < length; piece++) {
        if (offset >= piece->length) {
            offset -= piece->length;
            continue;
        }
        uint32_t part = piece->length - offset;
        if (part > length - done)
            part = length - done;
        sum = checksum_add(sum, piece->base + offset, part, done & 1);
        done += part;
        offset = 0;
    }
    return sum;
}

typedef struct {
    const uint8_t *header; /* the copy */
    uint32_t held;         /* bytes of it */
    uint32_t end;          /* frame offset where the IP packet ends */
    frame_record *record;
} decoder;

static void map_ipv4(uint8_t *address, const uint8_t *packed)
{
    memset(address, 0, 10);
    address[10] = address[11] = 0xff;
    memcpy(address + 12, packed, 4);
}

/* RFC 7126 4.3 and 4.4: whoever gives the way that answers take is not believed */
static int source_routed(const uint8_t *options, uint32_t length)
{
    for (uint32_t i = 0; i + 2 < length && options[i];) {
        if (options[i] == 131 || options[i] == 137) /* loose and strict source route */
            return 1;
        if (options[i] == 1) {
            i++;
            continue;
        }
        if (options[i + 1] < 2)
            return 0;
        i += options[i + 1];
    }
    return 0;
}

static uint16_t decode_ipv4(decoder *d)
{
    frame_record *r = d->record;
    uint32_t at = r->network_offset;
    const uint8_t *ip = d->header + at;
    if (at + 20 > d->held)
        return FRAME_TRUNCATED;
    uint32_t header_length = (uint32_t)(ip[0] & 15) * 4;
    uint32_t total = get16(ip + 2);
    if (ip[0] >> 4 != 4)
        return FRAME_BAD_IP_VERSION;
    if (header_length < 20 || total < header_length)
        return FRAME_BAD_IP_HEADER;
    if (at + header_length > d->held || at + total > d->end)
        return FRAME_TRUNCATED;
    if (checksum_of(ip, header_length) != 0)
        return FRAME_BAD_IP_CHECKSUM;
    if (source_routed(ip + 20, header_length - 20))
        return FRAME_BAD_IP_HEADER;
    d->end = at + total; /* what follows is link padding */
    r->traffic_class = ip[1];
    r->hop_limit = ip[8];
    r->protocol = ip[9];
    r->identification = get16(ip + 4);
    map_ipv4(r->remote, ip + 12);
    map_ipv4(r->local, ip + 16);
    r->transport_offset = (uint16_t)(at + header_length);
    uint16_t fragment = get16(ip + 6);
    if (fragment & 0x3fff) {
        r->flags |= FRAME_FRAGMENT;
        r->fragment_offset = (uint16_t)((fragment & 0x1fff) * 8);
        r->more_fragments = (fragment & 0x2000) != 0;
    }
    /* RFC 1122 3.2.1.3: a multicast or broadcast source is never valid */
    if (ip[12] >= 224)
        return FRAME_BAD_SOURCE;
    return FRAME_OK;
}

/* RFC 8200 4.2: an unknown option whose type begins with 00 is skipped; any other is a reason to discard, and what is
 * to be told then is not decided here. */
static int options_acceptable(const uint8_t *options, uint32_t length)
{
    for (uint32_t i = 0; i < length;) {
        if (options[i] == 0) { /* Pad1 */
            i++;
            continue;
        }
        if (i + 2 > length || i + 2 + options[i + 1] > length || options[i] >> 6)
            return 0;
        i += 2 + options[i + 1];
    }
    return 1;
}

/* RFC 8200 4: walks the extension headers up to the transport header or a
 * fragment header that says this is only a part. */
static uint16_t decode_ipv6(decoder *d)
{
    frame_record *r = d->record;
    uint32_t at = r->network_offset;
    const uint8_t *ip = d->header + at;
    if (at + 40 > d->held)
        return FRAME_TRUNCATED;
    if (ip[0] >> 4 != 6)
        return FRAME_BAD_IP_VERSION;
    uint32_t payload = get16(ip + 4);
    if (at + 40 + payload > d->end)
        return FRAME_TRUNCATED;
    d->end = at + 40 + payload;
    r->traffic_class = (uint8_t)((ip[0] & 15) << 4 | ip[1] >> 4);
    r->hop_limit = ip[7];
    memcpy(r->remote, ip + 8, 16);
    memcpy(r->local, ip + 24, 16);
    if (ip[8] == 0xff)
        return FRAME_BAD_SOURCE; /* RFC 4291 2.7 */
    /* an IPv4-mapped address never goes on the wire (RFC 4942 2.2) and would alias our form of IPv4 */
    static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (memcmp(ip + 8, mapped, 12) == 0 || memcmp(ip + 24, mapped, 12) == 0)
        return FRAME_BAD_SOURCE;
    uint8_t next = ip[6];
    at += 40;
    for (int count = 0;; count++) {
        uint32_t length;
        switch (next) {
        case PROTOCOL_HOP_BY_HOP:
        case PROTOCOL_ROUTING:
        case PROTOCOL_DESTINATION_OPTIONS:
            if (count >= EXTENSION_HEADERS_MAX || (next == PROTOCOL_HOP_BY_HOP && count > 0))
                return FRAME_BAD_EXTENSION;
            if (at + 8 > d->end)
                return FRAME_BAD_EXTENSION;
            if (at + 8 > d->held)
                return FRAME_HEADERS_TOO_LONG;
            length = (uint32_t)d->header[at + 1] * 8 + 8;
            if (at + length > d->end)
                return FRAME_BAD_EXTENSION;
            if (at + length > d->held)
                return FRAME_HEADERS_TOO_LONG;
            /* RFC 5095: a type 0 routing header, and any with segments left, is not for an end host */
            if (next == PROTOCOL_ROUTING && d->header[at + 3] != 0)
                return FRAME_BAD_EXTENSION;
            if (next != PROTOCOL_ROUTING && !options_acceptable(d->header + at + 2, length - 2))
                return FRAME_BAD_EXTENSION;
            if (next == PROTOCOL_HOP_BY_HOP)
                r->flags |= FRAME_HOP_BY_HOP_ALERT;
            next = d->header[at];
            at += length;
            continue;
        case PROTOCOL_FRAGMENT:
            if (count >= EXTENSION_HEADERS_MAX || at + 8 > d->end)
                return FRAME_BAD_EXTENSION;
            if (at + 8 > d->held)
                return FRAME_HEADERS_TOO_LONG;
            r->identification = get32(d->header + at + 4);
            r->fragment_offset = get16(d->header + at + 2) & 0xfff8;
            r->more_fragments = d->header[at + 3] & 1;
            next = d->header[at];
            at += 8;
            if (r->fragment_offset || r->more_fragments) {
                r->flags |= FRAME_FRAGMENT;
                break;
            }
            continue; /* RFC 6946: an atomic fragment is no fragment */
        default:
            break;
        }
        break;
    }
    r->protocol = next;
    r->transport_offset = (uint16_t)at;
    return FRAME_OK;
}

static uint16_t decode_tcp(decoder *d)
{
    frame_record *r = d->record;
    uint32_t at = r->transport_offset;
    if (at + 20 > d->end)
        return FRAME_BAD_TRANSPORT_HEADER;
    if (at + 20 > d->held)
        return FRAME_HEADERS_TOO_LONG;
    const uint8_t *tcp = d->header + at;
    uint32_t header_length = (uint32_t)(tcp[12] >> 4) * 4;
    if (header_length < 20 || at + header_length > d->end)
        return FRAME_BAD_TRANSPORT_HEADER;
    if (at + header_length > d->held)
        return FRAME_HEADERS_TOO_LONG;
    memcpy(&r->remote_port, tcp, 2);
    memcpy(&r->local_port, tcp + 2, 2);
    r->seq = get32(tcp + 4);
    r->ack = get32(tcp + 8);
    r->tcp_flags = tcp[13];
    r->window = get16(tcp + 14);
    r->payload_offset = (uint16_t)(at + header_length);
    r->payload_length = d->end - r->payload_offset;
    /* the one form that an established connection's segments have (RFC 7323 appendix A) */
    if (header_length == 32 && get32(tcp + 20) == 0x0101080a) {
        r->options = TCP_HAS_TIMESTAMPS;
        r->ts_val = get32(tcp + 24);
        r->ts_ecr = get32(tcp + 28);
        return FRAME_OK;
    }
    for (uint32_t i = 20; i < header_length;) {
        uint8_t kind = tcp[i];
        if (kind == 0)
            break;
        if (kind == 1) {
            i++;
            continue;
        }
        if (i + 2 > header_length || tcp[i + 1] < 2 || i + tcp[i + 1] > header_length)
            return FRAME_BAD_OPTIONS;
        if (kind == 8 && tcp[i + 1] == 10) {
            r->options |= TCP_HAS_TIMESTAMPS;
            r->ts_val = get32(tcp + i + 2);
            r->ts_ecr = get32(tcp + i + 6);
        } else if (kind == 5) {
            r->options |= TCP_HAS_SACK;
        } else {
            r->options |= TCP_HAS_OTHERS;
        }
        i += tcp[i + 1];
    }
    return FRAME_OK;
}

static uint16_t decode_udp(decoder *d)
{
    frame_record *r = d->record;
    uint32_t at = r->transport_offset;
    if (at + 8 > d->end)
        return FRAME_BAD_TRANSPORT_HEADER;
    if (at + 8 > d->held)
        return FRAME_HEADERS_TOO_LONG;
    const uint8_t *udp = d->header + at;
    uint32_t length = get16(udp + 4);
    if (length < 8 || at + length > d->end)
        return FRAME_BAD_TRANSPORT_HEADER;
    memcpy(&r->remote_port, udp, 2);
    memcpy(&r->local_port, udp + 2, 2);
    d->end = at + length;
    r->payload_offset = (uint16_t)(at + 8);
    r->payload_length = length - 8;
    return FRAME_OK;
}

static uint16_t verify_transport(decoder *d, const frame_burst *burst, uint32_t index, int ipv6)
{
    frame_record *r = d->record;
    const frame_offload *offload = &burst->offloads[index];
    if (offload->checksum != CHECKSUM_UNVERIFIED) {
        r->flags |= FRAME_CHECKSUM_TRUSTED;
        return FRAME_OK;
    }
    uint32_t length = d->end - r->transport_offset;
    if (r->protocol == PROTOCOL_UDP && get16(d->header + r->transport_offset + 6) == 0)
        return ipv6 ? FRAME_BAD_TRANSPORT_CHECKSUM : FRAME_OK; /* RFC 768; RFC 8200 8.1 */
    uint32_t sum = 0;
    if (r->protocol != PROTOCOL_ICMP)
        sum = checksum_pseudo_header(r->remote, r->local, r->protocol, length);
    sum += sum_pieces(burst, index, r->transport_offset, length);
    return checksum_finish(sum) == 0 ? FRAME_OK : FRAME_BAD_TRANSPORT_CHECKSUM;
}

static uint16_t decode(frame_burst *burst, uint32_t index, uint32_t length, uint32_t held, int medium)
{
    frame_record *r = &burst->records[index];
    const frame_offload *offload = &burst->offloads[index];
    decoder d = {.header = burst->headers[index], .held = held, .end = length, .record = r};
    if (medium == MEDIUM_ETHERNET) {
        if (held < 14)
            return FRAME_TRUNCATED;
        r->network_offset = 14;
        r->ethertype = get16(d.header + 12);
        if (d.header[0] & 1) {
            static const uint8_t broadcast[6] = {255, 255, 255, 255, 255, 255};
            r->flags |= memcmp(d.header, broadcast, 6) == 0 ? FRAME_LINK_BROADCAST : FRAME_LINK_MULTICAST;
        }
        if (d.header[6] & 1)
            return FRAME_BAD_SOURCE;
    } else {
        if (held < 1)
            return FRAME_TRUNCATED;
        r->ethertype = d.header[0] >> 4 == 4 ? 0x0800 : d.header[0] >> 4 == 6 ? 0x86dd : 0;
    }
    r->transport_offset = r->payload_offset = r->network_offset;
    r->payload_length = length - r->network_offset;
    int ipv6 = r->ethertype == 0x86dd;
    uint16_t verdict;
    if (ipv6)
        verdict = decode_ipv6(&d);
    else if (r->ethertype == 0x0800)
        verdict = decode_ipv4(&d);
    else if (r->ethertype == 0x0806 && medium == MEDIUM_ETHERNET)
        return FRAME_OK;
    else
        return medium == MEDIUM_ETHERNET ? FRAME_BAD_ETHERTYPE : FRAME_BAD_IP_VERSION;
    if (verdict != FRAME_OK)
        return verdict;
    r->payload_offset = r->transport_offset;
    r->payload_length = d.end - r->transport_offset;
    r->frame_length = d.end;
    if (offload->gso_type != GSO_NONE) {
        /* N4: the claim must agree with what the headers say */
        int fits = r->protocol == PROTOCOL_TCP && !(r->flags & FRAME_FRAGMENT) && (offload->gso_type == GSO_TCPV6) == ipv6;
        if (!fits)
            return FRAME_BAD_OFFLOAD;
        r->segment_size = offload->gso_size;
    }
    if (r->flags & FRAME_FRAGMENT)
        return offload->checksum == CHECKSUM_PARTIAL ? FRAME_BAD_OFFLOAD : FRAME_OK;
    switch (r->protocol) {
    case PROTOCOL_TCP:
        verdict = decode_tcp(&d);
        break;
    case PROTOCOL_UDP:
        verdict = decode_udp(&d);
        break;
    case PROTOCOL_ICMP:
    case PROTOCOL_ICMPV6:
        if ((r->protocol == PROTOCOL_ICMPV6) != ipv6) {
            r->flags |= FRAME_UNKNOWN_PROTOCOL;
            return FRAME_OK;
        }
        verdict = d.end - r->transport_offset < 4 ? FRAME_BAD_TRANSPORT_HEADER : FRAME_OK;
        break;
    default:
        r->flags |= FRAME_UNKNOWN_PROTOCOL;
        return FRAME_OK;
    }
    if (verdict != FRAME_OK)
        return verdict;
    return verify_transport(&d, burst, index, ipv6);
}

int burst_add(frame_burst *burst, uint32_t piece_count, frame_offload offload, int medium)
{
    if (burst->count >= BURST_FRAMES || piece_count > BURST_PIECES - burst->pieces_used)
        return -1;
    uint32_t index = burst->count++;
    uint32_t length = 0;
    for (uint32_t i = 0; i < piece_count; i++)
        length += burst->pieces[burst->pieces_used + i].length;
    burst->first_piece[index] = burst->pieces_used;
    burst->piece_count[index] = piece_count;
    burst->pieces_used += piece_count;
    burst->offloads[index] = offload;
    burst->bytes += length;
    frame_record *record = &burst->records[index];
    memset(record, 0, sizeof *record);
    record->frame_length = length;
    uint32_t held = burst_copy(burst, index, 0, BURST_HEADER_BYTES, burst->headers[index]);
    record->verdict = decode(burst, index, length, held, medium);
    return (int)index;
}

int burst_add_bytes(frame_burst *burst, const uint8_t *frame, uint32_t length, frame_offload offload, int medium)
{
    if (burst->count >= BURST_FRAMES || burst->pieces_used >= BURST_PIECES)
        return -1;
    burst->pieces[burst->pieces_used] = (frame_piece){.base = frame, .length = length};
    return burst_add(burst, 1, offload, medium);
}

static void swap_bytes(uint8_t *first, uint8_t *second, size_t length)
{
    uint8_t held[16];
    memcpy(held, first, length);
    memcpy(first, second, length);
    memcpy(second, held, length);
}

static void put16(uint8_t *bytes, uint32_t value)
{
    bytes[0] = (uint8_t)(value >> 8);
    bytes[1] = (uint8_t)value;
}

uint32_t burst_echo_reply(const frame_burst *burst, uint32_t index, int medium, uint8_t hop_limit, uint8_t *out)
{
    if (index >= burst->count)
        return 0;
    const frame_record *r = &burst->records[index];
    int ipv6 = r->ethertype == 0x86dd;
    uint32_t network = r->network_offset, transport = r->transport_offset;
    if (r->verdict || r->flags & (FRAME_FRAGMENT | FRAME_UNKNOWN_PROTOCOL) || r->payload_length < 8 || r->frame_length > FRAME_BYTES_MAX ||
        r->protocol != (ipv6 ? PROTOCOL_ICMPV6 : PROTOCOL_ICMP) || transport != network + (ipv6 ? 40 : 20) ||
        burst->offloads[index].checksum == CHECKSUM_PARTIAL)
        return 0;
    if (burst_copy(burst, index, 0, r->frame_length, out) != r->frame_length)
        return 0;
    /* the headers are those that were checked, whatever the sender has made of its memory since */
    memcpy(out, burst->headers[index], transport);
    uint8_t *icmp = out + transport;
    uint8_t request = ipv6 ? 128 : 8, reply = ipv6 ? 129 : 0;
    if (icmp[0] != request || icmp[1] != 0)
        return 0;
    if (medium == MEDIUM_ETHERNET)
        swap_bytes(out, out + 6, 6);
    uint8_t *ip = out + network;
    if (ipv6) {
        swap_bytes(ip + 8, ip + 24, 16);
        ip[7] = hop_limit;
    } else {
        swap_bytes(ip + 12, ip + 16, 4);
        ip[8] = hop_limit;
        put16(ip + 10, 0);
        put16(ip + 10, checksum_of(ip, 20));
    }
    /* RFC 1624 equation 3: only the type changes */
    uint32_t sum = (uint16_t)~get16(icmp + 2) + (uint16_t)~(uint32_t)(request << 8) + (uint32_t)(reply << 8);
    icmp[0] = reply;
    /* 0 would be wrong for a message of zeros; 0xffff is right for every other one too (RFC 1624 3) */
    uint16_t checksum = checksum_finish(sum);
    put16(icmp + 2, checksum ? checksum : 0xffff);
    return r->frame_length;
}

static int continues(const frame_record *head, const frame_record *next, uint32_t end)
{
    return next->verdict == FRAME_OK && next->protocol == PROTOCOL_TCP && next->seq == end && next->payload_length &&
           !(next->flags & FRAME_FRAGMENT) && (next->tcp_flags & (uint8_t)~8) == 16 && next->options == head->options &&
           next->traffic_class == head->traffic_class && memcmp(head->local, next->local, 36) == 0;
}

void burst_merge_runs(frame_burst *burst)
{
    for (uint32_t i = 0; i + 1 < burst->count; i++) {
        frame_record *head = &burst->records[i];
        if (head->verdict || head->protocol != PROTOCOL_TCP || head->flags & FRAME_FRAGMENT || !head->payload_length ||
            (head->tcp_flags & (uint8_t)~8) != 16 || head->options & (uint8_t)~TCP_HAS_TIMESTAMPS)
            continue;
        uint32_t next = i + 1;
        for (; next < burst->count; next++) {
            frame_record *r = &burst->records[next];
            if (!continues(head, r, head->seq + head->payload_length))
                break;
            head->payload_length += r->payload_length;
            head->tcp_flags |= r->tcp_flags;
            head->ack = r->ack;
            head->window = r->window;
            /* RFC 7323 4.3 wants the earliest timestamp echoed: ts_val stays the first one's */
            head->ts_ecr = r->ts_ecr;
            r->verdict = FRAME_MERGED;
        }
        head->run = (uint16_t)(next - i - 1);
        i = next - 1;
    }
}
